"""Rights evaluated in this process from mode bits and POSIX ACLs, where it may not ask."""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from p06bs.server.access.posix_acl import ENTER, READ, XATTR, Inode, parse, permits
from p06bs.server.access.roots import Roots, within
from p06bs.server.access.users import SystemUser, system_user

LINKS = 40
"""So many symbolic links the kernel follows in one path."""


class ModeBits:
    """Evaluate mode bits and POSIX ACLs along the path, for a server that is not root.

    It cannot know other rights (NFSv4 ACLs, security modules, what a file server
    maps), and denies what this process may not look at itself. A file system that
    hangs makes it wait.

    Parameters
    ----------
    roots : Roots
    """

    def __init__(self, roots: Roots) -> None:
        self._roots = roots

    def describe(self) -> str:
        """Return which rights are in force, for the log."""
        return f"rights by mode bits and POSIX ACLs only, within {self._roots}"

    def visible(self, user: str, folders: Iterable[str]) -> frozenset[str]:
        """Return those of the folders that the user may read and enter now."""
        who = system_user(user)
        if who is None:
            return frozenset()
        walk = _Walk(who)
        roots = [real for path in self._roots.paths if (real := walk.enter(path)) is not None]
        return frozenset(
            folder
            for folder in folders
            if self._roots.name(folder)
            and (real := walk.enter(folder, ENTER | READ)) is not None
            and within(os.fsencode(real), map(os.fsencode, roots))
        )


class _Walk:
    """Follow paths as a user would, each directory looked at once."""

    def __init__(self, user: SystemUser) -> None:
        self._user = user
        self._looked: dict[str, Inode | None] = {}
        self._protected = _protected_symlinks()

    def enter(self, path: str, want: int = ENTER) -> str | None:
        """Return the real path of the directory if the user has those rights there."""
        here: list[str] = []
        # Names still to be followed; the last is the one that ends the path, also as
        # the target of a link that ended it before.
        ahead = list(reversed(_names(path)))
        links = 0
        while ahead:
            if not self._permits(here, ENTER):
                return None
            name = ahead.pop()
            if name == ".":
                continue
            if name == "..":
                del here[-1:]
                continue
            there = _path([*here, name])
            try:
                found = os.lstat(there)
                target = os.readlink(there) if stat.S_ISLNK(found.st_mode) else None
            except OSError:
                return None
            if target is None:
                here.append(name)
                continue
            links += 1
            if links > LINKS or not (ahead or self._may_follow(here, found.st_uid)):
                return None
            ahead.extend(reversed(_names(target)))
            if target.startswith("/"):
                here = []
        granted = all(self._permits(here, bit) for bit in (ENTER, READ) if bit & want)
        return _path(here) if granted else None

    def _permits(self, names: list[str], want: int) -> bool:
        inode = self._look(_path(names))
        return inode is not None and permits(inode, self._user, want)

    def _look(self, path: str) -> Inode | None:
        """Return what the directory says; None where it is none, or cannot be looked at."""
        if path not in self._looked:
            try:
                self._looked[path] = _inode(path)
            except OSError:
                self._looked[path] = None
        return self._looked[path]

    def _may_follow(self, names: list[str], owner: int) -> bool:
        """Return whether the kernel follows a link at the end of a path (fs.protected_symlinks)."""
        parent = self._look(_path(names))
        return parent is not None and may_follow(parent, owner, self._user.uid, self._protected)


def may_follow(parent: Inode, owner: int, uid: int, protected: bool) -> bool:
    """Return whether a user may follow a link that ends a path, as Linux protects /tmp."""
    shared = parent.mode & (stat.S_ISVTX | stat.S_IWOTH) == stat.S_ISVTX | stat.S_IWOTH
    return not (protected and shared) or owner in (uid, parent.uid)


def _protected_symlinks() -> bool:
    try:
        return Path("/proc/sys/fs/protected_symlinks").read_text().strip() != "0"
    except OSError:
        return True


def _inode(path: str) -> Inode | None:
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        return None
    try:
        acl = parse(os.getxattr(path, XATTR, follow_symlinks=False))
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
        acl = ()
    return Inode(found.st_uid, found.st_gid, found.st_mode, acl)


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def _path(names: list[str]) -> str:
    return "/" + "/".join(names)
