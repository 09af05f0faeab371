"""Points of maps in the order of acquisition: rows, snakes and spirals."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Axis = Literal["x", "y"]

NOMINAL_GATE = 0.005
"""Gate time (s) of scans without a finite rate, as simulations have."""


@dataclass(frozen=True)
class Grid:
    """The points of a map in the order of acquisition.

    Parameters
    ----------
    x, y : ndarray
        Nominal positions, µm, shape ``(points,)``.
    rate : float
        Points per second.
    gate_time : float
        Seconds per point.
    """

    x: Floats
    y: Floats
    rate: float
    gate_time: float


def grid(
    x_ends: tuple[float, float],
    nx: int,
    y_ends: tuple[float, float],
    ny: int,
    *,
    rate: float,
    gate_time: float | None = None,
    snake: bool = True,
    fast: Axis = "x",
) -> Grid:
    """Return ``ny`` times ``nx`` points, line by line; a snake runs every other line backwards.

    Parameters
    ----------
    fast : "x" or "y"
        Which axis the lines are along.

    Raises
    ------
    ValueError
        If there is less than one point along an axis, or the rate is not positive.
    """
    if nx < 1 or ny < 1:
        raise ValueError(f"a map needs at least 1 x 1 points, not nx={nx}, ny={ny}")
    if fast not in ("x", "y"):
        raise ValueError(f"fast must be 'x' or 'y', not {fast!r}")
    along, across = np.linspace(*x_ends, nx), np.linspace(*y_ends, ny)
    if fast == "y":
        along, across = across, along
    lines = np.tile(along, (across.size, 1))
    if snake:
        lines[1::2] = lines[1::2, ::-1]
    steps = np.repeat(across, along.size)
    x, y = (lines.ravel(), steps) if fast == "x" else (steps, lines.ravel())
    return Grid(x, y, rate, gate_of(rate, gate_time))


def spiral(
    centre: tuple[float, float],
    size: tuple[float, float],
    distance: float,
    *,
    rate: float,
    gate_time: float | None = None,
) -> Grid:
    """Return a Fermat spiral within a rectangle: points of equal distance that never line up.

    Parameters
    ----------
    centre : (float, float)
        x, y, µm.
    size : (float, float)
        Width and height, µm.
    distance : float
        Between neighbours, about, µm.

    Raises
    ------
    ValueError
        If a size, the distance or the rate is not positive.
    """
    from bluesky.plan_patterns import spiral_fermat

    if min(*size, distance) <= 0:
        raise ValueError(f"size and distance must be more than 0, not {size} and {distance}")
    made: Any = spiral_fermat  # has no annotations
    both = made("x", "y", *centre, *size, distance / np.sqrt(np.pi), 1.0).by_key()
    x, y = (np.array(both[axis], dtype=float) for axis in ("x", "y"))
    return Grid(x, y, rate, gate_of(rate, gate_time))


def gate_of(rate: float, gate_time: float | None) -> float:
    """Return the seconds per point: by default the whole time between two of them.

    Raises
    ------
    ValueError
        If the rate is not positive.
    """
    if not rate > 0:
        raise ValueError(f"rate must be more than 0 points/s, not {rate}")
    if gate_time is not None:
        return gate_time
    return 1 / rate if np.isfinite(rate) else NOMINAL_GATE
