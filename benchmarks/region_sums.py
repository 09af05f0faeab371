"""Sums over regions of spectra per second of one core, beside the same sums as numpy has them."""

import time

import numpy as np

from benchmarks.report import Row, ratios, turns
from p06bs.callbacks.region_sums import RegionSums
from p06bs.model.conformance import bind_columns
from p06bs.model.modality import Columns

REPEAT = 7
EVENTS, ELEMENTS, CHANNELS = 512, 4, 4096
REGIONS = {f"line_{i}": (250 + 350 * i, 320 + 350 * i) for i in range(8)}
"""Inclusive channels."""
OURS = "RegionSums, 8 regions of 71 channels"
PLAIN = "sums of slices in numpy"


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure in turn; processor time, in which what else the machine does counts least.

    Raises
    ------
    ValueError
        If sums are not those of numpy.
    """
    shape = (EVENTS, ELEMENTS, CHANNELS)
    spectra = np.random.default_rng(0).poisson(3.0, shape).astype(np.uint32)
    live = np.full(shape[:2], 0.005)
    columns = {"spectrum": spectra, "live_time": live}
    modality = RegionSums(regions=REGIONS, per_live_time=True)
    setup = modality.prepare(modality.settings, bind_columns(modality, columns).bound)

    def step(name: str) -> Columns:
        if name == PLAIN:
            return {
                line: (spectra[:, :, first : last + 1].sum(axis=2) / live).sum(axis=1)
                for line, (first, last) in REGIONS.items()
            }
        made: Columns = modality.process(setup, **columns)
        return made

    ours, plain = step(OURS), step(PLAIN)
    if not all(np.allclose(ours[line], plain[line], rtol=1e-12) for line in REGIONS):
        raise ValueError("sums differ from those of numpy")
    found: dict[str, list[float]] = {OURS: [], PLAIN: []}
    for name in turns(list(found), repeat):
        done, begin = 0, time.process_time()
        while (taken := time.process_time() - begin) < seconds / 4 or not done:
            step(name)
            done += EVENTS * ELEMENTS
        found[name].append(done / taken / 1e6)
    rows = [Row(name, "M spectra/s", tuple(values)) for name, values in found.items()]
    return [*rows, Row(f"{OURS} / {PLAIN}", "", ratios(found[OURS], found[PLAIN]))]
