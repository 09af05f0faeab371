"""The service that writes NeXus files: what it writes waits for the positions of its scan."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from p06bs import maps_of
from p06bs.bus.log import DocumentLog
from p06bs.bus.membership import Membership
from p06bs.bus.service import Surroundings
from p06bs.offline import process_run
from p06bs.recorded import LogDirectory
from p06bs.services.nexus import NexusDefinition, NexusService
from tests.documents import raw_run
from tests.supervised import wait
from tests.techniques import Scale
from tests.test_server_maps import MOTORS, NX, NY, RASTER, Writer, corrected, nominal, phantom, xrf


@contextmanager
def writing(log: Path, directory: Path, **fields: Any) -> Iterator[None]:
    """Run the service in this process."""
    definition = NexusDefinition(kind="nexus", directory=directory, **fields)
    here = Surroundings(cast(Membership, None), log, lambda: None, lambda: "")
    service = NexusService("nexus", definition, here)
    ready = threading.Event()
    thread = threading.Thread(target=service.run, args=(ready.set,))
    thread.start()
    try:
        yield
    finally:
        service.stop()
        thread.join()


def test_files_wait_for_the_positions_of_their_scan(tmp_path):
    x, y = nominal()
    numbers, values = np.arange(1, NY * NX + 1), phantom(x, y)
    documents: list[Any] = []
    with DocumentLog(tmp_path / "log") as log:

        def write(name, document):
            log.append(name, document)
            documents.append((name, document))

        raw = Writer(write, "raw", **RASTER, **MOTORS)
        raw.stream(units={"x": "um", "y": "um", "i0": "counts"})
        raw.page(numbers, x=x, y=y, i0=values)
        run = xrf(write, "run", "raw")
        run.page(numbers, Fe_K=values)
        positions = corrected(write, "positions", "raw")
        positions.page(numbers, x=6.0 - x, y=y)
        raw.stop()
        run.stop()
        other = raw_run({"a": numbers})
        for name, document in other:
            log.append(name, document)
        with writing(tmp_path / "log", tmp_path / "nexus", patience=1e6):
            wait((tmp_path / "nexus" / f"{other[0][1]['uid']}.nxs").exists)
            assert not (tmp_path / "nexus" / "raw.nxs").exists()
            positions.stop()
            files = [tmp_path / "nexus" / f"{uid}.nxs" for uid in ("raw", "run", "positions")]
            wait(lambda: all(file.exists() for file in files))
    expected = maps_of(documents)
    for file, name in zip(files, ("i0", "Fe_K"), strict=False):
        with h5py.File(file) as opened:
            maps = opened["entry/maps"]
            assert maps.attrs["positions_run"] == "positions"
            np.testing.assert_array_equal(maps[name][...], expected[name].values)


def test_positions_that_never_end_cost_their_patience_and_failed_ones_nothing(tmp_path):
    with DocumentLog(tmp_path / "log") as log:
        for scan in ("lost", "failed"):
            raw = Writer(log.append, scan, **RASTER, **MOTORS)
            raw.stream(units={"i0": "counts"})
            raw.page([1], i0=[1.0])
            corrected(log.append, f"{scan}-positions", scan)
            raw.stop()
        end = {"uid": "e", "run_start": "failed-positions", "time": 9.0, "exit_status": "fail"}
        log.append("stop", end)
        with writing(tmp_path / "log", tmp_path / "patient", patience=1e6):
            wait((tmp_path / "patient" / "failed.nxs").exists)
            assert not (tmp_path / "patient" / "lost.nxs").exists()
        with writing(tmp_path / "log", tmp_path / "nexus", patience=0.0):
            wait((tmp_path / "nexus" / "lost.nxs").exists)


def test_odd_runs_have_no_file_and_all_others_do(tmp_path):
    good, *odd, later = runs = [raw_run({"a": [1]}) for _ in range(6)]
    derived = {"original_run_uid": good[0][1]["uid"], "derived_from": ["?"], "time": "noon"}
    process = {"name": "positions", "settings": {}, "settings_digest": "", "inputs": {}}
    for run, fields in zip(odd, ({"hints": ["x"]}, {"time": "noon"}, {}, derived), strict=True):
        run[0][1].update(fields)
    del odd[2][0][1]["time"]
    odd[3][0][1]["process"] = process
    with DocumentLog(tmp_path / "log") as log:
        for name, document in (each for run in runs for each in run):
            log.append(name, document)
    with writing(tmp_path / "log", tmp_path / "nexus"):
        for run in (good, later):
            wait((tmp_path / "nexus" / f"{run[0][1]['uid']}.nxs").exists)


def test_files_of_recorded_runs_are_placed_by_the_positions_beside_them(tmp_path):
    x, y = nominal()
    numbers = np.arange(1, NY * NX + 1)
    with DocumentLog(tmp_path / "log") as log:
        raw = Writer(log.append, "raw", **RASTER, **MOTORS)
        raw.stream(units={"x": "um", "y": "um", "i0": "counts"})
        raw.page(numbers, x=x, y=y, i0=phantom(x, y))
        positions = corrected(log.append, "positions", "raw")
        positions.page(numbers, x=6.0 - x, y=y)
        raw.stop()
        positions.stop()
    runs = LogDirectory(tmp_path / "log")
    made = process_run(Scale(inputs={"x": "i0"}), runs, "raw", out=tmp_path / "out")
    runs.close()
    (file,) = (name for name in made["files"] if name.endswith(".nxs"))
    with h5py.File(file) as opened:
        assert opened["entry/maps"].attrs["positions_run"] == "positions"
