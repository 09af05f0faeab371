"""Maps of a sample: plans that go over an area in steps, and those of `fly_maps`."""

from collections.abc import Mapping, Sequence
from typing import Any

import bluesky.plans as bp
import numpy as np
from bluesky.utils import MsgGenerator

from p06bs.plans import _arguments
from p06bs.plans.dwell import in_steps
from p06bs.plans.fly_maps import fly_grid, fly_map, fly_spiral
from p06bs.plans.metadata import described, units_of
from p06bs.plans.points import Grid, extents_of, grid, spiral

__all__ = ["Grid", "fly_grid", "fly_map", "fly_spiral", "grid", "spiral", "spiral_map", "step_map"]


def step_map(
    detectors: Sequence[Any],
    slow: Any,
    slow_start: float,
    slow_stop: float,
    slow_points: int,
    fast: Any,
    fast_start: float,
    fast_stop: float,
    fast_points: int,
    *,
    dwell: float | None = None,
    snake: bool = True,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[Any]:
    """Measure a rectangle of any two axes, point by point: bluesky's `grid_scan`.

    Parameters
    ----------
    detectors : sequence of devices
    slow, fast : motors
        The fast one moves along each line.
    slow_start, slow_stop, fast_start, fast_stop : float
        The outermost points, in the motors' units.
    slow_points, fast_points : int
    dwell : float, optional
        Seconds per point; by default as detectors are set.
    snake : bool
        Whether every other line runs backwards.
    md : mapping, optional
        More metadata; wins over the plan's own.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    ValueError
        If there is less than one point along an axis, or an argument makes no sense.
    """
    _arguments.motors(slow, fast)
    _arguments.time_per_point(dwell)
    _arguments.ends(slow.name, slow_start, slow_stop, slow_points)
    _arguments.ends(fast.name, fast_start, fast_stop, fast_points)
    _arguments.counts(slow_points=slow_points, fast_points=fast_points)
    start = described(
        "step_map",
        [*detectors, slow, fast],
        md,
        scan={
            **{"dwell": dwell, "units": units_of([slow, fast])},
            "duration": dwell and dwell * slow_points * fast_points,
        },
    )
    axes = (slow, slow_start, slow_stop, slow_points, fast, fast_start, fast_stop, fast_points)
    plan = bp.grid_scan(list(detectors), *axes, snake_axes=snake, md=start)
    return (yield from in_steps(plan, detectors, dwell))


def spiral_map(
    detectors: Sequence[Any],
    x: Any,
    x_centre: float,
    width: float,
    y: Any,
    y_centre: float,
    height: float,
    distance: float,
    *,
    dwell: float | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[Any]:
    """Measure a rectangle of any two axes on a Fermat spiral: bluesky's `spiral_fermat`.

    Parameters
    ----------
    x, y : motors
    x_centre, y_centre, width, height : float
        Of the rectangle, in the motors' units.
    distance : float
        Between neighbouring points, about.
    detectors, dwell, md
        As of `step_map`.

    Raises
    ------
    ValueError
        If width, height or distance are not positive, or an argument makes no sense.
    """
    _arguments.motors(x, y)
    _arguments.time_per_point(dwell)
    points = len(spiral((x_centre, y_centre), (width, height), distance, rate=np.inf))
    start = described(
        "spiral_map",
        [*detectors, x, y],
        md,
        scan={
            **{"dwell": dwell, "units": units_of([x, y])},
            "duration": dwell and dwell * points,
        },
    )
    # bluesky's own motors come in any order.
    start.setdefault("motors", [x.name, y.name])
    # bluesky's own extents are twice as large as what it covers.
    start.setdefault("extents", extents_of((x_centre, y_centre), (width, height)))
    place = (x_centre, y_centre, width, height, distance / np.sqrt(np.pi), 1.0)
    plan = bp.spiral_fermat(list(detectors), x, y, *place, md=start)
    return (yield from in_steps(plan, detectors, dwell))
