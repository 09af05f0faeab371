"""Maps of columns that grow: each update takes the rows that are new.

The streaming counterpart of `p06bs.model.raster`, with the same results. A
`Placement` (`p06bs.model.placement`) says in which pixel each row lies, once for
all columns of a stream; a `RunningMap` is one column on these pixels. Neither
keeps what the columns hold: both read the columns that they are given, which must
be the same ones as before, with rows added behind. A `GrowingMap` has statistics, too.

After a rewind the newest row of a number counts. On a raster it has the pixel of
the row that it supersedes, and overwrites it. A measured position may be another
one: then the sums are made anew from the columns, which is exact and needs no
memory of what was summed.
"""

import logging
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from p06bs.model.placement import BLOCK, Pixels, Placement
from p06bs.model.points import Column, Points
from p06bs.model.raster import Extents, Grid, Map
from p06bs.model.statistics import Statistics, statistics

logger = logging.getLogger(__name__)

PIXEL_BYTES = 12
"""What a running map holds, at most."""


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


@dataclass(frozen=True, slots=True)
class Gridded:
    """A map at one moment.

    Attributes
    ----------
    grid : Grid
    rows : int
        Rows of the stream that it shows.
    statistics : Statistics
    values : Map, optional
        Shape ``grid.shape``; None where only the rest was asked for.
    """

    grid: Grid
    rows: int
    statistics: Statistics
    values: Map | None = None

    @property
    def extents(self) -> Extents:
        """Centres of the first and last pixel along both axes; pixel numbers if nobody says."""
        ny, nx = self.grid.shape
        return self.grid.extents or ((0.0, ny - 1.0), (0.0, nx - 1.0))


class GrowingMap:
    """A map that goes on, and its statistics."""

    def __init__(self) -> None:
        self._map = RunningMap()
        self._of: tuple[object, int] | None = None
        self._statistics = Statistics(0)

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return self._map.nbytes

    def update(
        self,
        placement: Placement,
        points: Points,
        values: Column,
        unreadable: tuple[type[Exception], ...] = (),
    ) -> Gridded:
        """Take the rows that are new, and return the map as it is now.

        `unreadable` is what columns raise whose rows cannot be read (yet): the map is shown
        without them.
        """
        for step in (
            partial(placement.update, points),
            partial(self._map.update, placement, points, values),
        ):
            try:
                step()
            except unreadable as error:
                logger.debug("a map is incomplete: %s", error)
        pixels = self._map.read(placement.grid.shape)
        state = placement.generation, self._map.rows
        if self._of != state:
            self._of, self._statistics = state, statistics(pixels)
        return Gridded(placement.grid, self._map.rows, self._statistics, pixels)
