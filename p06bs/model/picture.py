"""What is shown of a run: a map or a curve, with its axes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from p06bs.model.raster import Extents
from p06bs.model.statistics import Statistics, statistics


@dataclass(frozen=True, slots=True)
class PictureAxis:
    """An axis of a picture.

    Attributes
    ----------
    name : str
    unit : str or None
    first, last : float
        Centres of the first and the last pixel.
    """

    name: str
    unit: str | None
    first: float
    last: float

    @property
    def label(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def places(self, count: int) -> npt.NDArray[np.float64]:
        """Return the centres of `count` pixels."""
        return np.linspace(self.first, self.last, count)

    def step(self, count: int) -> float:
        """Return the distance of the centres of `count` pixels; 1 where there is none."""
        step = (self.last - self.first) / (count - 1) if count > 1 else 0.0
        return step if step and np.isfinite(step) else 1.0


@dataclass(frozen=True, slots=True)
class Picture:
    """A map, or a curve, at one moment.

    Attributes
    ----------
    kind : str
        ``map``: one value per position. ``curve``: a result of one axis, shape ``(1, n)``.
        ``image``: a result of two axes.
    values : ndarray of float64, shape (ny, nx)
        NaN where nothing is.
    unit : str or None
    y, x : PictureAxis
        Axis 0 and axis 1.
    rows : int
        Rows of the run that it shows.
    places : ndarray, shape (nx,), optional
        Where the values of a curve lie, if they are not equally spaced.
    placed : str, optional
        How the rows of a map found their pixels, see `p06bs.model.positions.Where`: ``raster``
        by their numbers, ``measured`` by position, ``scattered`` by position on a grid that is
        fitted to the positions.
    """

    kind: Literal["map", "curve", "image"]
    values: npt.NDArray[np.float64]
    unit: str | None
    y: PictureAxis
    x: PictureAxis
    rows: int
    places: npt.NDArray[np.float64] | None = None
    placed: Literal["raster", "measured", "scattered"] | None = None

    @property
    def extents(self) -> Extents:
        """Centres of the first and last pixel: ``((y_first, y_last), (x_first, x_last))``."""
        return (self.y.first, self.y.last), (self.x.first, self.x.last)

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Outer edges of the pixels, as matplotlib's ``imshow(extent=...)`` wants them."""
        ny, nx = self.values.shape
        x, y = self.x.step(nx) / 2, self.y.step(ny) / 2
        return self.x.first - x, self.x.last + x, self.y.first - y, self.y.last + y

    @property
    def statistics(self) -> Statistics:
        """Number, range, mean and percentiles of the finite values."""
        return statistics(self.values)
