"""Rates of eight counters per second of one core, beside the formula as numpy has it."""

import time
from typing import Any

import numpy as np

from benchmarks.report import Row, ratios, turns
from p06bs.callbacks.counters import Counters
from p06bs.model.conformance import bind_columns
from p06bs.model.modality import Columns

REPEAT = 7
EVENTS = 1 << 16
CHANNELS = 8
DEAD_TIME, DARK, GAIN = 1e-7, 5.0, 2.0
KEYS = tuple(f"counter{i}" for i in range(1, CHANNELS + 1))
OURS = "Counters, 8 channels"
EACH = "8 data keys"
PLAIN = "the formula in numpy"


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure in turn; processor time, in which what else the machine does counts least.

    Raises
    ------
    ValueError
        If rates are not those of the formula.
    """
    counts = np.random.default_rng(0).poisson(1e4, (EVENTS, CHANNELS)).astype(np.uint32)
    gate = np.full(EVENTS, 0.1)
    settings: dict[str, Any] = {"dead_time": DEAD_TIME, "dark": DARK, "gain": GAIN}
    one, each = Counters(**settings), Counters(keys=KEYS, **settings)
    columns: dict[str, Columns] = {
        OURS: {"counts": counts, "gate_time": gate},
        EACH: {"gate_time": gate}
        | {name: counts[:, i].copy() for i, name in enumerate(list(each.declared)[:CHANNELS])},
    }
    modalities = {OURS: one, EACH: each}
    setups = {
        name: modality.prepare(modality.settings, bind_columns(modality, columns[name]).bound)
        for name, modality in modalities.items()
    }

    def step(name: str) -> Columns:
        if name == PLAIN:
            observed = counts / gate[:, None]
            true = observed / (1 - observed * DEAD_TIME)
            sigma = true / np.sqrt(np.maximum(counts, 1))
            flag = observed * DEAD_TIME > 0.3
            return {"rate": (true - DARK) / GAIN, "rate_sigma": sigma / GAIN, "flag": flag}
        made: Columns = modalities[name].process(setups[name], **columns[name])
        return made

    if not np.allclose(step(OURS)["rate"], step(PLAIN)["rate"], rtol=1e-12):
        raise ValueError("rates differ from those of the formula")
    found: dict[str, list[float]] = {name: [] for name in (OURS, EACH, PLAIN)}
    for name in turns(list(found), repeat):
        done, begin = 0, time.process_time()
        while (taken := time.process_time() - begin) < seconds / 4 or not done:
            step(name)
            done += EVENTS
        found[name].append(done / taken / 1e6)
    goals = {OURS: 10.0}
    rows = [Row(name, "M/s", tuple(v), at_least=goals.get(name)) for name, v in found.items()]
    return [*rows, Row(f"{OURS} / {PLAIN}", "", ratios(found[OURS], found[PLAIN]))]
