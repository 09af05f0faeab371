"""How far a stage moves from point to point along its lines, known at each point."""

from collections.abc import Mapping
from math import hypot, isfinite
from typing import Any

import numpy as np

from p06bs.callbacks._words import Floats

REACH = 8
"""Steps of which the mean is taken, so that noise of positions matters less."""
STEADY = 0.8
"""How far a step may be from that mean, in lengths of it, before it counts as a turn."""


def steps(state: Mapping[str, Any], places: Floats) -> tuple[dict[str, Any], Floats]:
    """Return the state after some points, and how far each axis moves per point at each of them.

    Only what came before a point counts, and at a turn nobody has seen the next line yet. The
    axis that moved fastest tells what comes: where it leaps back to the beginning of a line, or
    on over points that are missing, it runs as before; where it stops or turns back, in a snake,
    the other way. At the first point there is no motion yet.

    Parameters
    ----------
    state : mapping
        ``{}`` at first.
    places : ndarray, shape (axes, points)
        A point of which not all are finite is left out.
    """
    line: list[list[float]] = state.get("line", [])  # its last places, the oldest first
    speed: list[float] = state.get("speed", [0.0] * len(places))
    made = np.full(places.shape, np.nan)
    for i, place in enumerate(places.T.tolist()):
        if not all(map(isfinite, place)):
            continue
        length = hypot(*speed)
        if line and length:
            way = [now - last for now, last in zip(place, line[-1], strict=True)]
            off = hypot(*(one - mean for one, mean in zip(way, speed, strict=True)))
            # What is expected after a turn may be wrong, and is measured by the next step.
            if len(line) > 1 and off > STEADY * length:
                fast = max(range(len(speed)), key=lambda axis: abs(speed[axis]))
                if -1.5 < way[fast] / speed[fast] < 1.5:
                    speed = [-each for each in speed]
                line = []
        line = [*line[-REACH:], place]
        if len(line) > 1:
            way = [now - then for now, then in zip(place, line[0], strict=True)]
            speed = [each / (len(line) - 1) for each in way]
        made[:, i] = speed
    return {"line": line, "speed": speed}, made
