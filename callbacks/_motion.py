"""How far a stage moves from point to point along its lines, known at each point."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from p06bs.callbacks._arrays import Floats

REACH = 8
"""Steps of which the mean is taken, so that noise of positions matters less."""
AT_ONCE = 256
"""Points that are looked at in one go; there may be several turns among them."""
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
    line = state.get("line", np.empty((len(places), 0)))  # its last places, the oldest first
    speed = state.get("speed", np.zeros(len(places)))
    made = np.full(places.shape, np.nan)
    good = np.flatnonzero(np.isfinite(places).all(axis=0))
    at = 0
    while at < len(good):
        new = good[at : at + AT_ONCE]
        known = line.shape[1]
        line = np.concatenate([line, places[:, new]], axis=1)
        # What it is as long as there is no turn.
        count = np.minimum(np.arange(line.shape[1]), REACH)
        speeds = (line - line[:, np.arange(len(count)) - count]) / np.maximum(count, 1)
        speeds[:, 0] = speed
        length = np.sqrt((speeds[:, :-1] ** 2).sum(axis=0))
        off = np.sqrt(((np.diff(line, axis=1) - speeds[:, :-1]) ** 2).sum(axis=0))
        turns = (off > STEADY * length) & (length > 0)
        # What is expected after a turn may be wrong, and is measured by the next step.
        turns[: max(1, known - 1)] = False
        turn = int(np.argmax(turns)) + 1 if turns.any() else line.shape[1]
        made[:, new[: turn - known]] = speeds[:, known:turn]
        speed = speeds[:, turn - 1]
        at += turn - known
        if turn < line.shape[1]:
            fast = int(np.argmax(np.abs(speed)))
            along = (line[fast, turn] - line[fast, turn - 1]) / speed[fast]
            speed = -speed if -1.5 < along < 1.5 else speed
            line = line[:, turn : turn + 1]
            made[:, good[at]] = speed
            at += 1
        else:
            line = line[:, -REACH - 1 :]
    return {"line": line.copy(), "speed": speed.copy()}, made
