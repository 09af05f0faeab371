"""The clock of a fly scan: which point is due when. No I/O and no waiting."""

import math
from dataclasses import dataclass


@dataclass
class TriggerClock:
    """Count the points that a scan of constant rate has finished, without drift.

    Point `i` is finished ``(i + 1) / rate`` seconds of *running* time after the
    start, however late anybody looks. Times are seconds of any one monotonic clock.

    Parameters
    ----------
    points : int
        How many there are.
    rate : float
        Points per second; ``inf`` finishes all of them at once.

    Raises
    ------
    ValueError
        If there are no points or the rate is not positive.
    """

    points: int
    rate: float
    _zero: float | None = None
    _held_since: float | None = None
    _last: int | None = None

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"a scan needs at least one point, not {self.points}")
        if not self.rate > 0:
            raise ValueError(f"the rate must be more than 0 points/s, not {self.rate}")

    def start(self, now: float) -> None:
        """Begin at time `now`."""
        self._zero = now

    def hold(self, now: float) -> None:
        """Stand still from `now` on until `release`."""
        if self._held_since is None:
            self._held_since = now

    def release(self, now: float) -> None:
        """Go on after `hold`; the time between does not count."""
        if self._held_since is not None:
            if self._zero is not None:
                self._zero += now - max(self._held_since, self._zero)
            self._held_since = None

    def end(self, now: float) -> None:
        """Fire no more triggers after `now`."""
        self._last = self.count(now)

    @property
    def running(self) -> bool:
        """Whether it was started, is not held and has not been ended early."""
        return self._zero is not None and self._held_since is None and self._last is None

    def ended(self, now: float) -> bool:
        """Return whether no further point will come."""
        return self._last is not None or self.count(now) == self.points

    def count(self, now: float) -> int:
        """Return how many points are finished at time `now`."""
        # A point is finished *at* its time, which rounding may put a hair later.
        return min(self.points, math.floor(self.progress(now) + 1e-6))

    def progress(self, now: float) -> float:
        """Return how many points are finished at time `now`, with the part of the present one."""
        if self._last is not None:
            return self._last
        if self._zero is None:
            return 0.0
        elapsed = (now if self._held_since is None else self._held_since) - self._zero
        if elapsed < 0:
            return 0.0
        return self.points if math.isinf(self.rate) else min(self.points, elapsed * self.rate)

    def due(self, point: int) -> float:
        """Return when a point is finished if nothing holds the clock; inf before the start."""
        return math.inf if self._zero is None else self._zero + (point + 1) / self.rate
