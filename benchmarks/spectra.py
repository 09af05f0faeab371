"""Spectra inside events, 4 x 4096 uint32, fitted with a matrix, beside the bare kernel."""

import tempfile
from functools import partial
from pathlib import Path

from benchmarks import kernels
from benchmarks.documents import SPECTRA_PER_PAGE, spectra_pages
from benchmarks.report import Row, ratios, turns
from benchmarks.services import Bus, services

REPEAT = 5
WORKERS = 2
WARM_UP = 50


PAGE = 1 << 20  # bytes


def touch(folder: Path, nbytes: int) -> None:
    """Have the page cache use so many bytes once.

    A virtual machine gets its memory when it is used for the first time, and again
    after the host took it back: 2 ms per MiB were seen, ten times what writing
    costs. The log would pay for it in some repetitions and not in others.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(nbytes >> 20):
            file.write(bytes(1 << 20))


def rate(bus: Bus, pages: int) -> float:
    """Return events per second, from the first page published to the last row consumed."""
    touch(bus.folder, pages * PAGE)
    arrivals = bus.send(partial(spectra_pages, pages=pages))
    arrivals.check(pages * SPECTRA_PER_PAGE)
    return pages * SPECTRA_PER_PAGE / arrivals.seconds


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure pipelines and kernel with two processes each; the kernel's spectra are in memory."""
    found: dict[str, list[float]] = {"pipelines": [], "kernel": []}
    with services("benchmarks.techniques:MatrixFit", {"spectrum": "mca"}, workers=WORKERS) as bus:
        rate(bus, WARM_UP)
        pages = max(WARM_UP, round(seconds * rate(bus, WARM_UP) / SPECTRA_PER_PAGE))
        for name in turns(list(found), repeat):
            found[name].append(
                rate(bus, pages)
                if name == "pipelines"
                else kernels.rate(kernels.spectra_step, pages, WORKERS) * SPECTRA_PER_PAGE
            )
    rows = [Row(f"events of 4 x 4096 uint32, {n}", "events/s", tuple(v)) for n, v in found.items()]
    made = ratios(found["pipelines"], found["kernel"])
    return [*rows, Row("inside events / bare kernel, 2 processes each", "", made, at_least=0.5)]
