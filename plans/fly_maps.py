"""Maps of a sample by flights: the box's stage moves on while detectors are triggered."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bluesky.utils import MsgGenerator

from p06bs.plans import _arguments
from p06bs.plans.flying import COLLECT_EVERY, flight, flown, of_flight, of_raster
from p06bs.plans.metadata import described
from p06bs.plans.points import Axis, Floats, extents_of, line, raster, spiral

FLUORESCENCE = "X-ray fluorescence"


def fly_map(
    detectors: Sequence[Any],
    box: Any,
    *,
    x_start: float = -20.0,
    x_stop: float = 20.0,
    nx: int = 41,
    y_start: float = -20.0,
    y_stop: float = 20.0,
    ny: int = 41,
    rate: float = 200.0,
    gate_time: float | None = None,
    snake: bool = True,
    fast: Axis = "x",
    collect_every: float = COLLECT_EVERY,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Fly over a rectangle of x and y, line by line, while a box triggers the detectors.

    See `p06bs.plans.flying.flown` for what becomes of interruptions. The start document lists the
    streams of box and detectors under ``aligned_streams``: equal seq_num, same point.

    Parameters
    ----------
    detectors : sequence of devices
        Externally triggered ophyd-async detectors.
    box : device
        Flyer that takes a `Grid` in ``prepare`` and gives event pages.
    x_start, x_stop, y_start, y_stop : float
        Centres of the outermost points, µm.
    nx, ny : int
        Points along x and y.
    rate : float
        Points per second; ``inf`` for simulations without a clock.
    gate_time : float, optional
        Seconds per point; the whole time between two points by default.
    snake : bool
        Whether every other line runs backwards.
    fast : "x" or "y"
        Which axis the lines are along.
    collect_every : float
        Seconds between two collections.
    md : mapping, optional
        More metadata for the start document; wins over the plan's own.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    ValueError
        If there is less than one point along an axis, or the rate is not positive.
    """
    if fast not in ("x", "y"):
        raise ValueError(f"fast must be 'x' or 'y', not {fast!r}; for other axes there is fly_grid")
    y: tuple[Axis, float, float, int] = ("y", y_start, y_stop, ny)
    x: tuple[Axis, float, float, int] = ("x", x_start, x_stop, nx)
    slow, along = (y, x) if fast == "x" else (x, y)
    return (
        yield from fly_grid(
            detectors,
            box,
            *slow,
            *along,
            rate=rate,
            gate_time=gate_time,
            snake=snake,
            collect_every=collect_every,
            md={"plan_name": "fly_map", **(md or {})},
        )
    )


def fly_grid(
    detectors: Sequence[Any],
    box: Any,
    slow: Axis,
    slow_start: float,
    slow_stop: float,
    slow_points: int,
    fast: Axis,
    fast_start: float,
    fast_stop: float,
    fast_points: int,
    *,
    rate: float = 200.0,
    gate_time: float | None = None,
    snake: bool = True,
    collect_every: float = COLLECT_EVERY,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Fly over a rectangle of any two axes of the box, line by line: a `fly_map`.

    Parameters
    ----------
    slow, fast : "x", "y", "z" or "rotation"
        Of the box; the fast one moves along each line.
    slow_start, slow_stop, fast_start, fast_stop : float
        Centres of the outermost points, µm or degrees.
    slow_points, fast_points : int
    detectors, box, rate, gate_time, snake, collect_every, md
        As of `fly_map`.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    ValueError
        If there is less than one point along an axis, the axes are not two that there are, or
        the rate is not positive.
    """
    _arguments.ends(slow, slow_start, slow_stop, slow_points)
    _arguments.ends(fast, fast_start, fast_stop, fast_points)
    _arguments.counts(slow_points=slow_points, fast_points=fast_points)
    lines: dict[str, Floats] = {
        slow: line(slow_start, slow_stop, slow_points),
        fast: line(fast_start, fast_stop, fast_points),
    }
    if len(lines) != 2:
        raise ValueError(f"a map needs two axes, not {slow!r} twice")
    points = raster(lines, rate=rate, gate_time=gate_time, snake=snake)
    start = described(
        "fly_map",
        [*detectors, box],
        md,
        scan=of_flight(points, lines),
        technique=FLUORESCENCE,
        plan_args={
            "slow": [slow, slow_start, slow_stop, slow_points],
            "fast": [fast, fast_start, fast_stop, fast_points],
            **{"rate": rate if np.isfinite(rate) else None, "snake": snake},
        },
        plan_name="fly_grid",
        **of_raster(detectors, box, lines, snake=snake),
    )
    return (yield from flown(detectors, box, points, start, collect_every))


def fly_spiral(
    detectors: Sequence[Any],
    box: Any,
    *,
    centre: tuple[float, float] = (0.0, 0.0),
    size: tuple[float, float] = (40.0, 40.0),
    distance: float = 1.0,
    axes: tuple[Axis, Axis] = ("x", "y"),
    rate: float = 200.0,
    gate_time: float | None = None,
    collect_every: float = COLLECT_EVERY,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Fly over a rectangle on a Fermat spiral.

    Parameters
    ----------
    centre, size : (float, float)
        Of the rectangle along both axes, µm or degrees.
    distance : float
        Between neighbouring points, about.
    axes : (str, str)
        Of the box: two of "x", "y", "z" and "rotation".
    detectors, box, rate, gate_time, collect_every, md
        As of `fly_map`.

    Raises
    ------
    ValueError
        If size, distance or rate are not positive, or the axes are not two that there are.
    """
    points = spiral(centre, size, distance, rate=rate, gate_time=gate_time, axes=axes)
    start = described(
        "fly_spiral",
        [*detectors, box],
        md,
        scan=of_flight(points, axes),
        technique=FLUORESCENCE,
        plan_args={
            **{"centre": list(centre), "size": list(size), "distance": distance},
            **{"axes": list(axes), "rate": rate if np.isfinite(rate) else None},
        },
        num_points=len(points),
        extents=extents_of(centre, size),
        **flight(detectors, box, axes),
    )
    return (yield from flown(detectors, box, points, start, collect_every))
