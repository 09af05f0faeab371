"""What the publisher costs a plan: bluesky's count with and without it, in pairs."""

import gc
import time
from collections.abc import Mapping, Sequence

from bluesky import RunEngine
from bluesky.plans import count
from ophyd.sim import det

from benchmarks.report import Row, ratios, turns
from benchmarks.services import services
from p06bs import Publisher

REPEAT = 10
POINTS = 2000


def once(engine: RunEngine) -> tuple[float, float]:
    """Return µs per point that a scan of 2000 points takes, by the clock and of processor time."""
    gc.collect()
    begun = time.perf_counter(), time.process_time()
    engine(count([det], num=POINTS))
    ended = time.perf_counter(), time.process_time()
    return 1e6 * (ended[0] - begun[0]) / POINTS, 1e6 * (ended[1] - begun[1]) / POINTS


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure pairs of scans, with the publisher and without; `seconds` has no meaning here."""
    engine = RunEngine({}, context_managers=[])
    found: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
    with services() as bus, Publisher(bus.inbound, bus.log, run_engine=engine) as publisher:
        once(engine)
        for name in turns(list(found), repeat):
            token = engine.subscribe(publisher) if name == "with" else None
            found[name].append(once(engine))
            if token is not None:
                engine.unsubscribe(token)
    clock = {name: tuple(c for c, _ in values) for name, values in found.items()}
    processor = {name: tuple(p for _, p in values) for name, values in found.items()}
    return [
        *(Row(f"count of one detector, {n} p06bs", "us/point", v) for n, v in clock.items()),
        Row("overhead of the publisher", "%", _overhead(clock), at_most=5.0),
        # On a machine that others use, too, this one says more than the clock.
        Row("overhead of the publisher, processor time", "%", _overhead(processor)),
    ]


def _overhead(times: Mapping[str, Sequence[float]]) -> tuple[float, ...]:
    return tuple(100 * (ratio - 1) for ratio in ratios(times["with"], times["without"]))
