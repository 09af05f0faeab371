"""Fluorescence equals PyMca's FastXRFLinearFit on the spectra that PyMca ships."""

import json
import subprocess
import sys
from functools import cache
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p06bs.callbacks._fits import _groups
from p06bs.callbacks.xrf import Fluorescence
from p06bs.model.modality import INVALID, BoundInput, Columns

DATA = Path(str(files("PyMca5"))) / "PyMcaData"
SPECTRA = ("XRFSpectrum.mca", "Steel.spe")
MAIN_LINE = {"XRFSpectrum.mca": "Co_K", "Steel.spe": "Fe_Ka"}
SNIP = {"stripflag": 1, "stripalgorithm": 1, "continuum": 0}
LINEAR = {"stripflag": 0, "continuum": 2}
POLYNOMIAL = {"stripflag": 0, "continuum": 4}


@cache
def measured(name: str) -> np.ndarray:
    """Return a spectrum that PyMca ships, counts per channel."""
    from PyMca5.PyMcaIO import specfilewrapper

    counts: np.ndarray = specfilewrapper.Specfile(str(DATA / name))[-1].mca(1)
    counts.flags.writeable = False
    return counts


def configuration(name: str, **fit: Any) -> str:
    """Return the text of the configuration for a spectrum, with other settings of the fit."""
    from PyMca5.PyMcaIO import ConfigDict
    from PyMca5.tests import XrfTest

    configured = ConfigDict.ConfigDict()
    text = XrfTest.cfg if name == "XRFSpectrum.mca" else (DATA / "Steel.cfg").read_text()
    configured.readfp(StringIO(text))
    configured["fit"].update(fit)
    lines: list[str] = []
    for section, content in configured.items():
        lines += _section(section, content)
    return "\n".join(lines)


def _section(name: str, content: dict[str, Any]) -> list[str]:
    lines, below = [f"[{name}]"], []
    for key, value in content.items():
        if isinstance(value, dict):
            below += _section(f"{name}.{key}", value)
        else:
            listed = value if isinstance(value, list | tuple) else [value]
            lines.append(f"{key} = {', '.join(map(str, np.asarray(listed, object)))}")
    return [*lines, *below]


def fast_fit(text: str, spectra: np.ndarray, weight: int = 0) -> dict[str, np.ndarray]:
    """Return what PyMca's FastXRFLinearFit makes of spectra (events, channels)."""
    from PyMca5.PyMcaIO import ConfigDict
    from PyMca5.PyMcaPhysics.xrf import FastXRFLinearFit

    configured = ConfigDict.ConfigDict()
    configured.readfp(StringIO(text))
    fit = FastXRFLinearFit.FastXRFLinearFit()
    fit.setFitConfiguration(configured)
    made = fit.fitMultipleSpectra(y=spectra.astype(float), weight=weight, refit=False)
    return {
        name.replace(" ", "_"): np.array(values)
        for name, values in zip(made.labels("parameters"), made["parameters"], strict=True)
    }


def feeds(spectra: np.ndarray) -> dict[str, BoundInput]:
    shape = spectra.shape[1:]
    return {"spectrum": BoundInput("primary", "mca", False, shape, shape, spectra.dtype.str)}


def fit(modality: Fluorescence, spectra: np.ndarray) -> Columns:
    setup = modality.prepare(modality.settings, feeds(spectra))
    return modality.process(setup, spectrum=spectra)


def areas(made: Columns) -> list[str]:
    return [n for n in made if f"{n}_sigma" in made]


@pytest.mark.parametrize("weight", [0, 1])
@pytest.mark.parametrize("kind", [SNIP, LINEAR, POLYNOMIAL, {**SNIP, "continuum": 2}])
@pytest.mark.parametrize("name", SPECTRA)
def test_areas_equal_those_of_pymca(name: str, kind: dict[str, int], weight: int) -> None:
    counts, text = measured(name), configuration(name, **kind)
    expected = fast_fit(text, counts[None], weight)
    reference = tuple(counts) if weight else None
    made = fit(Fluorescence(config=text, weight=weight, reference=reference), counts[None, None])
    assert set(areas(made)) <= set(expected)
    assert {n for n in expected if n not in made} <= {
        "Constant",
        "1st_Order",
        *(f"A{i}" for i in range(6)),
    }
    for line in areas(made):
        np.testing.assert_allclose(made[line], expected[line], rtol=1e-5, err_msg=line)


@pytest.mark.parametrize(
    "settings", [{"stripanchorsflag": 1, "stripanchorslist": [500, 900], "stripfilterwidth": 7}]
)
def test_anchors_and_smoothing_of_the_snip_background_equal_those_of_pymca(
    settings: dict[str, Any],
) -> None:
    counts, text = measured("Steel.spe"), configuration("Steel.spe", **SNIP, **settings)
    expected, made = (
        fast_fit(text, counts[None]),
        fit(Fluorescence(config=text), counts[None, None]),
    )
    for line in areas(made):
        np.testing.assert_allclose(made[line], expected[line], rtol=1e-5, err_msg=line)


def test_background_setting_is_as_if_the_configuration_said_it() -> None:
    counts, text = measured("Steel.spe"), configuration("Steel.spe")
    for background, kind in (("snip", SNIP), ("linear", LINEAR), ("polynomial", POLYNOMIAL)):
        expected = fit(Fluorescence(config=configuration("Steel.spe", **kind)), counts[None, None])
        made = fit(Fluorescence(config=text, background=background), counts[None, None])
        for line in areas(expected):
            assert made[line][0] == expected[line][0]


@pytest.mark.parametrize("background", ["linear", "snip"])
def test_a_page_of_integers_equals_pymca_however_it_is_cut(background: Any) -> None:
    name = "Steel.spe"
    kind = SNIP if background == "snip" else LINEAR
    draws = np.random.default_rng(0).poisson(measured(name) * 0.01, (60, 1, 2048))
    spectra = draws.astype(np.uint32)
    text = configuration(name, **kind)
    expected = fast_fit(text, spectra[:, 0])
    modality = Fluorescence(config=text)
    setup = modality.prepare(modality.settings, feeds(spectra))
    whole = modality.process(setup, spectrum=spectra)
    declared = modality.outputs(modality.settings, feeds(spectra))
    for line in areas(whole):
        scale = np.abs(expected[line]).max()
        np.testing.assert_allclose(whole[line], expected[line], rtol=1e-5, atol=1e-8 * scale)
    for size in (1, 7, 64):
        parts = [
            modality.process(setup, spectrum=spectra[i : i + size]) for i in range(0, 60, size)
        ]
        for line, output in declared.items():
            joined = np.concatenate([p[line] for p in parts])
            np.testing.assert_allclose(joined, whole[line], rtol=output.rtol, atol=output.atol)


@pytest.mark.parametrize("counts", [100, 10_000])
@pytest.mark.parametrize("background", ["linear", "polynomial"])
@pytest.mark.parametrize("name", SPECTRA)
def test_sigma_is_honest_on_poisson_draws(name: str, background: Any, counts: int) -> None:
    modality = Fluorescence(config=configuration(name), background=background)
    shape = measured(name)[None, None]
    scale = counts / fit(modality, shape)[MAIN_LINE[name]][0]
    true = fit(modality, shape * scale)
    draws = np.random.default_rng(1).poisson(shape * scale, (1500, *shape.shape[1:]))
    made = fit(modality, draws.astype(np.uint32))
    enough = [n for n in areas(made) if true[n][0] > 50]
    assert MAIN_LINE[name] in enough
    for line in enough:
        pulls = (made[line] - true[line]) / made[f"{line}_sigma"]
        assert 0.7 < pulls.std() < 1.1, line
        assert abs(pulls.mean()) < 0.25, line  # few counts draw area and sigma down together


def test_each_detector_element_has_its_own_calibration() -> None:
    name, text = "Steel.spe", configuration("Steel.spe", **LINEAR)
    counts = measured(name)
    shifted = np.roll(counts, 4)
    offset, gain = (_detector(text)[key] for key in ("zero", "gain"))
    spectra = np.stack([counts, shifted])[None]
    own = ((offset, gain), (offset - 4 * gain, gain))
    one = fit(Fluorescence(config=text), counts[None, None])
    made = fit(Fluorescence(config=text, calibration=own), spectra)
    wrong = fit(Fluorescence(config=text), spectra)
    for line in ("Fe_Ka", "Cr_K", "Ni_K"):
        assert made[line][0] == pytest.approx(2 * one[line][0], rel=1e-9)
        assert wrong[line][0] != pytest.approx(2 * one[line][0], rel=1e-2)


def _detector(text: str) -> dict[str, float]:
    from PyMca5.PyMcaIO import ConfigDict

    configured = ConfigDict.ConfigDict()
    configured.readfp(StringIO(text))
    return dict(configured["detector"])


def test_a_list_of_elements_finds_what_is_in_the_steel() -> None:
    counts, detector = measured("Steel.spe"), _detector(configuration("Steel.spe"))
    modality = Fluorescence(
        elements=("Fe", "Cr-K", "Ni_K", "Mn", "W-L"),
        incident_energy=16.0,
        calibration=(detector["zero"], detector["gain"]),
        noise=detector["noise"],
        fano=detector["fano"],
        background="polynomial",
    )
    made = fit(modality, counts[None, None])
    assert areas(made)[:5] == ["Cr_K", "Mn_K", "Fe_K", "Ni_K", "W_L"]
    by_file = fit(
        Fluorescence(config=configuration("Steel.spe"), background="polynomial"),
        counts[None, None],
    )
    assert made["Fe_K"][0] == pytest.approx(by_file["Fe_Ka"][0] + by_file["Fe_Kb"][0], rel=0.05)
    assert made["Cr_K"][0] == pytest.approx(by_file["Cr_K"][0], rel=0.05)
    hinted = modality.outputs(modality.settings, feeds(counts[None, None]))
    assert hinted["Fe_K"].hinted
    assert not hinted["Fe_K_sigma"].hinted
    assert not hinted["Scatter_Peak000"].hinted


def test_fits_do_not_depend_on_what_pymca_was_asked_before() -> None:
    bound = feeds(measured("XRFSpectrum.mca")[None, None])

    def shapes(energy: float) -> np.ndarray:
        _groups.cache_clear()
        modality = Fluorescence(elements=("Cu", "Sr", "Pb"), incident_energy=energy)
        (group,) = modality.prepare(modality.settings, bound).groups
        return group.fit.model.columns

    first, other = shapes(17.5), shapes(14.0)
    np.testing.assert_array_equal(shapes(17.5), first)
    assert shapes(14.0).shape == other.shape != first.shape


def test_settings_hold_the_text_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "steel.cfg"
    file.write_text(configuration("Steel.spe", **LINEAR))
    modality = Fluorescence(config=str(file))
    file.write_text("changed")
    again = Fluorescence(**json.loads(modality.settings.model_dump_json()))
    assert again.settings == modality.settings
    spectra = measured("Steel.spe")[None, None]
    assert fit(again, spectra)["Fe_Ka"][0] == fit(modality, spectra)["Fe_Ka"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "stripalgorithm = 0.*background='snip'"),
        ({"stripflag": 0, "continuum": 5}, "exponential polynomial"),
        ({**LINEAR, "strategyflag": 1}, "strategies"),
        ({**LINEAR, "xmin": 3000, "xmax": 4000}, "not in the spectrum, .* 0 to 2047"),
        ({**LINEAR, "xmin": 10, "xmax": 20, "escapeflag": 0}, "no peak lies in the fitted range"),
    ],
)
def test_configurations_that_allow_no_linear_fit_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    modality = Fluorescence(config=configuration("Steel.spe", **changes))
    with pytest.raises(ValueError, match=message):
        modality.prepare(modality.settings, feeds(measured("Steel.spe")[None, None]))


def test_bad_spectra_are_invalid_with_snip_too() -> None:
    spectra = np.repeat(measured("Steel.spe")[None, None], 3, axis=0)
    spectra[1, 0, 700] = np.nan
    made = fit(Fluorescence(config=configuration("Steel.spe", **SNIP)), spectra)
    assert [bool(r) for r in made[INVALID]] == [False, True, False]
    assert np.isnan(made["Fe_Ka"]).tolist() == [False, True, False]


def test_without_pymca_the_extra_is_named() -> None:
    script = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "PyMca5" else find(name, *a)
from p06bs.callbacks.xrf import Fluorescence, RegionSums
from p06bs.model.modality import BoundInput
modality = Fluorescence(elements=["Fe"], incident_energy=10)
assert "PyMca5" not in sys.modules
try:
    bound = {"spectrum": BoundInput("p", "m", False, (1, 9), (9,), "u4")}
    modality.prepare(modality.settings, bound)
except ImportError as error:
    print(error)
"""
    made = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert 'pip install "p06bs[xrf]"' in made.stdout
