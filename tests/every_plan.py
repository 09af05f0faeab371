"""Every plan of the beamline on the simulated one, small and quick, for tests of all of them."""

import threading
from functools import partial

import numpy as np
from ophyd.sim import SynSignal

from p06bs.plans import alignment, maps, scans, tomography
from p06bs.sim.beamline import Beamline
from p06bs.sim.phantom import Phantom

BEAMLINE = Beamline(Phantom.default((9, 9)), seed=3)


def edge_of(motor, sigma=0.8, centre=1.5):
    """Return a signal behind an edge in a beam."""
    from scipy.special import erf

    def shines():
        return 1000 * (1 + erf((motor.position - centre) / sigma / np.sqrt(2))) / 2

    return SynSignal(name="shine", func=shines)


RATE = {"rate": 15.0, "gate_time": 0.003, "collect_every": 0.04}
PROJECTION = {
    **{"tomography": "8b3c", "projections": 3, "projection": 2},
    **{"first_angle": 0.0, "span": 180.0, "order": "linear"},
}
PLANS = {  # all but flights take more detectors than the scaler
    "maps.step_map": lambda d, *more: maps.step_map(
        [d.scaler, *more], d.samy, -8, 8, 3, d.samx, -10, 10, 4, dwell=0.05
    ),
    "maps.spiral_map": lambda d, *more: maps.spiral_map(
        [d.scaler, *more], d.samx, 1, 10, d.samy, 2, 8, 2.8
    ),
    "fly_maps.fly_map": lambda d: maps.fly_map([d.xspress3], d.panda, nx=4, ny=3, **RATE),
    "fly_maps.fly_grid": lambda d: maps.fly_grid(
        [d.xspress3], d.panda, "z", -1, 1, 3, "x", -10, 10, 4, **RATE
    ),
    "fly_maps.fly_spiral": lambda d: maps.fly_spiral(
        [d.xspress3], d.panda, size=(10, 8), distance=2.8, **RATE
    ),
    "scans.line_scan": lambda d, *more: scans.line_scan(
        [d.scaler, *more], d.samx, 0, 5, num=12, dwell=0.05
    ),
    "scans.time_series": lambda d, *more: scans.time_series([d.scaler, *more], 12, dwell=0.05),
    "scans.energy_scan": lambda d, *more: scans.energy_scan(
        [d.scaler, *more], d.energy, (17, 17.5, 0.1, 0.05), (17.5, 17.8, 0.05, 0.1)
    ),
    "alignment.knife_edge": lambda d, *more: alignment.knife_edge(
        [edge_of(d.samx), d.scaler, *more], d.samx, -3, 5, 12, "shine", align=True
    ),
    "tomography.tomography": lambda d, *more: tomography.tomography(
        partial(maps.step_map, [d.scaler, *more], d.samy, -1, 1, 3, d.samx, -1, 1, 3),
        d.rotation,
        2,
    ),
    "tomography.resume_tomography": lambda d, *more: tomography.resume_tomography(
        partial(maps.step_map, [d.scaler, *more], d.samy, -1, 1, 3, d.samx, -1, 1, 3),
        d.rotation,
        {"start": {"scan": PROJECTION}, "stop": {"exit_status": "abort"}},
    ),
}
FLIGHTS = {"fly_maps.fly_map", "fly_maps.fly_grid", "fly_maps.fly_spiral"}
AXES = {
    "fly_maps.fly_grid": ("panda-z", "panda-x"),
    **dict.fromkeys(("fly_maps.fly_map", "fly_maps.fly_spiral"), ("panda-y", "panda-x")),
    **dict.fromkeys(("scans.line_scan", "alignment.knife_edge"), ("samx",)),
    "scans.time_series": ("scaler-gate_time",),
    "scans.energy_scan": ("energy",),
}
AXES |= {name: ("samy", "samx") for name in PLANS if name not in AXES}


def at_row(number, action):
    """Return a callback that acts in a thread at a row of a scan: anywhere in the plan."""
    left = [number]

    def count(name, document):
        if name in ("event", "event_page"):
            left[0] -= 1 if name == "event" else len(document["seq_num"])
            if left[0] <= 0 < left[0] + 1000:
                left[0] = -1000
                threading.Thread(target=action).start()

    return count
