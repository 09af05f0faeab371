"""Where rows lie on a grid: by their numbers, or by measured positions."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from p06bs.model.fitting import fitted_grid
from p06bs.model.points import Column, NewestRows, Points
from p06bs.model.positions import Where
from p06bs.model.raster import Grid, nearest, newest, pixels
from p06bs.model.units import canonical

BLOCK = 1 << 16
"""Rows that are read at once."""

NOWHERE = Grid((1, 1), extents=((0.0, 0.0), (0.0, 0.0)))
"""What is fitted to no positions."""

Pixels = npt.NDArray[np.int32]


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
        self.grid = grid or NOWHERE
        self._forget()

    def _forget(self) -> None:
        if self._fit:
            self.grid = NOWHERE
        self.rows = 0
        self.generation = object()
        self._pixels = np.empty(0, np.int32)
        self._top = 0  # highest number that is placed
        self._joined = NewestRows()
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


def placement_of(where: Where) -> Placement:
    """Return a placement of no rows yet."""
    if where.kind == "raster":
        assert where.grid is not None
        return Raster(where.grid)
    units = {canonical(axis.unit) for axis in where.axes}
    return Measured(where.grid, alike=len(units) == 1)
