"""The standard deviations of maps whose pixels are means of several rows."""

import logging
from collections.abc import Mapping

import numpy as np

from p06bs.model.map_columns import Streams, points_of, values_of
from p06bs.model.mapped import Mapped
from p06bs.model.placement import BLOCK, Placement, placement_of
from p06bs.model.run_streams import Run
from p06bs.writers._h5 import Array

log = logging.getLogger(__name__)


class Errors:
    """Make the errors of maps that have the same streams and the same measured positions.

    Parameters
    ----------
    run : (Run, streams)
    others : mapping
        The runs that may have the positions, by `Measurement.of`.
    """

    def __init__(self, run: tuple[Run, Streams], others: Mapping[str, tuple[Run, Streams]]) -> None:
        self._run = run
        self._others = others
        self._placement: Placement | None = None

    def of(self, value: Mapped, sigma: Mapped) -> Array:
        """Return what the means of n rows are uncertain by: sqrt(Σ sigma²) / n.

        Parameters
        ----------
        value, sigma : Mapped
            The map of the means, and that of the rows' standard deviations.

        Returns
        -------
        ndarray of float64, shape (ny, nx)
            NaN where no value lies, or one without a standard deviation; everywhere, with a
            warning, if rows cannot be read.
        """
        if self._placement is None:
            self._placement = placement_of(value.where)
        placement = self._placement
        try:
            squares, count = self._sums(value, sigma, placement)
        except OSError as error:
            log.warning("the errors of %s are not known: %s", value.column, error)
            return np.full(placement.grid.shape, np.nan)
        errors = np.full(len(count), np.nan)
        np.divide(np.sqrt(squares), count, out=errors, where=count > 0)
        return errors.reshape(placement.grid.shape)

    def _sums(self, value: Mapped, sigma: Mapped, placement: Placement) -> tuple[Array, Array]:
        """Return the sum of sigma² and the number of the rows in each pixel."""
        points = points_of(value, *self._run, self._others)
        placement.update(points)
        values, sigmas = values_of(value, *self._run), values_of(sigma, *self._run)
        size = placement.grid.shape[0] * placement.grid.shape[1]
        squares, count = np.zeros(size), np.zeros(size)
        rows = min(placement.rows, values.rows)
        for start in range(0, rows, BLOCK):
            stop = min(start + BLOCK, rows)
            pixel = placement.pixels(points, start, stop)
            used = (pixel >= 0) & ~np.isnan(np.asarray(values.read(start, stop), float))
            if points.valid is not None:
                used &= points.valid.read(start, stop).astype(bool)
            with np.errstate(over="ignore"):  # of infinities
                square = np.asarray(sigmas.read(start, stop), float)[used] ** 2
            squares += np.bincount(pixel[used], square, size)
            count += np.bincount(pixel[used], minlength=size)
        return squares, count
