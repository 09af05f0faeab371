"""What makes the prompt pleasant: names, plans with devices, scans that wait for the beam."""

import asyncio
import inspect
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky import RunEngine
from bluesky.suspenders import SuspendBoolHigh
from ophyd import Signal
from ophyd.sim import SynAxis

from p06bs.metadata.recorder import MetadataRecorder
from p06bs.plans import maps, scans
from p06bs.plans.suspenders import flux_suspender, shutter_suspender
from p06bs.session.beam import BeamSuspenders
from p06bs.session.names import Named, filled_in
from tests.documents import Recorded
from tests.engines import end


@pytest.fixture
def engine():
    made = RunEngine({})
    yield made
    end(made)


@pytest.fixture
def recorded(engine):
    made = Recorded()
    engine.subscribe(made)
    return made


# Beam


def opens(shutter, engine):
    """Open a shutter as somebody else does, when the plan is at rest."""

    async def soon():
        await asyncio.sleep(0.3)
        shutter.put("open")

    engine.loop.call_soon_threadsafe(lambda: engine.loop.create_task(soon()))


def test_a_shutter_is_moved_between_runs_and_holds_runs(engine, recorded):
    shutter, axis = Signal(name="shutter", value="open"), SynAxis(name="axis")
    beam = BeamSuspenders(engine)
    MetadataRecorder([shutter]).install(engine)
    beam["shutter"] = shutter_suspender(shutter, settle=0.0)
    engine(bps.abs_set(shutter, "closed", wait=True))  # while nothing is measured
    engine(bps.abs_set(shutter, "open", wait=True))
    engine(bps.abs_set(shutter, "closed", wait=True))
    opens(shutter, engine)
    engine(bp.scan([], axis, 0, 1, 2))
    assert recorded.named("stop")[0]["exit_status"] == "success"
    baselines = [e["data"]["shutter"] for e in recorded.named("event") if "shutter" in e["data"]]
    assert {*baselines} == {"open"}  # it began with beam
    assert not engine.suspenders


def test_suspenders_are_switched_on_and_off_by_name(engine, recorded):
    i0, axis = Signal(name="i0", value=0.0), SynAxis(name="axis")
    beam = BeamSuspenders(engine)
    beam.offered["i0"] = flux_suspender(i0, 10.0, settle=0.0)
    i0.put(0.0)  # ophyd tells of a value that was put only
    engine(bp.scan([], axis, 0, 1, 2))  # off: it does not wait
    assert repr(beam) == "i0: off"
    with pytest.raises(ValueError, match="no suspender 'flux': there are i0"):
        beam.on("i0", "flux")
    assert not beam
    beam.on("i0")
    beam.on("i0")  # on already
    assert [*beam] == ["i0"]
    assert not beam.offered

    engine.loop.call_soon_threadsafe(engine.loop.call_later, 0.3, i0.put, 20.0)
    engine(bp.scan([], axis, 0, 1, 2))  # on: it waits for it
    assert i0.get() == 20
    i0.put(0.0)
    beam.off("i0")
    beam["i0"] = own = flux_suspender(i0, -1.0)
    beam.on("i0")
    assert beam["i0"] is own  # what a user added stays
    beam.off("i0")
    engine(bp.scan([], axis, 0, 1, 2))
    assert [stop["exit_status"] for stop in recorded.named("stop")] == ["success"] * 3


def test_a_shutter_that_closes_in_a_run_suspends_it(engine, recorded):
    shutter, axis = Signal(name="shutter", value="open"), SynAxis(name="axis")
    BeamSuspenders(engine)["shutter"] = shutter_suspender(shutter, settle=0.0)
    seen = []

    def close(name, document):
        if name == "event" and document["seq_num"] == 2 and not seen:
            shutter.put("closed")
            opens(shutter, engine)
        if name == "event":
            seen.append(shutter.get())

    engine(bp.scan([], axis, 0, 1, 4), close)
    assert len({e["seq_num"] for e in recorded.named("event")}) == 4
    assert seen[-2:] == ["open", "open"]


@pytest.mark.logs_errors
def test_plans_that_fail_leave_nothing_installed(engine):
    bad = Signal(name="bad", value=False)
    beam = BeamSuspenders(engine)
    beam["bad"] = SuspendBoolHigh(bad)
    seen = []

    def note():
        seen.append(len(engine.suspenders))
        yield from bps.null()

    def plan():
        yield from note()
        yield from bps.open_run()
        yield from note()
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        engine(plan())
    assert seen == [0, 1]
    assert not engine.suspenders
    del beam["bad"]
    engine(bp.count([]))
    assert "bad" not in repr(beam)


# Names


def test_things_by_name_are_attributes_too():
    named = Named(samx=SynAxis(name="samx"), fly_map=maps.fly_map)
    assert named.samx is named["samx"]
    assert {"samx", "fly_map", "items"} <= {*dir(named)}
    first, second = repr(named).splitlines()
    assert first.split() == ["samx", "SynAxis"]
    assert second.startswith("fly_map            Fly over a rectangle")
    with pytest.raises(AttributeError, match="there is no 'samz'; there are samx, fly_map"):
        _ = named.samz


def test_plans_show_their_devices_and_take_others():
    one, two = SimpleNamespace(name="one"), SimpleNamespace(name="two")

    def plan(detectors, box, num, *, rate=1.0, **more):
        """Measure."""
        return detectors, box, num, rate, more

    short = filled_in(plan, detectors=[one], box=two)
    assert short(3) == ([one], two, 3, 1.0, {})
    assert short(3, detectors=[two], rate=2, x=1) == ([two], two, 3, 2, {"x": 1})
    assert str(inspect.signature(short)).startswith("(num, *, rate=1.0, detectors=[one], box=")
    assert short.__doc__ == "Measure."
    line = filled_in(scans.line_scan, detectors=[one])
    assert "detectors" in inspect.signature(line).parameters
    with pytest.raises(ValueError, match=r"plan\(.*\) does not begin with box"):
        filled_in(plan, box=two)
