"""Powder patterns equal those of pyFAI and sums of whole counts; bad input is flagged."""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import curve_fit

from p06bs.callbacks.xrd import PowderDiffraction
from p06bs.model.modality import INVALID
from tests.powder import PILATUS, SIDE, SQUARE, counted, powder, pyfai, run


def pilatus() -> tuple[Any, np.ndarray]:
    """Return pyFAI's integrator and frames of LaB6: gaps -1, in one frame a block of -2."""
    integrator = pyfai(PILATUS, (619, 487))
    frames = counted(powder(integrator, "LaB6", peak=300, width=0.2, under=3))
    frames[:, integrator.detector.mask != 0] = -1
    frames[1, 100:120, 200:400] = -2
    return integrator, frames


def apart(made: Any, expected: Any) -> float:
    """Return the largest difference, as a share of the highest peak; NaN belongs to no counts."""
    there = expected.count > 0
    assert np.array_equal(np.isnan(made), ~there)
    difference = np.abs(made - expected.intensity)[there].max()
    return float(difference / expected.intensity.max())


# Equal to pyFAI


@pytest.mark.parametrize("splitting", ["no", "bbox", "full"])
@pytest.mark.parametrize("unit", ["q_nm^-1", "q_A^-1", "2th_deg"])
def test_patterns_equal_those_of_pyfai(unit: str, splitting: str) -> None:
    integrator, frames = pilatus()
    modality = PowderDiffraction(
        poni=PILATUS, unit=unit, bins=500, splitting=splitting, polarization_factor=0.95
    )
    made, setup = run(modality, frames=frames)
    for event in range(2):
        expected = integrator.integrate1d(
            frames[event], 500, unit=unit, method=(splitting, "csr", "cython"),
            polarization_factor=0.95, error_model="poisson", dummy=-2, delta_dummy=1.5,
        )  # fmt: skip
        assert apart(made["intensity"][event], expected) < 1e-6
        np.testing.assert_allclose(setup.bins.radial, expected.radial, rtol=1e-12)
        # pyFAI takes pixels without counts as having one.
        ratio = np.nanmedian(made["sigma"][event] / expected.sigma)
        assert 0.98 < ratio <= 1.0001
    assert made["n_invalid"].tolist() == [0, 4000, 0]
    assert made["n_saturated"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("splitting", ["no", "full"])
def test_cakes_equal_those_of_pyfai_and_add_up_to_the_pattern(splitting: str) -> None:
    integrator, frames = pilatus()
    settings: dict[str, Any] = {"poni": PILATUS, "bins": 200, "splitting": splitting}
    made, setup = run(PowderDiffraction(**settings, azimuthal_bins=24), frames=frames)
    plain, _ = run(PowderDiffraction(**settings), frames=frames)
    expected = integrator.integrate2d(
        frames[1], 200, 24, unit="q_nm^-1", method=(splitting, "csr", "cython"),
        azimuth_range=(-180, 180), dummy=-2, delta_dummy=1.5,
    )  # fmt: skip
    assert apart(made["cake"][1], expected) < 1e-6
    np.testing.assert_allclose(setup.bins.azimuth, expected.azimuthal, atol=1e-9)
    assert made["cake_sigma"].shape == made["cake"].shape
    # With splitting, what lies beside the corners of a pixel differs between 1-D and 2-D.
    np.testing.assert_allclose(
        made["intensity"], plain["intensity"], rtol=1e-12 if splitting == "no" else 1e-3
    )


def test_flat_dark_and_range_are_those_of_pyfai(tmp_path: Any) -> None:
    integrator, frames = pilatus()
    rng = np.random.default_rng(2)
    flat, dark = (rng.uniform(low, low + 1, frames.shape[1:]) for low in (0.5, 0.0))
    flat[300, 50], dark[301, 60] = 0, np.nan
    np.save(tmp_path / "flat.npy", flat)
    np.save(tmp_path / "dark.npy", dark)
    modality = PowderDiffraction(
        poni=PILATUS, bins=300, range=(10, 40), flat=tmp_path / "flat.npy",
        dark=str(tmp_path / "dark.npy"), solid_angle=False,
    )  # fmt: skip
    made, _ = run(modality, frames=frames)
    mask = integrator.detector.mask.copy()
    mask[300, 50] = mask[301, 60] = 1
    dark[301, 60] = 0
    expected = integrator.integrate1d(
        frames[1], 300, unit="q_nm^-1", radial_range=(10, 40), method=("no", "csr", "cython"),
        mask=mask, dark=dark, flat=flat, correctSolidAngle=False, dummy=-2, delta_dummy=1.5,
    )  # fmt: skip
    assert apart(made["intensity"][1], expected) < 1e-5


@pytest.mark.parametrize("limits", [(-40, 70), (150, 250)])
def test_a_sector_has_the_pixels_whose_azimuth_lies_in_it(limits: tuple[float, float]) -> None:
    frames = counted(np.full((SIDE, SIDE), 50.0), dtype=np.uint16)
    settings: dict[str, Any] = {"poni": SQUARE, "bins": 20, "solid_angle": False}
    made, setup = run(
        PowderDiffraction(**settings, azimuth_range=limits, azimuthal_bins=5), frames=frames
    )
    chi = np.rad2deg(pyfai(SQUARE, (SIDE, SIDE)).chiArray((SIDE, SIDE)))
    inside = (chi - limits[0]) % 360 <= limits[1] - limits[0]
    assert setup.bins.pixels == inside.sum()
    assert made["total"].tolist() == frames[:, inside].sum(axis=1).tolist()
    width = (limits[1] - limits[0]) / 5
    np.testing.assert_allclose(
        setup.bins.azimuth, limits[0] + width * (np.arange(5) + 0.5), atol=1e-4
    )


# Exact


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "u4", "i2", "i4", ">i4", "i8", "u8", "f4"])
def test_sums_of_whole_counts_are_exact(dtype: str) -> None:
    top = {"1": 253, "2": 30000}.get(dtype[-1], 2**24)
    rng = np.random.default_rng(3)
    frames = rng.integers(0, top, (4, SIDE, SIDE), endpoint=True).astype(dtype)
    edges = {"ring": (5, 12), "beyond": (12.5, 16)}
    modality = PowderDiffraction(poni=SQUARE, bins=50, solid_angle=False, rings=edges)
    made, _ = run(modality, frames=frames)
    q = pyfai(SQUARE, (SIDE, SIDE)).qArray((SIDE, SIDE)).ravel()
    at = np.minimum((q - q.min()) / (q.max() * (1 + 2.0**-23) - q.min()) * 50, 49).astype(int)
    exact = frames.astype(np.int64).reshape(4, -1)
    number = np.bincount(at, minlength=50)
    for event in range(4):
        sums = np.bincount(at, exact[event], minlength=50)
        np.testing.assert_array_equal(made["intensity"][event], sums / number)
        np.testing.assert_array_equal(made["sigma"][event], np.sqrt(sums) / number)
        for name, (low, high) in edges.items():
            inside = exact[event, (q >= low) & (q <= high)].sum()
            assert made[name][event] == inside
            assert made[f"{name}_sigma"][event] == np.sqrt(inside)
    assert made["total"].tolist() == exact.sum(axis=1).tolist()
    assert INVALID not in made


def test_sums_beyond_32_bit_are_exact() -> None:
    frames = np.full((1, SIDE, SIDE), 2**32 - 3, np.uint32)
    made, _ = run(PowderDiffraction(poni=SQUARE, bins=1, solid_angle=False), frames=frames)
    assert made["total"].tolist() == [SIDE**2 * (2**32 - 3)]


# Truth


def gauss(x: Any, area: float, centre: float, width: float, under: float) -> Any:
    return under + area * np.exp(-0.5 * ((x - centre) / width) ** 2)


@pytest.mark.parametrize(
    ("name", "distance", "width"), [("LaB6", 0.2, 0.1), ("CeO2", 0.2, 0.1), ("AgBh", 1.2, 0.08)]
)
def test_rings_of_calibrants_are_where_they_belong(
    name: str, distance: float, width: float
) -> None:
    from pyFAI.calibrant import get_calibrant

    poni = {**PILATUS, "detector": "Pilatus 1M", "distance": distance, "poni1": 0.09, "poni2": 0.1}
    integrator = pyfai(poni, (1043, 981))
    frames = counted(powder(integrator, name, peak=2000, width=width, under=20), events=1)
    made, setup = run(PowderDiffraction(poni=poni, bins=2000), frames=frames)
    q, pattern = setup.bins.radial, made["intensity"][0]
    calibrant = get_calibrant(name)
    expected = 20 * np.pi / np.array(calibrant.dspacing[:6])  # 1/nm
    step = np.diff(expected).min() / 2
    sigma = 2 * np.pi / 0.07 * np.deg2rad(width) / 2.3548
    for ring in expected:
        near = np.abs(q - ring) < min(step, 5 * sigma)
        start = (pattern[near].max(), ring * 1.001, sigma, 20)
        fitted, _ = curve_fit(gauss, q[near], pattern[near], start, made["sigma"][0][near])
        assert fitted[1] == pytest.approx(ring, rel=2e-4)


@pytest.mark.parametrize("splitting", ["no", "full"])
def test_sigma_is_that_of_poisson_counts(splitting: str) -> None:
    frames = counted(np.full((SIDE, SIDE), 3.0), events=400, dtype=np.uint16)
    frames[:, 20:25, 20:25] = 65535
    modality = PowderDiffraction(poni=SQUARE, bins=30, splitting=splitting, solid_angle=False)
    made, _ = run(modality, frames=frames)
    pulls = (made["intensity"] - 3.0) / made["sigma"]
    assert 0.95 < pulls[:, 2:].std() < 1.05
    assert abs(pulls[:, 2:].mean()) < 0.1


def test_no_counts_have_the_uncertainty_of_one() -> None:
    frames = np.zeros((1, SIDE, SIDE), np.uint16)
    made, setup = run(PowderDiffraction(poni=SQUARE, bins=10, solid_angle=False), frames=frames)
    assert (made["intensity"] == 0).all()
    np.testing.assert_allclose(made["sigma"][0], 1 / setup.bins.full[0])
    assert INVALID not in made


# Rings


def test_rings_stand_above_what_lies_beside_them() -> None:
    q = pyfai(SQUARE, (SIDE, SIDE)).qArray((SIDE, SIDE))
    expected = np.where((q > 9.5) & (q < 10.5), 60.0, 20.0)
    frames = counted(expected, events=200, dtype=np.uint16)
    frames[:, 10:14] = 65535  # pixels that are lost here and there
    ring = {"low": 9, "high": 11, "background": [(7, 8.5), (11.5, 13)]}
    modality = PowderDiffraction(poni=SQUARE, rings={"peak": ring, "plain": (9, 11)}, dark=2.0)
    made, _ = run(modality, frames=frames)
    valid = np.ones_like(q, bool)
    valid[10:14] = False
    inside = valid & (q >= 9) & (q <= 11)
    truth = 40 * (valid & (q > 9.5) & (q < 10.5)).sum()
    pulls = (made["peak"] - truth) / made["peak_sigma"]
    assert abs(pulls.mean()) < 0.25
    assert 0.85 < pulls.std() < 1.15
    plain = frames[:, inside].sum(axis=1) - 2.0 * inside.sum()
    np.testing.assert_allclose(made["plain"], plain, rtol=1e-12)


def test_a_ring_without_valid_pixels_is_nan_and_spoils_nothing_else() -> None:
    q = pyfai(SQUARE, (SIDE, SIDE)).qArray((SIDE, SIDE))
    frames = np.full((2, SIDE, SIDE), 5, np.uint16)
    frames[1, (q >= 9) & (q <= 11)] = 65535
    rings = {"a": (9, 11), "b": (3, 5), "c": {"low": 3, "high": 5, "background": (9, 11)}}
    made, _ = run(PowderDiffraction(poni=SQUARE, rings=rings), frames=frames)
    assert np.isnan(made["a"]).tolist() == [False, True]
    assert np.isnan(made["c"]).tolist() == [False, True]
    assert np.isnan(made["c_sigma"]).tolist() == [False, True]
    assert made["b"][0] == made["b"][1]
    assert INVALID not in made


# Bad input


@pytest.mark.slow
def test_dummies_of_detectors_are_left_out_and_counted() -> None:
    for dtype, dummies in {
        "i4": (-1, -2, 2**31 - 1),
        "i2": (-1, -2, 2**15 - 1),
        "u2": (2**16 - 1, 2**16 - 2),
        "u4": (2**32 - 1, 2**32 - 2),
        "u1": (255, 254),
        "u8": (2**64 - 1, 2**40),
        "i8": (-1, 2**62),
        "f4": (np.nan, np.inf, -np.inf, -1, -2, 2**32 - 1),
        "f8": (2**32 - 2, np.inf),
    }.items():
        frames = np.full((len(dummies) + 1, SIDE, SIDE), 7, dtype)
        for event, dummy in enumerate(dummies):
            frames[event, 3, 4:10] = dummy
        made, _ = run(PowderDiffraction(poni=SQUARE, bins=9, solid_angle=False), frames=frames)
        assert made["n_invalid"].tolist() == [*[6] * len(dummies), 0]
        assert (made["intensity"] == 7).all()
        assert INVALID not in made
        assert made["n_saturated"].sum() == {"u": 12, "i": 6, "f": 6}[dtype[0]]


def test_zeros_are_counts_also_of_a_lambda_detector() -> None:
    poni = {**PILATUS, "detector": "Lambda 60k"}
    expected = np.full((256, 256), 0.2)
    frames = counted(expected, events=2, dtype=np.uint16)
    made, _ = run(PowderDiffraction(poni=poni, bins=20, solid_angle=False), frames=frames)
    assert made["n_invalid"].tolist() == [0, 0]
    assert made["intensity"].mean() == pytest.approx(0.2, rel=0.05)


def test_frames_may_be_binned_as_the_detector_can() -> None:
    poni = {**PILATUS, "detector": "Mar 165"}
    shape = (1024, 1024)
    frames = counted(np.full(shape, 9.0), events=1, dtype=np.uint16)
    theirs = pyfai(poni, shape)
    assert theirs.detector.guess_binning(frames[0])
    made, setup = run(PowderDiffraction(poni=poni, bins=50), frames=frames)
    plain = {**PILATUS, "detector": None, "pixel1": 1.58e-4}
    named = PowderDiffraction(poni=plain, bins=50, mask="mar165")
    same, _ = run(named, frames=frames)
    expected = theirs.integrate1d(frames[0], 50, unit="q_nm^-1", method=("no", "csr", "cython"))
    np.testing.assert_allclose(setup.bins.radial, expected.radial, rtol=1e-6)
    np.testing.assert_allclose(made["intensity"][0], expected.intensity, rtol=1e-5)
    np.testing.assert_allclose(same["intensity"][0], expected.intensity, rtol=1e-5)


def test_what_is_valid_can_be_set() -> None:
    frames = np.full((1, SIDE, SIDE), 100, np.int32)
    frames[0, 0, :5], frames[0, 1, :3], frames[0, 2, :2] = (-5, 1000, 42)
    settings: dict[str, Any] = {"poni": SQUARE, "bins": 5, "solid_angle": False}
    made, _ = run(PowderDiffraction(**settings), frames=frames.copy())
    assert (made["n_invalid"][0], made["n_saturated"][0]) == (5, 0)
    made, _ = run(
        PowderDiffraction(**settings, minimum=-10, saturation=1000, dummy=(42, 1.5)),
        frames=frames.copy(),
    )
    assert (made["n_invalid"][0], made["n_saturated"][0]) == (5, 3)
    assert made["total"][0] == 100 * (SIDE**2 - 10) - 25
    made, _ = run(
        PowderDiffraction(**settings, minimum=0.5, saturation=1000, dummy=(42,)),
        frames=frames.astype(float),
    )
    assert (made["n_invalid"][0], made["n_saturated"][0]) == (10, 3)


def test_negative_floats_are_values_where_no_dummy_is_wanted() -> None:
    frames = np.random.default_rng(5).integers(-3, 4, (1, SIDE, SIDE)).astype(np.float32)
    made, _ = run(PowderDiffraction(poni=SQUARE, bins=5, dummy=()), frames=frames)
    assert made["n_invalid"].tolist() == [0]
    assert made["total"][0] == frames.sum()


@pytest.mark.parametrize("splitting", ["no", "bbox"])
def test_events_without_valid_pixels_are_invalid(splitting: str) -> None:
    frames = np.full((4, SIDE, SIDE), 7, np.uint16)
    frames[1] = 65535
    frames[2, :40] = 65535
    settings: dict[str, Any] = {"poni": SQUARE, "bins": 9, "splitting": splitting}
    made, _ = run(
        PowderDiffraction(**settings, rings={"a": (3, 9)}, azimuthal_bins=3, max_invalid=1),
        frames=frames,
    )
    assert made[INVALID].tolist() == ["", f"all {SIDE**2} used pixels are invalid", "", ""]
    for name in ("intensity", "sigma", "cake", "cake_sigma", "a", "a_sigma", "total"):
        assert np.isnan(made[name][1]).all(), name
    assert made["n_invalid"][1] == np.iinfo(np.int64).min
    np.testing.assert_allclose(made["intensity"][3], made["intensity"][0], rtol=1e-12)
    made, _ = run(PowderDiffraction(**settings), frames=frames)
    assert made[INVALID].tolist()[2] == f"2400 of {SIDE**2} used pixels are invalid"


@pytest.mark.parametrize(
    ("unit", "per_second"),
    [("counts", False), ("counts/s", True), ("nA", True), ("V", True), ("nC", False)],
)
def test_normalising_divides_by_the_incident_flux(unit: str, per_second: bool) -> None:
    frames = counted(np.full((SIDE, SIDE), 9.0), events=7, dtype=np.uint16)
    i0 = np.array([1e4, 2e4, 0.0, np.nan, -1.0, np.inf, 1e4])
    exposure = np.array([0.5, 0.25, 1, 1, 1, 1, 0.0])
    settings: dict[str, Any] = {"poni": SQUARE, "bins": 9, "rings": {"a": (3, 9)}}
    plain, _ = run(PowderDiffraction(**settings), frames=frames)
    made, setup = run(
        PowderDiffraction(**settings, normalise=True), {"incident_flux": unit},
        frames=frames, incident_flux=i0, exposure=exposure,
    )  # fmt: skip
    received = (i0 * exposure if per_second else i0)[:2]
    for name in ("intensity", "sigma", "total", "a", "a_sigma"):
        np.testing.assert_allclose((made[name][:2].T * received).T, plain[name][:2], rtol=1e-12)
        assert np.isnan(made[name][2:6]).all()
    reasons = made[INVALID].tolist()
    assert reasons[:6] == ["", "", *(f"incident flux is {v:g}" for v in i0[2:6])]
    assert reasons[6] == ("exposure is 0 s" if per_second else "")
    outputs = PowderDiffraction(**settings, normalise=True).outputs(
        setup.settings, {"incident_flux": _feed(unit)}
    )
    assert outputs["intensity"].unit == f"counts/({unit}{'*s' if per_second else ''})"


def _feed(unit: str) -> Any:
    from p06bs.model.modality import BoundInput

    return BoundInput("primary", "i0", False, (), (), "<f8", unit)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"poni": PILATUS}, r"frames have shape \(60, 60\), but .* Pilatus 300k, has \(619, 487\)"),
        ({"poni": {**SQUARE, "detector": "Pilatus 17"}}, "no detector 'Pilatus 17'; there are .*p"),
        ({"mask": np.zeros((5, 6))}, r"mask has shape \(5, 6\), frames have \(60, 60\)"),
        ({"mask": "Eiger 1M"}, "mask 'Eiger 1M' has shape"),
        ({"mask": "Detector"}, "pyFAI has none of the detector 'Detector'"),
        ({"mask": np.ones((60, 60))}, "leave no pixel"),
        ({"range": (200, 300)}, r"range: no used pixel lies within \(200.0, 300.0\) q_nm\^-1"),
        ({"rings": {"a": (200, 300)}}, r"rings.a: .* within \(200, 300\) q_nm\^-1; they go from"),
        ({"rings": {"a": {"low": 3, "high": 9, "background": (200, 300)}}}, "rings.a: no used"),
        ({"poni": {**SQUARE, "wavelength": None}}, r"q_nm\^-1 needs the wavelength: in poni"),
        ({"normalise": True}, "normalise needs the input 'incident_flux'"),
    ],
)
def test_settings_that_do_not_match_the_frames_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(
            PowderDiffraction(**{"poni": SQUARE, **settings}),
            frames=np.ones((1, SIDE, SIDE), np.uint16),
        )


def test_pixels_that_pyfai_cannot_split_are_refused() -> None:
    hexagons = {**PILATUS, "detector": "Pixirad1"}
    with pytest.raises(ValueError, match=r"cannot share out the pixels .* splitting 'full'"):
        run(
            PowderDiffraction(poni=hexagons, splitting="full"),
            frames=np.ones((1, 476, 512), np.uint16),
        )


def test_frames_that_no_setting_fits_are_invalid() -> None:
    frames = np.random.default_rng(0).poisson(10, (3, SIDE, SIDE)).astype(np.uint16)
    frames[1] = 900
    dark, _ = run(PowderDiffraction(poni=SQUARE, dark=1000), frames=frames)
    assert [bool(r) for r in dark[INVALID]] == [True, False, True]
    assert dark[INVALID][0] == "it has less than half of the 3.6e+06 dark counts"
    frames = frames.copy()
    frames[1] = 0
    low, _ = run(PowderDiffraction(poni=SQUARE, saturation=5), frames=frames)
    assert [bool(r) for r in low[INVALID]] == [True, False, True]
    assert "used pixels are invalid" in low[INVALID][0]


def test_a_flux_per_second_needs_the_exposure() -> None:
    with pytest.raises(ValueError, match="incident flux per second needs the input 'exposure'"):
        run(
            PowderDiffraction(poni=SQUARE, normalise=True), {"incident_flux": "1/s"},
            frames=np.ones((1, SIDE, SIDE), np.uint16), incident_flux=np.ones(1),
        )  # fmt: skip


# Batches and results of the whole run


@pytest.mark.parametrize("settings", [{}, {"azimuthal_bins": 6}, {"splitting": "full"}])
def test_results_do_not_depend_on_how_batches_are_cut(settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(4)
    frames = rng.poisson(5, (30, SIDE, SIDE)).astype(np.float32) * np.float32(1.1)
    frames[7, :9], frames[8] = np.nan, np.nan
    modality = PowderDiffraction(poni=SQUARE, bins=40, rings={"a": (3, 9)}, **settings)
    made, setup = run(modality, frames=frames)
    for size in (1, 7):
        parts = [modality.process(setup, frames=frames[i : i + size]) for i in range(0, 30, size)]
        for name in made.keys() - {INVALID, "part"}:
            np.testing.assert_array_equal(made[name], np.concatenate([p[name] for p in parts]))
        state = None
        for part in parts:
            state = modality.fold(setup, state, part["part"])
        whole = modality.snapshot(setup, modality.fold(setup, None, made["part"]))
        for name, value in modality.snapshot(setup, state).items():
            np.testing.assert_allclose(value, whole[name], rtol=1e-12)


def test_the_run_has_mean_and_maximum_of_its_patterns_with_their_axes() -> None:
    frames = counted(np.full((SIDE, SIDE), 4.0), events=20, dtype=np.uint16)
    frames[3] *= 10
    frames[5] = 65535
    modality = PowderDiffraction(poni=SQUARE, bins=25, unit="2th_deg", azimuthal_bins=4)
    made, setup = run(modality, frames=frames)
    shown = modality.snapshot(setup, modality.fold(setup, None, made["part"]))
    declared = modality.results(setup.settings, {})
    assert shown.keys() == declared.keys()
    assert all(np.asarray(shown[name]).shape == declared[name].shape for name in shown)
    good = [k for k in range(20) if k != 5]
    np.testing.assert_allclose(shown["mean_intensity"], made["intensity"][good].mean(axis=0))
    np.testing.assert_array_equal(shown["max_intensity"], made["intensity"][3])
    variance = (made["sigma"][good] ** 2).sum(axis=0)
    np.testing.assert_allclose(shown["mean_sigma"], np.sqrt(variance) / len(good))
    theirs = pyfai(SQUARE, (SIDE, SIDE)).integrate1d(
        frames[0], 25, unit="2th_deg", method=("no", "csr", "cython")
    )
    np.testing.assert_allclose(shown["two_theta"], theirs.radial, rtol=1e-12)
    np.testing.assert_allclose(shown["azimuth"], [-135, -45, 45, 135], atol=1e-4)


@pytest.mark.parametrize("splitting", ["no", "full"])
@pytest.mark.parametrize("spoilt", ["dark", "pixels", "flux", "scale"])
def test_invalid_events_are_not_in_the_results_of_the_run(splitting: str, spoilt: str) -> None:
    frames = counted(np.full((SIDE, SIDE), 110.0), events=4, dtype=np.uint16)
    flux, exposure = np.full(4, 2.0), np.ones(4)
    if spoilt == "dark":
        frames[2] = 0
    elif spoilt == "pixels":
        frames[2, : SIDE // 2 + 1] = 65535
    elif spoilt == "flux":
        flux[2] = -1
    else:  # the product of both is no number
        frames[2], flux[2], exposure[2] = 60000, 1e-200, 1e-200
    modality = PowderDiffraction(
        poni=SQUARE, bins=9, dark=10.0, normalise=True, splitting=splitting
    )
    columns = {"frames": frames, "incident_flux": flux, "exposure": exposure}
    units = {"incident_flux": "counts/s"}
    made, _ = run(modality, units, **columns)
    assert [bool(reason) for reason in made[INVALID]] == [False, False, True, False]
    others = {name: column[[0, 1, 3]] for name, column in columns.items()}
    valid, _ = run(modality, units, **others)
    for name, total in valid["part"].items():
        np.testing.assert_array_equal(made["part"][name], total, err_msg=name)


def test_patterns_of_other_settings_are_not_averaged_with_those_before() -> None:
    frames = np.full((2, SIDE, SIDE), 4, np.uint16)
    one, other = (PowderDiffraction(poni=SQUARE, bins=9, range=r) for r in ((3, 9), (4, 9)))
    (first, before), (second, after) = run(one, frames=frames), run(other, frames=frames)
    state = one.fold(before, None, first["part"])
    both = one.fold(after, state, second["part"])
    assert both["norm"].tolist() == second["part"]["norm"].tolist()
    rings = PowderDiffraction(poni=SQUARE, bins=9, range=(3, 9), rings={"a": (3, 9)})
    third, ringed = run(rings, frames=frames)
    assert one.fold(ringed, state, third["part"])["norm"][5] == 2 * state["norm"][5]
