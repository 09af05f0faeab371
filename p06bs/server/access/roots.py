"""The configured roots: outside of them, nobody sees anything."""

import os
from collections.abc import Iterable
from pathlib import PurePosixPath

PATH_MAX = 4096
"""Bytes of the longest path that the kernel takes, with the NUL at its end."""


class Roots:
    """Directories below which beamtime folders lie.

    Parameters
    ----------
    paths : iterable of str or path
        Absolute, without ``..``. They may be symbolic links, or not be there yet.

    Raises
    ------
    ValueError
        If one of them is relative or has ``..`` in it.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self.paths = tuple(str(PurePosixPath(path)) for path in paths)
        for path in self.paths:
            if parts_of(path) is None:
                raise ValueError(f"{path!r} cannot be a root: roots are absolute, without '..'")
        self._parts = tuple(parts_of(path) or () for path in self.paths)

    def __str__(self) -> str:
        return ", ".join(self.paths) or "no root (everything is denied)"

    def name(self, folder: str) -> bool:
        """Return whether the folder, as it is written, is a path within a root."""
        parts = parts_of(folder)
        return parts is not None and any(parts[: len(root)] == root for root in self._parts)


def parts_of(path: str) -> tuple[str, ...] | None:
    """Return the names that an absolute path consists of; None where it is not to be followed.

    That is: relative, with ``..``, with NUL, not encodable, or longer than the
    kernel takes.
    """
    if not path.startswith("/") or "\0" in path:
        return None
    try:
        if len(os.fsencode(path)) >= PATH_MAX:
            return None
    except UnicodeEncodeError:
        return None
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    return None if ".." in parts else parts


def within(real: bytes, roots: Iterable[bytes]) -> bool:
    """Return whether a real path is one of the real roots or lies below one."""
    return any(real == root or real.startswith(root.rstrip(b"/") + b"/") for root in roots)
