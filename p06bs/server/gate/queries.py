"""Queries of URLs that cost or break something: refused before Tiled looks at them."""

import re
from urllib.parse import parse_qsl

from p06bs.server.gate.bodies import RefusedError

PATTERN = "filter[regex][condition][pattern]"
PATTERN_LENGTH = 200
REPEATS = 2
"""Repeats of a pattern: each multiplies the time by how often it may repeat."""

_ESCAPED = re.compile(r"\\.|\[\^?\]?[^\]]*\]", re.DOTALL)
_GROUP_REPEATED = re.compile(r"\)[*+{]")
_BACKREFERENCE = re.compile(r"\\[1-9]|\(\?P=|\(\?\(")
_REPEATED = re.compile(r"(?<!\()[*+?]\??|\{\d*,?\d*\}\??")
_STEP_ZERO = re.compile(r":[^,:]*:\s*[+-]?0+\s*(,|$)")
_FILENAME = re.compile(r"[^\x00-\x1f\x7f-\U0010ffff\"\\/;]{1,200}")


def check_query(query: bytes) -> None:
    """Refuse steps of 0, file names that no header can hold, patterns that search for ever.

    Raises
    ------
    RefusedError
        With status 400.
    """
    if not any(name in query for name in (b"filename", b"regex", b"slice")):
        return
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name == "filename" and value and not _FILENAME.fullmatch(value):
            raise RefusedError(400, "A filename is ASCII, without quotes and slashes.")
        if name == "slice" and _STEP_ZERO.search(value):
            raise RefusedError(400, "The step of a slice is not 0.")
        if name == PATTERN and not is_quick(value):
            raise RefusedError(
                400,
                "This pattern is none, or may take too long: it may have no repeated group, no "
                f"back reference, {REPEATS} repeats, and {PATTERN_LENGTH} characters.",
            )


def is_quick(pattern: str) -> bool:
    """Return whether this is a regular expression that surely takes at most quadratic time."""
    if len(pattern) > PATTERN_LENGTH or _BACKREFERENCE.search(pattern):
        return False
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    plain = _ESCAPED.sub("x", pattern)
    return not _GROUP_REPEATED.search(plain) and len(_REPEATED.findall(plain)) <= REPEATS
