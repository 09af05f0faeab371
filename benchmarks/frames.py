"""Detector frames in an HDF5 file, named by stream_datum documents, beside the bare kernel."""

import tempfile
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from benchmarks import kernels
from benchmarks.documents import FRAMES_PER_DATUM, frames_by_reference
from benchmarks.report import Row, ratios, turns
from benchmarks.services import Bus, services

REPEAT = 5
WORKERS = 2
SHAPE = (1024, 1024)
FRAMES = 256  # 512 MiB: stays in the page cache


def write(file: Path) -> None:
    """Write Poisson frames, one chunk each, as detectors do."""
    random = np.random.default_rng(6)
    some = random.poisson(5.0, (FRAMES_PER_DATUM, *SHAPE)).astype(np.uint16)
    with h5py.File(file, "w", libver="latest") as made:
        data = made.create_dataset("data", (FRAMES, *SHAPE), np.uint16, chunks=(1, *SHAPE))
        for first in range(0, FRAMES, FRAMES_PER_DATUM):
            data[first : first + FRAMES_PER_DATUM] = some


def rate(bus: Bus, file: Path, passes: int) -> float:
    """Return frames per second, from the first document published to the last row consumed."""
    named = partial(frames_by_reference, file=file, frames=FRAMES, shape=SHAPE, passes=passes)
    arrivals = bus.send(named)
    arrivals.check(passes * FRAMES)
    return passes * FRAMES / arrivals.seconds


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure pipelines and kernel with two processes each."""
    found: dict[str, list[float]] = {"pipelines": [], "kernel": []}
    with (
        tempfile.TemporaryDirectory(prefix="p06bs-bench-") as folder,
        services(
            "benchmarks.techniques:Moments",
            {"frame": "frame"},
            workers=WORKERS,
            batch_size=FRAMES_PER_DATUM,
        ) as bus,
    ):
        file = Path(folder) / "frames.h5"
        write(file)
        rate(bus, file, 1)
        passes = max(1, round(seconds * rate(bus, file, 1) / FRAMES))
        step = partial(kernels.frames_step, file, FRAMES, SHAPE)
        batches = passes * FRAMES // FRAMES_PER_DATUM
        for name in turns(list(found), repeat):
            found[name].append(
                rate(bus, file, passes)
                if name == "pipelines"
                else kernels.rate(step, batches, WORKERS) * FRAMES_PER_DATUM
            )
    rows = [
        Row(f"frames of 1024 x 1024 uint16, {n}", "frames/s", tuple(v)) for n, v in found.items()
    ]
    made = ratios(found["pipelines"], found["kernel"])
    return [*rows, Row("by reference / bare kernel, 2 processes each", "", made, at_least=0.9)]
