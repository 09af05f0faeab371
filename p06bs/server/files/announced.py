"""What documents describe and announce of rows in files, as far as it can be."""

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np

MOST_CHUNKS = 1 << 20
"""Of a data key; clients are told of each."""
LAST_INDEX = 1 << 48
MOST_AXES, MOST_VALUES = 32, 1 << 36
"""Of one row."""


FLUSH_SECONDS = 10.0
"""Time that a detector's writer has, after it announced rows, to have them in its file."""

NOTE_SECONDS = 0.5
"""Announcements within this time count as made with their first one."""


class Announcements:
    """When the newest rows of a file were announced. No clock and no I/O here."""

    def __init__(self) -> None:
        self.recent: tuple[tuple[int, float], ...] = ()

    def note(self, first: int, now: float) -> None:
        """Note that rows from `first` on are announced."""
        recent = tuple(one for one in self.recent if now - one[1] < FLUSH_SECONDS)
        if not recent or now - recent[-1][1] >= NOTE_SECONDS:
            recent += ((first, now),)
        self.recent = recent


def settled(rows: int, recent: Iterable[tuple[int, float]], now: float) -> int:
    """Return how many of so many rows were announced `FLUSH_SECONDS` ago or before."""
    return min((first for first, when in recent if now - when < FLUSH_SECONDS), default=rows)


def rows_announced(rows: int, start: int, stop: int, per_chunk: int) -> int:
    """Return how many rows there are with `start` to `stop - 1` of a file behind `rows` others.

    Raises
    ------
    ValueError
        If these are no indices of rows, or the rows would be more than can be shown.
    """
    if not 0 <= start <= stop <= LAST_INDEX:
        raise ValueError(f"indices {start} to {stop} are none of rows in a file")
    if rows + stop - start > MOST_CHUNKS * per_chunk:
        raise ValueError(
            f"{rows + stop - start} rows are announced, at most {MOST_CHUNKS * per_chunk} of "
            "this size can be shown: write them in larger rows"
        )
    return rows + stop - start


def rows_described(
    description: Any,
) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Return shape and type of a row of a data key; None where none usable is described."""
    try:
        shape = tuple(int(n) for n in description["shape"])
        dtype = np.dtype(description.get("dtype_numpy") or "<f8")
    except (ArithmeticError, KeyError, SyntaxError, TypeError, ValueError):
        return None
    return (shape, dtype) if is_row(shape) and dtype.kind in "biufc" else None


def is_row(shape: tuple[int, ...]) -> bool:
    """Return whether a row can have this shape."""
    fits = len(shape) <= MOST_AXES and min(shape, default=0) >= 0
    return fits and prod(n or 1 for n in shape) <= MOST_VALUES
