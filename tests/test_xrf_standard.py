"""Areal mass densities: a thin film's own, and others by theory that is not the code under test."""

from functools import cache
from io import StringIO
from typing import Any

import numpy as np
import pytest

from p06bs.callbacks._fits import describe_fit
from p06bs.callbacks.xrf import Fluorescence
from p06bs.model.modality import INVALID, SettingsError
from tests.fluorescence import composed, model_of, run, through

LINES = ("Ca-K", "Fe-K", "Cu-K", "Pb-M")
FILM = {"areal_density": {"Fe": 12.5}, "areas": {"Fe_K": 4e5}, "incident_flux": 2e8}
COUNTS = {"incident_flux": "counts"}


def fluorescence(standard: Any = FILM, **settings: Any) -> Fluorescence:
    given = {"elements": LINES, "incident_energy": 11.0, "standard": standard} | settings
    return Fluorescence(**given)


@cache
def elements() -> Any:
    """Return fisx's tables, which take a second to read."""
    from PyMca5.PyMcaPhysics.xrf import FisxHelper

    return FisxHelper.getElementsInstance()


def theory(element: str, family: str, **geometry: float) -> float:
    """Return fisx's rate of 1 ng/mm² behind the window and detector that are the defaults."""
    import fisx

    asked = fisx.XRF()
    asked.setBeam(11.0)
    asked.setSample([[element, 1.0, 1e-7]])
    asked.setGeometry(geometry.get("incidence", 45.0), 45.0)
    asked.setAttenuators([["Be1", 1.848, 8e-4, 1.0]])
    asked.setDetector(fisx.Detector("Si1", 2.33, 0.045))
    found = asked.getMultilayerFluorescence([f"{element} {family}"], elements())
    (layers,) = found.values()
    return float(sum(line["rate"] for line in layers[0].values()))


def test_the_standard_measured_again_has_its_own_density() -> None:
    modality = fluorescence()
    spectrum = composed(model_of(modality), {"Fe_K": [4e5, 2e5, 0.0]}, flat=3.0)[:, None]
    made = run(modality, COUNTS, spectrum=spectrum, incident_flux=np.array([2e8, 2e8, 1e8]))
    np.testing.assert_allclose(made["Fe_K_density"], [12.5, 6.25, 0], rtol=1e-9, atol=1e-9)
    # Areas stay in counts, and their sigmas and limits go with them.
    np.testing.assert_allclose(made["Fe_K"], [4e5, 2e5, 0], rtol=1e-9, atol=1e-6)
    for name in ("_sigma", "_limit"):
        np.testing.assert_allclose(
            made[f"Fe_K_density{name}"],
            made[f"Fe_K{name}"] * 12.5 / 4e5 * np.array([1, 1, 2]),
            rtol=1e-9,
        )
    assert "Scatter_Peak000_density" not in made


def test_other_elements_follow_by_theory() -> None:
    modality = fluorescence()
    density = {"Ca_K": 40.0, "Fe_K": 7.0, "Cu_K": 3.0}  # ng/mm²
    per = FILM["areas"]["Fe_K"] / 2e8 / 12.5 / theory("Fe", "K")
    areas = {c: 1e9 * per * d * theory(*c.split("_")) for c, d in density.items()}
    spectrum = composed(model_of(modality), areas)[:, None]
    made = run(modality, COUNTS, spectrum=spectrum, incident_flux=np.array([1e9]))
    for name, expected in density.items():
        assert made[f"{name}_density"][0] == pytest.approx(expected, rel=2e-3)


def test_between_two_elements_of_the_standard_what_theory_gets_wrong_is_interpolated() -> None:
    rates = {c: theory(*c.split("_")) for c in ("Ca_K", "Fe_K", "Cu_K")}
    # Iron and copper disagree with theory by a factor of two: something unknown absorbs.
    film = {
        "areal_density": {"Ca": 10.0, "Cu": 10.0},
        "areas": {"Ca_K": 1e20 * rates["Ca_K"], "Cu_K": 2e20 * rates["Cu_K"]},
        "incident_flux": 1.0,
    }
    modality = fluorescence(film)
    spectrum = composed(model_of(modality), {"Ca_K": 1e3, "Fe_K": 1e3, "Cu_K": 1e3})[:, None]
    made = run(modality, COUNTS, spectrum=spectrum, incident_flux=np.array([1.0]))
    share = (6.404 - 3.691) / (8.048 - 3.691)
    for name, factor in (("Ca_K", 1.0), ("Fe_K", 2**share), ("Cu_K", 2.0)):
        expected = 1e3 / (1e19 * factor * rates[name])
        assert made[f"{name}_density"][0] == pytest.approx(expected, rel=3e-3)


def test_a_standard_under_another_angle_is_thicker_along_the_beam() -> None:
    spectrum = composed(model_of(fluorescence()), {"Cu_K": 1e5})[:, None]
    flux = np.array([1e8])
    upright = run(fluorescence(), COUNTS, spectrum=spectrum, incident_flux=flux)
    film = FILM | {"angles": (30.0, 60.0)}
    made = run(fluorescence(film), COUNTS, spectrum=spectrum.copy(), incident_flux=flux)
    ratio = made["Cu_K_density"][0] / upright["Cu_K_density"][0]
    assert ratio == pytest.approx(np.sin(np.radians(45)) / np.sin(np.radians(30)), rel=1e-6)
    expected = theory("Fe", "K", incidence=30.0) / theory("Fe", "K", incidence=45.0)
    assert ratio == pytest.approx(expected, rel=1e-3)


def test_a_sample_that_absorbs_is_taken_as_its_configuration_says() -> None:
    """0.1 mm of carbon: (1 - exp(-x))/x with PyMca's mass attenuation coefficients."""
    from PyMca5.PyMcaPhysics.xrf import Elements

    thin, thick = fluorescence(), fluorescence()
    config = describe_fit(thick.settings)[0]
    config["attenuators"]["Matrix"] = [1, "C1", 2.0, 0.01, 45.0, 45.0, 1, 90.0]
    text = _text(config)
    given = {"config": text, "energy_range": (1.0, 11.5), "calibration": (0.0, 0.01)}
    thick = Fluorescence(**given, standard=FILM)
    spectrum = composed(model_of(thin), {"Ca_K": 1e5, "Cu_K": 1e5})[:, None]
    flux = np.array([1e8])
    here = run(thin, COUNTS, spectrum=spectrum, incident_flux=flux)
    made = run(thick, COUNTS, spectrum=spectrum.copy(), incident_flux=flux)
    mu = Elements.getMaterialMassAttenuationCoefficients("C1", 1.0, [3.691, 8.041, 11.0])["total"]
    for name, out in (("Ca_K", mu[0]), ("Cu_K", mu[1])):
        x = 0.02 * (mu[2] + out) / np.sin(np.radians(45))
        ratio = made[f"{name}_density"][0] / here[f"{name}_density"][0]
        # The thick one's line ratios and so its area differ a little, too.
        assert ratio == pytest.approx(x / -np.expm1(-x), rel=0.02)


def _text(config: dict[str, Any]) -> str:
    lines = []
    for section, content in config.items():
        lines.append(f"[{section}]")
        for key, value in content.items():
            listed = value if isinstance(value, list | tuple) else [value]
            lines.append(f"{key} = {', '.join(map(str, listed))}")
    return "\n".join(lines)


def test_flux_per_second_dead_time_and_lost_elements_are_accounted_for_once() -> None:
    modality = fluorescence(sensitivity=(1.0, 3.0))
    per_element = np.array([[[0.25]], [[0.75]]])  # of the film's counts
    film = composed(model_of(fluorescence()), {"Fe_K": 4e5})
    live, real = np.array([[0.5, 0.8], [0.5, 0.0]]), np.full((2, 2), 2.0)
    spectrum = np.stack([film * s for s in per_element[:, 0]], axis=1).repeat(2, axis=0)
    spectrum = spectrum * (live / real)[:, :, None]  # as it is seen with that dead time
    spectrum[1, 1] = film * 0.1
    made = run(
        modality,
        {"incident_flux": "1/s"},
        spectrum=spectrum,
        live_time=live,
        real_time=real,
        incident_flux=np.array([1e8, 1e8]),
    )
    np.testing.assert_allclose(made["Fe_K_density"], 12.5, rtol=1e-9)
    assert made["elements_used"].tolist() == [2, 1]


def test_without_incident_flux_there_is_no_density() -> None:
    spectrum = composed(model_of(fluorescence()), {"Cu_K": np.full(5, 1e5)})[:, None]
    flux = np.array([1e8, 0, -1, np.nan, np.inf])
    made = run(fluorescence(), COUNTS, spectrum=spectrum, incident_flux=flux)
    assert made[INVALID].tolist() == ["", *(f"incident flux is {v:g}" for v in flux[1:])]
    assert np.isnan(made["Cu_K_density"]).tolist() == [False, True, True, True, True]
    modality = fluorescence()
    bound = {"spectrum": _bound(spectrum)}
    with pytest.raises(ValueError, match="standard needs the input 'incident_flux'"):
        modality.prepare(modality.settings, bound)


def _bound(spectrum: np.ndarray) -> Any:
    from p06bs.model.modality import BoundInput

    shape = spectrum.shape[1:]
    return BoundInput("primary", "mca", False, shape, shape, spectrum.dtype.str, "counts")


def test_the_density_of_the_whole_run_is_weighted_by_flux() -> None:
    spectrum = composed(model_of(fluorescence()), {"Fe_K": [4e5, 1e5]})[:, None]
    flux = np.array([2e8, 1e8])
    for normalise in (False, True):
        _, whole = through(
            fluorescence(normalise=normalise), units=COUNTS, spectrum=spectrum, incident_flux=flux
        )
        assert whole["Fe_K_density"] == pytest.approx(12.5 * 5e5 / 4e5 * 2e8 / 3e8, rel=1e-9)
        assert whole["Fe_K"] == pytest.approx(5e5 / 3e8 if normalise else 5e5, rel=1e-9)


@pytest.mark.parametrize(
    ("film", "message"),
    [
        ({"areas": {"Mn_K": 1.0}, "areal_density": {"Mn": 1.0}}, "no peak group Mn_K; it has"),
        ({"areas": {"Scatter_Peak000": 1.0}, "areal_density": {"Scatter": 1.0}}, "no peak group"),
    ],
)
def test_standards_that_the_fit_lacks_are_refused(film: dict[str, Any], message: str) -> None:
    modality = fluorescence(FILM | film)
    with pytest.raises(ValueError, match=message):
        model_of(modality)


@pytest.mark.parametrize(
    ("film", "message"),
    [
        ({"areas": {"Cu_K": 1.0}}, "Cu, Fe needs both an areal_density and the area"),
        ({"areas": {}}, "at least 1 item"),
        ({"incident_flux": 0}, "greater than 0"),
        ({"areal_density": {"Fe": -1}}, "greater than 0"),
        ({"angles": (0, 45)}, "greater than 0"),
    ],
)
def test_senseless_standards_are_refused(film: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        fluorescence(FILM | film)


def test_settings_with_a_standard_survive_json() -> None:
    modality = fluorescence(FILM | {"areas": {"Fe-K": 4e5}}, track_gain=["Fe K"])
    again = Fluorescence.validate(modality.settings.model_dump(mode="json"))
    assert again == modality.settings
    assert hash(again) == hash(modality.settings)


def test_densities_of_a_measured_multi_element_standard_are_those_of_pymca() -> None:
    """XRFSpectrum.mca, which PyMca ships, in the ratios that its ConcentrationsTool finds."""
    from PyMca5 import PyMcaDataDir
    from PyMca5.PyMcaIO import ConfigDict, specfilewrapper
    from PyMca5.PyMcaPhysics.xrf import ClassMcaTheory, ConcentrationsTool

    from p06bs.sim.spectra import pymca_configuration

    path = f"{PyMcaDataDir.PYMCA_DATA_DIR}/XRFSpectrum.mca"
    counts = specfilewrapper.Specfile(path)[-1].mca(1)
    text = pymca_configuration("XRFSpectrum")
    film = {"areal_density": {"Co": 10.0}, "areas": {"Co_K": 1e5}, "incident_flux": 1e6}
    modality = Fluorescence(config=text, background="snip", standard=film)
    made = run(modality, COUNTS, spectrum=counts[None, None].copy(), incident_flux=np.array([1e6]))
    theory = ClassMcaTheory.McaTheory()
    configuration = ConfigDict.ConfigDict()
    configuration.readfp(StringIO(text))
    theory.setConfiguration(configuration)
    groups = ["Co K", "Ni K", "Cu K", "Zn K", "Se K", "Sr K", "Pb L"]
    found = {g: {"fitarea": made[g.replace(" ", "_")][0], "sigmaarea": 1.0} for g in groups}
    result = {"config": theory.config, "groups": groups, **found}
    tool = ConcentrationsTool.ConcentrationsTool()
    asked = tool.configure() | {"flux": 1e10}
    concentrations = tool.processFitResult(config=asked, fitresult={"result": result})
    fraction = concentrations["mass fraction"]
    for group in groups:
        ratio = made[f"{group.replace(' ', '_')}_density"][0] / made["Co_K_density"][0]
        assert ratio == pytest.approx(fraction[group] / fraction["Co K"], rel=1e-6), group


def test_air_between_sample_and_detector_absorbs() -> None:
    from PyMca5.PyMcaPhysics.xrf import Elements

    spectrum = composed(model_of(fluorescence()), {"Ca_K": 1e5, "Cu_K": 1e5})[:, None]
    flux = np.array([1e8])
    without = run(fluorescence(), COUNTS, spectrum=spectrum, incident_flux=flux)
    made = run(fluorescence(air_path=50.0), COUNTS, spectrum=spectrum.copy(), incident_flux=flux)
    lines = {"Ca_K": 3.72, "Fe_K": 6.46, "Cu_K": 8.13}
    mu = Elements.getMaterialMassAttenuationCoefficients("Air", 1.0, list(lines.values()))["total"]
    passed = dict(zip(lines, np.exp(-np.array(mu) * 1.2048e-3 * 5.0), strict=True))
    for name in ("Ca_K", "Cu_K"):
        ratio = made[f"{name}_density"][0] / without[f"{name}_density"][0]
        assert ratio == pytest.approx(passed["Fe_K"] / passed[name], rel=0.02), name
