"""In which order services start and stop."""

FIRST = ("topology", "proxy")
"""Kinds that start before the others, and stop after them."""
LAST = len(FIRST)


def turn(kind: str) -> int:
    """Return when services of a kind start: those with a smaller number before, up to `LAST`."""
    return FIRST.index(kind) if kind in FIRST else LAST
