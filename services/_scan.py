"""The demo's scan: a RunEngine, simulated devices, and a follower that records what comes."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from p06bs import Follower, Publisher
from p06bs.config import Bus
from p06bs.model.documents import Document
from p06bs.services._recorder import Recorder
from p06bs.sim.beamline import Beamline
from p06bs.sim.trajectory import Still, Trajectory

PATIENCE = 60.0
"""Seconds to wait for the derived runs after the scan has ended."""


class StoppedError(Exception):
    """Somebody wanted the demo to end before it was done."""


def scan(
    beamline: Beamline,
    bus: Bus,
    data: Path,
    modalities: Collection[str],
    console: Console,
    stopping: Callable[[], bool],
    **grid: Any,
) -> tuple[str, Recorder]:
    """Run a fly map; return the raw run's uid and what was recorded when all runs have stopped.

    Parameters
    ----------
    data : Path
        Directory for the detector's files.
    modalities
        Names of the derived runs that should come.
    stopping : callable
        Asked often; once it is true the scan is aborted.
    **grid
        ``nx``, ``ny`` and ``rate`` of the map.

    Raises
    ------
    StoppedError
        If `stopping` became true.
    RuntimeError
        If the scan was interrupted otherwise.
    """
    from bluesky import RunEngine
    from bluesky.utils import RunEngineInterrupted

    from p06bs.plans.maps import fly_map
    from p06bs.sim.devices import connect

    # No context managers: Ctrl-C shall end the demo, and not pause the plan.
    engine: Any = RunEngine(
        {"endstation": "simulated", "sample": {"name": "phantom"}}, context_managers=[]
    )
    data.mkdir(exist_ok=True)
    devices = connect(beamline, data)
    detectors = [devices.xspress3, devices.eiger]
    at = Trajectory(beamline, Still({"x": np.zeros(1)}, gate_time=1.0))
    for detector in detectors:
        detector.instrument.rows(at, range(1))  # spectra and rings take a second, once
    points = grid["nx"] * grid["ny"]
    with (
        Publisher(bus.inbound, bus.log, run_engine=engine) as publisher,
        _progress(console) as bars,
    ):
        tasks = {name: bars.add_task(name, total=points) for name in ["raw", *sorted(modalities)]}

        def progress(start: Document, events: int) -> None:
            # Pipelines may also be finishing runs of an earlier demo in the same directory.
            if start.get("original_run_uid", start["uid"]) in recorder.runs:
                bars.advance(tasks[start.get("process", {}).get("name", "raw")], events)

        engine.subscribe(publisher)
        with Recorder(Follower(bus.outbound, bus.log, since=time.time()), progress) as recorder:
            try:
                with _aborting(engine, stopping):
                    (raw,) = engine(fly_map(detectors, devices.panda, **grid))
            except RunEngineInterrupted:
                if stopping():
                    raise StoppedError from None
                engine.abort()
                raise RuntimeError("the scan was interrupted: its log cannot be written") from None
            until = time.monotonic() + PATIENCE
            while not recorder.wait(lambda: recorder.stopped(raw, modalities), 0.1):
                if stopping():
                    raise StoppedError
                if time.monotonic() > until:
                    break
    if raw not in recorder.runs:
        raise RuntimeError(f"nothing of the scan has come within {PATIENCE:g} s after its end")
    return str(raw), recorder


@contextmanager
def _aborting(engine: Any, stopping: Callable[[], bool]) -> Iterator[None]:
    """Abort what an engine runs as soon as somebody wants to stop."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            if stopping() and engine.state == "running":
                # bluesky logs an abort as an error, with a traceback; this one was asked for.
                logging.getLogger("bluesky").setLevel(logging.CRITICAL)
                engine.abort("the demo was stopped")

    watching = threading.Thread(target=watch, name="abort")
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
