"""What the publisher costs a plan: bluesky's count with and without it, in pairs."""

import gc
import time

from bluesky import RunEngine
from bluesky.plans import count
from ophyd.sim import det

from benchmarks.report import Row, ratios, turns
from benchmarks.services import services
from p06bs import Publisher

REPEAT = 10
POINTS = 2000


def once(engine: RunEngine) -> float:
    """Return the seconds that a scan of 2000 points takes."""
    gc.collect()
    begun = time.perf_counter()
    engine(count([det], num=POINTS))
    return time.perf_counter() - begun


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure pairs of scans, with the publisher and without; `seconds` has no meaning here."""
    engine = RunEngine({}, context_managers=[])
    found: dict[str, list[float]] = {"with": [], "without": []}
    with services() as bus, Publisher(bus.inbound, bus.log, run_engine=engine) as publisher:
        once(engine)
        for name in turns(list(found), repeat):
            token = engine.subscribe(publisher) if name == "with" else None
            found[name].append(once(engine))
            if token is not None:
                engine.unsubscribe(token)
    per_point = {name: tuple(1e6 * t / POINTS for t in times) for name, times in found.items()}
    rows = [Row(f"count of one detector, {n} p06bs", "us/point", v) for n, v in per_point.items()]
    made = tuple(100 * (ratio - 1) for ratio in ratios(found["with"], found["without"]))
    return [*rows, Row("overhead of the publisher", "%", made, at_most=5.0)]
