"""Users as the system knows them."""

import os
import pwd
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SystemUser:
    """A user's numbers, by which the file system decides.

    Attributes
    ----------
    uid, gid : int
    groups : frozenset of int
        All groups, `gid` included.
    """

    uid: int
    gid: int
    groups: frozenset[int]


def system_user(name: str) -> SystemUser | None:
    """Return the user of that name, asked of NSS now; None where the system knows none."""
    if not is_name(name):
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return SystemUser(entry.pw_uid, entry.pw_gid, frozenset(groups))


def is_name(name: str) -> bool:
    """Return whether the system can be asked for a user of that name."""
    try:
        return bool(name) and b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False
