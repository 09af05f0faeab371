"""The bare kernels: the same number crunching on the same cores, and no framework."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import h5py

from benchmarks.documents import CHANNELS, ELEMENTS, FRAMES_PER_DATUM, spectra_columns
from benchmarks.techniques import MatrixFit, Moments
from benchmarks.traffic import Child
from p06bs.model.modality import BoundInput

PAGES_IN_MEMORY = 64  # of 1 MiB
Step = Callable[[int], Any]
"""Computes one batch by its number."""


def bound(shape: tuple[int, ...], dtype: str) -> BoundInput:
    """Return an input of which one event has this shape and dtype."""
    return BoundInput("primary", "", False, shape, shape, dtype)


def frames_step(file: Path, frames: int, shape: tuple[int, int]) -> Step:
    """Return what reads and computes 16 frames of a file."""
    modality = Moments()
    setup = modality.prepare(modality.settings, {"frame": bound(shape, "<u2")})
    dataset = h5py.File(file, "r")["data"]

    def step(number: int) -> Any:
        first = number * FRAMES_PER_DATUM % frames
        return modality.process(setup, frame=dataset[first : first + FRAMES_PER_DATUM])

    return step


def spectra_step() -> Step:
    """Return what computes 16 events of spectra, which are in memory but not in a cache."""
    modality = MatrixFit()
    described = {"spectrum": bound((ELEMENTS, CHANNELS), "<u4")}
    setup = modality.prepare(modality.settings, described)
    drawn = spectra_columns()["mca"]
    pages = [drawn.copy() for _ in range(PAGES_IN_MEMORY)]
    return lambda number: modality.process(setup, spectrum=pages[number % PAGES_IN_MEMORY])


def rate(make: Callable[[], Step], batches: int, processes: int) -> float:
    """Return batches per second of some processes that take the next batch when they are free.

    Parameters
    ----------
    make : callable
        Makes a process ready and returns what it does with a batch; must be picklable.
    """
    following = multiprocessing.get_context("spawn").Value("q", 0)
    children = [Child(_compute, make, batches, following) for _ in range(processes)]
    try:
        for child in children:
            child.receive()
        for child in children:
            child.go()
        spans: list[tuple[float, float]] = [child.receive() for child in children]
    finally:
        for child in children:
            child.close()
    begin, end = min(begin for begin, _ in spans), max(end for _, end in spans)
    return batches / (end - begin)


def _compute(pipe: Connection, make: Callable[[], Step], batches: int, following: Any) -> None:
    step = make()
    step(0)
    pipe.send("ready")
    pipe.recv()
    begin = time.monotonic()
    while True:
        with following.get_lock():
            number = following.value
            following.value += 1
        if number >= batches:
            break
        step(number)
    pipe.send((begin, time.monotonic()))
