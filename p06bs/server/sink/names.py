"""Names of nodes: what documents call a stream or a data key, made fit for a path.

The sink and the archive call a column alike: `column_names` decides.

A character that a path cannot have is ``=`` and two hexadecimal digits, as in
quoted-printable: ``x/y`` is the node ``x=2Fy``, ``..`` is ``=2E=2E``, and the empty
name is ``=``. All other names stay as they are, and `original` undoes it.
"""

import re
from collections.abc import Collection, Iterable
from typing import Literal

OWN = ("seq_num", "time", "uid")
"""Columns that every stream has."""

TABLE = "internal"
"""Name of the table of a stream's one-dimensional columns, as bluesky's TiledWriter has it."""

Part = Literal["", "data", "timestamps"]
"""Of an event, where a column's values are."""

_UNFIT = re.compile(r"[/\\?#%\x00-\x1f\x7f]|=(?=[0-9A-F]{2})")
_QUOTED = re.compile(r"=([0-9A-F]{2})")


def node_name(name: str) -> str:
    """Return the node's name.

    Raises
    ------
    TypeError
        If the name is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is no name")
    if name in (".", ".."):
        return "=2E" * len(name)
    if name in ("", "="):
        return "=3D" if name else "="
    return _UNFIT.sub(lambda match: f"={ord(match[0]):02X}", name)


def original(node: str) -> str:
    """Return what `node_name` was given."""
    return "" if node == "=" else _QUOTED.sub(lambda match: chr(int(match[1], 16)), node)


def column_names(keys: Iterable[str], stamped: Collection[str]) -> dict[tuple[Part, str], str]:
    """Return what the columns of a stream are called as nodes.

    A name that is taken gets an underscore behind it: by the columns of every stream, then
    by those of the data keys, then by their timestamps.

    Parameters
    ----------
    keys : iterable of str
        Data keys, in the order of the descriptor.
    stamped : collection of str
        Those that have timestamps.

    Returns
    -------
    dict
        Part of an event (``""``, ``data`` or ``timestamps``) and key in it -> name.

    Raises
    ------
    TypeError
        If a key is no text.
    """
    names: dict[tuple[Part, str], str] = {("", key): key for key in OWN}
    taken = {*OWN, TABLE}
    keys = list(dict.fromkeys(keys))
    wanted: list[tuple[Part, str, str]] = [("data", key, key) for key in keys]
    wanted += [("timestamps", key, f"ts_{key}") for key in keys if key in stamped]
    for part, key, called in wanted:
        name = node_name(called)
        while name in taken:
            name += "_"
        taken.add(name)
        names[part, key] = name
    return names
