"""What rows say beside their values: their numbers, where they lie, whether they are valid."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from p06bs.model.maps import newest

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
    """The newest row of each number of a column that grows."""

    def __init__(self) -> None:
        self._numbers: Numbers = np.empty(0, np.int64)  # ascending, each once
        self._at: Numbers = np.empty(0, np.int64)
        self._used = 0
        self.rows = 0

    @property
    def top(self) -> int:
        """The highest number."""
        return int(self._numbers[self._used - 1]) if self._used else 0

    @property
    def nbytes(self) -> int:
        return self._numbers.nbytes + self._at.nbytes

    def update(self, column: Column, rows: int) -> float:
        """Take the rows that are new; return the lowest number of them, inf if there are none."""
        new = np.asarray(column.read(self.rows, rows), np.int64)
        if not len(new):
            return np.inf
        at = np.arange(self.rows, rows)
        lowest = int(new.min())
        if lowest <= self.top or (np.diff(new) <= 0).any():
            new = np.concatenate([self._numbers[: self._used], new])
            at = np.concatenate([self._at[: self._used], at])
            last = newest(new)
            self._numbers, self._at, self._used = new[last], at[last], len(last)
        else:
            used = self._used + len(new)
            if used > len(self._numbers):
                for name in ("_numbers", "_at"):
                    grown = np.empty(max(used, 2 * self._used), np.int64)
                    grown[: self._used] = getattr(self, name)[: self._used]
                    setattr(self, name, grown)
            self._numbers[self._used : used] = new
            self._at[self._used : used] = at
            self._used = used
        self.rows = rows
        return lowest

    def find(self, numbers: Numbers) -> Numbers:
        """Return the newest row of each number, -1 where there is none."""
        known = self._numbers[: self._used]
        place = np.searchsorted(known, numbers)
        inside = place < len(known)
        found = np.full(len(numbers), -1, np.int64)
        found[inside] = np.where(
            known[place[inside]] == numbers[inside], self._at[place[inside]], -1
        )
        return found
