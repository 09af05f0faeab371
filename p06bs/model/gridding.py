"""Maps of columns that grow: each update takes the rows that are new.

The streaming counterpart of `p06bs.model.maps`, with the same results. A
`Placement` says in which pixel each row lies, once for all columns of a stream;
a `RunningMap` is one column on its pixels. Neither keeps what the columns hold:
both read the columns that they are given, which must be the same ones as before,
with rows added behind.

After a rewind the newest row of a number counts. On a raster it has the pixel of
the row that it supersedes, and overwrites it. A measured position may be another
one: then the sums are made anew from the columns, which is exact and needs no
memory of what was summed.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from p06bs.model.fitting import fitted_grid
from p06bs.model.maps import Grid, Map, nearest, newest, pixels

BLOCK = 1 << 16
"""Rows that are read at once."""

Numbers = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.int32]


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


class Placement(Protocol):
    """In which pixel of a grid each row lies.

    Attributes
    ----------
    grid : Grid
        May change where it is fitted to the positions.
    rows : int
        Rows that are placed.
    unique : bool
        Whether each number has a pixel of its own.
    generation : object
        Another one when rows changed that were placed before.
    nbytes : int
    """

    grid: Grid
    rows: int
    unique: bool
    generation: object

    @property
    def nbytes(self) -> int: ...

    def update(self, points: Points) -> None:
        """Place the rows that are new."""

    def pixels(self, points: Points, start: int, stop: int) -> Pixels:
        """Return the flat pixels (C order) of placed rows, -1 for those that lie nowhere."""


class Raster:
    """Place rows by their numbers, in the order in which a raster scan goes over its grid."""

    unique = True

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.rows = 0
        self.generation = object()

    @property
    def nbytes(self) -> int:
        """Bytes that are held: none."""
        return 0

    def update(self, points: Points) -> None:
        """Place the rows that are new."""
        self.rows = points.numbers.rows

    def pixels(self, points: Points, start: int, stop: int) -> Pixels:
        """Return the pixels of some rows."""
        numbers = points.numbers.read(start, stop)
        ny, nx = self.grid.shape
        inside = (numbers >= 1) & (numbers <= ny * nx)
        found = np.full(len(numbers), -1, np.int32)
        found[inside] = pixels(numbers[inside] - 1, self.grid.shape, self.grid.snaking)
        return found


class Measured:
    """Place rows by measured positions: each belongs to the pixel with the nearest centre.

    Superseded rows, and those without a finite position in one of the pixels, lie
    nowhere. Where positions come from another stream a row waits for them, and a
    row whose position changes after a rewind is placed again.

    Parameters
    ----------
    grid : Grid, optional
        With extents. None fits one to the positions so far (`fitted_grid`), again and
        again while they extend.
    alike : bool
        Whether a fitted grid has the same pitch along both axes.
    """

    unique = False

    def __init__(self, grid: Grid | None = None, *, alike: bool = True) -> None:
        self._fit = grid is None
        self._alike = alike
        self.grid = grid or Grid((1, 1), extents=((0.0, 0.0), (0.0, 0.0)))
        self._forget()

    def _forget(self) -> None:
        self.rows = 0
        self.generation = object()
        self._pixels = np.empty(0, np.int32)
        self._top = 0  # highest number that is placed
        self._joined = _ByNumber()
        self._box = np.array([[np.inf, -np.inf], [np.inf, -np.inf]])
        self._count = 0

    @property
    def nbytes(self) -> int:
        """Bytes that are held, allocated ones."""
        return self._pixels.nbytes + self._joined.nbytes

    def update(self, points: Points) -> None:
        """Place the rows that are new."""
        positions = points.positions
        assert positions is not None
        if points.numbers.rows < self.rows or positions.rows < self._joined.rows:
            self._forget()
        if positions.numbers is None:
            stop = min(points.numbers.rows, positions.rows)
        else:
            changed = self._joined.update(positions.numbers, positions.rows)
            if changed <= self._top:
                joined = self._joined
                self._forget()
                self._joined = joined
            stop = self._reach(points.numbers)
        if self._fit:
            self._extend(points, stop)
        for start in range(self.rows, stop, BLOCK):
            self._place(points, start, min(start + BLOCK, stop))

    def pixels(self, points: Points, start: int, stop: int) -> Pixels:
        """Return the pixels of some rows."""
        return self._pixels[start:stop]

    def _reach(self, numbers: Column) -> int:
        """Return up to which row all rows have positions, or never had them when others have."""
        new = numbers.read(self.rows, numbers.rows)
        known = np.flatnonzero(new <= self._joined.top)
        return self.rows + (int(known[-1]) + 1 if len(known) else 0)

    def _extend(self, points: Points, stop: int) -> None:
        """Fit the grid to rows up to `stop`; if it changed all rows are to be placed anew."""
        for start in range(self.rows, stop, BLOCK):
            where = self._where(points, start, min(start + BLOCK, stop))
            where = where[:, np.isfinite(where).all(axis=0)]
            if where.size:
                self._box[:, 0] = np.minimum(self._box[:, 0], where.min(axis=1))
                self._box[:, 1] = np.maximum(self._box[:, 1], where.max(axis=1))
                self._count += where.shape[1]
        if self._count:
            grid = fitted_grid(self._box[0], self._box[1], self._count, alike=self._alike)
            if grid != self.grid:
                self.grid = grid
                self.rows = self._top = 0
                self.generation = object()

    def _where(self, points: Points, start: int, stop: int) -> npt.NDArray[np.float64]:
        """Return y and x of some rows, NaN where there are none."""
        positions = points.positions
        assert positions is not None
        if positions.numbers is None:
            return positions.read(start, stop)
        rows = self._joined.find(points.numbers.read(start, stop))
        where = np.full((2, stop - start), np.nan)
        found = rows >= 0
        if found.any():
            low = int(rows[found].min())
            values = positions.read(low, int(rows[found].max()) + 1)
            where[:, found] = values[:, rows[found] - low]
        return where

    def _place(self, points: Points, start: int, stop: int) -> None:
        assert self.grid.extents is not None
        numbers = points.numbers.read(start, stop)
        y, x = self._where(points, start, stop)
        if self._fit:
            # What lies on the edge of the outermost pixels belongs to them, rounded or not.
            (y0, y1), (x0, x1) = self.grid.extents
            y = np.where(np.isfinite(y), np.clip(y, y0, y1), np.nan)
            x = np.where(np.isfinite(x), np.clip(x, x0, x1), np.nan)
        found = np.full(stop - start, -1, np.int32)
        last = newest(numbers)
        found[last] = nearest(x[last], y[last], self.grid.shape, self.grid.extents)
        if int(numbers.min()) <= self._top:
            again = np.flatnonzero(np.isin(points.numbers.read(0, start), numbers))
            if (self._pixels[again] >= 0).any():
                self.generation = object()
            self._pixels[again] = -1
        if len(self._pixels) < stop:
            grown = np.empty(max(stop, 2 * len(self._pixels), 1024), np.int32)
            grown[:start] = self._pixels[:start]
            self._pixels = grown
        self._pixels[start:stop] = found
        self._top = max(self._top, int(numbers.max()))
        self.rows = stop


class _ByNumber:
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


class RunningMap:
    """One column on the pixels of a placement: the mean of what lies in each.

    Attributes
    ----------
    rows : int
        Rows that are in the map.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._generation: object = None
        self._total = np.empty(0)
        self._count = np.empty(0, np.uint32)

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return self._total.nbytes + self._count.nbytes

    def update(self, placement: Placement, points: Points, values: Column) -> None:
        """Take the rows of `values` that are new and placed."""
        rows = min(placement.rows, values.rows)
        if placement.generation is not self._generation or rows < self.rows:
            self._generation = placement.generation
            size = placement.grid.shape[0] * placement.grid.shape[1]
            self.rows = 0
            self._total = np.full(size, np.nan) if placement.unique else np.zeros(size)
            self._count = np.zeros(0 if placement.unique else size, np.uint32)
        for start in range(self.rows, rows, BLOCK):
            stop = min(start + BLOCK, rows)
            column = np.array(values.read(start, stop), float)
            if points.valid is not None:
                column[~points.valid.read(start, stop).astype(bool)] = np.nan
            self._add(placement.pixels(points, start, stop), column, unique=placement.unique)
            self.rows = stop

    def _add(self, pixel: Pixels, column: npt.NDArray[np.float64], *, unique: bool) -> None:
        if unique:
            placed = pixel >= 0
            self._total[pixel[placed]] = column[placed]
            return
        used = (pixel >= 0) & ~np.isnan(column)
        with np.errstate(over="ignore", invalid="ignore"):  # of infinities
            np.add.at(self._total, pixel[used], column[used])
        np.add.at(self._count, pixel[used], np.uint32(1))

    def read(self, shape: tuple[int, int]) -> Map:
        """Return the map, float64, NaN where nothing is; `shape` is the placement's grid's."""
        if not len(self._count):
            return self._total.reshape(shape).copy()
        mean = np.full(len(self._total), np.nan)
        np.divide(self._total, self._count, out=mean, where=self._count > 0)
        return mean.reshape(shape)
