"""Who may read and enter a folder: what the file system answers, in one of two ways."""

import os
from collections.abc import Iterable
from typing import Literal, Protocol

from p06bs.server.access.kernel_rights import KernelRights
from p06bs.server.access.mode_bits import ModeBits
from p06bs.server.access.roots import Roots


class Rights(Protocol):
    """Answers for users of the system; what it does not know it denies. Blocks, for threads."""

    def visible(self, user: str, folders: Iterable[str]) -> frozenset[str]:
        """Return those of the folders that the user may read and enter now.

        That takes the right to read and to enter the folder, and to enter every folder
        above it. A folder outside of the roots, one that is not there, a path with
        ``..``, and a link that leads out of the roots are denied; so is everything to
        a user whom the system does not know.
        """

    def describe(self) -> str:
        """Return which rights are in force, for the log."""


def rights_of(
    kind: Literal["kernel", "mode-bits"], roots: Iterable[str | os.PathLike[str]]
) -> Rights:
    """Return the rights that a configuration asks for.

    Parameters
    ----------
    kind : str
        ``kernel`` asks the kernel as the user, ``mode-bits`` evaluates in this process.
    roots : iterable of path
        What lies outside of them is denied to all.

    Raises
    ------
    PermissionError
        If the kernel is to be asked and this process is not root's.
    ValueError
        If a root is not absolute or has ``..`` in it.
    """
    return KernelRights(Roots(roots)) if kind == "kernel" else ModeBits(Roots(roots))
