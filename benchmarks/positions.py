"""From words to maps: values per second of one core.

Encoders and interferometers beside the plain numpy passes, bilinear gridding beside SciPy's sums.
"""

import gc
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binned_statistic_2d

from benchmarks.report import Row, ratios, turns
from p06bs.callbacks.encoders import Encoders
from p06bs.callbacks.interferometers import Interferometers
from p06bs.model.bilinear import Bilinear
from p06bs.model.conformance import bind_columns
from p06bs.model.modality import Columns, Modality

REPEAT = 7
EVENTS = 1 << 16
"""Of one call, whose columns fit a cache; batches of pipelines have 1024 events at most."""
BATCH = 1024
PLAIN = 1 << 12
"""Events of what is not compiled."""
MAPS = 27
SIDE = 500
"""Pixels of a map along each axis."""
BILINEAR = f"bilinear, {MAPS} maps, events in batches of 1024"
BINNED = "scipy's binned_statistic_2d, the same batches"

Array = npt.NDArray[Any]
Call = Callable[[], object]


def step(modality: Modality, columns: Columns) -> Call:
    """Return what computes a batch in the middle of a run: `process` and `scan`."""
    bound = bind_columns(modality, columns).bound
    setup = modality.prepare(modality.settings, bound)
    inputs = {name: columns.get(name) for name in modality.declared}
    state, _ = modality.scan(setup, None, modality.process(setup, **inputs))
    return lambda: modality.scan(setup, state, modality.process(setup, **inputs))


def words(events: int) -> Array:
    """Return the words of a counter that wraps in the middle."""
    return (1000 * (np.arange(events) - events // 2) + 2**31).astype(np.uint32).view(np.int32)


def gates(events: int) -> dict[str, Array]:
    """Return what a PandA captures of an encoder: mean, minimum, maximum; samples."""
    lowest = np.minimum(words(events), 2**31 - 1000)
    samples = np.full(events, 125_000, np.uint32)
    return {"x": lowest + 99.5, "x_min": lowest, "x_max": lowest + 199, "gate_samples": samples}


def counts(events: int) -> dict[str, Array]:
    """Return two axes, of which each loses its beam now and then, but not both at once."""
    place = np.arange(events) * 100
    return {
        "x": place,
        "x_valid": place % 9700 > 0,
        "y": place[::-1].copy(),
        "y_valid": (place + 400) % 9700 > 0,
    }


def air(events: int) -> dict[str, Array]:
    """Return what sensors say once in a thousand events."""
    reading = np.arange(events) // 1000
    return {
        "air_temperature": 21 + 0.01 * reading,
        "air_pressure": 1010 + 0.1 * reading,
        "air_humidity": np.full(events, 40.0),
    }


def unwrapped(column: Array) -> Array:
    """Return positions of words with numpy's own `unwrap`, the way of a notebook."""
    return 0.005 * np.unwrap(column.astype(np.float64), period=2**32)


def one_by_one(column: Array) -> list[float]:
    """Return positions of words, one after the other in Python."""
    position, before, made = 0, 0, []
    for word in column.tolist():
        position += (word - before + 2**31) % 2**32 - 2**31
        before = word
        made.append(0.005 * position)
    return made


def passes(columns: Mapping[str, Array]) -> Call:
    """Return what does the least that there is to do: convert each column and scale it."""

    def run() -> None:
        for column in columns.values():
            scaled = column.astype(np.float64)
            scaled *= 0.1

    return run


def path(events: int) -> tuple[Array, Array, Array]:
    """Return x and y of a snake with noise, in pixels, ten points to one, and `MAPS` columns."""
    random = np.random.default_rng(1)
    line, along = np.divmod(np.arange(events) / 10, SIDE - 1)
    x = np.where(line % 2, SIDE - 1 - along, along) + random.normal(0, 0.05, events)
    y = 30 + line + random.normal(0, 0.05, events)
    return x, y, random.random((MAPS, events))


def gridded(events: int) -> Call:
    """Return what adds a batch to maps by bilinear weights."""
    ends = (0.0, SIDE - 1.0)
    maps, batch = Bilinear((SIDE, SIDE), (ends, ends), MAPS), path(events)
    return lambda: maps.add(*batch)


def binned(events: int) -> Call:
    """Return what adds each value to the one pixel around it: SciPy's way."""
    x, y, values = path(events)
    edges, total = np.arange(SIDE + 1) - 0.5, np.zeros((MAPS, SIDE, SIDE))

    def run() -> None:
        np.add(total, binned_statistic_2d(y, x, values, "sum", [edges, edges]).statistic, total)

    return run


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure all in turn; processor time, in which what else the machine does counts least."""
    encoder = {"axes": {"x": {"scale": 0.005, "reading": "value"}}}
    gated = {"axes": {"x": {"scale": 0.005}}}
    axis = {"resolution": 0.1, "dead_path": 10.0, "zero": "first", "angle": 1.0}
    beams = {"axes": {"x": axis, "y": axis}}
    latched, captured, seen = {"x": words(EVENTS)}, gates(EVENTS), counts(EVENTS)
    both = {name: seen[name] for name in ("x", "y")}
    # name -> values of one call, and the call
    calls: dict[str, tuple[int, Call]] = {
        "encoder words": (EVENTS, step(Encoders(**encoder), latched)),
        "encoder words, batches of 1024": (BATCH, step(Encoders(**encoder), {"x": words(BATCH)})),
        "convert and scale, words": (EVENTS, passes(latched)),
        "np.unwrap": (EVENTS, lambda: unwrapped(latched["x"])),
        "Python": (PLAIN, lambda: one_by_one(latched["x"][:PLAIN])),
        "encoder words of gates": (3 * EVENTS, step(Encoders(**gated), captured)),
        "interferometer counts": (2 * EVENTS, step(Interferometers(**beams), seen)),
        "interferometer counts, batches of 1024": (
            2 * BATCH,
            step(Interferometers(**beams), counts(BATCH)),
        ),
        "interferometer counts, air measured": (
            2 * EVENTS,
            step(Interferometers(**beams), seen | air(EVENTS)),
        ),
        "convert and scale, counts": (2 * EVENTS, passes(both)),
        BILINEAR: (BATCH, gridded(BATCH)),
        BINNED: (BATCH, binned(BATCH)),
        "the same, all at once": (EVENTS, binned(EVENTS)),
    }
    share = seconds / len(calls)
    times = {name: max(1, math.ceil(share / clock(call, 3))) for name, (_, call) in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    for name in turns(list(calls), repeat):
        values, call = calls[name]
        found[name].append(1e-6 * values / clock(call, times[name]))
    goals = {
        "encoder words": 50.0,
        "encoder words of gates": 50.0,
        "interferometer counts": 200.0,
        BILINEAR: 1.0,
    }
    rows = [Row(name, "M/s", tuple(v), at_least=goals.get(name)) for name, v in found.items()]
    for ours, theirs in (
        ("encoder words", "convert and scale, words"),
        ("encoder words", "np.unwrap"),
        ("encoder words", "Python"),
        ("interferometer counts", "convert and scale, counts"),
        ("interferometer counts, air measured", "convert and scale, counts"),
        (BILINEAR, BINNED),
        (BILINEAR, "the same, all at once"),
    ):
        rows.append(Row(f"{ours} / {theirs}", "", ratios(found[ours], found[theirs])))
    return rows


def clock(call: Call, times: int) -> float:
    """Return the seconds of processor time that a call takes."""
    gc.collect()
    begun = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - begun) / times
