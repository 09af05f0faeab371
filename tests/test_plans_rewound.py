"""Step scans with detectors that write files, interrupted anywhere: within exposures, too."""

import asyncio

import bluesky.plans as bp
import hdf5plugin
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider, init_devices
from ophyd_async.sim import SimBlobDetector

from p06bs import process
from p06bs.callbacks.xrd import PowderDiffraction
from p06bs.callbacks.xrf import Fluorescence
from p06bs.plans import suspenders
from p06bs.plans.maps import step_map
from p06bs.plans.rewinds import without_superseded
from p06bs.plans.scans import line_scan
from p06bs.sim.beamline import Beamline
from p06bs.sim.devices import connect
from p06bs.sim.lines import Lines
from p06bs.sim.phantom import Phantom
from tests.engines import end
from tests.every_plan import AXES, BEAMLINE, FLIGHTS, PLANS

assert hdf5plugin.PLUGIN_PATH  # registers the compression of the files


@pytest.fixture
def engine():
    made = RunEngine({})
    yield made
    end(made)


class Interruptions:
    """Pauses and suspensions at messages drawn by lot, of which detectors then are in exposures.

    Parameters
    ----------
    engine : RunEngine
    detectors : sequence of FileDetector
    seed : int
    """

    def __init__(self, engine, detectors, seed):
        self.engine = engine
        self.detectors = detectors
        self.rng = np.random.default_rng(seed)
        self.left = self.rng.integers(1, 40)
        self.at = []
        engine.msg_hook = self.count

    def count(self, msg):
        """Interrupt if it is time, whatever is done then: called in the RunEngine's loop."""
        if not self.engine._run_bundlers or self.engine._state != "running":
            return
        self.left -= 1
        if self.left > 0:
            return
        self.left = self.rng.integers(1, 40)
        self.at.append(msg.command)
        if self.rng.random() < 0.5:
            self.engine.loop.create_task(self.pause())
        else:
            self.engine.request_suspend(self.settled)

    async def pause(self):
        """Pause; a suspension may have been quicker."""
        if self.engine._state == "running":
            await self.engine._request_pause_coro()

    async def settled(self):
        """Come back at once, or when exposures are over."""
        await asyncio.sleep(0)
        if self.rng.random() < 0.5:
            return
        for detector in self.detectors:
            pool = detector._acquisition._pool
            if pool is not None:
                await asyncio.get_running_loop().run_in_executor(pool, int)

    def take(self, plan):
        """Run a plan, resuming as often as it is paused."""
        try:
            self.engine(plan)
        except RunEngineInterrupted:
            while self.engine.state == "paused":
                try:
                    self.engine.resume()
                except RunEngineInterrupted:
                    continue


def events(documents):
    """Return the newest event of each seq_num of stream primary, run by run."""
    runs = []
    primary = {d["uid"] for n, d in documents if n == "descriptor" and d["name"] == "primary"}
    for name, document in documents:
        if name == "start":
            runs.append({})
        elif name == "event" and document["descriptor"] in primary:
            runs[-1][document["seq_num"]] = document
    return runs


def frames(documents):
    """Check that each event has a row of each data key of its own; return which, of the newest."""
    resources, announced, waiting, newest = {}, set(), {}, {}
    for name, document in documents:
        if name == "stream_resource":
            assert document["uid"] not in resources
            resources[document["uid"]] = document
        elif name == "stream_datum":
            resource = resources[document["stream_resource"]]
            index = document["indices"]["start"]
            assert document["indices"]["stop"] == index + 1
            assert (resource["uid"], index) not in announced
            announced.add((resource["uid"], index))
            assert resource["data_key"] not in waiting
            waiting[resource["data_key"]] = document["seq_nums"]["start"], index
        elif name == "event" and waiting:
            assert len(waiting) == 6  # five of the xspress3, one of the eiger
            for key, (seq_num, index) in waiting.items():
                assert seq_num == document["seq_num"]
                newest[document["descriptor"], seq_num, key] = index
            waiting = {}
    assert not waiting
    return newest


@pytest.mark.parametrize("name", [name for name in PLANS if name not in FLIGHTS])
def test_steps_may_be_interrupted_within_exposures(engine, tmp_path, name):
    devices = connect(BEAMLINE, tmp_path)
    detectors = devices.xspress3, devices.eiger
    documents = []
    engine.subscribe(lambda name, document: documents.append((name, document)))
    engine(PLANS[name](devices))
    wanted = [[event["data"] for event in run.values()] for run in events(documents)]
    documents.clear()
    interrupted = Interruptions(engine, detectors, seed=1)
    interrupted.take(PLANS[name](devices, *detectors))
    assert len(interrupted.at) > 3
    stops = [document for n, document in documents if n == "stop"]
    assert [stop["exit_status"] for stop in stops] == ["success"] * len(wanted)
    found = [[event["data"] for _, event in sorted(run.items())] for run in events(documents)]
    for run, undisturbed in zip(found, wanted, strict=True):
        for key in AXES[name]:
            assert [e[key] for e in run] == pytest.approx([e[key] for e in undisturbed])
    assert len(frames(documents)) >= 6 * sum(map(len, wanted))


def derived(modality, documents):
    """Return the columns of a derived run, the newest row of each point, by point."""
    pages = [d for n, d in process(modality, documents) if n == "event_page"]
    found = {
        key: np.concatenate([np.asarray(page["data"][key]) for page in pages])
        for key in pages[0]["data"]
    }
    last = {number: row for row, number in enumerate(found["raw_seq_num"].tolist())}
    rows = [last[number] for number in sorted(last)]
    return {key: column[rows] for key, column in found.items()}


def test_analysis_of_an_interrupted_map_is_that_of_an_undisturbed_one(engine, tmp_path):
    """Each point has its own spectrum and rings, not those of a frame that it left behind."""
    beamline = Beamline(Phantom.default((5, 7)), 3, emission=Lines())
    devices = connect(beamline, tmp_path)
    detectors = devices.xspress3, devices.eiger
    found = []
    for seed in (None, 4):
        documents = []
        token = engine.subscribe(lambda *document, to=documents: to.append(document))
        plan = step_map(
            [devices.scaler, *detectors], devices.samy, -16, 16, 5, devices.samx, -18, 18, 7
        )
        if seed is None:
            engine(plan)
        else:
            interrupted = Interruptions(engine, detectors, seed)
            interrupted.take(plan)
            assert "wait" in interrupted.at
        engine.unsubscribe(token)
        rings = devices.eiger.instrument
        fluorescence = Fluorescence(
            elements=("Cr", "Fe", "Cu", "Zn"),
            incident_energy=17.5,
            calibration=beamline.emission.calibration,
        )
        diffraction = PowderDiffraction(poni=rings.poni(), bins=50)
        found.append(derived(fluorescence, documents) | derived(diffraction, documents))
    whole, repaired = found
    assert whole["valid"].all()
    assert repaired["valid"].all()
    for key in ("Cr_K", "Fe_K", "Cu_K", "intensity"):
        spread = "sigma" if key == "intensity" else f"{key}_sigma"
        noise = np.hypot(whole[spread], repaired[spread])
        apart = np.abs(repaired[key] - whole[key]) / noise
        from_next = np.abs(repaired[key][1:] - whole[key][:-1]) / noise[1:]
        # Flux and positions are drawn by lot, too, beside what is counted.
        assert apart.max() < 0.04 * from_next.max(), key


@pytest.mark.logs_errors  # of bluesky, which suspends twice and cannot say so
def test_two_suspensions_at_once_last_until_both_are_over(engine, tmp_path):
    """The ring comes back before the shutter opens: what is measured in between is repeated."""
    devices = connect(BEAMLINE, tmp_path)
    for suspender in (
        suspenders.ring_suspender(devices.ring.current, 50.0, settle=0.0),
        suspenders.shutter_suspender(devices.shutter.state, settle=0.0),
    ):
        engine.install_suspender(suspender)
    documents = []
    engine.subscribe(lambda *document: documents.append(document))
    triggers = []

    async def lose_both():
        await asyncio.gather(devices.ring.current.set(0.0), devices.shutter.state.set("closed"))
        await devices.ring.current.set(100.0)
        await asyncio.sleep(0.05)  # for bluesky to go on, if it does
        await devices.shutter.state.set("open")

    def count(msg):
        triggers.append(msg.command == "trigger")
        if triggers[-1] and sum(triggers) == 5:
            triggers.append(engine.loop.create_task(lose_both()))
            engine.msg_hook = None

    engine.msg_hook = count
    detectors = [devices.scaler, devices.xspress3, devices.eiger]
    engine(line_scan(detectors, devices.samx, 0, 5, num=4))
    (run,) = events(documents)
    assert [run[number]["data"]["samx"] for number in sorted(run)] == pytest.approx(
        np.linspace(0, 5, 4)
    )
    assert min(event["data"]["scaler-i0"] for event in run.values()) > 1e4
    frames(documents)


def test_detectors_of_ophyd_async_itself_are_repaired_in_plans_of_bluesky_itself(engine, tmp_path):
    with init_devices():
        paths = StaticPathProvider(UUIDFilenameProvider(), tmp_path)
        blob = SimBlobDetector(paths, name="blob")
    engine.preprocessors.append(without_superseded)
    documents = []
    engine.subscribe(lambda *document: documents.append(document))
    waits = []

    def pause_within_exposures(msg):
        waits.append(msg.command == "wait")
        if waits[-1] and sum(waits) in (2, 5, 6):  # not of stage
            engine.request_suspend(lambda: asyncio.sleep(0))

    engine.msg_hook = pause_within_exposures
    engine(bp.count([blob], 4))
    (run,) = events(documents)
    assert [*run] == [1, 2, 3, 4]
    indices = [d["indices"]["start"] for n, d in documents if n == "stream_datum"][::2]
    stops = [d["indices"]["stop"] for n, d in documents if n == "stream_datum"][::2]
    assert [stop - start for start, stop in zip(indices, stops, strict=True)] == [1, 1, 1, 1]
    assert indices[-1] > 3  # frames were left behind
