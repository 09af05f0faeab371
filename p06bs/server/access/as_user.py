"""Answer, as another user, which folders that user may read and enter.

A script for `p06bs.server.access.kernel_rights`, which starts it as root with nothing but
the standard library: ``python -I -S as_user.py USER NUMBER_OF_ROOTS``. It becomes
the user for good, then takes NUL-ended paths from standard input, the roots first.
For each it writes the real path of the directory that it has opened and entered,
or nothing where the kernel refused, with a NUL at the end.

It becomes the user itself, after it was executed: a process that changes its user
so may be neither traced nor read by others of that user, who could forge answers.
"""

import os
import pwd
import sys


def main() -> None:
    """Answer until standard input ends."""
    name, roots = sys.argv[1], int(sys.argv[2])
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return  # the system does not know the user: no answer is yes
    become(user.pw_uid, user.pw_gid, os.getgrouplist(user.pw_name, user.pw_gid))
    paths = sys.stdin.buffer.read().split(b"\0")[:-1]
    for number, path in enumerate(paths):
        # Who may enter a root need not be able to list it.
        how = os.O_PATH if number < roots else os.O_RDONLY
        # At once, so that who waits knows at which folder a file system hangs.
        os.write(1, where(path, how) + b"\0")


def become(uid: int, gid: int, groups: list[int]) -> None:
    """Become another user, with no way back and, but for root, no capabilities."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if uid:
        with open("/proc/self/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        if any(int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")):
            raise PermissionError(f"uid {uid} has capabilities: its rights are not the user's")


def where(path: bytes, how: int) -> bytes:
    """Open and enter a directory; return its real path, or b"" where that is refused."""
    try:
        directory = os.open(path, how | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        os.fchdir(directory)
        return os.getcwdb()
    except OSError:
        return b""
    finally:
        os.close(directory)


if __name__ == "__main__":
    main()
