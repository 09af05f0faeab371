"""Mode bits and POSIX ACLs, evaluated as Linux does (acl(5), fs/posix_acl.c, fs/namei.c)."""

import enum
import struct
from dataclasses import dataclass

from p06bs.server.access.users import SystemUser

XATTR = "system.posix_acl_access"
READ, ENTER = 4, 1


class Tag(enum.IntEnum):
    """Whom an entry is for."""

    OWNER = 0x01
    USER = 0x02
    OWNING_GROUP = 0x04
    GROUP = 0x08
    MASK = 0x10
    OTHER = 0x20


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an ACL: permission bits for whom `tag` and, where it has one, `id` name."""

    tag: Tag
    bits: int
    id: int


@dataclass(frozen=True, slots=True)
class Inode:
    """What a directory's inode says of rights; `acl` is empty where there are mode bits only."""

    uid: int
    gid: int
    mode: int
    acl: tuple[Entry, ...] = ()


def parse(value: bytes) -> tuple[Entry, ...]:
    """Return the entries of an extended attribute `XATTR`.

    Raises
    ------
    ValueError
        If it is none of the version that Linux has.
    """
    version = struct.unpack_from("<I", value)[0] if len(value) >= 4 else None
    if version != 2 or (len(value) - 4) % 8:
        raise ValueError(f"not a POSIX ACL of version 2: {value!r}")
    return tuple(Entry(Tag(t), bits, who) for t, bits, who in struct.iter_unpack("<HHI", value[4:]))


def permits(inode: Inode, user: SystemUser, want: int) -> bool:
    """Return whether the user has the right `want`, `READ` or `ENTER`, on a directory."""
    if user.uid == 0:
        return True  # CAP_DAC_READ_SEARCH
    if user.uid == inode.uid:
        return bool(inode.mode >> 6 & want)
    # Linux takes an ACL whose mask is empty for none: named users get what others get.
    if inode.acl and inode.mode & 0o070:
        return _acl_permits(inode, user, want)
    return bool(inode.mode >> (3 if inode.gid in user.groups else 0) & want)


def _acl_permits(inode: Inode, user: SystemUser, want: int) -> bool:
    masks = [entry.bits for entry in inode.acl if entry.tag is Tag.MASK]
    mask = masks[0] if masks else 7
    for entry in inode.acl:
        if entry.tag is Tag.USER and entry.id == user.uid:
            return bool(entry.bits & mask & want)
    groups = [entry for entry in inode.acl if _group_of(entry, inode) in user.groups]
    if groups:
        return any(entry.bits & mask & want for entry in groups)
    return any(entry.bits & want for entry in inode.acl if entry.tag is Tag.OTHER)


def _group_of(entry: Entry, inode: Inode) -> int | None:
    """Return the group that an entry is for."""
    if entry.tag is Tag.OWNING_GROUP:
        return inode.gid
    return entry.id if entry.tag is Tag.GROUP else None
