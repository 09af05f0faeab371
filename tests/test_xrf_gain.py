"""A drifting gain is followed: areas as without drift, the same however batches are cut."""

from typing import Any

import numpy as np
import pytest

from p06bs.callbacks.xrf import Fluorescence
from tests.fluorescence import CHANNELS, composed, model_of, through

AREAS = {"Fe_K": 2000.0, "Cu_K": 500.0, "Zn_K": 100.0, "Scatter_Peak000": 800.0}


def fluorescence(**settings: Any) -> Fluorescence:
    given = {"elements": ("Fe", "Cu", "Zn"), "incident_energy": 11.0} | settings
    return Fluorescence(**given)


def drifted(
    gains: np.ndarray,
    areas: dict[str, float] = AREAS,
    seed: int | None = 1,
    zeros: Any = 0.0,
    model: Any = None,
) -> np.ndarray:
    """Return spectra, (events, 1, channels), taken with relative changes of the gain.

    `zeros` are changes of the zero point, keV.

    Energies stretch by moving counts between channels, which knows nothing of the fit.
    """
    expected = composed(model or model_of(fluorescence()), areas, flat=2.0)[0]
    below = np.concatenate([[0.0], np.cumsum(expected)])
    edges = np.arange(CHANNELS + 1) - 0.5
    shifts = np.broadcast_to(zeros, gains.shape) / 0.01
    made = np.array(
        [
            np.diff(np.interp(edges * (1 + g) + z, edges, below))
            for g, z in zip(gains, shifts, strict=True)
        ]
    )
    if seed is not None:
        made = np.random.default_rng(seed).poisson(made).astype(float)
    return made[:, None]


def test_one_percent_of_drift_costs_copper_16_percent_untracked_and_nothing_tracked() -> None:
    gains = np.linspace(0, 0.01, 400)
    spectrum = drifted(gains)
    fixed, _ = through(fluorescence(), spectrum=spectrum)
    rows, whole = through(fluorescence(track_gain=("Fe_K",)), spectrum=spectrum)
    lost = fixed.columns["Cu_K"][-50:].mean() / AREAS["Cu_K"]
    assert lost < 0.9  # what the drift costs
    for name in ("Fe_K", "Cu_K"):
        area, sigma = rows.columns[name], rows.columns[f"{name}_sigma"]
        assert area[-100:].mean() == pytest.approx(AREAS[name], rel=0.01)
        assert area.mean() == pytest.approx(AREAS[name], rel=0.01)
        pulls = (area - AREAS[name]) / sigma
        assert 0.7 < pulls.std() < 1.1
    drift = rows.columns["gain_drift"][:, 0]
    # Counts of the reference that are averaged over are two events.
    assert np.abs(drift - gains)[5:].max() < 1e-3
    assert np.abs((drift - gains)[5:].mean()) < 5e-5
    assert whole["Cu_K"] == pytest.approx(400 * AREAS["Cu_K"], rel=0.05)  # smeared


def test_zero_point_and_gain_are_followed_together() -> None:
    areas = AREAS | {"Ca_K": 1500.0}
    given: dict[str, Any] = {"elements": ("Ca", "Fe", "Cu", "Zn")}
    gains, zeros = np.linspace(0, 0.006, 200), 0.04 * np.sin(np.linspace(0, 3, 200))
    spectrum = drifted(gains, areas, zeros=zeros, model=model_of(fluorescence(**given)))
    track: dict[str, Any] = {"track_gain": ("Ca_K", "Scatter_Peak000"), "gain_range": 0.01}
    gain_only, _ = through(fluorescence(**given, **track), spectrum=spectrum)
    rows, _ = through(fluorescence(**given, **track, zero_range=0.05), spectrum=spectrum)
    found, moved = rows.columns["gain_drift"][:, 0], rows.columns["zero_drift"][:, 0]
    assert np.abs(found - gains)[5:].max() < 2e-3
    assert np.sqrt(((moved - zeros)[5:] ** 2).mean()) < 4e-3  # keV
    for name in ("Ca_K", "Fe_K", "Cu_K"):
        area, sigma = rows.columns[name], rows.columns[f"{name}_sigma"]
        assert area.mean() == pytest.approx(areas[name], rel=0.01), name
        assert 0.7 < ((area - areas[name]) / sigma).std() < 1.1, name
    # What a gain alone cannot follow at both ends of the spectrum.
    assert gain_only.columns["Ca_K"].mean() < 0.98 * areas["Ca_K"]


def test_batches_may_be_cut_anyhow_also_when_the_zero_point_is_followed() -> None:
    spectrum = drifted(np.linspace(0, 0.005, 24), zeros=np.linspace(0, 0.01, 24))
    modality = fluorescence(track_gain=("Fe_K", "Scatter_Peak000"), zero_range=0.02)
    one, _ = through(modality, spectrum=spectrum)
    for size in (1, 8):
        other, _ = through(modality, sizes=[size] * (24 // size), spectrum=spectrum)
        for name, column in one.columns.items():
            np.testing.assert_allclose(other.columns[name], column, rtol=1e-9, atol=1e-8)


def test_a_zero_point_beyond_its_range_leaves_the_element_out() -> None:
    spectrum = drifted(np.zeros(12), zeros=0.03)
    modality = fluorescence(track_gain=("Fe_K", "Scatter_Peak000"), zero_range=0.01)
    rows, _ = through(modality, spectrum=spectrum)
    assert "beyond gain_range or zero_range" in rows.reasons[-1]


@pytest.mark.parametrize("gain", [-0.015, -0.008, 0.003, 0.012])
def test_areas_between_the_gains_at_which_the_fit_is_solved_are_right(gain: float) -> None:
    spectrum = drifted(np.full(3, gain), seed=None)
    rows, _ = through(fluorescence(track_gain=("Fe_K", "Cu_K"), gain_range=0.02), spectrum=spectrum)
    np.testing.assert_allclose(rows.columns["gain_drift"][:, 0], gain, atol=2e-5)
    for name in ("Fe_K", "Cu_K", "Zn_K"):
        np.testing.assert_allclose(rows.columns[name], AREAS[name], rtol=5e-3, err_msg=name)


def test_each_detector_element_is_followed_for_itself() -> None:
    gains = np.stack([np.linspace(0, 0.01, 60), np.full(60, -0.004), np.linspace(0, -0.01, 60)])
    calibration = ((0.0, 0.01), (-0.05, 0.0101), (0.0, 0.01))
    spectrum = np.concatenate([drifted(g, seed=k) for k, g in enumerate(gains)], axis=1)
    # The second element has another calibration: the same energies in other channels.
    edges = np.arange(CHANNELS + 1) - 0.5
    below = np.concatenate([np.zeros((60, 1)), spectrum[:, 1].cumsum(axis=1)], axis=1)
    at = (-0.05 + 0.0101 * edges) / 0.01
    spectrum[:, 1] = np.array([np.diff(np.interp(at, edges, row)) for row in below])
    rows, whole = through(
        fluorescence(track_gain=("Fe_K",), calibration=calibration, energy_range=(2.0, 11.5)),
        spectrum=spectrum,
    )
    np.testing.assert_allclose(rows.columns["gain_drift"][20:], gains.T[20:], atol=1.5e-3)
    assert rows.columns["Cu_K"][20:].mean() == pytest.approx(3 * AREAS["Cu_K"], rel=0.01)
    peak = whole["energy"][whole["total_spectrum"].argmax()]
    assert peak == pytest.approx(6.404, abs=0.03)
    assert whole["total_spectrum"].sum() == pytest.approx(spectrum.sum(), rel=1e-3)


def cut_anywhere(modality: Any, spectrum: Any, *sizes: int) -> Any:
    """Return the rows of spectra in one batch, which those in batches of other sizes equal."""
    rows, whole = through(modality, spectrum=spectrum)
    for size in sizes:
        cut = [size] * (len(spectrum) // size)
        other, parts = through(modality, sizes=cut, spectrum=spectrum)
        assert other.reasons == rows.reasons
        for name, column in rows.columns.items():
            np.testing.assert_allclose(other.columns[name], column, rtol=1e-9, atol=1e-9)
        for name, value in whole.items():
            np.testing.assert_allclose(parts[name], value, rtol=1e-9, atol=1e-6, err_msg=name)
    return rows


def test_how_batches_are_cut_makes_no_difference_also_with_elements_that_fail() -> None:
    spectrum = np.concatenate([drifted(np.linspace(0, 0.01, 40), seed=k) for k in (1, 2)], axis=1)
    spectrum[7, 0, 640] = np.nan
    spectrum[11] = -1
    modality = fluorescence(track_gain=("Fe_K",))
    one = cut_anywhere(modality, spectrum, 1, 8, 20)
    assert [bool(r) for r in one.reasons] == [k == 11 for k in range(40)]
    assert one.columns["elements_used"].tolist() == [1 if k == 7 else 2 for k in range(39)]


def test_pixels_without_the_reference_keep_the_gain() -> None:
    bright = drifted(np.full(20, 0.008))
    empty = drifted(np.full(300, 0.008), {"Cu_K": 50.0}, seed=2)
    rows, _ = through(
        fluorescence(track_gain=("Fe_K",)), spectrum=np.concatenate([bright, empty, bright])
    )
    drift = rows.columns["gain_drift"][:, 0]
    assert np.abs(drift[15:] - 0.008).max() < 2e-3
    assert rows.columns["Cu_K"][20:320].mean() == pytest.approx(50, abs=1.5)


def test_nothing_is_corrected_before_there_are_counts() -> None:
    spectrum = drifted(np.full(5, 0.008), {"Fe_K": 3.0})
    tracked, _ = through(fluorescence(track_gain=("Fe_K",)), spectrum=spectrum)
    fixed, _ = through(fluorescence(), spectrum=spectrum)
    assert not tracked.columns["gain_drift"].any()
    np.testing.assert_allclose(tracked.columns["Fe_K"], fixed.columns["Fe_K"], rtol=2e-3, atol=0.02)


def test_an_element_that_drifts_out_of_reach_is_left_out_and_comes_back() -> None:
    away = np.array([0.0] * 5 + [0.03] * 15 + [0.0] * 15)
    steady = drifted(np.zeros(35), seed=1)
    both = np.concatenate([drifted(away, seed=2), steady], axis=1)
    rows, _ = through(fluorescence(track_gain=("Fe_K",)), spectrum=both)
    used = rows.columns["elements_used"]
    assert set(used[:5]) == {2}
    assert set(used[15:20]) == {1}
    assert set(used[-5:]) == {2}
    assert np.isnan(rows.columns["gain_drift"][17, 0])
    assert rows.columns["Cu_K"][15:20].mean() == pytest.approx(2 * AREAS["Cu_K"], rel=0.05)
    alone, _ = through(fluorescence(track_gain=("Fe_K",)), spectrum=drifted(away, seed=2))
    assert (
        "gain of each usable detector element is beyond gain_range or zero_range"
        in alone.reasons[17]
    )
    assert not alone.reasons[-1]


def test_dim_pixels_are_out_of_reach_with_the_bright_ones_before_them() -> None:
    gains = np.linspace(0.008, 0.023, 80)
    bright, dim = drifted(gains), drifted(gains, {n: a / 25 for n, a in AREAS.items()}, seed=2)
    is_dim = np.arange(80) % 4 > 0
    spectrum = np.where(is_dim[:, None, None], dim, bright)
    modality = fluorescence(track_gain=("Fe_K",))
    rows = cut_anywhere(modality, spectrum, 1, 8)
    assert rows.valid[gains < 0.014].all()
    # At most the dim ones between the last bright one within reach and the next.
    assert not rows.valid[gains > 0.0165].any()
    assert "gain of each usable detector element is beyond" in rows.reasons[-1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"track_gain": ("Mn_K",)}, "track_gain: the fit has no peak group Mn_K; it has Fe_K"),
        ({"track_gain": ("Fe_K",), "background": "snip"}, "track_gain needs a continuum"),
        ({"track_gain": ("Fe_K",), "zero_range": 0.01}, "zero_range needs two peak groups"),
    ],
)
def test_gains_that_cannot_be_followed_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_of(fluorescence(**settings))
