"""Statistics of maps, for live displays."""

from dataclasses import dataclass

import numpy as np

from p06bs.model.raster import Map

SAMPLE = 1 << 16
"""Pixels from which percentiles are taken."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the finite pixels of a map are like; None where there is none.

    Attributes
    ----------
    count : int
        Number of finite pixels.
    min, max, mean : float
    low, high : float
        Percentiles 1 and 99: a range for colours that single pixels do not spoil. Of
        more than `SAMPLE` pixels about that many, evenly spaced, are looked at.
    """

    count: int
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    low: float | None = None
    high: float | None = None


def statistics(values: Map) -> Statistics:
    """Return the statistics of a map."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Statistics(0)
    sample = finite[:: -(-len(finite) // SAMPLE)]
    low, high = np.percentile(sample, (1, 99))
    with np.errstate(over="ignore"):
        mean = float(finite.mean())
    return Statistics(
        len(finite),
        float(finite.min()),
        float(finite.max()),
        mean if np.isfinite(mean) else None,
        float(low),
        float(high),
    )
