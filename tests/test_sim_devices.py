"""Step scans with the simulated motors, scaler and detectors, by bluesky's own plans."""

import json
import threading
from dataclasses import replace
from urllib.parse import unquote, urlparse

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import event_model
import h5py
import hdf5plugin
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.preprocessors import baseline_wrapper, suspend_wrapper
from ophyd_async.core import TriggerInfo
from scipy.stats import poisson

from p06bs.plans import suspenders
from p06bs.plans.maps import fly_grid, fly_map
from p06bs.sim.beamline import DARK_RATE, MONITOR_RATE, Beamline
from p06bs.sim.devices import connect
from p06bs.sim.lines import Lines
from p06bs.sim.metrology import AXES
from p06bs.sim.phantom import Phantom
from p06bs.sim.trajectory import Trajectory
from tests.engines import end

assert hdf5plugin.PLUGIN_PATH

BEAMLINE = Beamline(Phantom.default((9, 9)), seed=3, emission=Lines())


class Recorder:
    """Documents of runs, each checked against its schema."""

    def __init__(self):
        self.documents = []

    def __call__(self, name, document):
        event_model.schema_validators[event_model.DocumentNames[name]].validate(document)
        self.documents.append((name, document))

    def named(self, name):
        return [d for n, d in self.documents if n == name]

    def column(self, key):
        """Return a column of the events, or of the pages, that have it."""
        values = [d["data"][key] for d in self.named("event") if key in d["data"]]
        for page in self.named("event_page"):
            values += page["data"].get(key, [])
        return np.array(values)

    def rows(self, data_key):
        (resource,) = [r for r in self.named("stream_resource") if r["data_key"] == data_key]
        with h5py.File(unquote(urlparse(resource["uri"]).path), swmr=True) as file:
            return file[resource["parameters"]["dataset"]][()]


@pytest.fixture
def run_engine():
    engine = RunEngine({})
    yield engine
    end(engine)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("sim-")]


@pytest.fixture
def devices(run_engine, tmp_path):
    return connect(BEAMLINE, tmp_path)


def test_a_step_map_records_what_the_beamline_shows(run_engine, devices):
    recorder = Recorder()
    detectors = [devices.scaler, devices.xspress3, devices.eiger]

    def plan():
        yield from bps.mv(devices.scaler.preset_time, 0.05)
        for detector in detectors[1:]:
            yield from bps.prepare(detector, TriggerInfo(livetime=0.05), wait=True)
        yield from bp.grid_scan(
            detectors, devices.samy, -8, 8, 3, devices.samx, -10, 10, 4, snake_axes=True
        )

    run_engine(plan(), recorder)
    assert recorder.named("stop")[0]["num_events"] == {"primary": 12}
    x = np.tile(np.linspace(-10, 10, 4), (3, 1))
    x[1] = x[1, ::-1]
    y = np.repeat(np.linspace(-8, 8, 3), 4)
    np.testing.assert_allclose(recorder.column("samx"), x.ravel())
    np.testing.assert_allclose(recorder.column("samy"), y)
    # Seed and number of the point say the data, as in a fly scan.
    metrology, points = BEAMLINE.metrology, range(12)
    nominal = metrology.readback(points, {"x": x.ravel(), "y": y}).values()
    at = [
        metrology.sample(a, points, p, g)
        for a, p, g in zip(AXES, nominal, (0.05, 0.05), strict=True)
    ]
    i0, diode = BEAMLINE.counters(points, *at, 0.05)
    np.testing.assert_array_equal(recorder.column("scaler-i0"), i0)
    np.testing.assert_array_equal(recorder.column("scaler-diode"), diode)
    assert set(recorder.column("scaler-gate_time")) == {0.05}
    # Staging makes a prepared detector forget, so that it takes its own exposure time.
    at = [metrology.sample(a, points, p, 0.1) for a, p in zip(AXES, nominal, strict=True)]
    exposures = BEAMLINE.expose(points, *at, 0.1)
    np.testing.assert_array_equal(recorder.rows("xspress3-spectrum"), exposures.spectrum)
    np.testing.assert_array_equal(recorder.rows("xspress3-live_time"), exposures.live_time)
    assert recorder.rows("eiger").shape == (12, 128, 128)


def test_devices_say_units_and_roles_for_plans_without_a_table(run_engine, devices):
    recorder = Recorder()
    run_engine(bp.scan([devices.scaler, devices.eiger], devices.samx, 0, 1, 2), recorder)
    (descriptor,) = recorder.named("descriptor")
    assert all(key["units"] for key in descriptor["data_keys"].values())
    roles = {}
    for device, configuration in descriptor["configuration"].items():
        roles |= json.loads(configuration["data"][f"{device}-role"])
    assert roles == {
        "samx": "position_x",
        "scaler-i0": "incident_flux",
        "scaler-diode": "counter",
        "scaler-gate_time": "gate_time",
        "scaler-ring_current": "ring_current",
        "eiger": "diffraction",
    }
    assert descriptor["configuration"]["scaler"]["data"]["scaler_preset_time"] == 0.1


def test_the_same_seed_gives_the_same_step_scan(run_engine, devices):
    seen = []
    for _ in range(2):
        recorder = Recorder()
        run_engine(bp.scan([devices.scaler], devices.samx, -5, 5, 6), recorder)
        seen.append(recorder.column("scaler-diode").tolist())
    assert seen[0] == seen[1]


def test_a_fly_scan_sees_the_sample_as_it_is_turned(run_engine, devices):
    recorder = Recorder()

    def plan():
        yield from bps.mv(devices.rotation, 60.0)
        yield from fly_map([devices.xspress3], devices.panda, nx=7, ny=3, rate=np.inf)

    run_engine(plan(), recorder)
    assert set(recorder.column("panda-rotation")) == {60.0}
    path = devices.panda.flyable_logic.prepared
    assert path.beamline.angle == 60.0
    at = path.exposed()
    turned = BEAMLINE.phantom.areal_density(at["x"], at["y"], 60.0)
    assert (turned["Fe"] > 1.5 * BEAMLINE.phantom.areal_density(at["x"], at["y"])["Fe"]).any()
    expected = path.beamline.expose(range(21), at["x"], at["y"], path.gate_time).spectrum
    np.testing.assert_array_equal(recorder.rows("xspress3-spectrum"), expected)


def test_an_energy_scan_crosses_an_edge(run_engine, devices):
    """Below the K edge of strontium (16.105 keV) there are no Sr K lines, above there are."""
    recorder = Recorder()
    steps = [16.05, 16.15]
    run_engine(bp.list_scan([devices.xspress3, devices.eiger], devices.energy, steps), recorder)
    emission = BEAMLINE.emission
    for k in range(BEAMLINE.elements):
        at = emission.zero[k] + emission.gain[k] * np.arange(4096)
        below, above = recorder.rows("xspress3-spectrum")[:, k, np.abs(at - 14.14) < 0.1].sum(1)
        assert above > 5 * below
    # Rings go inwards as the energy rises.
    below, above = recorder.rows("eiger")
    rings = devices.eiger.instrument
    assert rings.ring_angles("LaB6")[0] < replace(rings, energy=16.05).ring_angles("LaB6")[0]
    assert (below != above).any()


def test_surroundings_are_read_as_a_baseline_and_can_be_lost(run_engine, devices):
    recorder = Recorder()
    around = [devices.ring, devices.shutter, devices.hutch]
    run_engine(baseline_wrapper(bp.count([devices.scaler], 2), around), recorder)
    (baseline,) = [d for d in recorder.named("descriptor") if d["name"] == "baseline"]
    assert {k: v.get("units") for k, v in baseline["data_keys"].items()} == {
        "ring-current": "mA",
        "ring-countdown": "s",
        "ring-injecting": None,
        "shutter-state": None,
        "shutter-flux": "counts/s",
        "hutch-temperature": "degC",
        "hutch-pressure": "hPa",
        "hutch-humidity": "%",
    }
    air = BEAMLINE.metrology.air
    assert recorder.column("hutch-pressure").tolist() == [air.pressure] * 2
    assert recorder.column("shutter-state").tolist() == ["open"] * 2
    assert devices.hutch.roles["hutch-temperature"] == "air_temperature"

    run_engine(bps.mv(devices.ring.current, 0.0, devices.shutter.state, "closed"))
    lost = Recorder()
    run_engine(bp.count([devices.ring, devices.shutter]), lost)
    assert lost.column("ring-current").tolist() == [0.0]
    assert lost.column("shutter-state").tolist() == ["closed"]


@pytest.mark.logs_errors
def test_a_box_without_a_stage_makes_no_step_scan(run_engine, devices):
    devices.panda.flyable_logic.stage = None
    with pytest.raises(Exception, match="step scans need the box to know a stage"):
        run_engine(bp.count([devices.eiger]))


# Beam losses


def test_top_up_goes_by_the_clock_and_holds_scans(run_engine, devices):
    now = [3.0]
    ring = devices.ring
    ring._clock = lambda: now[0]

    def look():
        countdown = yield from bps.rd(ring.countdown)
        return countdown, (yield from bps.rd(ring.injecting))

    looks = []

    def some_looks():
        for now[0] in (3.0, 7.9, 8.1, 8.3):
            looks.append((yield from look()))

    run_engine(some_looks())
    assert looks == [
        (5.0, False),
        (pytest.approx(0.1), False),
        (0.0, True),
        (pytest.approx(7.7), False),
    ]

    began = []

    def tick():
        now[0] += 0.05
        return now[0]

    def note(msg):
        if msg.command == "trigger":
            began.append(ring._left())

    ring._clock, run_engine.msg_hook = tick, note
    scan = bp.count([devices.scaler], 40)
    run_engine(suspenders.top_up_gated(scan, ring.countdown, 0.3, settle=0.0, look_every=0.0))
    assert min(began) > 0.2
    assert max(began) > 7.0

    suspender = suspenders.injection_suspender(ring.injecting, settle=0.0)
    now[0], ring._clock = 7.0, lambda: now[0]
    commands = []

    def inject(msg):
        commands.append(msg.command)
        if commands.count("trigger") == 2 and now[0] == 7.0:
            now[0] = 8.1
        if msg.command == "_start_suspender":
            now[0] = 9.0

    run_engine.msg_hook = inject
    recorder = Recorder()
    slow = bp.count([devices.scaler], 4, delay=0.1)
    run_engine(suspend_wrapper(slow, suspender), recorder)
    assert "_start_suspender" in commands
    assert recorder.named("stop")[0]["num_events"]["primary"] == 4


def test_the_flux_holds_scans_without_beam(run_engine, devices):
    flux, state = devices.shutter.flux, devices.shutter.state
    seen, commands = [], []

    def half():
        seen.append((yield from bps.rd(flux)))
        yield from bps.mv(devices.ring.current, 50.0)
        seen.append((yield from bps.rd(flux)))

    run_engine(half())
    assert seen == [MONITOR_RATE + DARK_RATE, MONITOR_RATE / 2 + DARK_RATE]

    def shut(msg):
        commands.append(msg.command)
        if msg.command == "trigger" and commands.count("trigger") == 2:
            state.set("closed")
        if msg.command == "_start_suspender":
            state.set("open")

    run_engine.msg_hook = shut
    recorder = Recorder()
    suspender = suspenders.flux_suspender(flux, 1e6, settle=0.0)
    slow = bp.count([devices.scaler], 4, delay=0.1)
    run_engine(suspend_wrapper(slow, suspender), recorder)
    assert "_start_suspender" in commands
    assert recorder.named("stop")[0]["num_events"]["primary"] == 4


@pytest.mark.parametrize("lost", ["ring", "shutter"])
def test_every_detector_of_a_step_scan_falls_to_dark_without_beam(run_engine, devices, lost):
    recorder = Recorder()
    run_engine(
        bps.mv(devices.ring.current, 0.0)
        if lost == "ring"
        else bps.mv(devices.shutter.state, "closed")
    )
    run_engine(bp.count([devices.scaler, devices.xspress3, devices.eiger], 3), recorder)
    dark = DARK_RATE * 0.1
    assert (recorder.column("scaler-i0") <= poisson.isf(1e-9, dark)).all()
    assert (recorder.column("scaler-diode") <= poisson.isf(1e-9, dark)).all()
    # A closed shutter is not in the way of the ring.
    stored = recorder.column("scaler-ring_current")
    assert (stored == 0).all() if lost == "ring" else (stored > 97).all()
    assert not recorder.rows("xspress3-spectrum").any()
    assert not recorder.rows("xspress3-input_counts").any()
    assert (recorder.rows("xspress3-live_time") == recorder.rows("xspress3-real_time")).all()
    frames, mask = recorder.rows("eiger"), devices.eiger.instrument.mask
    assert not frames[:, ~mask].any()
    assert (frames[:, mask] == devices.eiger.instrument.dummy).all()

    run_engine(bps.mv(devices.ring.current, 50.0, devices.shutter.state, "open"))
    back = Recorder()
    run_engine(bp.count([devices.scaler, devices.xspress3]), back)
    half = MONITOR_RATE * 0.1 / 2
    assert back.column("scaler-i0") == pytest.approx(half, rel=0.01)
    assert back.column("scaler-ring_current") == pytest.approx(50)
    assert back.rows("xspress3-spectrum").any()


def test_every_detector_of_a_flight_falls_to_dark_while_the_beam_is_lost(run_engine, devices):
    """The ring is dumped, comes back, and the shutter closes, while the box flies on."""
    recorder = Recorder()
    changes = [(100.0, "closed"), (100.0, "open"), (0.0, "open")]

    def change(name, document):
        recorder(name, document)
        if name == "event_page" and changes:
            current, state = changes.pop()
            devices.ring.current.set(current)
            devices.shutter.state.set(state)

    detectors = [devices.xspress3, devices.eiger]
    n = 12 * 13
    run_engine(
        fly_map(detectors, devices.panda, nx=12, ny=13, rate=40.0, collect_every=0.05), change
    )
    assert not changes
    path = devices.panda.flyable_logic.prepared
    light = path.beamline.intensity(range(n), path.gate_time)
    i0, spectra = recorder.column("panda-i0"), recorder.rows("xspress3-spectrum")
    dark, whole = light == 0, light > 0.97
    assert whole[0]
    assert dark[-1]
    assert np.count_nonzero(np.diff(dark)) == 3  # dark, light, dark
    assert (~dark & ~whole).sum() <= 3  # those in the course of which the beam changed
    flux = MONITOR_RATE * path.gate_time
    assert (i0[dark] < 10).all()
    assert (recorder.column("panda-diode")[dark] < 10).all()
    np.testing.assert_allclose(i0, flux * light, atol=6 * np.sqrt(flux) + 10)
    assert not spectra[dark].any()
    assert spectra[whole].any(axis=(1, 2)).all()
    frames = recorder.rows("eiger")[:, ~devices.eiger.instrument.mask]
    assert not frames[dark].any()
    assert frames[whole].any(axis=1).all()
    stored = recorder.column("panda-ring_current")
    assert (stored[np.argmax(dark)], stored[-1]) == (0, pytest.approx(99, abs=2))
    # The whole is reproducible from seed and history, and points with beam are as without a loss.
    np.testing.assert_array_equal(i0, path.capture()["i0"])
    np.testing.assert_array_equal(spectra, path.beamline.expose(**path.seen(range(n))).spectrum)
    undisturbed = Trajectory(BEAMLINE, path.points).capture()["i0"]
    changed = np.flatnonzero(np.diff(dark))  # a point may have lost little of its light
    whole[changed] = whole[changed + 1] = False
    np.testing.assert_array_equal(i0[whole], undisturbed[whole])


def test_an_outage_is_the_same_in_every_scan(run_engine, tmp_path):
    beamline = replace(BEAMLINE, outages=((4, 7), (11, 13)))
    devices, seen = connect(beamline, tmp_path), []
    dark = np.isin(np.arange(20), [4, 5, 6, 11, 12])
    for _ in range(2):
        recorder = Recorder()
        run_engine(fly_map([devices.xspress3], devices.panda, nx=5, ny=4, rate=np.inf), recorder)
        seen.append(recorder.rows("xspress3-spectrum"))
        i0 = recorder.column("panda-i0")
        assert ((i0 < 10) == dark).all()
        assert ((recorder.column("panda-ring_current") == 0) == dark).all()
    np.testing.assert_array_equal(*seen)
    assert (seen[0].any(axis=(1, 2)) == ~dark).all()


# Flights along other axes


@pytest.mark.parametrize(
    ("slow", "fast", "fields"),
    [
        ("z", "x", ["panda-z", "panda-x"]),
        ("rotation", "y", ["panda-rotation", "panda-y"]),
        ("x", "rotation", ["panda-x", "panda-rotation"]),
    ],
)
def test_a_flight_goes_along_any_two_axes_and_sees_what_is_there(
    run_engine, devices, slow, fast, fields
):
    recorder = Recorder()
    run_engine(bps.mv(devices.samx, 3.0, devices.samy, -4.0, devices.samz, 5.0))
    run_engine(
        fly_grid([devices.xspress3], devices.panda, slow, 0, 40, 3, fast, -10, 10, 5, rate=np.inf),
        recorder,
    )
    (start,) = recorder.named("start")
    assert start["motors"] == fields
    assert start["shape"] == [3, 5]
    assert start["extents"] == [[0, 40], [-10, 10]]
    assert start["scan"]["units"] == ["deg" if a == "rotation" else "um" for a in (slow, fast)]
    roles = start["devices"]["panda"]["roles"]
    assert [roles[key] for key in fields] == [
        a if a == "rotation" else f"position_{a}" for a in (slow, fast)
    ]
    line = np.linspace(-10, 10, 5)
    there = {"x": 3.0, "y": -4.0, "z": 5.0, "rotation": 0.0}
    there |= {slow: np.repeat([0, 20, 40], 5), fast: np.r_[line, line[::-1], line]}
    for axis, place in there.items():
        seen = recorder.column(f"panda-{axis}")
        np.testing.assert_allclose(seen, np.broadcast_to(place, 15), atol=0.03)
    # The truth is the phantom's, where the axes were.
    at = devices.panda.flyable_logic.prepared.exposed()
    iron = BEAMLINE.phantom.areal_density(at["x"], at["y"], at["rotation"])["Fe"]
    emission = BEAMLINE.emission
    spectra = recorder.rows("xspress3-spectrum")
    peak = [
        spectra[:, k, np.abs(zero + gain * np.arange(4096) - 6.4) < 0.1].sum(axis=1)
        for k, (zero, gain) in enumerate(emission.calibration)
    ]
    counts = np.sum(peak, axis=0) / recorder.column("panda-i0")
    if np.ptp(iron):
        assert np.corrcoef(iron, counts)[0, 1] > 0.99
    # The stage is back where it was.
    assert (devices.samx.position, devices.samz.position) == (3.0, 5.0)
