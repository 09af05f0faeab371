"""How many workers there should be, and which of them go first.

Decisions only: the load goes in, a number comes out, the time is an argument.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

DRAINED_WITHIN = 2.0
"""Seconds in which the workers should get through what is queued; else there are to be more."""
IDLE = 30.0
"""Seconds for which fewer workers have to be enough before one is let go."""
USED = 0.8
"""Share of their time that workers can compute for; one that does is fully used."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What all pipelines of a pool ask of it.

    Attributes
    ----------
    queued : int
        Rows that could be computed now, or are being computed.
    seconds : float
        How long one worker would take for all of them, s.
    """

    queued: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Demand") -> "Demand":
        return Demand(self.queued + other.queued, self.seconds + other.seconds)


class Scaling:
    """Decide how many workers a pool should have.

    More are wanted at once when what is queued would take longer than `within`. Fewer are
    wanted when they would have been enough for all of the last `idle` seconds: for what
    was queued, and to compute what was computed. So the number goes up and down again at
    most once in `idle` seconds, however the load changes.

    Parameters
    ----------
    least, most : int
        Limits of the number.
    within, idle : float
        Seconds.
    """

    def __init__(
        self, least: int, most: int, *, within: float = DRAINED_WITHIN, idle: float = IDLE
    ) -> None:
        if not 0 <= least <= most or most < 1:
            raise ValueError(f"workers go from {least} to {most}: write 0 <= min <= max, max >= 1")
        self.least, self.most = least, most
        self.within, self.idle = within, idle
        self.wanted = least
        self._needed: deque[tuple[float, int]] = deque()  # falling: the maxima that still count
        self._computed: deque[tuple[float, float]] = deque()  # (when, seconds computed by then)

    def decide(self, demand: Demand, computed: float, now: float) -> int:
        """Return how many workers there should be.

        Parameters
        ----------
        demand : Demand
            What is queued now.
        computed : float
            Seconds that all workers together have computed so far; only grows.
        now : float
            Time, s; only grows.
        """
        needed = min(demand.queued, math.ceil(demand.seconds / self.within))
        # To keep up with a steady load takes workers, too, although hardly anything is queued.
        kept = min(self.wanted, math.ceil(self._busy(computed, now) / USED))
        needed = max(self.least, min(self.most, max(needed, kept)))
        while self._needed and self._needed[-1][1] <= needed:
            self._needed.pop()
        self._needed.append((now, needed))
        while self._needed[0][0] < now - self.idle:
            self._needed.popleft()
        self.wanted = self._needed[0][1]
        return self.wanted

    def _busy(self, computed: float, now: float) -> float:
        """Return how many workers computed all the time lately."""
        self._computed.append((now, computed))
        while len(self._computed) > 2 and self._computed[1][0] <= now - self.within:
            self._computed.popleft()
        begun, before = self._computed[0]
        return (computed - before) / (now - begun) if now > begun else 0.0


def drain_order(workers: Iterable[tuple[str, int]]) -> list[str]:
    """Return the workers in the order in which they should go.

    Parameters
    ----------
    workers : iterable of (name, number of batches)
        The longest there first: they are made ready for most runs, and go last. Those
        with the fewest batches go first, because nothing has to be waited for.
    """
    there = list(workers)
    return [
        name for _, _, name in sorted((held, -at, name) for at, (name, held) in enumerate(there))
    ]
