"""Scans by a RunEngine, one after the other, in a process of their own that is not hit.

``python -m tests.chaos.scans FOLDER INBOUND LOG SEED`` takes words from its standard input:
``pause SECONDS``, ``suspend SECONDS``, and ``finish`` after the scan that goes on.
"""

import random
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import h5py
import numpy as np
from bluesky import RunEngine
from bluesky.suspenders import SuspendBoolHigh
from bluesky.utils import RunEngineInterrupted
from event_model import compose_stream_resource
from ophyd import Signal
from ophyd.sim import NullStatus
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider, init_devices

from p06bs import Publisher
from p06bs.plans.maps import fly_map
from p06bs.sim.beamline import Beamline
from p06bs.sim.detectors import FluorescenceDetector
from p06bs.sim.phantom import Phantom
from p06bs.sim.stage import TriggerBox

FRAME = (24, 32)
PACE = 0.012
"""Seconds between two points."""


class Counter:
    """Count how often it was triggered."""

    parent = None

    def __init__(self, name: str) -> None:
        self.name = name
        self._count = 0

    def trigger(self) -> Any:
        self._count += 1
        return NullStatus()

    def read(self) -> dict[str, Any]:
        return {self.name: {"value": float(self._count), "timestamp": time.time()}}

    def describe(self) -> dict[str, Any]:
        return {self.name: {"source": "chaos", "dtype": "number", "shape": []}}

    def read_configuration(self) -> dict[str, Any]:
        return {}

    describe_configuration = read_configuration


class Camera(Counter):
    """Append a frame per point to a file, readable while it grows."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self._folder = folder
        self._announced = 0
        self._told = True

    def stage(self) -> list[Any]:
        path = self._folder / f"{uuid.uuid4()}.h5"
        self._file = h5py.File(path, "w", libver="latest")
        self._frames = self._file.create_dataset(
            "entry/data", (0, *FRAME), "<u2", maxshape=(None, *FRAME), chunks=(1, *FRAME)
        )
        self._file.swmr_mode = True
        self._resource, self._datum = compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{path}",
            data_key=self.name,
            parameters={"dataset": "/entry/data", "swmr": True, "chunk_shape": [1, *FRAME]},
        )
        self._announced, self._told = 0, False
        return [self]

    def unstage(self) -> list[Any]:
        self._file.close()
        return [self]

    def trigger(self) -> Any:
        # The frame of a point that was abandoned is overwritten: nobody was told of it.
        self._frames.resize(self._announced + 1, 0)
        noise = np.random.default_rng(self._count).integers(0, 1000, FRAME)
        self._frames[self._announced] = noise
        self._frames.flush()
        return super().trigger()

    def read(self) -> dict[str, Any]:
        return {}

    def describe(self) -> dict[str, Any]:
        about = {"source": "chaos", "dtype": "array", "dtype_numpy": "<u2", "shape": [*FRAME]}
        return {self.name: {**about, "external": "STREAM:"}}

    def get_index(self) -> int:
        return self._announced + 1

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        if not self._told:
            self._told = True
            yield "stream_resource", self._resource
        at, self._announced = self._announced, self._announced + 1
        yield "stream_datum", self._datum(indices={"start": at, "stop": at + 1})


def step_scan(counter: Counter, camera: Camera, points: int) -> Any:
    """Record points one by one; a checkpoint every few of them."""

    @bpp.stage_decorator([camera])
    @bpp.run_decorator(md={"plan_name": "step_scan"})
    def plan() -> Any:
        for point in range(points):
            if point % 6 == 0:
                yield from bps.checkpoint()
            yield from bps.trigger_and_read([counter, camera])
            yield from bps.sleep(PACE)

    return plan()


class Scans:
    """Run scans until told to finish, and go on after whatever interrupts them."""

    def __init__(self, folder: Path, inbound: str, log: Path, seed: int) -> None:
        self._dice = random.Random(seed)
        self._engine: Any = RunEngine({}, context_managers=[])
        self._publisher = Publisher(inbound, log, run_engine=self._engine)
        self._engine.subscribe(self._publisher)
        self._lost_beam = Signal(name="beam_lost", value=0)
        self._engine.install_suspender(SuspendBoolHigh(self._lost_beam))
        self._finish = threading.Event()
        self._hold = 0.0
        self._counter, self._camera = Counter("x"), Camera("det", folder)
        beamline = Beamline(Phantom.default(), seed=seed)
        paths = StaticPathProvider(UUIDFilenameProvider(), folder)
        with init_devices():
            panda = TriggerBox(beamline)
            xspress3 = FluorescenceDetector(beamline, panda, paths)
        self._flyers = panda, xspress3

    def run(self) -> None:
        """Scan until told to finish."""
        threading.Thread(target=self._listen, daemon=True).start()
        number = 0
        while not self._finish.is_set():
            number += 1
            self._scan(self._plan(number))
            print(f"scan {number} done", flush=True)
        self._wait_written()
        self._publisher.close()

    def _plan(self, number: int) -> Any:
        if number % 3:
            return step_scan(self._counter, self._camera, self._dice.randrange(150, 500))
        panda, xspress3 = self._flyers
        return fly_map([xspress3], panda, nx=20, ny=self._dice.randrange(5, 12), rate=60)

    def _scan(self, plan: Any) -> None:
        go_on = lambda: self._engine(plan)  # noqa: E731
        while True:
            try:
                go_on()
            except RunEngineInterrupted:
                time.sleep(self._hold)
                self._wait_written()
                print("resumed", flush=True)
                go_on = self._engine.resume
            else:
                return

    def _wait_written(self) -> None:
        while self._publisher.pending:
            time.sleep(0.05)

    def _listen(self) -> None:
        for line in sys.stdin:
            word, *seconds = line.split()
            if word == "finish":
                self._finish.set()
            elif word == "pause":
                self._hold = float(seconds[0])
                try:
                    self._engine.request_pause(defer=False)
                except RuntimeError as error:  # its TransitionError: it is between two scans
                    print(f"no pause: {error}", flush=True)
            elif word == "suspend":
                self._lost_beam.put(1)
                time.sleep(float(seconds[0]))
                self._lost_beam.put(0)


if __name__ == "__main__":
    Scans(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])).run()
