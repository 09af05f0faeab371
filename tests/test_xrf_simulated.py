"""Areas against the simulated beamline's truth: isolated lines have slope 1 ± 0.02.

With dead times up to 36 %, detector elements that differ in gain, zero point, noise, solid angle
and dead time, gains and zero points that drift, top-up, and several seeds.
"""

from typing import Any

import numpy as np
import pytest

from p06bs.callbacks.xrf import Fluorescence
from p06bs.plans.maps import grid
from p06bs.sim.beamline import Beamline
from p06bs.sim.lines import Lines
from p06bs.sim.phantom import Phantom
from p06bs.sim.trajectory import Trajectory
from tests.fluorescence import through

ISOLATED = ("Cr_K", "Fe_K", "Cu_K", "Zn_K", "Se_K", "Sr_K")
NX, NY, RATE = 21, 12, 50.0
TIMES: dict[str, Any] = {"live_time": "s", "real_time": "s", "incident_flux": "counts"}


def fluorescence(emission: Lines, **settings: Any) -> Fluorescence:
    given = {
        "elements": ("Ar-K", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Se", "Sr"),
        "incident_energy": 17.5,
        "calibration": emission.calibration,
        "energy_range": (2.6, 18.2),
        "noises": emission.noise,
        "fano": emission.fano,
    }
    return Fluorescence(**(given | settings))


def recorded(emission: Lines, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return what a map's detector recorded, and the line counts that arrived in all elements."""
    beamline = Beamline(Phantom.default((NY, NX)), seed=seed, emission=emission)
    path = Trajectory(beamline, grid((-20, 20), NX, (-20, 20), NY, rate=RATE))
    at, points = path.exposed(), range(len(path))
    seen = beamline.expose(points, at["x"], at["y"], path.gate_time)
    i0, _ = beamline.counters(points, at["x"], at["y"], path.gate_time)
    truth = beamline.line_counts(points, at["x"], at["y"], path.gate_time)
    columns = {
        "spectrum": seen.spectrum,
        "live_time": seen.live_time,
        "real_time": seen.real_time,
        "incident_flux": i0,
    }
    return columns, {line: counts.sum(axis=1) for line, counts in truth.items()}


def slope(truth: np.ndarray, found: np.ndarray) -> float:
    return float(np.polyfit(truth, found, 1)[0])


# Elements that differ in everything, at rates at which the busiest one is blind for a third.
BUSY = Lines(
    solid_angle=(0.010, 0.0085, 0.011, 0.0095),
    gain=(0.005, 0.0052, 0.0048, 0.00501),
    zero=(0.0, 0.04, -0.03, 0.01),
    dead_time=(1.7e-7, 2.2e-7, 2.6e-7, 3.3e-7),
)


@pytest.mark.parametrize(("seed", "emission"), [(1, Lines()), (2, Lines()), (3, BUSY), (4, BUSY)])
def test_areas_have_slope_1_against_the_phantom(seed: int, emission: Lines) -> None:
    columns, truth = recorded(emission, seed)
    dead = 1 - columns["live_time"] / columns["real_time"]
    assert dead.max() > (0.3 if emission is BUSY else 0.12)
    rows, whole = through(fluorescence(emission), units=TIMES, **columns)
    for line in ISOLATED:
        assert slope(truth[line], rows.columns[line]) == pytest.approx(1, abs=0.02), line
        # Sums have no bias beside what the fit's tables make different.
        assert whole[line] == pytest.approx(truth[line].sum(), rel=0.02), line


# A fit is solved at some twenty gains for each calibration, which takes its time.
PAIR = {"solid_angle": (0.02, 0.017), "gain": (0.005, 0.0052), "zero": (0.0, 0.04)}
PAIR |= {"noise": (0.075, 0.085), "dead_time": (1e-7, 1.3e-7)}


def test_areas_keep_slope_1_while_gains_drift_each_their_own_way() -> None:
    beam_time = NX * NY / RATE
    drift = tuple(d / beam_time for d in (0.01, -0.008))
    emission = Lines(**PAIR, gain_drift=drift)
    columns, truth = recorded(emission, seed=5)
    tracked = fluorescence(emission, track_gain=("Fe_K", "Sr_K"), gain_range=0.02)
    fixed, _ = through(fluorescence(emission), units=TIMES, **columns)
    rows, _ = through(tracked, units=TIMES, **columns)
    assert slope(truth["Sr_K"], fixed.columns["Sr_K"]) < 0.95
    for line in ISOLATED:
        assert slope(truth[line], rows.columns[line]) == pytest.approx(1, abs=0.022), line
    # The simulation says which way channels move, the fit by how much a channel's keV change.
    ends = -np.array(drift) * beam_time
    np.testing.assert_allclose(rows.columns["gain_drift"][-20:].mean(axis=0), ends, atol=1.5e-3)


def test_areas_keep_slope_1_while_gains_and_zero_points_drift() -> None:
    emission = Lines(**PAIR, gain_drift=0.0015)
    columns, truth = recorded(emission, seed=6)
    count = NX * NY
    zeros = 0.02 * np.sin(np.linspace(0, 3, count))[:, None] * np.array([1.0, -1.5])
    columns["spectrum"] = moved(columns["spectrum"], zeros / np.array(emission.gain))
    track: dict[str, Any] = {"track_gain": ("Ar_K", "Fe_K", "Sr_K", "Scatter_Peak000")}
    modality = fluorescence(emission, **track, gain_range=0.012, zero_range=0.05)
    rows, _ = through(modality, units=TIMES, **columns)
    error = rows.columns["zero_drift"] - zeros
    assert np.sqrt((error[20:] ** 2).mean()) < 0.006  # keV
    for line in ISOLATED:
        assert slope(truth[line], rows.columns[line]) == pytest.approx(1, abs=0.022), line


def moved(spectra: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """Return spectra whose counts went down by so many channels, each count by a whole number.

    The fraction of the counts that goes one further is drawn, so that counts stay Poisson's.
    """
    rng = np.random.default_rng(0)
    made = np.zeros_like(spectra)
    size = spectra.shape[-1]
    for place in np.ndindex(spectra.shape[:-1]):
        down = int(np.floor(channels[place]))
        further = rng.binomial(spectra[place], channels[place] - down)
        for counts, by in ((spectra[place] - further, down), (further, down + 1)):
            to = slice(max(0, -by), size - max(0, by))
            made[place][to] += counts[max(0, by) : size - max(0, -by)].astype(made.dtype)
    return made
