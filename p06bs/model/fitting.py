"""A grid for positions that follow no raster: spirals, lists of points, free-hand scans."""

import math
from collections.abc import Sequence

from p06bs.model.raster import Grid

LONGEST = 2047
"""Pitches along an axis, at most."""


def fitted_grid(y: Sequence[float], x: Sequence[float], count: int, *, alike: bool = True) -> Grid:
    """Return a regular grid over a rectangle, of at most about one pixel per position.

    The pitch is such that `count` positions, spread evenly, have a pixel each, rounded
    up to 1, 2 or 5 times a power of ten; the centres are multiples of it. So the pixels
    stay where they are when the rectangle extends, and change only when the number of
    positions has become several times as large.

    Parameters
    ----------
    y, x : (float, float)
        Lowest and highest position along the slow and the fast axis.
    count : int
        Number of positions, at least 1.
    alike : bool
        Whether both axes have the same pitch, as is right where they have the same unit.
    """
    height, width = (0.0 if _is_point(*ends) else ends[1] - ends[0] for ends in (y, x))
    if alike:
        spread = math.sqrt(width) * math.sqrt(height) / math.sqrt(count)
        longest = max(width, height)
        pitches = [max(spread, longest / count, longest / LONGEST)] * 2
    else:
        side = min(math.sqrt(count), LONGEST)
        pitches = [height / side, width / side]
    (ny, y_ends), (nx, x_ends) = (
        _axis(ends, length, pitch)
        for ends, length, pitch in zip((y, x), (height, width), pitches, strict=True)
    )
    return Grid((ny, nx), extents=(y_ends, x_ends))


def _axis(ends: Sequence[float], length: float, pitch: float) -> tuple[int, tuple[float, float]]:
    if not length:
        centre = float(ends[0] + (ends[1] - ends[0]) / 2)
        return 1, (centre, centre)
    up, down = _rounded(pitch)
    first, last = (math.floor(end / (up / down) + 0.5) for end in ends)
    return last - first + 1, (first * up / down, last * up / down)


def _is_point(low: float, high: float) -> bool:
    """Return whether the ends are so close, or so far, that floats between them are scarce."""
    length = high - low
    return length <= max(1e-9 * max(abs(low), abs(high)), 1e-200) or not math.isfinite(length)


def _rounded(pitch: float) -> tuple[int, int]:
    """Return the next 1, 2 or 5 times a power of ten that is not smaller, as a fraction."""
    power = math.floor(math.log10(pitch))
    up, down = (10**power, 1) if power >= 0 else (1, 10**-power)
    factor = next(f for f in (1, 2, 5, 10) if f * up / down >= pitch * (1 - 1e-9))
    return factor * up, down
