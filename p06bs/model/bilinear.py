"""Bilinear gridding: values shared out between the four pixels around each position.

Sums and weights grow as rows come, in their order, so that how they are cut makes no
difference to the last bit. Beside the nearest pixel (`p06bs.model.raster`) it moves no value by
up to half a pixel, at the price of resolution; and rows that are superseded cannot be
taken out again.
"""

import numpy as np
import numpy.typing as npt

from p06bs.model.raster import Extents

Floats = npt.NDArray[np.float64]

AT_ONCE = 1 << 10
"""Rows that are added in one go, so that what is made of them stays in the cache."""


class Bilinear:
    """Columns on the pixels of a grid, each value weighted by how near a pixel's centre is.

    Parameters
    ----------
    shape : (int, int)
        ``(ny, nx)``.
    extents : Extents
        Centres of the first and last pixel, slow axis first. Along an axis of one pixel every
        finite position belongs to it.
    columns : int
        How many there are.

    Attributes
    ----------
    sums : ndarray, shape ``(columns, ny, nx)``
        Of weight times value.
    weights : ndarray, shape ``(columns, ny, nx)`` or ``(1, ny, nx)``
        Their sums; one for all columns as long as rows lack all values or none.

    Raises
    ------
    ValueError
        If an axis of several pixels has no extent.
    """

    def __init__(self, shape: tuple[int, int], extents: Extents, columns: int = 1) -> None:
        for count, (first, last), name in zip(shape, extents, "yx", strict=True):
            if count < 1 or (count > 1 and first == last):
                raise ValueError(f"{name}: {count} pixels from {first:g} to {last:g} are no axis")
        self.shape = shape
        self.extents = extents
        self.sums = np.zeros((columns, *shape))
        self.weights = np.zeros((1, *shape))

    def add(self, x: npt.ArrayLike, y: npt.ArrayLike, values: npt.ArrayLike) -> None:
        """Add rows.

        Rows without a position within the pixels, and values that are NaN, are left out.

        Parameters
        ----------
        x, y : array_like, shape ``(rows,)``
            Positions along the fast and the slow axis, in the unit of the extents.
        values : array_like, shape ``(columns, rows)``
        """
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        columns = np.asarray(values, np.float64).reshape(len(self.sums), -1)
        if not len(x) == len(y) == columns.shape[1]:
            raise ValueError(f"{len(x)} x, {len(y)} y and {columns.shape[1]} values are no rows")
        for start in range(0, len(x), AT_ONCE):
            at = slice(start, start + AT_ONCE)
            self._add(x[at], y[at], columns[:, at])

    def merge(self, other: "Bilinear") -> None:
        """Add what another one of the same grid has."""
        if (other.shape, other.extents, len(other.sums)) != (
            self.shape,
            self.extents,
            len(self.sums),
        ):
            raise ValueError("these are other columns, or on another grid")
        self.sums += other.sums
        if len(other.weights) > len(self.weights):
            self._weigh_each()
        self.weights += other.weights

    def read(self) -> Floats:
        """Return the means, shape ``(columns, ny, nx)``; NaN where there is no weight."""
        weights = np.broadcast_to(self.weights, self.sums.shape)
        made = np.full(self.sums.shape, np.nan)
        np.divide(self.sums, weights, out=made, where=weights > 0)
        return made

    def _weigh_each(self) -> None:
        self.weights = np.broadcast_to(self.weights, self.sums.shape).copy()

    def _add(self, x: Floats, y: Floats, values: Floats) -> None:
        row, down = _between(y, self.shape[0], self.extents[0])
        along, right = _between(x, self.shape[1], self.extents[1])
        missing = np.isnan(values)
        # Row by row its four corners, of those that there are and have a weight.
        pixel = (row[:, :, None] * self.shape[1] + along[:, None]).reshape(-1, 4)
        weight = (down[:, :, None] * right[:, None]).reshape(-1, 4)
        used = (np.minimum(row[:, :, None], along[:, None]) >= 0).reshape(-1, 4) & (weight > 0)
        used &= ~np.all(missing, axis=0).reshape(-1, 1)
        of = np.repeat(np.arange(len(x)), 4)
        if not used.all():
            of = of[used.ravel()]
        pixels, weights = pixel[used], weight[used]
        each = bool(missing[:, of].any()) if missing.any() else False
        if each and len(self.weights) == 1:
            self._weigh_each()
        with np.errstate(over="ignore", invalid="ignore"):  # of infinities
            for i, column in enumerate(values):
                share = column[of]
                share *= weights
                if each:
                    share[missing[i, of]] = 0
                np.add.at(self.sums[i].reshape(-1), pixels, share)
        for total, lacking in zip(self.weights, missing, strict=len(self.weights) > 1):
            there = weights * ~lacking[of] if each else weights
            np.add.at(total.reshape(-1), pixels, there)


def _between(
    position: Floats, count: int, extent: tuple[float, float]
) -> tuple[npt.NDArray[np.intp], Floats]:
    """Return the two pixels beside each position and their weights, shape ``(rows, 2)``.

    -1 for pixels that are not there; both are for what lies outside of all pixels.
    """
    if count == 1:
        first = np.where(np.isfinite(position), 0, -1)
        return np.stack([first, np.full_like(first, -1)], axis=1), np.ones((len(position), 2))
    step = (extent[1] - extent[0]) / (count - 1)
    with np.errstate(over="ignore"):
        place = (position - extent[0]) / step
    place[~((place >= -0.5) & (place <= count - 0.5))] = -2
    lower = np.floor(place)
    upper = place - lower
    pixels = np.stack([lower, lower + 1], axis=1).astype(np.intp)
    pixels[(pixels < 0) | (pixels >= count)] = -1
    return pixels, np.stack([1 - upper, upper], axis=1)
