"""What Prometheus is told of pipelines: how much waits, how fast it goes, what goes wrong."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from p06bs.bus.metrics import Measure

WINDOW = 10.0
"""Seconds over which rates are taken."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One pipeline at one moment; what is counted only grows.

    Attributes
    ----------
    runs : int
        That are worked on.
    queued : int
        Events that wait for a worker, or are with one.
    late : int
        Batches that wait for a detector's file.
    previews : int
        Runs of which a preview is made, because workers cannot keep up.
    lag : int
        Raw events without a published result.
    age : float
        Of the oldest of them, s.
    events, batches, retries, invalid : int
        Counted; see `Tally`.
    seconds : float
        For which workers computed.
    """

    runs: int = 0
    queued: int = 0
    late: int = 0
    previews: int = 0
    lag: int = 0
    age: float = 0.0
    events: int = 0
    batches: int = 0
    retries: int = 0
    invalid: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Moment:
    when: float
    readings: Mapping[str, Reading] = field(default_factory=dict)


class Meter:
    """Keep the last readings of the pipelines of a pool, and tell Prometheus.

    `take` is called by the thread that works, `measures` are read by any.
    """

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self._moments: deque[_Moment] = deque([_Moment(0.0)])
        self._last = self._before = _Moment(0.0)
        self._workers = self._wanted = 0

    def take(self, readings: Mapping[str, Reading], workers: int, wanted: int, now: float) -> None:
        """Take readings by pipeline, and how many workers there are and should be."""
        self._workers, self._wanted = workers, wanted
        self._last = _Moment(now, readings)
        self._moments.append(self._last)
        while self._moments[0].when < now - WINDOW and len(self._moments) > 2:
            self._moments.popleft()
        self._before = self._moments[0]

    def values(self, of: Callable[[Reading], float]) -> dict[str, float]:
        """Return something of the last readings, by pipeline."""
        return {name: float(of(reading)) for name, reading in self._last.readings.items()}

    def rates(self, of: Callable[[Reading], float]) -> dict[str, float]:
        """Return how much a count grew lately, per second, by pipeline."""
        last, before = self._last, self._before
        passed = last.when - before.when
        none = Reading()
        return {
            name: (of(reading) - of(before.readings.get(name, none))) / passed if passed else 0.0
            for name, reading in last.readings.items()
        }

    def batch_sizes(self) -> dict[str, float]:
        """Return the mean number of events of the last batches, by pipeline."""
        batches = self.rates(lambda reading: reading.batches)
        events = self.rates(lambda reading: reading.events)
        return {name: events[name] / n if n else 0.0 for name, n in batches.items()}

    def shares(self) -> dict[str, float]:
        """Return which share of the workers' time is spent computing, by pipeline."""
        workers = max(1, self._workers)
        return {
            name: seconds / workers for name, seconds in self.rates(lambda r: r.seconds).items()
        }

    def workers(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return how many workers there are and how many are wanted, by pool."""
        return {self.pool: float(self._workers)}, {self.pool: float(self._wanted)}


def measures(*meters: Meter) -> tuple[Measure, ...]:
    """Return what Prometheus is told of pools and their pipelines."""

    def joined(read: Callable[[Meter], Mapping[str, float]]) -> Callable[[], dict[str, float]]:
        return lambda: {name: value for meter in meters for name, value in read(meter).items()}

    def gauge(name: str, text: str, read: Callable[[Meter], Mapping[str, float]]) -> Measure:
        return Measure(f"pipeline_{name}", text, joined(read), label="pipeline")

    def now(name: str, text: str, of: Callable[[Reading], float]) -> Measure:
        return gauge(name, text, lambda meter: meter.values(of))

    def counter(name: str, text: str, of: Callable[[Reading], float]) -> Measure:
        read = joined(lambda meter: meter.values(of))
        return Measure(f"pipeline_{name}", text, read, "counter", "pipeline")

    return (
        now("runs", "Raw runs that are worked on.", lambda r: r.runs),
        now("queued_events", "Events that wait for a worker, or are with one.", lambda r: r.queued),
        now("lag_events", "Raw events that have no published result yet.", lambda r: r.lag),
        now("lag_seconds", "Age of the oldest raw event without a published one.", lambda r: r.age),
        now("late_batches", "Batches that wait for rows of a detector's file.", lambda r: r.late),
        now("previews", "Runs of which there is a preview: overload.", lambda r: r.previews),
        gauge("batch_events", "Mean events of a batch in the last 10 s.", Meter.batch_sizes),
        gauge(
            "events_per_second",
            "Events computed per second in the last 10 s.",
            lambda meter: meter.rates(lambda r: r.events),
        ),
        gauge(
            "computing_ratio",
            "Share of its pool's worker time spent computing, last 10 s.",
            Meter.shares,
        ),
        counter("events", "Events that were computed.", lambda r: r.events),
        counter("batches", "Batches that were computed.", lambda r: r.batches),
        counter("computing_seconds", "Time for which workers computed.", lambda r: r.seconds),
        counter(
            "retries",
            "Batches handed out again: a worker died, fell silent or sent nonsense.",
            lambda r: r.retries,
        ),
        counter("invalid_events", "Events that are marked invalid.", lambda r: r.invalid),
        Measure(
            "workers", "Workers that have joined.", joined(lambda m: m.workers()[0]), label="pool"
        ),
        Measure(
            "workers_wanted",
            "Workers that there should be.",
            joined(lambda m: m.workers()[1]),
            label="pool",
        ),
    )
