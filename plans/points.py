"""Points of maps in the order of acquisition: rows, snakes and spirals."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from p06bs.plans import _arguments

Floats = npt.NDArray[np.float64]
Axis = Literal["x", "y", "z", "rotation"]

UNITS: Mapping[str, str] = {"x": "um", "y": "um", "z": "um", "rotation": "deg"}
"""Axes of a box, and the units of their positions."""

NOMINAL_GATE = 0.005
"""Gate time (s) of scans without a finite rate, as simulations have."""


@dataclass(frozen=True)
class Grid:
    """The points of a map in the order of acquisition.

    Parameters
    ----------
    positions : mapping of str to ndarray
        Nominal positions of each axis that moves, in the units of `UNITS`, shape ``(points,)``.
    rate : float
        Points per second.
    gate_time : float
        Seconds per point.
    """

    positions: Mapping[str, Floats]
    rate: float
    gate_time: float

    def __len__(self) -> int:
        """Return the number of points."""
        return int(next(iter(self.positions.values())).size)


def raster(
    lines: Mapping[str, npt.ArrayLike],
    *,
    rate: float,
    gate_time: float | None = None,
    snake: bool = True,
) -> Grid:
    """Return all combinations of the positions of some axes, the first axis slowest.

    Parameters
    ----------
    lines : mapping of str to array_like
        Positions of each axis, the slowest axis first.
    snake : bool
        Whether every other line along the last axis runs backwards.

    Raises
    ------
    ValueError
        If an axis is unknown, or the rate is not positive.
    """
    if not lines or not lines.keys() <= UNITS.keys():
        raise ValueError(f"axes must be some of {', '.join(UNITS)}, not {[*lines]}")
    places = np.meshgrid(*(np.asarray(one, dtype=float) for one in lines.values()), indexing="ij")
    if snake:
        along = places[-1].reshape(-1, places[-1].shape[-1])
        along[1::2] = along[1::2, ::-1]
    positions = dict(zip(lines, (place.ravel() for place in places), strict=True))
    return Grid(positions, rate, gate_of(rate, gate_time))


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
    """Return ``ny`` times ``nx`` points, line by line: a `raster` of x and y.

    Parameters
    ----------
    fast : "x" or "y"
        Which axis the lines are along.

    Raises
    ------
    ValueError
        As of `raster`, and if `fast` is neither.
    """
    lines = {"y": line(*y_ends, ny), "x": line(*x_ends, nx)}
    if fast not in lines:
        raise ValueError(f"fast must be 'x' or 'y', not {fast!r}")
    lines[fast] = lines.pop(fast)
    return raster(lines, rate=rate, gate_time=gate_time, snake=snake)


def line(start: float, stop: float, num: int) -> Floats:
    """Return `num` points from `start` to `stop`, both ends among them.

    Raises
    ------
    ValueError
        If there is less than one point, or an end is not finite.
    """
    _arguments.finite(start=start, stop=stop)
    _arguments.counts(num=num)
    return np.linspace(start, stop, num)


def spiral(
    centre: tuple[float, float],
    size: tuple[float, float],
    distance: float,
    *,
    rate: float,
    gate_time: float | None = None,
    axes: tuple[Axis, Axis] = ("x", "y"),
) -> Grid:
    """Return a Fermat spiral within a rectangle: points of equal distance that never line up.

    Parameters
    ----------
    centre, size : (float, float)
        Of the rectangle along both axes.
    distance : float
        Between neighbours, about.
    axes : (str, str)

    Raises
    ------
    ValueError
        If a size, the distance or the rate is not positive, the axes are not two that there are,
        or no point lies within the rectangle, or too many.
    """
    from bluesky.plan_patterns import spiral_fermat

    if len({*axes}) != 2 or not {*axes} <= UNITS.keys():
        raise ValueError(f"axes must be two of {', '.join(UNITS)}, not {axes}")
    _arguments.two("centre", centre)
    _arguments.two("size", size)
    for axis, middle, width in zip(axes, centre, size, strict=True):
        _arguments.finite(**{f"centre of {axis}": middle})
        _arguments.positive(**{f"size of {axis}": width})
    _arguments.positive(distance=distance)
    _arguments.points(math.prod(size) / distance**2)
    made: Any = spiral_fermat  # has no annotations
    try:
        both = made(*axes, *centre, *size, distance / np.sqrt(np.pi), 1.0).by_key()
    except StopIteration:  # how a pattern without points fails
        raise ValueError(
            f"no point of a spiral lies within {size[0]} x {size[1]}: "
            f"take a distance less than {distance}"
        ) from None
    places: dict[str, Floats] = {axis: np.array(both[axis], dtype=float) for axis in axes}
    return Grid(places, rate, gate_of(rate, gate_time))


def extents_of(centre: tuple[float, float], size: tuple[float, float]) -> list[list[float]]:
    """Return both ends of a rectangle along each axis."""
    return [[c - s / 2, c + s / 2] for c, s in zip(centre, size, strict=True)]


def gate_of(rate: float, gate_time: float | None) -> float:
    """Return the seconds per point: by default the whole time between two of them.

    Raises
    ------
    ValueError
        If the rate is not positive.
    """
    if rate != np.inf:
        _arguments.positive(rate=rate)
    longest = 1 / rate if np.isfinite(rate) else NOMINAL_GATE
    if gate_time is None:
        return longest
    _arguments.positive(gate_time=gate_time)
    if np.isfinite(rate) and gate_time > longest * (1 + 1e-9):
        raise ValueError(
            f"gate_time must not be longer than a point, {longest:g} s at a rate of {rate:g} "
            f"points/s, not {gate_time:g} s"
        )
    return gate_time
