"""How much beam reaches the sample: what the ring stores, and what the shutter lets through."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(eq=False)
class BeamHistory:
    """The beam at the points of a scan, beside top-up: each change is kept with its point.

    Parameters
    ----------
    stored : float
        Current in the ring at the scan's begin, relative to a full one.
    passed : float
        Fraction that the shutter let through then: 0 or 1.
    """

    stored: float = 1.0
    passed: float = 1.0
    _changes: list[tuple[float, float, float]] = field(default_factory=list)

    def change(self, point: float, stored: float, passed: float) -> None:
        """Take what there is from now on, in the course of a point.

        Parameters
        ----------
        point : float
            Points that are finished, and the finished part of the present one.
        """
        self._changes.append((point, stored, passed))

    def current(self, points: npt.ArrayLike) -> Floats:
        """Return the stored current at points, relative, the mean over each; ``(points,)``."""
        return self._mean(points, lambda stored, passed: stored)

    def intensity(self, points: npt.ArrayLike) -> Floats:
        """Return what reaches the sample at points, relative, the mean over each; ``(points,)``."""
        return self._mean(points, lambda stored, passed: stored * passed)

    def _mean(self, points: npt.ArrayLike, level: Callable[[float, float], float]) -> Floats:
        changes = [(-np.inf, self.stored, self.passed), *self._changes]
        begins = np.array([begin for begin, _, _ in changes])
        ends = np.append(begins[1:], np.inf)
        first = np.asarray(points, dtype=float)[:, None]
        # Exactly 1 for the only level of a point, and 0 for the others.
        share = np.clip(np.minimum(ends, first + 1) - np.maximum(begins, first), 0.0, None)
        mean: Floats = share @ np.array([level(stored, passed) for _, stored, passed in changes])
        return mean


class Beam:
    """The beam now, as ring and shutter make it.

    Attributes
    ----------
    stored : float
        Current in the ring, relative to a full one.
    passed : float
        Fraction that the shutter lets through: 0 or 1.
    """

    def __init__(self) -> None:
        self.stored = 1.0
        self.passed = 1.0
        self._watching: list[Callable[[], None]] = []

    def change(self, *, stored: float | None = None, passed: float | None = None) -> None:
        """Change what is given, and tell those who watch."""
        self.stored = self.stored if stored is None else stored
        self.passed = self.passed if passed is None else passed
        for callback in self._watching:
            callback()

    def watch(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after each change."""
        self._watching.append(callback)

    def history(self) -> BeamHistory:
        """Return the history of a scan that begins now."""
        return BeamHistory(self.stored, self.passed)
