"""What is shown of a run: a map or a curve, with its axes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt


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
    """

    kind: Literal["map", "curve", "image"]
    values: npt.NDArray[np.float64]
    unit: str | None
    y: PictureAxis
    x: PictureAxis
    rows: int
    places: npt.NDArray[np.float64] | None = None
