"""Names of nodes: what documents call a stream or a data key, made fit for a path.

A character that a path cannot have is ``=`` and two hexadecimal digits, as in
quoted-printable: ``x/y`` is the node ``x=2Fy``, ``..`` is ``=2E=2E``, and the empty
name is ``=``. All other names stay as they are, and `original` undoes it.
"""

import re

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
