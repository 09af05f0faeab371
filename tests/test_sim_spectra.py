"""Computed fluorescence spectra: lines where tables have them, counts as the phantom says."""

import math

import numpy as np
import pytest
import xraydb

from p06bs.callbacks.xrf import Fluorescence
from p06bs.model.compute import compute, make_ready
from p06bs.model.conformance import bind_columns
from p06bs.plans.maps import grid
from p06bs.sim.beamline import Beamline
from p06bs.sim.emission import poisson, stretch
from p06bs.sim.layers import Layer
from p06bs.sim.lines import Lines, escape, fluorescence_lines
from p06bs.sim.phantom import Phantom
from p06bs.sim.trajectory import Trajectory

GATE = 0.005


def foil(element, density=1000.0):
    return Phantom({"a": np.ones((1, 1))}, layers={"a": Layer({element: density})})


def arriving(phantom, emission=None, **kwargs):
    """Return the mean spectra of one point, shape ``(elements, channels)``."""
    beamline = Beamline(phantom, emission=emission or Lines(), **kwargs)
    return beamline.expected([0], np.zeros(1), np.zeros(1), GATE)[0]


def energies(emission, k):
    return emission.zero[k] + emission.gain[k] * np.arange(4096)


def test_each_detector_element_has_a_calibration_of_its_own():
    emission = Lines()
    for k, spectrum in enumerate(arriving(foil("Cu"))):
        at = energies(emission, k)
        near = (at > 7.8) & (at < 8.3)
        centre = (at[near] * spectrum[near]).sum() / spectrum[near].sum()
        assert centre == pytest.approx(8.041, abs=0.003)  # mean of Kα1 and Kα2
        width = np.sqrt(((at[near] - centre) ** 2 * spectrum[near]).sum() / spectrum[near].sum())
        expected = np.sqrt(emission.noise[k] ** 2 + 5.5452 * 0.115 * 3.66e-3 * 8.041) / 2.3548
        assert width == pytest.approx(expected, rel=0.03)


def test_line_counts_are_what_is_in_the_peaks():
    beamline = Beamline(foil("Fe"), emission=Lines())
    truth = beamline.line_counts([0], np.zeros(1), np.zeros(1), GATE)["Fe_K"][0]
    empty = arriving(foil("Fe", 0.0))
    for k, spectrum in enumerate(arriving(foil("Fe")) - empty):
        at = energies(beamline.emission, k)
        assert spectrum[(at > 5.8) & (at < 7.7)].sum() == pytest.approx(truth[k], rel=1e-3)
        escaped = spectrum[(at > 4.2) & (at < 5.6)].sum()
        assert escaped / (escaped + truth[k]) == pytest.approx(escape(6.45), rel=0.05)
    assert 0.002 < escape(6.4) < 0.008
    assert escape(1.7) == 0


def test_lines_are_as_strong_as_the_fundamental_parameters_say():
    """Fe K: photoelectric cross-section, share of the K shell and yield, by other tables."""
    whole = sum(line.cross_section for line in fluorescence_lines("Fe", 17.5) if "_K" in line.group)
    cross_section = xraydb.mu_chantler("Fe", 17.5e3, photo=True)
    assert whole == pytest.approx(cross_section * (1 - 1 / 7.89) * 0.351, rel=0.03)
    assert not [line for line in fluorescence_lines("Fe", 7.0) if line.group == "Fe_K"]
    assert {line.group for line in fluorescence_lines("Pb", 17.5)} >= {"Pb_L1", "Pb_L2", "Pb_L3"}
    with pytest.raises(ValueError, match="number per detector element"):
        Lines(noise=(0.1,))


def test_scatter_is_at_the_beams_energy_and_below():
    emission = Lines()
    spectrum = arriving(foil("C", 1e5))[0]
    at = energies(emission, 0)
    compton = 17.5 / (1 + 17.5 / 510.999)
    for centre in (17.5, compton):
        near = np.abs(at - centre) < 0.06
        assert abs(at[near][spectrum[near].argmax()] - centre) < 0.03
        assert spectrum[near].sum() > 1


def test_gain_drifts_by_what_it_is_told():
    still, moved = (
        Beamline(foil("Cu"), emission=Lines(gain_drift=d)).expected(
            [2000], np.zeros(1), np.zeros(1), GATE
        )[0]
        for d in (0.0, 1e-3)
    )
    # 10 s at 0.1 %/s
    np.testing.assert_allclose(moved.argmax(axis=1) / still.argmax(axis=1), 1.01, atol=1e-3)
    np.testing.assert_allclose(moved.sum(axis=1), still.sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(stretch(still, 1.0), still, atol=1e-9)


@pytest.mark.parametrize("level", [0.05, 0.9, 3.0])
def test_few_counts_are_drawn_from_the_same_distribution(level):
    rng = np.random.default_rng(3)
    mean = level * np.linspace(0, 2, 50)
    drawn = np.array([poisson(rng, mean) for _ in range(4000)])
    error = np.sqrt(np.maximum(mean, 1e-9) / 4000)
    assert (np.abs(drawn.mean(axis=0) - mean) < 5 * error + 1e-12).all()
    assert (drawn.var(axis=0)[1:] / mean[1:]).mean() == pytest.approx(1, abs=0.05)
    assert abs(np.corrcoef(drawn[:, 20], drawn[:, 40])[0, 1]) < 0.08


@pytest.fixture(scope="module")
def recorded():
    """A map of 15 by 15 points: its trajectory, places and what the detector recorded."""
    beamline = Beamline(Phantom.default((15, 15)), seed=6, emission=Lines())
    path = Trajectory(beamline, grid((-20, 20), 15, (-20, 20), 15, rate=20.0))
    at = path.exposed()
    exposures = beamline.expose(range(len(path)), at["x"], at["y"], path.gate_time)
    return path, at, exposures


def test_dead_time_is_up_to_15_percent(recorded):
    _, _, exposures = recorded
    dead = 1 - exposures.live_time / exposures.real_time
    assert dead.min() < 0.02
    assert 0.10 < dead.max() <= 0.15
    pulses = exposures.output_counts / exposures.input_counts
    np.testing.assert_allclose(pulses, exposures.live_time / exposures.real_time, atol=0.03)


def test_fitted_areas_have_slope_1_against_the_phantom(recorded):
    """PyMca's tables fit what xraydb's drew, dead time corrected, in each isolated line."""
    path, at, exposures = recorded
    beamline = path.beamline
    modality = Fluorescence(
        elements=("Ar-K", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Se", "Sr"),
        incident_energy=17.5,
        calibration=beamline.emission.calibration,
        energy_range=(2.6, 18.2),
        noise=0.08,
        fano=0.115,
    )
    columns = {
        "spectrum": exposures.spectrum,
        "live_time": exposures.live_time,
        "real_time": exposures.real_time,
    }
    setup = make_ready(modality, modality.settings, bind_columns(modality, columns))
    areas = compute(setup, columns, [""] * len(path)).columns
    truth = beamline.line_counts(range(len(path)), at["x"], at["y"], path.gate_time)
    for line in ("Cr_K", "Fe_K", "Cu_K", "Zn_K", "Se_K", "Sr_K"):
        arrived = truth[line].sum(axis=1)
        slope = np.polyfit(arrived, areas[line], 1)[0]
        print(line, slope)
        assert slope == pytest.approx(1, abs=0.02), line
        # And the truth is the phantom's element map, times the ring current.
        density = beamline.phantom.areal_density(at["x"], at["y"])[line.removesuffix("_K")]
        flux = beamline.current(range(len(path)), path.gate_time)
        ratio = arrived / np.where(density > 0, density * flux, math.nan)
        np.testing.assert_allclose(ratio, np.nanmean(ratio), rtol=1e-9)
