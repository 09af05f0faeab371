"""Lines of a snake: where they begin and end, and how far those to and fro lie apart.

Detectors that look later than positions are captured see the sample further along the line: what
runs to and fro is moved against each other by twice the way. Each line is compared with the mean
of the two beside it, so that what is aslant in the sample, or drifts, drops out.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from p06bs.callbacks._arrays import Floats

FIRST = 16
"""Points at the beginning that tell which axis is the fast one, and how long its steps are."""
SHORTEST = 8
"""Points of a line, and of what two lines share, that are worth comparing."""
LONGEST = 1 << 16
"""Points after which nobody waits for the end of a line any more."""
FURTHEST = 16
"""Points by which lines are moved against each other: twice the largest lag that is found."""
SIGMAS = 4.0
"""How far a correlation must be above that of noise."""

SHIFTS = np.arange(-FURTHEST, FURTHEST + 1)


@dataclass(frozen=True)
class Line:
    """One line: places along it, ascending, values there, and whether it ran that way (1, -1)."""

    place: Floats
    value: Floats
    direction: int


@dataclass(frozen=True)
class Snake:
    """What is known of a scan after some of its points.

    Attributes
    ----------
    waiting : ndarray, shape (points, 3)
        Both places and value of the points of the line that has not ended yet.
    fast : int
        Which place is along the lines; -1: not known yet.
    step : float
        Of the fast axis from point to point, about.
    direction : int
        Of the line that has not ended; 0: not known yet.
    last : tuple of Line
        The last ones, two at most, with nothing between them.
    way : float
        Length of the lines that are usable, in steps; and `gaps` between points in them.
    usable, compared : int
        Number of lines that are long and straight enough, and of those between two such.
    sums : ndarray, shape (4, shifts)
        By which the lines correlate: covariance, variance of each side, points.
    """

    waiting: Floats
    fast: int = -1
    step: float = 0.0
    direction: int = 0
    last: tuple[Line, ...] = ()
    way: float = 0.0
    gaps: int = 0
    usable: int = 0
    compared: int = 0
    sums: Floats = field(default_factory=lambda: np.zeros((4, len(SHIFTS))))

    def add(self, points: Floats) -> "Snake":
        """Return what is known after more points, shape ``(points, 3)``."""
        snake = replace(self, waiting=np.concatenate([self.waiting, points]))
        while (more := snake._look()) is not None:
            snake = more
        return snake

    def finish(self) -> "Snake":
        """Return what is known if no more points come."""
        return self._end(len(self.waiting)) if self.direction else self

    def _look(self) -> "Snake | None":
        """Return what is known after one more thing is; None if more points are needed.

        It depends on the points alone, and not on how many came at once.
        """
        if self.fast < 0:
            return self._begin() if len(self.waiting) >= FIRST else None
        way = self.waiting[:LONGEST, self.fast] - self.waiting[:1, self.fast]
        if not self.direction:
            far = np.flatnonzero(np.abs(way) > 3 * self.step)
            if len(far):
                return replace(self, direction=int(np.sign(way[far[0]])))
        else:
            way *= self.direction
            top = np.maximum.accumulate(way)
            # Noise goes back, too, but not so far.
            back = top - way > np.maximum(3 * self.step, top / 4)
            if back.any():
                return self._end(int(np.argmax(way[: np.argmax(back)])) + 1)
        if len(way) < LONGEST:
            return None
        return replace(self, waiting=self.waiting[LONGEST:], direction=0, last=())

    def _begin(self) -> "Snake":
        steps = np.abs(np.diff(self.waiting[:FIRST, :2], axis=0))
        fast = int(np.argmax(steps.sum(axis=0)))
        step = float(np.median(steps[:, fast]))
        if step == 0:  # it stands
            return replace(self, waiting=self.waiting[1:])
        return replace(self, fast=fast, step=step)

    def _end(self, count: int) -> "Snake":
        """Return what is known after a line of the first `count` points that wait."""
        # At a turn nobody knows which line a point belongs to.
        points, waiting = self.waiting[1 : count - 1], self.waiting[count:]
        after = replace(self, waiting=waiting, direction=-self.direction)
        place, beside = points[:, self.fast], points[:, 1 - self.fast]
        if len(points) < SHORTEST or np.ptp(beside) > np.ptp(place) / 4:
            return replace(after, last=())
        order = np.argsort(place, kind="stable")
        line = Line(place[order], points[order, 2], self.direction)
        lines = (*self.last, line)
        after = replace(
            after,
            last=lines[-2:],
            way=self.way + np.ptp(place) / self.step,
            gaps=self.gaps + len(place) - 1,
            usable=self.usable + 1,
        )
        if len(lines) < 3:
            return after
        sums = _correlate(*lines, step=self.step)
        if sums is None:
            return after
        return replace(after, sums=self.sums + sums, compared=self.compared + 1)


def _correlate(before: Line, line: Line, behind: Line, *, step: float) -> Floats | None:
    """Return `Snake.sums` of one line and the mean of the two beside it.

    None if they share less than `SHORTEST` points.
    """
    three = before, line, behind
    begin, end = max(one.place[0] for one in three), min(one.place[-1] for one in three)
    places = np.arange(begin, end, step)
    if len(places) < SHORTEST:
        return None
    left, here, right = (np.interp(places, one.place, one.value) for one in three)
    beside = (left + right) / 2
    sums = np.zeros((4, len(SHIFTS)))
    reach = min(FURTHEST, len(places) // 2) // 2
    shifts = np.arange(-2 * reach, 2 * reach + 1)
    width = len(places) - 2 * reach
    # Both are moved, by half of the shift each: what they then show of the sample is the same
    # for as much more or less than the true shift, which makes the summit even.
    one, other = sliding_window_view(beside, width), sliding_window_view(here, width)
    one = one - one.mean(axis=1)[:, None]
    other = other - other.mean(axis=1)[:, None]
    for half in shifts // 2, -(-shifts // 2):
        a, b = one[reach + half], other[reach + half - shifts]
        all_of_it = (a * b).sum(axis=1), (a * a).sum(axis=1), (b * b).sum(axis=1), width / 2
        for total, more in zip(sums, all_of_it, strict=True):
            total[FURTHEST + line.direction * shifts] += more
    return sums


@dataclass(frozen=True)
class Lag:
    """How many points later than positions are captured detectors look; NaN if it is not known.

    `problem` is why not: see `PROBLEMS`.
    """

    points: float
    sigma: float
    problem: int


PROBLEMS = {
    0: "none",
    1: f"fewer than 3 lines of {SHORTEST} points",
    2: "lines do not run to and fro",
    3: "the reference is too even, or too noisy",
}


def lag_of(snake: Snake) -> Lag:
    """Return the lag: half the shift at which lines to and fro are most alike."""
    if not snake.compared:
        return Lag(np.nan, np.nan, 2 if snake.usable >= 3 else 1)
    covariance, here, beside, count = snake.sums
    there = (here > 0) & (beside > 0)
    if not there.any():
        return Lag(np.nan, np.nan, 3)
    alike = covariance[there] / np.sqrt(here * beside)[there]
    best = int(np.argmax(alike))
    # Each line is in three comparisons.
    noise = np.sqrt(3 / count[there][best])
    if alike[best] < SIGMAS * noise:
        return Lag(np.nan, np.nan, 3)
    shift, sigma = _summit(SHIFTS[there].astype(float), alike, best, noise)
    per_step = snake.gaps / snake.way  # points; by more steps than what `step` was taken from
    lag = Lag(shift / 2 * per_step, sigma / 2, 0)
    return lag if lag.sigma < 0.25 else Lag(np.nan, np.nan, 3)


def _summit(x: Floats, y: Floats, best: int, noise: float) -> tuple[float, float]:
    """Return where a curve has its maximum, and its standard deviation; infinite if it has none.

    A parabola is fitted to what is higher than nine tenths of the maximum, by weights that are
    even about the summit that was found before, until it stays: a curve that is even itself
    then has it there, however sharp it is.
    """
    lower = np.abs(x - x[best])[y < 0.9 * y[best]]
    reach = max(2.0, float(lower.min(initial=np.inf)))
    middle = float(x[best])
    for _ in range(20):
        if not x[0] + 1 <= middle <= x[-1] - 1:
            break
        width = min(reach, middle - x[0], x[-1] - middle) + 0.5
        away = (x - middle) / width
        weight = np.where(np.abs(away) < 1, 1 - away**2, 0)
        terms = np.stack([np.ones_like(x), x - middle, (x - middle) ** 2], axis=1)
        normal = np.linalg.pinv((terms.T * weight) @ terms)
        _, slope, bend = normal @ ((terms.T * weight) @ y)
        if not bend < 0:
            break
        spread = normal @ ((terms.T * weight**2) @ terms) @ normal
        sigma = noise * np.sqrt((1 - min(y[best], 1) ** 2) * spread[1, 1]) / (-2 * bend)
        change = float(np.clip(-slope / (2 * bend), -1, 1))
        middle += change
        if abs(change) < 1e-4:
            return middle, float(sigma)
    return middle, np.inf
