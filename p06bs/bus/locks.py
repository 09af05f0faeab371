"""Which files processes of this host have locked, as Linux tells."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Lock(NamedTuple):
    """A lock on a file: its place (see `place_of`), ``READ`` or ``WRITE``, and whose it is.

    `waits` says that somebody waits for it; else it is held. The kernel gives -1 for some
    processes.
    """

    place: str
    kind: str
    pid: int
    waits: bool


def locks() -> Iterator[Lock]:
    """Yield the locks.

    Raises
    ------
    OSError
        If the system does not tell: it is no Linux.
    """
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        waits = "->" in fields
        if waits:
            fields.remove("->")
        if len(fields) > 5:
            yield Lock(fields[5], fields[3], int(fields[4]), waits)


def place_of(about: os.stat_result) -> str:
    """Return how the kernel names a file in its list of locks."""
    return f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"


def is_locked(path: Path) -> bool:
    """Return whether somebody has a lock on a file, on this host or another; True if unknown."""
    try:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # NFS wants it writable
        except PermissionError:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def holder(fd: int) -> str:
    """Say who holds the lock on an open file, as far as Linux tells of this host."""
    place = place_of(os.fstat(fd))
    try:
        held = [lock for lock in locks() if lock.place == place and not lock.waits]
    except OSError as error:
        return f"another process (which one is not known: {error})"
    pids = {str(lock.pid) for lock in held if lock.pid > 0}
    return f"process {', '.join(sorted(pids))}" if pids else "another process, perhaps elsewhere"
