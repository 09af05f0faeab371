"""Fly maps by a real RunEngine on the simulated beamline."""

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlparse

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import event_model
import h5py
import hdf5plugin
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus, RunEngineInterrupted
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider

from p06bs.plans.maps import fly_map, grid
from p06bs.sim.beamline import Beamline
from p06bs.sim.detectors import FluorescenceDetector
from p06bs.sim.phantom import Phantom
from p06bs.sim.spectra import BANDS
from p06bs.sim.stage import TriggerBox
from p06bs.sim.trajectory import Trajectory
from tests.engines import end

assert hdf5plugin.PLUGIN_PATH  # registers the compression of the files


@pytest.fixture
def run_engine() -> Iterator[RunEngine]:
    engine = RunEngine({})
    yield engine
    end(engine)


class Instruments:
    """A beamline's devices, and the documents of the runs made with them."""

    def __init__(self, directory: Path, beamline: Beamline) -> None:
        self.directory = directory
        self.beamline = beamline
        self.box = TriggerBox(beamline, name="panda")
        paths = StaticPathProvider(UUIDFilenameProvider(), directory)
        self.detector = FluorescenceDetector(beamline, self.box, paths, name="xspress3")
        self.documents: list[tuple[str, dict]] = []

    def plan(self, **kwargs):
        return fly_map([self.detector], self.box, **{"nx": 9, "ny": 7, "rate": np.inf, **kwargs})

    def remember(self, name, document):
        self.documents.append((name, document))

    def named(self, name):
        return [document for n, document in self.documents if n == name]

    def events(self):
        """Return the columns of stream primary, seq_num among them."""
        pages = self.named("event_page")
        keys = pages[0]["data"]
        columns = {key: np.concatenate([p["data"][key] for p in pages]) for key in keys}
        return columns | {"seq_num": np.concatenate([p["seq_num"] for p in pages])}

    def dataset(self, data_key, stop=None):
        """Return what the file of a data key holds, read as any consumer would."""
        (resource,) = [r for r in self.named("stream_resource") if r["data_key"] == data_key]
        with h5py.File(path_of(resource), "r", swmr=True) as file:
            return file[resource["parameters"]["dataset"]][:stop]

    def announced(self, data_key="xspress3-spectrum"):
        """Return how many rows the stream datums of a data key announce, one after the other."""
        (resource,) = [r for r in self.named("stream_resource") if r["data_key"] == data_key]
        stop = 0
        for datum in self.named("stream_datum"):
            if datum["stream_resource"] == resource["uid"]:
                assert datum["indices"]["start"] == stop
                stop = datum["indices"]["stop"]
                assert datum["seq_nums"]["stop"] == stop + 1
        return stop

    def assert_closed(self):
        """Check that nothing holds the files and no thread of the detector is left."""
        for path in self.directory.glob("*.h5"):
            # HDF5 refuses this while a writer has the file open.
            h5py.File(path, "r+").close()
        assert not [t.name for t in threading.enumerate() if t.name.startswith("sim-")]


@pytest.fixture
def instruments(tmp_path, run_engine) -> Instruments:
    devices = Instruments(tmp_path, Beamline(seed=2))
    run_engine.subscribe(devices.remember)
    return devices


def path_of(resource):
    return unquote(urlparse(resource["uri"]).path)


# The grid


def test_snake_runs_every_other_row_backwards():
    points = grid((0, 2), 3, (10, 11), 2, rate=100.0)
    assert points.positions["x"].tolist() == [0, 1, 2, 2, 1, 0]
    assert points.positions["y"].tolist() == [10, 10, 10, 11, 11, 11]
    assert points.gate_time == 0.01
    raster = grid((0, 2), 3, (10, 11), 2, rate=np.inf, snake=False)
    assert raster.positions["x"].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("nx", "rate", "message"), [(0, 1.0, "num must be a whole"), (2, 0.0, "rate must be")]
)
def test_impossible_grids_are_refused(nx, rate, message):
    with pytest.raises(ValueError, match=message):
        grid((0, 1), nx, (0, 1), 2, rate=rate)


# A whole scan


def test_every_document_is_valid_and_every_point_there(run_engine, instruments):
    (uid,) = run_engine(instruments.plan(md={"sample": {"name": "phantom"}}))
    for name, document in instruments.documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(document)
    (start,) = instruments.named("start")
    (stop,) = instruments.named("stop")
    assert start["uid"] == uid
    assert stop["exit_status"] == "success"
    assert stop["num_events"] == {"primary": 63, "xspress3": 63}
    assert instruments.announced() == 63
    assert instruments.events()["seq_num"].tolist() == list(range(1, 64))
    assert instruments.dataset("xspress3-spectrum").shape == (63, 4, 4096)
    instruments.assert_closed()


def test_start_document_says_what_a_consumer_needs(run_engine, instruments):
    run_engine(instruments.plan(rate=500.0, md={"sample": {"name": "phantom"}}))
    (start,) = instruments.named("start")
    assert start["plan_name"] == "fly_map"
    assert start["scan"]["kind"] == "fly_map"
    assert start["shape"] == [7, 9]
    assert start["extents"] == [[-20, 20], [-20, 20]]
    assert start["snaking"] == [False, True]
    assert start["num_points"] == 63
    assert start["sample"] == {"name": "phantom"}
    assert start["aligned_streams"] == ["primary", "xspress3"]
    assert start["devices"]["xspress3"]["role"] == "fluorescence"
    described = {
        key: described
        for descriptor in instruments.named("descriptor")
        for key, described in descriptor["data_keys"].items()
    }
    roles = {k: r for device in start["devices"].values() for k, r in device["roles"].items()}
    assert roles.keys() == described.keys()
    assert roles["panda-i0"] == "incident_flux"
    assert [roles[motor] for motor in start["motors"]] == ["position_y", "position_x"]
    assert all(key["units"] for key in described.values())
    assert described["xspress3-spectrum"]["dims"][1:] == ["detector_element", "channel"]
    assert {d["name"] for d in instruments.named("descriptor")} == set(start["aligned_streams"])


def test_maps_show_the_phantom_the_right_way_round(run_engine, tmp_path):
    phantom = Phantom.default((15, 21))
    instruments = Instruments(tmp_path, Beamline(phantom, seed=4))
    run_engine(instruments.plan(nx=21, ny=15), instruments.remember)
    events, spectra = instruments.events(), instruments.dataset("xspress3-spectrum")
    ix = np.rint((events["panda-x"] + 20) / 2).astype(int)
    iy = np.rint((events["panda-y"] + 20) / (40 / 14)).astype(int)
    for name, (lo, hi) in BANDS.items():
        seen = np.full((15, 21), np.nan)
        seen[iy, ix] = spectra[:, :, lo : hi + 1].sum(axis=(1, 2)) / events["panda-i0"]
        assert np.corrcoef(seen.ravel(), phantom.maps[name].ravel())[0, 1] > 0.99


def test_rows_can_be_read_as_soon_as_they_are_announced(run_engine, instruments):
    """A consumer opens the file while it is written and finds exactly the announced draws."""
    points = grid((-20, 20), 9, (-20, 20), 7, rate=100.0)
    path = Trajectory(instruments.beamline, points)
    expected = instruments.beamline.expose(**path.seen(range(63)))
    announcements = []

    def read(name, document):
        if name == "stream_datum":
            rows = slice(document["indices"]["start"], document["indices"]["stop"])
            (resource,) = [
                r
                for r in instruments.named("stream_resource")
                if r["uid"] == document["stream_resource"]
            ]
            key = resource["data_key"].removeprefix("xspress3-")
            stored = instruments.dataset(resource["data_key"], rows.stop)[rows.start :]
            np.testing.assert_array_equal(stored, getattr(expected, key)[rows])
            announcements.append(rows)

    run_engine.subscribe(read)
    run_engine(instruments.plan(rate=100.0, collect_every=0.05))
    assert len(announcements) > 3 * 2  # several per dataset: they came during the scan
    instruments.assert_closed()


def test_same_seed_same_data_whatever_the_pace(run_engine, tmp_path):
    """Points per second, collections and rows at once change; the gate and the data do not."""
    seen = []
    for number, pace in enumerate(
        [{"rate": np.inf}, {"rate": 200.0, "collect_every": 0.03}, {"rate": np.inf}]
    ):
        beamline = Beamline(seed=9 if number < 2 else 10)
        devices = Instruments(tmp_path / str(number), beamline)
        run_engine(devices.plan(gate_time=0.005, **pace), devices.remember)
        seen.append((devices.events(), devices.dataset("xspress3-spectrum")))
    (fast, fast_spectra), (slow, slow_spectra), (_, other_spectra) = seen
    for key, column in fast.items():
        np.testing.assert_array_equal(column, slow[key])
    np.testing.assert_array_equal(fast_spectra, slow_spectra)
    assert (fast_spectra != other_spectra).any()


def test_two_scans_in_a_row_have_files_of_their_own(run_engine, instruments):
    run_engine(instruments.plan())
    run_engine(instruments.plan(nx=3))
    uris = {r["uri"] for r in instruments.named("stream_resource")}
    assert len(uris) == 2
    assert [s["num_events"]["xspress3"] for s in instruments.named("stop")] == [63, 21]
    instruments.assert_closed()


# Interruptions


def interrupted(plan, message, after, stream="primary"):
    """Insert a message behind the collection number `after` of a stream."""
    seen = 0

    def insert(msg):
        nonlocal seen
        if msg.command == "collect" and msg.kwargs.get("name") == stream:
            seen += 1
            if seen == after:
                return None, message()
        return None, None

    return bpp.plan_mutator(plan, insert)


def at_page(number, action):
    """Return a callback that runs `action` in a thread at an event page: anywhere in the plan."""
    left = number

    def count(name, _document):
        nonlocal left
        if name == "event_page":
            left -= 1
            if left == 0:
                threading.Thread(target=action).start()

    return count


def assert_whole(instruments, gate_time):
    """Check that each of the 63 points was recorded once, and as if nothing had happened."""
    (stop,) = instruments.named("stop")
    assert stop["exit_status"] == "success"
    assert stop["num_events"] == {"primary": 63, "xspress3": 63}
    assert instruments.announced() == 63
    events = instruments.events()
    assert events["seq_num"].tolist() == list(range(1, 64))
    points = grid((-20, 20), 9, (-20, 20), 7, rate=np.inf)
    path = Trajectory(instruments.beamline, replace(points, gate_time=gate_time))
    for axis, readback in path.readback().items():
        np.testing.assert_array_equal(events[f"panda-{axis}"], readback)
    np.testing.assert_array_equal(
        instruments.dataset("xspress3-spectrum"),
        instruments.beamline.expose(**path.seen(range(63))).spectrum,
    )
    instruments.assert_closed()


@pytest.mark.parametrize("stream", ["primary", "xspress3"])
def test_a_scan_paused_between_collections_goes_on_and_repeats_nothing(
    run_engine, instruments, stream
):
    plan = instruments.plan(rate=100.0, gate_time=0.003, collect_every=0.04)
    with pytest.raises(RunEngineInterrupted):
        run_engine(interrupted(plan, bps.pause, after=3, stream=stream))
    assert run_engine.state == "paused"
    in_a_month = time.monotonic() + 30 * 86400
    assert instruments.box.flyable_logic.clock.count(in_a_month) < 63
    run_engine.resume()
    assert_whole(instruments, 0.003)


def test_a_scan_paused_at_a_checkpoint_goes_on_and_repeats_nothing(run_engine, instruments):
    plan = instruments.plan(rate=75.0, gate_time=0.003, collect_every=0.04)
    with pytest.raises(RunEngineInterrupted):
        run_engine(interrupted(plan, bps.deferred_pause, after=2))
    assert len(instruments.events()["seq_num"]) < 63
    run_engine.resume()
    assert_whole(instruments, 0.003)


@pytest.mark.parametrize("page", range(1, 6))
def test_a_scan_paused_anywhere_goes_on_and_repeats_nothing(run_engine, instruments, page):
    """A pause from outside (Ctrl-C, or a full disk) hits a message while it is worked on."""
    plan = instruments.plan(rate=80.0, gate_time=0.003, collect_every=0.03)
    with pytest.raises(RunEngineInterrupted):
        run_engine(plan, at_page(page, run_engine.request_pause))
    assert len(instruments.events()["seq_num"]) < 63
    run_engine.resume()
    assert_whole(instruments, 0.003)


def test_a_suspended_scan_goes_on_by_itself_and_repeats_nothing(run_engine, instruments):
    """What a suspender does at a beam loss."""
    counts = []

    async def until_the_beam_is_back():
        clock = instruments.box.flyable_logic.clock
        for _ in range(10):
            await asyncio.sleep(0.02)
            counts.append(clock.count(time.monotonic()))

    def lose_the_beam():
        run_engine.request_suspend(until_the_beam_is_back, justification="beam lost")

    plan = instruments.plan(rate=80.0, gate_time=0.003, collect_every=0.03)
    run_engine(plan, at_page(2, lose_the_beam))
    assert len(counts) == 10
    assert len(set(counts)) == 1  # no triggers without beam
    assert_whole(instruments, 0.003)


@pytest.mark.logs_errors
def test_an_aborted_scan_closes_its_files_and_tells_what_it_has(run_engine, instruments):
    with pytest.raises(RunEngineInterrupted):
        run_engine(interrupted(instruments.plan(rate=100.0, collect_every=0.04), bps.pause, 4))
    run_engine.abort("enough")
    (stop,) = instruments.named("stop")
    assert stop["exit_status"] == "abort"
    rows = instruments.announced()
    assert 0 < rows < 63
    assert stop["num_events"]["xspress3"] == rows
    assert instruments.dataset("xspress3-spectrum").shape[0] >= rows
    instruments.assert_closed()
    run_engine(instruments.plan())  # and the devices are ready for the next scan
    assert instruments.named("stop")[-1]["exit_status"] == "success"


class Failing(Beamline):
    """A detector whose writing stops in mid-scan, as on a full disk."""

    def expose(self, points, *args, **kwargs):
        if max(points) >= 40:
            raise OSError(28, "No space left on device")
        return super().expose(points, *args, **kwargs)


@pytest.mark.logs_errors
def test_a_detector_that_cannot_write_ends_the_scan_with_its_error(run_engine, tmp_path):
    instruments = Instruments(tmp_path, Failing(seed=1))
    with pytest.raises(FailedStatus, match="No space left"):
        run_engine(instruments.plan(rate=80.0, collect_every=0.04), instruments.remember)
    (stop,) = instruments.named("stop")
    assert stop["exit_status"] == "fail"
    assert "No space left" in stop["reason"]
    assert 0 < instruments.announced() <= 40
    instruments.assert_closed()


@pytest.mark.logs_errors
def test_detectors_must_be_prepared_anew_for_each_scan(run_engine, instruments):
    def again():
        yield from bpp.stage_wrapper(body(), [instruments.detector, instruments.box])

    def body():
        from ophyd_async.core import DetectorTrigger, TriggerInfo

        edges = TriggerInfo(trigger=DetectorTrigger.EXTERNAL_EDGE, number_of_events=2)
        yield from bps.prepare(instruments.box, grid((0, 1), 2, (0, 1), 1, rate=np.inf), wait=True)
        yield from bps.prepare(instruments.detector, edges, wait=True)
        yield from bps.open_run()
        yield from bps.kickoff_all(instruments.detector, instruments.box, wait=True)
        yield from bps.complete_all(instruments.detector, instruments.box, wait=True)
        yield from bps.prepare(instruments.detector, edges, wait=True)

    with pytest.raises(FailedStatus, match="stage and prepare the detector anew"):
        run_engine(again())
    instruments.assert_closed()
