"""Region sums equal plain sums exactly; the corrections of Fluorescence have known answers."""

from typing import Any

import numpy as np
import pytest

from p06bs.callbacks.xrf import Fluorescence, RegionSums
from p06bs.model.modality import INVALID, SettingsError
from tests.fluorescence import CHANNELS, UNITS, bind, run


def spectra(events: int = 5, elements: int = 3, dtype: Any = np.uint32) -> np.ndarray:
    """Return iron and copper on a flat continuum, 10 eV per channel."""
    channel = np.arange(CHANNELS)
    expected = np.full(CHANNELS, 3.0)
    for energy, area in ((6.404, 4000), (7.058, 600), (8.048, 2000), (8.905, 300)):
        sigma = np.sqrt((0.1 / 2.3548) ** 2 + 0.114 * 0.00385 * energy) / 0.01
        expected += (
            area
            / (sigma * np.sqrt(2 * np.pi))
            * np.exp(-0.5 * ((channel - energy / 0.01) / sigma) ** 2)
        )
    rng = np.random.default_rng(5)
    return rng.poisson(expected, (events, elements, CHANNELS)).astype(dtype)


# RegionSums


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "u4", "i4", "i8", "u8", "f4", "f8"])
def test_region_sums_are_exact_and_inclusive(dtype: str) -> None:
    top = 254 if dtype == "u1" else 65534  # one more is saturated
    data = np.random.default_rng(0).integers(0, top, (7, 4, 4096), endpoint=True).astype(dtype)
    data[3] = top
    made = run(RegionSums(regions={"Fe_K": (620, 660), "all": (0, 4095)}), spectrum=data)
    kind = np.float64 if dtype.startswith("f") else np.int64
    assert made["Fe_K"].dtype == kind
    exact = data.astype(np.int64)
    np.testing.assert_array_equal(made["Fe_K"], exact[:, :, 620:661].sum(axis=(1, 2)))
    np.testing.assert_array_equal(made["all"], exact.sum(axis=(1, 2)))
    assert INVALID not in made


def test_regions_in_kev_are_the_channels_whose_centre_lies_inside() -> None:
    data, calibration = spectra(), (-0.02, 0.0125)
    made = run(RegionSums(regions={"Fe_K": (6.2, 6.6)}, calibration=calibration), spectrum=data)
    energy = calibration[0] + calibration[1] * np.arange(CHANNELS)
    inside = (energy >= 6.2) & (energy <= 6.6)
    np.testing.assert_array_equal(made["Fe_K"], data[:, :, inside].sum(axis=(1, 2)))


def test_whole_counts_that_arrive_as_floats_stay_whole() -> None:
    data = spectra()
    modality = RegionSums(regions={"Fe_K": (600, 680)})
    bound = bind({"spectrum": data}, UNITS)
    setup = modality.prepare(modality.settings, bound)
    floats = data.astype(float)
    floats[1, 0, 640] += 0.5
    made = modality.process(setup, spectrum=floats, live_time=None)
    assert made["Fe_K"].dtype == np.int64
    assert made["Fe_K"][0] == data[0, :, 600:681].sum()
    assert "not whole" in made[INVALID][1]
    assert made["Fe_K"][1] == np.iinfo(np.int64).min


def test_sums_per_live_time_add_the_rates_of_elements() -> None:
    data, live = spectra(), np.random.default_rng(1).uniform(0.5, 1, (5, 3))
    live[2, 1] = 0
    live[4, 0] = np.nan
    modality = RegionSums(regions={"Fe_K": (600, 680)}, per_live_time=True)
    made = run(modality, spectrum=data, live_time=live)
    good = [0, 1, 3]
    expected = (data[:, :, 600:681].sum(axis=2)[good] / live[good]).sum(axis=1)
    np.testing.assert_allclose(made["Fe_K"][good], expected, rtol=1e-14)
    assert np.isnan(made["Fe_K"][[2, 4]]).all()
    assert made[INVALID][2].startswith("detector element 1: live time")
    assert made[INVALID][4].startswith("detector element 0: live time")


def test_bad_counts_inside_a_region_make_the_event_invalid() -> None:
    data = spectra(dtype=float)
    data[1, 0, 640], data[2, 1, 640], data[3, 2, 640] = np.nan, -1, np.inf
    data[4, 2, 100] = np.nan  # not in the region
    made = run(RegionSums(regions={"Fe_K": (600, 680)}), spectrum=data)
    assert [bool(r) for r in made[INVALID]] == [False, True, True, True, False]
    assert np.isnan(made["Fe_K"][1:4]).all()
    whole = spectra(dtype=np.int32)
    whole[1, 0, 640] = -1
    made = run(RegionSums(regions={"Fe_K": (600, 680)}), spectrum=whole)
    assert made[INVALID].tolist()[1].startswith("detector element 0: counts negative")


def test_saturation_is_flagged_when_asked_for() -> None:
    data = spectra()
    data[1, 2, 640] = 9000
    made = run(RegionSums(regions={"Fe_K": (600, 680)}, saturation=9000), spectrum=data)
    assert made[INVALID].tolist() == ["", "detector element 2: saturated", "", "", ""]


def test_the_largest_count_of_a_dtype_is_saturated() -> None:
    data = np.ones((2, 1, 1200), np.uint16)
    data[1, 0, 640] = 65535
    made = run(RegionSums(regions={"Fe_K": (600, 680)}), spectrum=data)
    assert made[INVALID].tolist() == ["", "detector element 0: saturated"]


@pytest.mark.parametrize("name", ["", "valid", "raw_seq_num", "raw_uid", "a/b", "a.b", " x"])
def test_names_that_are_no_column_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="is no name for a column"):
        RegionSums(regions={name: (1, 2)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regions": {}}, "at least 1 item"),
        ({"regions": {"Fe": (7, 6)}}, "region 'Fe' is empty: 7 is above 6"),
        ({"regions": {"Fe": (6.2, 6.6)}}, "energies .keV. need calibration"),
        ({"regions": {"Fe": (6.2, 6.6)}, "calibration": (0, 0)}, "greater than 0"),
        ({"regions": {"Fe": (1, 2)}, "region": 1}, "Extra inputs"),
    ],
)
def test_senseless_regions_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        RegionSums(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regions": {"Fe": (1190, 1200)}}, "'Fe' .1190, 1200. is not in .* channels 0 to 1199"),
        ({"regions": {"Fe": (-1, 5)}}, "has channels 0 to 1199"),
        (
            {"regions": {"Zr": (15.7, 15.8)}, "calibration": (0, 0.01)},
            "'Zr' .15.7, 15.8. keV is not in .* from -0.005 to 11.995 keV",
        ),
        (
            {"regions": {"Fe": (6.401, 6.409)}, "calibration": (0, 0.01)},
            "'Fe' .6.401, 6.409. keV holds no channel",
        ),
        ({"regions": {"Fe": (1, 2)}, "per_live_time": True}, "per_live_time needs .* 'live_time'"),
    ],
)
def test_regions_that_the_spectrum_lacks_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    modality = RegionSums(**settings)
    with pytest.raises(ValueError, match=message):
        modality.prepare(modality.settings, bind({"spectrum": spectra()}, UNITS))


# Fluorescence: what is done with areas


def fluorescence(**settings: Any) -> Fluorescence:
    return Fluorescence(elements=("Fe", "Cu"), incident_energy=11.0, **settings)


def test_areas_are_those_that_were_simulated() -> None:
    made = run(fluorescence(), spectrum=spectra(events=40))
    # The line ratios of the simulation are rough, so that only the sums must agree.
    assert made["Fe_K"].mean() == pytest.approx(3 * 4600, rel=0.02)
    assert made["Cu_K"].mean() == pytest.approx(3 * 2300, rel=0.02)
    for line in ("Fe_K", "Cu_K"):
        assert 0.75 < made[line].std() / made[f"{line}_sigma"].mean() < 1.3
    assert set(made["elements_used"]) == {3}


def test_dead_time_is_corrected_per_detector_element() -> None:
    data = spectra()
    live = np.array([[0.5, 0.8, 1.0]] * 5)
    alone = [
        run(fluorescence(masked=[e for e in range(3) if e != i]), spectrum=data) for i in range(3)
    ]
    areas = np.array([one["Fe_K"] / 3 for one in alone])
    sigmas = np.array([one["Fe_K_sigma"] / 3 for one in alone])
    made = run(fluorescence(), spectrum=data, live_time=live, real_time=np.ones((5, 3)))
    np.testing.assert_allclose(made["Fe_K"], (areas / live.T).sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        made["Fe_K_sigma"], np.sqrt(((sigmas / live.T) ** 2).sum(axis=0)), rtol=1e-12
    )
    off = run(fluorescence(dead_time=False), spectrum=data, live_time=live, real_time=live)
    np.testing.assert_allclose(off["Fe_K"], areas.sum(axis=0), rtol=1e-12)


def test_count_rates_correct_dead_time_where_times_are_missing() -> None:
    data = spectra()
    data[3] = 0
    rates = np.full((5, 3), 2e5)
    rates[3] = 0
    plain = run(fluorescence(), spectrum=data)
    made = run(fluorescence(), spectrum=data, input_counts=rates, output_counts=rates / 2)
    np.testing.assert_allclose(made["Fe_K"], 2 * plain["Fe_K"], rtol=1e-12, atol=1e-9)
    assert INVALID not in made  # no counts are a result


def test_elements_that_fail_are_left_out_and_the_sensitivity_rescaled() -> None:
    data = spectra(dtype=float)
    live, real = np.full((5, 3), 0.8), np.ones((5, 3))
    data[1, 0, 640] = np.nan
    data[2, 1, 640] = -3
    live[3, 2] = 0
    made = run(fluorescence(), spectrum=data, live_time=live, real_time=real)
    assert INVALID not in made
    assert made["elements_used"].tolist() == [3, 2, 2, 2, 3]
    clean = spectra(dtype=float)
    for event, failed in ((1, 0), (2, 1), (3, 2)):
        part = run(
            fluorescence(masked=(failed,), sensitivity=(1.0, 1.0, 1.0)),
            spectrum=clean[event : event + 1].copy(),
            live_time=np.full((1, 3), 0.8),
            real_time=np.ones((1, 3)),
        )
        assert made["Fe_K"][event] == pytest.approx(part["Fe_K"][0], rel=1e-12)
        assert made["Fe_K"][event] == pytest.approx(made["Fe_K"][0], rel=0.05)
    weighted = run(fluorescence(masked=(2,), sensitivity=(1.0, 1.0, 2.0)), spectrum=clean)
    plain = run(fluorescence(masked=(2,)), spectrum=clean)
    np.testing.assert_allclose(weighted["Fe_K"], plain["Fe_K"] * 4 / 3, rtol=1e-12)


def test_an_event_without_usable_element_is_invalid() -> None:
    data = spectra(elements=1, dtype=np.uint16)
    data[1, 0, 640] = 65535
    live, real = np.full((5, 1), 0.5), np.ones((5, 1))
    live[2], real[3], live[4] = 0, np.nan, -1
    made = run(fluorescence(), spectrum=data, live_time=live, real_time=real)
    assert [r[:42] for r in made[INVALID]] == [
        "",
        "no usable detector element 0: saturated",
        "no usable detector element 0: live time, o",
        "no usable detector element 0: real time, o",
        "no usable detector element 0: live time, o",
    ]
    for name, column in made.items():
        if name not in (INVALID, "elements_used"):
            assert np.isfinite(column[0])
            assert np.isnan(column[1:]).all()


@pytest.mark.parametrize(("unit", "per_second"), [("counts", False), ("counts/s", True)])
def test_normalising_divides_by_i0_over_real_time(unit: str, per_second: bool) -> None:
    data, live = spectra(), np.full((5, 3), 0.25)
    real = np.full((5, 3), 0.5)
    i0 = np.array([1e5, 2e5, 0.0, np.nan, -1.0])
    plain = run(fluorescence(), spectrum=data, live_time=live, real_time=real)
    made = run(
        fluorescence(normalise=True),
        {"incident_flux": unit},
        spectrum=data,
        live_time=live,
        real_time=real,
        incident_flux=i0,
    )
    received = i0 * 0.5 if per_second else i0
    for name in ("Fe_K", "Fe_K_sigma"):
        np.testing.assert_allclose(made[name][:2], plain[name][:2] / received[:2], rtol=1e-12)
        assert np.isnan(made[name][2:]).all()
    assert made[INVALID].tolist()[2:] == [f"incident flux is {v:g}" for v in i0[2:]]


def test_an_empty_spectrum_is_a_result_with_an_uncertainty() -> None:
    made = run(fluorescence(), spectrum=np.zeros((1, 3, CHANNELS), np.uint32))
    assert made["Fe_K"][0] == 0
    assert made["Fe_K_sigma"][0] > 1
    assert INVALID not in made


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give either config or elements"),
        ({"elements": ["Fe"]}, "elements need incident_energy"),
        ({"elements": ["Fr-Q"], "incident_energy": 10}, "'Fr-Q' is no element"),
        ({"elements": ["Xx"], "incident_energy": 10}, "'Xx' is no element"),
        ({"config": "nowhere.cfg"}, "no PyMca configuration file 'nowhere.cfg'"),
        ({"config": "[fit]\nxmin = 1\n"}, "section peaks, detector is missing"),
        ({"elements": ["Fe"], "incident_energy": 10, "weight": 1}, "weight=1 and reference"),
        ({"elements": ["Fe"], "incident_energy": 10, "energy_range": (7, 6)}, "lower energy"),
        ({"elements": ["Fe"], "incident_energy": 10, "weight": 2}, "Input should be 0 or 1"),
        ({"elements": ["Fe"], "incident_energy": 10, "noise": 50}, "noise: .* equal to 2, got 50"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Fluorescence(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masked": (3,)}, "masked: .* 0 to 2"),
        ({"masked": (0, 1, 2)}, "leaves no detector element"),
        ({"calibration": ((0, 0.01), (0, 0.01))}, "there are 2, but 3 detector elements"),
        ({"noises": (0.1, 0.1)}, "noises: there are 2, but 3 detector elements"),
        ({"sensitivity": (1, 1)}, "sensitivity: has 2 values"),
        ({"energy_range": (13, 14)}, "Fe has no K, L or M line between 13 and 14 keV"),
        ({"calibration": (20.0, 0.01)}, "is not in the spectrum"),
        ({"dead_time": True}, "dead_time needs the input 'live_time'"),
        ({"normalise": True}, "normalise needs the input 'incident_flux'"),
    ],
)
def test_settings_that_do_not_match_the_run_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    modality = fluorescence(**settings)
    with pytest.raises(ValueError, match=message):
        modality.prepare(modality.settings, bind({"spectrum": spectra()}, UNITS))


def test_pymca_says_nothing_beside(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run(Fluorescence(elements=("Fe",), incident_energy=10.0123), spectrum=spectra())
    assert not [one for one in caplog.records if one.name.startswith("PyMca5")]
