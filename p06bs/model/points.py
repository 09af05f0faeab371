"""What rows say beside their values: their numbers, where they lie, whether they are valid."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from p06bs.model.raster import newest

Numbers = npt.NDArray[np.int64]


class Column(Protocol):
    """One-dimensional numbers of which the first `rows` are there."""

    @property
    def rows(self) -> int: ...

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows `start` to `stop - 1`."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Measured positions, x along the fast and y along the slow axis.

    Attributes
    ----------
    x, y : Column
    scale : (float, float)
        Factors from the units of y and x to those of the grid.
    numbers : Column, optional
        Their seq_nums, where they come from another stream than the values; None
        where they lie in the same rows.
    """

    x: Column
    y: Column
    scale: tuple[float, float] = (1.0, 1.0)
    numbers: Column | None = None

    @property
    def rows(self) -> int:
        """Rows in which all of them are there."""
        columns = (self.x, self.y) if self.numbers is None else (self.x, self.y, self.numbers)
        return min(column.rows for column in columns)

    def read(self, start: int, stop: int) -> npt.NDArray[np.float64]:
        """Return y and x of some rows, shape ``(2, rows)``."""
        both = [column.read(start, stop) for column in (self.y, self.x)]
        where: npt.NDArray[np.float64] = np.array(both, float) * np.array(self.scale)[:, None]
        return where


@dataclass(frozen=True, slots=True)
class Points:
    """What the rows of a stream say beside their values, at one moment.

    Attributes
    ----------
    numbers : Column of int
        Raw seq_nums in acquisition order.
    positions : Positions, optional
    valid : Column of bool, optional
        False where the values mean nothing.
    """

    numbers: Column
    positions: Positions | None = None
    valid: Column | None = None


class NewestRows:
    """The newest row of each number of a column that grows.

    Numbers that count up, as without a rewind, need no memory.

    Attributes
    ----------
    rows : int
        Rows that were taken.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._first = 0  # number of the first row; the others follow it, if there is no `_known`
        self._known: tuple[Numbers, Numbers] | None = None  # ascending numbers, and their rows

    @property
    def top(self) -> int:
        """The highest number; 0 if there is none."""
        if self._known is not None:
            return int(self._known[0][-1])
        return self._first + self.rows - 1 if self.rows else 0

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return 0 if self._known is None else sum(array.nbytes for array in self._known)

    def update(self, column: Column, rows: int) -> float:
        """Take the rows that are new; return the lowest number of them, inf if there are none."""
        new = np.asarray(column.read(self.rows, rows), np.int64)
        if not len(new):
            return np.inf
        if not self.rows:
            self._first = int(new[0])
        at = np.arange(self.rows, rows)
        if self._known is not None or not np.array_equal(new, self._first + at):
            before = np.arange(self.rows)
            numbers, found = self._known or (self._first + before, before)
            numbers, found = np.concatenate([numbers, new]), np.concatenate([found, at])
            if int(new.min()) <= self.top or (np.diff(new) <= 0).any():
                last = newest(numbers)
                numbers, found = numbers[last], found[last]
            self._known = numbers, found
        self.rows = rows
        return int(new.min())

    def find(self, numbers: Numbers) -> Numbers:
        """Return the newest row of each number, -1 where there is none."""
        if self._known is None:
            at = numbers - self._first
            return np.where((at >= 0) & (at < self.rows), at, -1)
        known, rows = self._known
        place = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        return np.where(known[place] == numbers, rows[place], -1)
