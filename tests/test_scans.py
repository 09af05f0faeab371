"""Every plan on the simulated beamline: what it measures and says; suspenders."""

import threading
import time
from collections.abc import Iterator
from functools import partial

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus, RunEngineInterrupted
from ophyd import Component, Device, Signal
from ophyd.sim import SynAxis, SynSignal

from p06bs import maps_of
from p06bs.metadata.recorder import MetadataRecorder
from p06bs.model.maps import grid_of
from p06bs.model.plan_axes import plan_axes
from p06bs.plans import alignment, maps, scans, suspenders, tomography
from p06bs.plans.points import spiral
from p06bs.sim.devices import Devices, connect
from tests import documents, every_plan
from tests.engines import end
from tests.every_plan import BEAMLINE, at_row, edge_of


class Recorded(documents.Recorded):
    def rows(self, *keys):
        """Return columns of stream primary, the newest row of each seq_num, run by run."""
        found = {}
        runs = {}
        for name, document in self.documents:
            if name == "descriptor" and document["name"] == "primary":
                runs[document["uid"]] = document["run_start"]
            elif name == "event" and document["descriptor"] in runs:
                place = runs[document["descriptor"]], document["seq_num"]
                found[place] = [document["data"][key] for key in keys]
            elif name == "event_page" and document["descriptor"] in runs:
                for row, number in enumerate(document["seq_num"]):
                    values = [document["data"][key][row] for key in keys]
                    found[runs[document["descriptor"]], number] = values
        return np.array(list(found.values()), dtype=float).T


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


PLANS = {name.partition(".")[2]: plan for name, plan in every_plan.PLANS.items()}
AXES = {name.partition(".")[2]: axes for name, axes in every_plan.AXES.items()}


# What plans say


@pytest.mark.parametrize("name", PLANS)
def test_start_documents_say_what_a_scan_is(engine, devices, recorded, name):
    MetadataRecorder([devices.ring]).install(engine)
    engine(bpp.inject_md_wrapper(PLANS[name](devices), {"purpose": "test"}))
    start = recorded.named("start")[0]
    assert start["plan_name"] == ("step_map" if "tomography" in name else name)
    kind = "fly_map" if name == "fly_grid" else start["plan_name"]
    assert start["scan"]["kind"] == kind
    assert start["num_points"] == recorded.rows(*AXES[name]).shape[-1] or name == "tomography"
    assert "metadata_warnings" not in start
    if name != "knife_edge":
        assert start["devices"]["xspress3" if name.startswith("fly") else "scaler"]["roles"]
    if name not in ("knife_edge", "spiral_map") and "tomography" not in name:
        durations = [start["scan"]["duration"]]
        assert durations[0] > 0


def test_maps_of_step_scans_are_found(engine, devices, recorded):
    engine(PLANS["step_map"](devices))
    start = recorded.named("start")[0]
    grid = grid_of(start)
    assert (grid.shape, grid.snaking) == ((3, 4), True)
    assert start["scan"]["units"] == ["um", "um"]
    assert [list(e) for e in start["extents"]] == [[-8, 8], [-10, 10]]
    assert start["scan"]["duration"] == pytest.approx(0.6)
    assert set(recorded.rows("scaler-gate_time")[0]) == {0.05}
    (descriptor,) = recorded.named("descriptor")
    assert descriptor["configuration"]["scaler"]["data"]["scaler_preset_time"] == 0.05


def test_a_map_may_be_of_any_two_axes(engine, devices, recorded):
    plan = maps.step_map(
        [devices.scaler], devices.rotation, 0, 90, 2, devices.energy, 17, 18, 3, snake=False
    )
    engine(plan)
    start = recorded.named("start")[0]
    assert plan_axes(start) == ("rotation", "energy")
    assert start["scan"]["units"] == ["deg", "keV"]
    rotation, energy = recorded.rows("rotation", "energy")
    assert rotation.tolist() == [0, 0, 0, 90, 90, 90]
    assert energy.tolist() == [17, 17.5, 18] * 2


def test_lines_of_a_flight_may_be_along_y(engine, devices, recorded):
    engine(
        maps.fly_map(
            [devices.xspress3], devices.panda, nx=2, ny=3, rate=np.inf, fast="y", snake=True
        )
    )
    start = recorded.named("start")[0]
    assert start["shape"] == [2, 3]
    assert start["motors"] == ["panda-x", "panda-y"]
    x, y = recorded.rows("panda-x", "panda-y")
    np.testing.assert_allclose(x, [-20, -20, -20, 20, 20, 20], atol=0.05)
    np.testing.assert_allclose(y, [-20, 0, 20, 20, 0, -20], atol=0.05)
    shown = maps_of(recorded.documents)["panda-x"]
    assert (shown.y.name, shown.x.name) == ("panda-x", "panda-y")
    np.testing.assert_allclose(shown.values, [[-20] * 3, [20] * 3], atol=0.05)


def test_a_map_whose_slow_axis_is_x_lies_as_its_plan_says(engine, devices, recorded):
    """Bluesky's own plan over motors that say what they are."""
    motors = (devices.samx, 0, 4, 3, devices.samy, -1, 1, 2)
    engine(bp.grid_scan([devices.scaler], *motors, snake_axes=True))
    shown = maps_of(recorded.documents)["samx"]
    assert (shown.y.name, shown.x.name) == ("samx", "samy")
    np.testing.assert_allclose(shown.values, [[0, 0], [2, 2], [4, 4]])


def test_spirals_cover_their_rectangle_evenly(engine, devices, recorded):
    points = spiral((5.0, -3.0), (20.0, 10.0), 1.0, rate=np.inf)
    x, y = points.positions["x"], points.positions["y"]
    assert (abs(x - 5) <= 10).all()
    assert (abs(y + 3) <= 5).all()
    assert len(points) == pytest.approx(200, rel=0.05)  # one per 1 µm x 1 µm
    apart = np.hypot(*(np.subtract.outer(a, a) for a in (x, y)))
    nearest = np.sort(apart, axis=1)[:, 1]
    assert nearest.min() > 0.5
    engine(PLANS["spiral_map"](devices))
    engine(PLANS["fly_spiral"](devices))
    step, fly = recorded.named("start")
    assert step["extents"] == [[-4, 6], [-2, 6]]
    assert list(step["motors"]) == ["samx", "samy"]
    assert fly["extents"] == [[-5, 5], [-4, 4]]
    assert plan_axes(step) == ("samy", "samx")
    assert plan_axes(fly) == ("panda-y", "panda-x")
    recorded.documents.clear()
    engine(
        maps.fly_spiral(
            [devices.xspress3], devices.panda, size=(10, 8), axes=("rotation", "z"), rate=np.inf
        )
    )
    (start,) = recorded.named("start")
    assert start["motors"] == ["panda-rotation", "panda-z"]
    assert start["scan"]["units"] == ["deg", "um"]
    rotation, z = recorded.rows("panda-rotation", "panda-z")
    assert np.ptp(rotation) == pytest.approx(10, abs=1)
    assert np.ptp(z) == pytest.approx(8, abs=1)
    shown = maps_of(recorded.documents)["panda-z"]
    assert (shown.y.name, shown.x.name) == ("panda-z", "panda-rotation")


def test_energies_of_regions_and_their_times(engine, devices, recorded):
    engine(PLANS["energy_scan"](devices))
    energy, gate = recorded.rows("energy", "scaler-gate_time")
    np.testing.assert_allclose(energy[:7], [17, 17.1, 17.2, 17.3, 17.4, 17.5, 17.55])
    assert energy.size == 12
    assert gate.tolist() == [0.05] * 6 + [0.1] * 6
    # A change of settings is in the documents where it happened.
    presets = [
        descriptor["configuration"]["scaler"]["data"]["scaler_preset_time"]
        for descriptor in recorded.named("descriptor")
    ]
    assert presets == [0.05, 0.1]
    start = recorded.named("start")[0]
    assert start["scan"]["duration"] == pytest.approx(0.9)
    assert start["technique"] == "XANES"


@pytest.mark.logs_errors
def test_points_may_take_longer_than_a_box_can_sum_its_gates(engine, devices, recorded):
    engine(scans.time_series([devices.scaler], 1, dwell=60.0))
    i0, gate = recorded.rows("scaler-i0", "scaler-gate_time")[:, 0]
    assert gate == 60
    assert i0 > 1e6
    with pytest.raises(FailedStatus) as failed:
        engine(maps.fly_map([], devices.panda, nx=2, ny=1, y_stop=-20, rate=1 / 60))
    assert "a gate must be shorter than 34.4 s" in str(failed.value.__cause__)


def test_units_of_a_spiral_are_in_the_order_of_its_motors(engine, devices, recorded):
    engine(
        maps.spiral_map(
            [devices.scaler], devices.rotation, 0, 4, devices.samx, 0, 4, 2.0, dwell=0.1
        )
    )
    (start,) = recorded.named("start")
    assert (*start["motors"],) == ("rotation", "samx")
    assert start["scan"]["units"] == ["deg", "um"]


@pytest.mark.parametrize(("dwell", "interval", "duration"), [(0.1, 60.0, 180.0), (0.1, 0.05, 0.3)])
def test_a_time_series_lasts_as_long_as_it_says(
    engine, devices, recorded, dwell, interval, duration
):
    """bluesky's delay is from the begin of a point to the begin of the next, and to the end."""

    between = []

    def taking(msg):
        if msg.command == "sleep" and msg.args[0] != dwell:
            between.append(msg.args[0])
            return bps.null(), None  # nobody waits for the minutes
        return None, (bps.sleep(dwell) if msg.command == "trigger" else None)

    plan = scans.time_series([devices.scaler], 3, interval=interval, dwell=dwell)
    engine(bpp.plan_mutator(plan, taking))
    assert recorded.named("start")[0]["scan"]["duration"] == pytest.approx(duration)
    assert len(between) == (3 if interval > dwell else 0)  # also after the last point
    assert all(seconds <= interval - dwell for seconds in between)


def test_projections_of_a_tomography_belong_together(engine, devices, recorded):
    plan = tomography.tomography(
        partial(maps.fly_map, [devices.xspress3], devices.panda, nx=3, ny=2, rate=np.inf),
        devices.rotation,
        3,
        md={"sample": {"name": "leaf"}},
    )
    engine(plan)
    starts = recorded.named("start")
    said = [start["scan"] for start in starts]
    assert [one["kind"] for one in said] == ["fly_map"] * 3
    assert [one["projection"] for one in said] == [0, 1, 2]
    assert len({one["tomography"] for one in said}) == 1
    assert [one["angle"] for one in said] == pytest.approx([0, 111.246, 42.492], abs=1e-3)
    assert {start["sample"]["name"] for start in starts} == {"leaf"}
    assert sorted({*recorded.rows("panda-rotation")[0]}) == pytest.approx(
        sorted(one["angle"] for one in said)
    )


@pytest.mark.logs_errors
@pytest.mark.parametrize("ended", ["abort", "stop", "between"])
def test_a_tomography_goes_on_at_the_angle_where_it_ended(engine, devices, recorded, ended):
    pace = {"rate": 50.0, "collect_every": 0.02}
    fly = partial(maps.fly_map, [devices.xspress3], devices.panda, nx=5, ny=4, **pace)
    plan = tomography.tomography(fly, devices.rotation, 4, first=10.0, order="linear")
    command, rows = ("set", 40) if ended == "between" else ("collect", 22)

    def interrupt(msg):
        nonlocal rows
        if msg.command == command and recorded.rows("panda-x").size >= rows:
            rows = 1000
            return None, bps.pause()
        return None, None

    with pytest.raises(RunEngineInterrupted):
        engine(bpp.plan_mutator(plan, interrupt))
    engine.stop() if ended == "stop" else engine.abort()
    last = {"start": recorded.named("start")[-1], "stop": recorded.named("stop")[-1]}
    made = len(recorded.named("start"))
    whole = last["stop"]["exit_status"] == "success" and last["stop"]["num_events"]["primary"] == 20
    assert whole or ended != "between"
    assert not whole or ended != "abort"
    begin = made if whole else made - 1
    uids = engine(tomography.resume_tomography(fly, devices.rotation, last))
    said = [start["scan"] for start in recorded.named("start")]
    assert [one["projection"] for one in said] == [*range(made), *range(begin, 4)]
    assert len({one["tomography"] for one in said}) == 1
    assert [one["angle"] for one in said[made:]] == [10.0, 55.0, 100.0, 145.0][begin:]
    assert uids == tuple(start["uid"] for start in recorded.named("start")[made:])
    done = {"start": recorded.named("start")[-1], "stop": recorded.named("stop")[-1]}
    with pytest.raises(ValueError, match="all 4 angles of tomography"):
        engine(tomography.resume_tomography(fly, devices.rotation, done))
    with pytest.raises(ValueError, match="is not of a tomography"):
        engine(tomography.resume_tomography(fly, devices.rotation, {"start": {"uid": "1"}}))


def test_angles_in_golden_order_are_spread_after_any_number():
    for number in (5, 13, 60):
        angles = np.sort(tomography.angles_of(number))
        gaps = np.diff(np.append(angles, angles[0] + 180))
        assert gaps.max() < 3 * 180 / number
    assert tomography.angles_of(4, order="linear").tolist() == [0, 45, 90, 135]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            lambda d: maps.step_map([], d.samx, 0, 1, 0, d.samy, 0, 1, 2),
            "points of samx must be a whole number",
        ),
        (lambda d: maps.fly_map([], d.panda, fast="z"), "fast must be"),
        (lambda d: maps.fly_grid([], d.panda, "x", 0, 1, 2, "x", 0, 1, 2), "needs two axes"),
        (lambda d: maps.fly_grid([], d.panda, "x", 0, 1, 2, "t", 0, 1, 2), "must be some of x, y"),
        (lambda d: maps.fly_spiral([], d.panda, axes=("x", "x")), "must be two of x, y"),
        (lambda d: maps.spiral_map([], d.samx, 0, 1, d.samy, 0, 1, 0.0), "more than 0"),
        (lambda d: scans.line_scan([], d.samx, 0, num=3), "a line is motor, start, stop"),
        (lambda d: scans.line_scan([d.scaler], d.samx, 0, 1, num=3, dwell=0), "dwell must be"),
        (lambda d: scans.time_series([], 0), "num must be"),
        (lambda d: scans.energy_scan([], d.energy), "needs a region"),
        (lambda d: scans.energy_scan([], d.energy, (2, 1, 0.1)), "a region is from start on"),
        (
            lambda d: scans.energy_scan([], d.energy, (7.0, 7.2, 0.1), (6.5, 6.9, 0.1)),
            "after the end of the one before, 7.2, not at 6.5",
        ),
        (
            lambda d: scans.energy_scan([], d.energy, (7.0, 7.2, 0.1), (7.15, 7.3, 0.01)),
            "without overlap",
        ),
        (
            lambda d: scans.energy_scan([], d.energy, (7.0, 7.2, 0.1), (7.3, 7.4, 0.1, -1.0)),
            "dwell must be more than 0, not -1.0",
        ),
        (lambda d: tomography.tomography(None, d.rotation, 0), "num must be"),
        (lambda d: tomography.tomography(None, d.rotation, 1, order="x"), "order must be"),
        (lambda d: tomography.tomography(None, d.rotation, 1.5), "num must be a whole number"),
        (lambda d: tomography.tomography(None, d.rotation, 2, span=0), "span that is not 0"),
        (lambda d: maps.fly_map([], d.panda, x_start=np.nan), "start of x must be a finite"),
        (lambda d: maps.fly_map([], d.panda, nx=2.5), "points of x must be a whole number"),
        (lambda d: maps.fly_map([], d.panda, nx=10**4, ny=10**4), "at most 10000000 points"),
        (lambda d: maps.fly_map([], d.panda, y_start=3, y_stop=3), "y does not move"),
        (lambda d: maps.fly_map([], d.panda, rate=np.nan), "rate must be a finite"),
        (lambda d: maps.fly_map([], d.panda, gate_time=5), "longer than a point, 0.005 s"),
        (lambda d: maps.fly_map([], d.panda, collect_every=0), "collect_every must be more"),
        (lambda d: maps.fly_spiral([], d.panda, distance=50), "no point of a spiral"),
        (lambda d: maps.fly_spiral([], d.panda, distance=1e-5), "at most 10000000 points"),
        (lambda d: maps.fly_spiral([], d.panda, size=(0, 1)), "size of x must be more than 0"),
        (lambda d: maps.fly_spiral([], d.panda, size=4), "size must be two values"),
        (lambda d: maps.spiral_map([], d.samx, 0, 4, d.samx, 0, 4, 1), "be given once: samx"),
        (lambda d: maps.spiral_map([], d.samx, 0, 4, d.samy, 0, 4, 100), "no point of a spiral"),
        (lambda d: maps.step_map([], d.samx, 0, 1, 2, d.samx, 0, 1, 2), "be given once: samx"),
        (lambda d: maps.step_map([], "samx", 0, 1, 2, d.samx, 0, 1, 2), "'samx' is no motor"),
        (lambda d: scans.line_scan([], d.samx, -1, 1, 5), "num=points; not 4 values"),
        (lambda d: scans.line_scan([], d.samx, -1, 1), "num=points; not 3 values and num=None"),
        (lambda d: scans.line_scan([], d.samx, 1, 1, num=5), "needs a motor that moves"),
        (lambda d: scans.time_series([], 2.5), "num must be a whole number"),
        (lambda d: scans.time_series([], 2, interval=-1), "interval must be 0 or more"),
        (lambda d: scans.time_series([], 2, dwell="1"), "dwell must be a finite number, not '1'"),
        (lambda d: scans.energy_scan([], d.energy, 7, 8, 0.5), "a region is .start, stop, step."),
        (
            lambda d: scans.energy_scan([], d.energy, (7000, 7100, 50)),
            "looks as if meant in eV",
        ),
        (
            lambda d: scans.energy_scan([], d.energy, (7.0, 7.1, 0.1, 2.0), (7.2, 7.3, 0.1)),
            "a region without a dwell would keep that",
        ),
        (lambda d: scans.energy_scan([], d.energy, (7, 8, 1e-9)), "at most 10000000 points"),
        (lambda d: alignment.knife_edge([], d.samx, 0, 1, 4, "a"), "num must be 5 or more"),
        (
            lambda d: alignment.knife_edge([d.scaler, d.xspress3], d.samx, 0, 1, 6, "xspress3"),
            "no detector has 'xspress3', a number per point: scaler-i0",
        ),
    ],
)
@pytest.mark.logs_errors
def test_scans_that_make_no_sense_are_refused(engine, devices, recorded, plan, message):
    with pytest.raises(ValueError, match=message):
        engine(plan(devices))
    assert not recorded.documents
    assert (devices.samx.position, devices.energy.position) == (0, BEAMLINE.energy)


# An edge in the beam


@pytest.mark.parametrize("rising", [1, -1])
def test_an_edge_shows_centre_and_size_of_the_beam(engine, devices, recorded, rising):
    edge = edge_of(devices.samx, sigma=rising * 0.8)
    result = engine(alignment.knife_edge([edge], devices.samx, -3, 5, 41, "shine", align=True))
    assert devices.samx.position == pytest.approx(1.5, abs=1e-3)
    assert len(result) == 1
    (descriptor,) = [d for d in recorded.named("descriptor") if d["name"] == "edge"]
    assert descriptor["data_keys"]["edge-fwhm"]["units"] == "um"
    (found,) = [e["data"] for e in recorded.named("event") if "edge-centre" in e["data"]]
    assert found["edge-centre"] == pytest.approx(1.5, abs=1e-3)
    assert found["edge-fwhm"] == pytest.approx(0.8 * alignment.FWHM, rel=1e-3)
    assert recorded.named("stop")[0]["num_events"] == {"primary": 41, "edge": 1}


def test_noise_of_an_edge_is_no_trouble():
    rng = np.random.default_rng(1)
    x = np.linspace(-10, 10, 101)
    from scipy.special import erf

    mean = 200 + 5000 * (1 - erf((x - 2) / 1.2 / np.sqrt(2))) / 2
    found = alignment.fit_edge(x, rng.poisson(mean).astype(float))
    assert found.centre == pytest.approx(2, abs=0.1)
    assert found.fwhm == pytest.approx(1.2 * alignment.FWHM, rel=0.1)
    # As far off as the fit says, and no worse when measured again.
    off = []
    for _ in range(40):
        found = alignment.fit_edge(x, rng.poisson(mean).astype(float))
        off.append((found.centre - 2) / found.centre_sigma)
        off.append((found.fwhm / alignment.FWHM - 1.2) / found.fwhm_sigma * alignment.FWHM)
    assert np.std(off) == pytest.approx(1, abs=0.4)
    with pytest.raises(alignment.EdgeError, match="sharper"):
        alignment.fit_edge(x, np.where(x < 2.05, 10.0, 500.0) + rng.normal(size=x.size))
    with pytest.raises(alignment.EdgeError, match="edge"):
        alignment.fit_edge(x, rng.poisson(100.0, x.size).astype(float))
    with pytest.raises(alignment.EdgeError, match="five points"):
        alignment.fit_edge(x[:4], mean[:4])


@pytest.mark.logs_errors
def test_a_motor_goes_back_where_no_edge_is_found(engine):
    motor = SynAxis(name="m", value=7.0)
    flat = SynSignal(name="flat", func=lambda: 1.0)
    with pytest.raises(alignment.EdgeError):
        engine(alignment.knife_edge([flat], motor, 0, 1, 6, "flat", align=True))
    assert motor.position == 7.0
    with pytest.raises(ValueError, match="no detector has 'nothing'"):
        engine(alignment.knife_edge([flat], motor, 0, 1, 6, "nothing"))
    step = SynSignal(name="step", func=lambda: float(motor.position > 0.5))
    stops = []
    engine.subscribe(lambda name, document: stops.append(document), "stop")
    with pytest.raises(alignment.EdgeError, match="sharper"):
        engine(alignment.knife_edge([step], motor, 0, 1, 6, "step", align=True))
    assert motor.position == 7.0
    assert [stop["exit_status"] for stop in stops] == ["success"]  # every point was measured


class Stage(Device):
    """A motor whose data key is not its name."""

    readback = Component(Signal, value=0.0, kind="hinted")
    offset = Component(Signal, value=4.0, kind="normal")

    @property
    def position(self):
        return self.readback.get()

    def set(self, value):
        return self.readback.set(value)


@pytest.mark.logs_errors
def test_an_edge_is_found_with_a_motor_of_any_data_key(engine, recorded):
    motor = Stage(name="m")
    plan = partial(alignment.knife_edge, [edge_of(motor)], motor, -3, 5, 20, "shine", align=True)
    engine(plan())
    assert motor.position == pytest.approx(1.5, abs=1e-3)
    motor.readback.kind = "normal"
    recorded.documents.clear()
    with pytest.raises(alignment.EdgeError, match="hints name one of m_readback, m_offset"):
        engine(plan())
    assert not recorded.documents


# Beam


@pytest.mark.parametrize("what", ["shutter", "flux", "injection"])
def test_each_suspender_holds_a_scan_and_lets_it_go(engine, devices, recorded, what):
    flux, injecting = Signal(name="flux", value=1e9), Signal(name="injecting", value=False)
    suspender, lose, regain = {
        "shutter": (
            suspenders.shutter_suspender(devices.shutter.state, settle=0.0),
            *(lambda s=state: engine.loop.create_task(closed(s)) for state in ("closed", "open")),
        ),
        "flux": (
            suspenders.flux_suspender(flux, 1e8, settle=0.0),
            *(partial(flux.put, value) for value in (0.0, 1e9)),
        ),
        "injection": (
            suspenders.injection_suspender(injecting, settle=0.0),
            *(partial(injecting.put, value) for value in (True, False)),
        ),
    }[what]

    async def closed(state):
        await devices.shutter.state.set(state)

    engine.install_suspender(suspender)
    held = []

    def lost():
        engine.loop.call_soon_threadsafe(lose)
        until = time.monotonic() + 60
        while not suspender.tripped and time.monotonic() < until:
            threading.Event().wait(0.01)
        held.append(suspender.tripped)
        engine.loop.call_soon_threadsafe(regain)

    engine(scans.time_series([devices.scaler], 8, interval=0.02), at_row(3, lost))
    assert held == [True]
    assert recorded.named("stop")[0]["num_events"] == {"primary": 8}
    engine.remove_suspender(suspender)


class Countdown(Signal):
    """Seconds until the next injection: the next of some values at each look."""

    def __init__(self, *values):
        super().__init__(name="countdown")
        self.values = iter(values)

    def read(self):
        return {self.name: {"value": next(self.values), "timestamp": 0.0}}


@pytest.mark.logs_errors
def test_a_point_longer_than_the_ring_is_without_injections_is_refused(engine, devices, recorded):
    def gated(countdown, dwell):
        plan = bp.count([devices.scaler], 1)
        engine(suspenders.top_up_gated(plan, countdown, dwell, settle=0.0, look_every=0.0))

    noisy = (4.0, 4.1, 4.8, 0.02, 0.06, -0.2, -0.1, 0.0)  # it is corrected, and injection is late
    gated(Countdown(*noisy, 8.0), 5.0)
    assert recorded.named("stop")[0]["exit_status"] == "success"
    with pytest.raises(ValueError, match=r"no point of 9 s .* countdown is 7\.8 s"):
        gated(Countdown(*noisy, 7.8), 9.0)
    recorded.documents.clear()
    for dwell in (None, "0.5", -1, np.nan):
        with pytest.raises(ValueError, match="dwell must be"):
            gated(Countdown(), dwell)
    assert not recorded.documents


def test_settings_of_detectors_do_not_change_without_a_dwell(engine, devices, recorded):
    engine(bps.mv(devices.scaler.preset_time, 0.07))
    engine(scans.time_series([devices.scaler], 2))
    assert set(recorded.rows("scaler-gate_time")[0]) == {0.07}


class Camera(Device):
    """An area detector as ophyd has them: its time is the camera's."""

    class Cam(Device):
        acquire_time = Component(Signal, value=0.5, kind="config")

    cam = Component(Cam, kind="config")
    total = Component(Signal, value=1.0, kind="hinted")


class Untimed(Device):
    """A detector whose time nobody can set; what looks like one is no signal."""

    total = Component(Signal, value=1.0, kind="hinted")
    count_time = Component(Signal, value=0.5)  # no configuration
    exposure_time = 0.5


def test_times_reach_cameras_and_what_they_do_not_reach_is_said(engine, devices, recorded, caplog):
    detectors = [Camera(name="eye"), Untimed(name="odd"), devices.samx, SynSignal(name="plain")]
    engine(scans.line_scan(detectors, devices.samy, 0, 1, num=2, dwell=0.3))
    (descriptor,) = recorded.named("descriptor")
    assert descriptor["configuration"]["eye"]["data"] == {"eye_cam_acquire_time": 0.3}
    assert recorded.named("start")[0]["scan"]["without_dwell"] == ["odd"]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("dwell does not reach odd: set the time")
    engine(scans.line_scan(detectors, devices.samy, 0, 1, num=2))  # no time is promised
    assert "without_dwell" not in recorded.named("start")[1]["scan"]
