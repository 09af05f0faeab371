"""Maps of columns that grow: each update takes the rows that are new.

The streaming counterpart of `p06bs.model.maps`, with the same results. A
`Placement` (`p06bs.model.placement`) says in which pixel each row lies, once for
all columns of a stream; a `RunningMap` is one column on these pixels. Neither
keeps what the columns hold: both read the columns that they are given, which must
be the same ones as before, with rows added behind.

After a rewind the newest row of a number counts. On a raster it has the pixel of
the row that it supersedes, and overwrites it. A measured position may be another
one: then the sums are made anew from the columns, which is exact and needs no
memory of what was summed.
"""

import numpy as np
import numpy.typing as npt

from p06bs.model.maps import Map
from p06bs.model.placement import BLOCK, Pixels, Placement
from p06bs.model.points import Column, Points

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
