"""How long a document takes on an idle bus, and a raw event to become a derived one."""

from functools import partial

import numpy as np

from benchmarks.documents import single_events
from benchmarks.pages import INPUTS, NORMALISE
from benchmarks.report import Row, turns
from benchmarks.services import services

REPEAT = 3
EVERY = 0.01
SKIPPED = 50
"""First events, which find nobody connected yet."""


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure with one event every 10 ms."""
    events = SKIPPED + max(100, round(seconds / EVERY))
    found: dict[str, list[tuple[float, float]]] = {"raw": [], "derived": []}
    with services(NORMALISE, INPUTS) as bus:
        for name in turns(list(found), repeat):
            # Both columns are the time at which the event was made: signal / 1.
            value = "signal" if name == "raw" else "normalised"
            sent = partial(single_events, events=events)
            arrivals = bus.send(sent, every=EVERY, value=value, derived=name == "derived")
            arrivals.check(events)
            late = 1000 * (arrivals.times - arrivals.values)[SKIPPED:]
            found[name].append((float(np.median(late)), float(np.percentile(late, 99))))
    medians = {name: tuple(m for m, _ in values) for name, values in found.items()}
    rare = {name: tuple(p for _, p in values) for name, values in found.items()}
    return [
        Row("publisher to follower, median", "ms", medians["raw"], at_most=10.0),
        Row("publisher to follower, 99 % within", "ms", rare["raw"]),
        Row("raw event to derived event, median", "ms", medians["derived"]),
        Row("raw event to derived event, 99 % within", "ms", rare["derived"]),
    ]
