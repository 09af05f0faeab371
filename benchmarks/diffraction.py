"""Frames of 1 Mpixel into 1000 bins, in one thread, beside pyFAI's csr."""

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.report import Row, ratios, turns
from p06bs.callbacks.xrd import PowderDiffraction
from p06bs.model.modality import BoundInput

REPEAT = 5

SIDE = 1024
BINS = 1000
PAGE = 16
PONI = {
    "distance": 0.3,
    "poni1": 0.04,
    "poni2": 0.038,
    "rot1": 0.01,
    "wavelength": 0.7e-10,
    "pixel1": 75e-6,
}
DTYPES = {"16 bit": "<u2", "32 bit": "<u4"}


def _frames(dtype: str) -> Any:
    y, x = np.indices((SIDE, SIDE))
    radius = np.hypot(y - 500.3, x - 480.2)
    expected = 5 + 200 * np.exp(-0.5 * ((radius % 90 - 45) / 3) ** 2)
    made = np.random.default_rng(0).poisson(expected, (PAGE, SIDE, SIDE)).astype(dtype)
    made.flags.writeable = False
    return made


def _pyfai() -> Any:
    """Return pyFAI's integrator with the same geometry."""
    from pyFAI.detectors import Detector
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

    detector = Detector(PONI["pixel1"], PONI["pixel1"], max_shape=(SIDE, SIDE))
    where = {k: PONI[k] for k in ("poni1", "poni2", "rot1", "wavelength")}
    return AzimuthalIntegrator(dist=PONI["distance"], detector=detector, **where)


def _rate(step: Callable[[], int], seconds: float) -> float:
    """Return frames per second of calls that each do so many frames."""
    done, begin = 0, time.perf_counter()
    while (taken := time.perf_counter() - begin) < seconds or not done:
        done += step()
    return done / taken if taken else 0.0


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure both on the same frames in turn, with one thread each.

    Raises
    ------
    ValueError
        If the two differ by more than 1e-4 of the highest peak.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # read when pyFAI is imported, which `_pyfai` does
    modality = PowderDiffraction(poni=PONI, bins=BINS)
    theirs = _pyfai()
    shape = (SIDE, SIDE)
    rows: list[Row] = []
    method = ("no", "csr", "cython")
    for name, dtype in DTYPES.items():
        frames = _frames(dtype)
        feed = BoundInput("primary", "det", True, shape, shape, dtype, "counts")
        setup = modality.prepare(modality.settings, {"frames": feed})

        def ours(setup: Any = setup, frames: Any = frames) -> int:
            modality.process(setup, frames=frames)
            return PAGE

        def csr(frames: Any = frames) -> int:
            theirs.integrate1d(frames[0], BINS, unit="q_nm^-1", method=method)
            return 1

        made = modality.process(setup, frames=frames)["intensity"][0]
        expected = theirs.integrate1d(frames[0], BINS, unit="q_nm^-1", method=method).intensity
        apart = float(np.abs(made - expected).max() / expected.max())
        if not apart <= 1e-4:
            raise ValueError(f"pyFAI's pattern is another one, by {apart:.2g} of the peak")
        found: dict[str, list[float]] = {"p06bs": [], "pyFAI csr, cython": []}
        for who in turns(list(found), repeat):
            found[who].append(_rate(ours if who == "p06bs" else csr, seconds / 4))
        rows += [
            Row(f"1 Mpixel of {name} into {BINS} bins, {who}", "frames/s", tuple(values))
            for who, values in found.items()
        ]
        faster = ratios(found["p06bs"], found["pyFAI csr, cython"])
        rows.append(Row(f"{name}: p06bs / pyFAI csr", "", faster, at_least=20))
        rows.append(Row(f"{name}: largest difference / peak", "", (apart,), at_most=1e-4))
    return rows
