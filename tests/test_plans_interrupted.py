"""Every plan of the beamline through every interruption: pause, abort, stop, beam loss, top-up.

Plans are found by listing: one that is new fails here until it is in `tests.every_plan`.
"""

import asyncio
import importlib
import inspect
import io
import pkgutil
import threading
from collections.abc import Generator, Iterator
from typing import get_origin

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from ophyd import Signal
from rich.console import Console

import p06bs.plans
from p06bs import maps_of, process
from p06bs.callbacks.counters import Counters
from p06bs.plans import suspenders, tomography
from p06bs.session.progress import ScanProgress
from p06bs.sim.devices import Devices, connect
from tests import documents
from tests.engines import end
from tests.every_plan import AXES, BEAMLINE, FLIGHTS, PLANS, at_row

PARTS = {
    "flying.flown",
    "dwell.in_steps",
    "rewinds.without_superseded",
    "suspenders.top_up_gated",
}
"""What plans are made of: they take a plan, or points that somebody else described."""


DIODE = {"charge_per_count": 1e-12, "pair_energy": 3.66, "photon_energy": 17.5}
ENDS = {  # where motors are after all points
    "maps.step_map": {"samx": 10, "samy": 8},
    "scans.line_scan": {"samx": 5},
    "scans.energy_scan": {"energy": 17.8},
    "alignment.knife_edge": {"samx": 1.5},
    "tomography.resume_tomography": {"samx": 1, "samy": 1, "rotation": 120},
    "tomography.tomography": {"samx": 1, "samy": 1, "rotation": 180 * tomography.GOLDEN},
}


def test_every_plan_is_tried():
    found = {
        f"{module.name}.{name}"
        for module in pkgutil.iter_modules(p06bs.plans.__path__)
        for name, made in inspect.getmembers(importlib.import_module(f"p06bs.plans.{module.name}"))
        if inspect.isfunction(made)
        and made.__module__ == f"p06bs.plans.{module.name}"
        and not name.startswith("_")
        and get_origin(inspect.signature(made).return_annotation) is Generator
    }
    assert found - PARTS == PLANS.keys()


def test_every_plan_tells_how_long_a_point_takes_and_how_far_it_is(engine, devices, undisturbed):
    said = Console(file=io.StringIO(), width=120)
    token = engine.subscribe(ScanProgress(said))
    for name, plan in PLANS.items():
        said.file.truncate(0)
        engine(plan(devices))
        text = said.file.getvalue()
        for run in undisturbed[name]:
            assert f"{run.shape[-1]}/{run.shape[-1]}" in text, name
        assert " left " in text
        asked = name not in ("maps.spiral_map", "alignment.knife_edge") and "tomography" not in name
        assert ("and moves)" in text) == asked
        assert ("projection 3/3" in text) == (name == "tomography.resume_tomography")
    engine.unsubscribe(token)


class Recorded(documents.Recorded):
    """Documents, run by run."""

    def runs(self):
        """Return the documents of each run, the first run first."""
        of, runs = {}, {}
        for name, document in self.documents:
            if name == "start":
                runs[document["uid"]] = []
                uid = document["uid"]
            elif name in ("event", "event_page"):
                uid = of[document["descriptor"]]
            elif name == "stream_datum":
                uid = of[document["stream_resource"]]
            else:
                uid = document["run_start"]
                of[document["uid"]] = uid
            runs[uid].append((name, document))
        return list(runs.values())


def table(run, stream="primary"):
    """Return columns of a stream, all rows as they came, with seq_num."""
    of = {d["uid"] for n, d in run if n == "descriptor" and d["name"] == stream}
    rows: dict[str, list] = {"seq_num": []}
    for name, document in run:
        if name not in ("event", "event_page") or document["descriptor"] not in of:
            continue
        one = name == "event"
        rows["seq_num"] += [document["seq_num"]] if one else list(document["seq_num"])
        for key, values in document["data"].items():
            rows.setdefault(key, []).extend([values] if one else values)
    return {key: np.array(column) for key, column in rows.items()}


def newest(run, *keys):
    """Return columns of stream primary, the newest row of each seq_num, by seq_num."""
    columns = table(run)
    last = {number: row for row, number in enumerate(columns["seq_num"].tolist())}
    rows = [last[number] for number in sorted(last)]
    return np.array([columns[key][rows] for key in keys], dtype=float)


@pytest.fixture
def engine() -> Iterator[RunEngine]:
    made = RunEngine({})
    yield made
    end(made)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("sim-")]


@pytest.fixture
def recorded(engine) -> Recorded:
    made = Recorded()
    engine.subscribe(made)
    return made


@pytest.fixture
def devices(engine, tmp_path) -> Devices:
    return connect(BEAMLINE, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return what each plan measures without an interruption: axes and runs."""
    engine, seen = RunEngine({}), {}
    devices = connect(BEAMLINE, tmp_path_factory.mktemp("undisturbed"))
    for name, plan in PLANS.items():
        recorded = Recorded()
        engine(plan(devices), recorded)
        seen[name] = [newest(run, *AXES[name]) for run in recorded.runs()]
    end(engine)
    return seen


def slowed(name, devices):
    """Return a plan whose points take some time, as real ones do."""

    def insert(msg):
        return None, (bps.sleep(0.03) if msg.command == "save" else None)

    return bpp.plan_mutator(PLANS[name](devices), insert)


def assert_left_ready(name, devices, *, whole):
    """Check that nothing is staged, prepared or open any more, and where motors are."""
    for detector in (devices.xspress3, devices.eiger):
        assert detector._acquisition.files is None
    clock = devices.panda.flyable_logic.clock
    assert clock is None or not clock.running or clock.count(float("inf")) == clock.points
    assert str(devices.scaler._staged) == "Staged.no"
    if name in FLIGHTS:  # a flight's stage goes back
        assert (devices.samx.position, devices.samy.position, devices.samz.position) == (0, 0, 0)
    if whole:
        for motor, place in ENDS.get(name, {}).items():
            assert getattr(devices, motor).position == pytest.approx(place, abs=1e-2)


def assert_documents(name, runs, exit_status):
    """Check that each run is complete, and that numbers only go back where steps are repeated."""
    for run in runs:
        assert run[0][0] == "start"
        assert run[-1][0] == "stop"
        stop, start = run[-1][1], run[0][1]
        assert stop["exit_status"] == (exit_status if run is runs[-1] else "success")
        numbers = table(run)["seq_num"]
        assert sorted({*numbers.tolist()}) == list(range(1, numbers.max() + 1))
        assert stop["num_events"]["primary"] == numbers.max()
        if name in FLIGHTS:
            assert np.diff(numbers).min() == 1  # nothing is repeated
            assert stop["num_events"]["xspress3"] <= start["num_points"]
            datums = [d for n, d in run if n == "stream_datum"]
            assert max(d["seq_nums"]["stop"] for d in datums) - 1 == stop["num_events"]["xspress3"]


def assert_derived(name, runs):
    """Check that a modality has a row for each event, the newest of a number last, and its map."""
    for run in runs:
        made = process(Counters(photon_flux=DIODE), run)
        raw, derived = table(run), table(made)
        assert derived["raw_seq_num"].tolist() == raw["seq_num"].tolist()
        device = "panda" if name in FLIGHTS else "scaler"
        counts, gate = raw[f"{device}-diode"], raw[f"{device}-gate_time"]
        np.testing.assert_allclose(derived["rate"][:, 0], counts / gate)
        assert derived["valid"].all()
        assert made[-1][1]["exit_status"] == run[-1][1]["exit_status"]
        if len(AXES[name]) < 2:
            continue
        shown = maps_of([*run, *made])
        start = run[0][1]
        slow, fast = (newest(run, key)[0] for key in AXES[name])
        if "shape" not in start:  # of a spiral: scattered points
            assert np.isfinite(shown["counters.flux"].values).any()
            continue
        # Maps lie as the axes say: the map of an axis is its own coordinates.
        for axis, key in enumerate(AXES[name]):
            ends, number = start["extents"][axis], start["shape"][axis]
            place = np.linspace(*ends, number)
            values = shown[f"raw.{key}"].values
            wanted = np.broadcast_to(place[:, None] if axis == 0 else place, start["shape"])
            there = np.isfinite(values)
            assert there.sum() == slow.size == fast.size
            np.testing.assert_allclose(values[there], wanted[there], atol=0.05)
        flux = shown["counters.flux"].values
        assert np.isfinite(flux).sum() == slow.size


def assert_whole(name, recorded, devices, undisturbed):
    runs = recorded.runs()
    assert_documents(name, runs, "success")
    seen = [newest(run, *AXES[name]) for run in runs]
    for found, wanted in zip(seen, undisturbed[name], strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert_left_ready(name, devices, whole=True)
    assert_derived(name, runs)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_that_is_paused_and_resumed_measures_every_point(
    engine, devices, recorded, undisturbed, name
):
    with pytest.raises(RunEngineInterrupted):
        engine(slowed(name, devices), at_row(3, engine.request_pause))
    assert engine.state == "paused"
    engine.resume()
    assert_whole(name, recorded, devices, undisturbed)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_waits_while_the_beam_is_lost(engine, devices, recorded, undisturbed, name):
    """The ring loses its beam in mid-scan: nothing dark is kept, but what flew by meanwhile."""
    current = devices.ring.current
    released = threading.Event()
    engine.install_suspender(suspenders.ring_suspender(current, 50.0, resume=80.0, settle=0.0))

    def lose_the_beam():
        engine.loop.call_soon_threadsafe(lambda: engine.loop.create_task(lost()))

    def rows():
        return sum(table(run)["seq_num"].size for run in recorded.runs())

    async def lost():
        await current.set(0.0)
        before, clock = rows(), devices.panda.flyable_logic.clock
        if name in FLIGHTS:
            while clock.running:
                await asyncio.sleep(0.01)
            assert clock.count(float("inf")) < clock.points
        await asyncio.sleep(0.2)
        # Nothing is measured without beam, but for what was under way.
        assert name in FLIGHTS or rows() <= before + 2
        await current.set(60.0)  # not enough to go on
        await asyncio.sleep(0.05)
        await current.set(100.0)
        released.set()

    engine(slowed(name, devices), at_row(3, lose_the_beam))
    assert released.is_set()
    assert_whole(name, recorded, devices, undisturbed)
    device = "panda" if name in FLIGHTS else "scaler"
    for run in recorded.runs():
        stored, i0 = newest(run, f"{device}-ring_current", f"{device}-i0")
        bright = stored > 90
        assert bright.all() or name in FLIGHTS
        assert bright[0]
        assert bright[-1]
        assert (i0[bright] > 1e4).all()


@pytest.mark.logs_errors
@pytest.mark.parametrize("how", ["abort", "stop"])
@pytest.mark.parametrize("name", PLANS)
def test_a_plan_that_is_ended_early_says_so_and_leaves_devices_ready(
    engine, devices, recorded, undisturbed, name, how
):
    with pytest.raises(RunEngineInterrupted):
        engine(slowed(name, devices), at_row(3, engine.request_pause))
    engine.abort("enough") if how == "abort" else engine.stop()
    runs = recorded.runs()
    assert_documents(name, runs, "abort" if how == "abort" else "success")
    assert newest(runs[-1], *AXES[name]).shape[-1] < undisturbed[name][-1].shape[-1]
    assert_left_ready(name, devices, whole=False)
    assert_derived(name, runs)
    recorded.documents.clear()
    places = [devices.samx, devices.samy, devices.rotation]
    engine(bps.mv(*(each for motor in places for each in (motor, 0.0))))
    engine(PLANS[name](devices))
    assert_whole(name, recorded, devices, undisturbed)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_waits_while_the_ring_is_topped_up(engine, devices, recorded, undisturbed, name):
    """Steps are not begun shortly before an injection; flights stand still meanwhile."""
    if name in FLIGHTS:
        injecting = Signal(name="injecting", value=False)
        engine.install_suspender(suspenders.injection_suspender(injecting, settle=0.0))
        counts = []

        def inject():
            engine.loop.call_soon_threadsafe(lambda: engine.loop.create_task(injected()))

        async def injected():
            injecting.put(True)
            clock = devices.panda.flyable_logic.clock
            while clock.running:
                await asyncio.sleep(0.01)
            counts.append(clock.count(engine.loop.time()))
            await asyncio.sleep(0.1)
            counts.append(clock.count(engine.loop.time()))
            injecting.put(False)

        engine(slowed(name, devices), at_row(3, inject))
        assert len({*counts}) == 1
    else:
        countdown = Countdown(name="countdown")
        at, triggered = [], devices.scaler.trigger

        def trigger():
            at.append(countdown.left)
            return triggered()

        devices.scaler.trigger = trigger
        gated = suspenders.top_up_gated(
            PLANS[name](devices), countdown, 0.1, settle=0.0, look_every=0.0
        )
        engine(gated)
        assert len(at) == sum(run.shape[-1] for run in undisturbed[name])
        assert min(at) > 0.1
        assert max(at) > 7
    assert_whole(name, recorded, devices, undisturbed)


def test_a_point_that_is_measured_again_waits_for_the_injection_again(engine, devices):
    countdown = Signal(name="countdown", value=100.0)
    at, triggered = [], devices.scaler.trigger

    def trigger():
        at.append(countdown.get())
        return triggered()

    devices.scaler.trigger = trigger
    paused = []

    def pause_in_the_second_point(msg):
        if msg.command == "trigger" and len(at) == 1 and not paused:
            paused.append(msg)
            return None, bps.pause()
        return None, None

    gated = suspenders.top_up_gated(
        bp.count([devices.scaler], 3), countdown, 5.0, settle=0.0, look_every=0.01
    )
    with pytest.raises(RunEngineInterrupted):
        engine(bpp.plan_mutator(gated, pause_in_the_second_point))
    countdown.put(1.0)  # an injection comes within the dwell time
    engine.loop.call_soon_threadsafe(engine.loop.call_later, 0.3, countdown.put, 100.0)
    engine.resume()
    assert at == [100.0] * 4  # the second point twice, never at 1 s


def test_a_pause_while_an_injection_is_awaited_spoils_no_point(engine, devices):
    countdown = Signal(name="countdown", value=100.0)
    at, waits, triggered = [], [], devices.scaler.trigger

    def trigger():
        at.append(countdown.get())
        return triggered()

    devices.scaler.trigger = trigger

    def pause_in_the_second_wait(msg):
        waits.extend([msg] * (msg.command == "wait_for"))
        if msg.command == "wait_for" and len(waits) == 2:
            countdown.put(1.0)
            threading.Thread(target=engine.request_pause).start()
        return None, None

    gated = suspenders.top_up_gated(
        bp.count([devices.scaler], 3), countdown, 5.0, settle=0.0, look_every=0.01
    )
    with pytest.raises(RunEngineInterrupted):
        engine(bpp.plan_mutator(gated, pause_in_the_second_wait))
    assert len(at) == 1
    engine.loop.call_soon_threadsafe(engine.loop.call_later, 0.3, countdown.put, 100.0)
    engine.resume()
    assert at == [100.0] * 3


class Countdown(Signal):
    """Comes nearer with each look, and jumps to 8 s when the injection is over."""

    left = 0.25

    def read(self):
        self.left = round(self.left - 0.04, 2) if self.left > 0.04 else 8.0
        return {self.name: {"value": self.left, "timestamp": 0.0}}
