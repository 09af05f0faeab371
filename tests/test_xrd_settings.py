"""A geometry, masks and pictures become content of the settings, which replay from JSON."""

import io
import json
from pathlib import Path
from typing import Any

import fabio
import h5py
import hdf5plugin
import numpy as np
import pytest

from p06bs import process
from p06bs.callbacks._xrd_geometry import Geometry
from p06bs.callbacks._xrd_integrator import integrator
from p06bs.callbacks.xrd import PowderDiffraction
from p06bs.model.modality import INVALID, SettingsError
from tests.documents import raw_run, rows_of
from tests.powder import PILATUS, SIDE, SQUARE, pyfai, run

WHERE = """Distance: 0.2
Poni1: 0.1
Poni2: 0.05
Rot1: 0.01
Rot2: -0.02
Rot3: 0.03
Wavelength: 1e-10
"""
V1 = """# Nota: C-Order, 1 refers to the Y axis, 2 to the X axis
# Calibration done at Fri May 17 16:10:08 2013
PixelSize1: 7.5e-05
PixelSize2: 8e-05
SplineFile: None
"""
V1_NAMED = "# Calibration done at Fri\nDetector: Pilatus1M\n"
V2 = 'poni_version: 2\nDetector: Detector\nDetector_config: {"pixel1": 7.5e-05, "pixel2": 8e-05, '
V2_NAMED = "poni_version: 2\nDetector: Eiger4M\nDetector_config: {}\n"
V21 = 'poni_version: 2.1\nDetector: Pilatus100k\nDetector_config: {"orientation": 2}\n'
RAYONIX = 'poni_version: 2\nDetector: RayonixMx225\nDetector_config: {"pixel1": 146.484e-6, '


@pytest.mark.parametrize(
    ("head", "shape", "pixels"),
    [
        (V1, (40, 50), (75e-6, 80e-6)),
        (V1_NAMED, (1043, 981), (172e-6, 172e-6)),
        (V2 + '"max_shape": [40, 50]}\n', (40, 50), (75e-6, 80e-6)),
        (V2 + '"max_shape": null}\n', (40, 50), (75e-6, 80e-6)),
        (V2 + '"max_shape": null, "orientation": 4}\n', (40, 50), (75e-6, 80e-6)),
        (V2_NAMED, (2167, 2070), (75e-6, 75e-6)),
        (V21, (195, 487), (172e-6, 172e-6)),
        (RAYONIX + '"pixel2": 146.484e-6}\n', (1536, 1536), (146.484e-6, 146.484e-6)),
    ],
)
def test_poni_files_of_all_versions_mean_what_pyfai_reads(
    tmp_path: Path, head: str, shape: tuple[int, int], pixels: tuple[float, float]
) -> None:
    from pyFAI import load

    path = tmp_path / "a.poni"
    path.write_text(head + "Distance: 7\n" + WHERE)
    theirs = load(str(path))
    theirs.detector.shape = shape
    settings = PowderDiffraction(poni=str(path)).settings
    path.unlink()
    assert settings == PowderDiffraction(poni=head + WHERE).settings
    again = PowderDiffraction(**json.loads(settings.model_dump_json())).settings
    assert again == settings
    ours = integrator(again.poni, shape)
    assert (ours.detector.pixel1, ours.detector.pixel2) == pytest.approx(pixels)
    assert ours.detector.orientation == theirs.detector.orientation
    assert type(ours.detector) is type(theirs.detector)
    for name in ("dist", "poni1", "poni2", "rot1", "rot2", "rot3", "wavelength"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.dist == 0.2  # the newest calibration of the file
    corner = (slice(0, 40), slice(0, 50))
    np.testing.assert_array_equal(ours.qArray(shape)[corner], theirs.qArray(shape)[corner])


def test_what_pyfai_writes_today_is_read_with_sensor_and_parallax() -> None:
    from pyFAI.detectors import detector_factory
    from pyFAI.geometry import Geometry as Theirs
    from pyFAI.io.ponifile import PoniFile

    sensor = {"material": "CdTe", "thickness": 1e-3}
    detector = detector_factory("Pilatus CdTe 300k", {"orientation": 3, "sensor": sensor})
    theirs = Theirs(dist=0.1, poni1=0.01, poni2=0.02, rot1=0.3, wavelength=2e-11, detector=detector)
    theirs.enable_parallax(True)
    written = io.StringIO()
    PoniFile(theirs).write(written)
    assert "Parallax: True" in written.getvalue()
    ours = integrator(Geometry.model_validate(written.getvalue()), (619, 487))
    assert ours.parallax
    np.testing.assert_array_equal(
        ours.center_array(unit="q_nm^-1"), theirs.center_array(unit="q_nm^-1")
    )


def test_objects_and_dictionaries_of_pyfai_are_taken() -> None:
    theirs = pyfai(PILATUS, (619, 487))
    by_object = PowderDiffraction(poni=theirs).settings
    assert by_object == PowderDiffraction(poni=theirs.get_config()).settings
    np.testing.assert_array_equal(integrator(by_object.poni, (619, 487)).qArray(), theirs.qArray())


def test_a_detector_may_be_described_by_a_file_that_must_not_change(tmp_path: Path) -> None:
    from pyFAI.detectors import detector_factory

    path = tmp_path / "mine.h5"
    detector_factory("Pilatus 100k").save(str(path))
    head = f'poni_version: 2\nDetector: NexusDetector\nDetector_config: {{"filename": "{path}"}}\n'
    for poni in (head + WHERE, f"Detector: {path}\n" + WHERE):
        settings = PowderDiffraction(poni=poni).settings
        again = PowderDiffraction(**json.loads(settings.model_dump_json())).settings
        assert again == settings
        made = integrator(again.poni, (195, 487))
        same = integrator(
            PowderDiffraction(poni=V21.replace("2}", "3}") + WHERE).settings.poni, (195, 487)
        )
        np.testing.assert_allclose(made.qArray(), same.qArray(), rtol=1e-6)
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(ValueError, match=r"mine.h5 has changed since the settings were made"):
        integrator(again.poni, (195, 487))


def test_photon_energy_sets_the_wavelength() -> None:
    poni = {k: v for k, v in SQUARE.items() if k != "wavelength"}
    frames = np.ones((1, SIDE, SIDE), np.uint16)
    _, setup = run(PowderDiffraction(poni=poni, energy=12.398419843320026), frames=frames)
    _, same = run(PowderDiffraction(poni=SQUARE), frames=frames)
    np.testing.assert_allclose(setup.bins.radial, same.bins.radial, rtol=1e-12)
    PowderDiffraction(poni=poni, unit="2th_deg")


@pytest.mark.parametrize("energy", [12.398419843320026, {"value": 12398.419843, "units": "eV"}])
def test_the_energy_of_the_run_counts_where_nothing_else_says_it(energy: Any) -> None:
    poni = {k: v for k, v in SQUARE.items() if k != "wavelength"}
    events = {"det": np.full((2, SIDE, SIDE), 3, np.uint16)}
    said: dict[str, Any] = {"devices": {"det": "diffraction"}}
    here = process(PowderDiffraction(poni=poni), raw_run(events, **said, beam={"energy": energy}))
    known = process(PowderDiffraction(poni=SQUARE), raw_run(events, **said))
    rows, expected = (np.array([row[3] for row in rows_of(d, "intensity")]) for d in (here, known))
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"q_nm\^-1 needs the wavelength: in poni, energy"):
        process(PowderDiffraction(poni=poni), raw_run(events, **said, beam={"energy": "pink"}))


def test_q_is_that_of_one_energy_and_angles_are_those_of_all() -> None:
    columns = {
        "frames": np.full((4, SIDE, SIDE), 3, np.uint16),
        "photon_energy": np.array([12.398, 12.405, 12.5, np.nan]),
    }
    made, _ = run(PowderDiffraction(poni=SQUARE), {"photon_energy": "keV"}, **columns)
    first, second, third, fourth = made[INVALID].tolist()
    assert first == second == ""
    assert third == (
        "photon energy is 12.5 keV, but q_nm^-1 is that of 12.3984 keV; "
        "the unit 2th_deg is that of all energies"
    )
    assert fourth.startswith("photon energy is nan keV")
    assert np.isnan(made["intensity"][2:]).all()
    angles = PowderDiffraction(poni=SQUARE, unit="2th_deg")
    made, _ = run(angles, {"photon_energy": "keV"}, **columns)
    assert not any(made.get(INVALID, []))


@pytest.mark.parametrize("kind", ["npy", "edf", "tif", "array", "lists"])
def test_the_content_of_a_mask_is_kept(tmp_path: Path, kind: str) -> None:
    masked = np.random.default_rng(0).random((SIDE, SIDE)) < 0.3
    path = tmp_path / f"mask.{kind}"
    given: Any = str(path)
    if kind == "npy":
        np.save(path, masked)
    elif kind == "array":
        given = masked
    elif kind == "lists":
        given = masked.astype(int).tolist()
    else:
        picture = fabio.edfimage.EdfImage if kind == "edf" else fabio.tifimage.TifImage
        picture(data=masked.astype(np.uint8)).write(str(path))
    modality = PowderDiffraction(poni=SQUARE, mask=given, solid_angle=False, bins=20)
    path.unlink(missing_ok=True)
    again = PowderDiffraction(**json.loads(modality.settings.model_dump_json()))
    assert again.settings == modality.settings
    frames = np.where(masked, 1000, 3).astype(np.uint16)[None]
    made, setup = run(again, frames=frames)
    assert setup.bins.pixels == (~masked).sum()
    assert (made["intensity"] == 3).all()


def test_the_mask_of_a_large_detector_is_short() -> None:
    from pyFAI.detectors import detector_factory

    mask = detector_factory("Eiger 4M").mask
    settings = PowderDiffraction(poni={**PILATUS, "detector": "Eiger 4M"}, mask=mask).settings
    assert len(settings.model_dump_json()) < 1200
    np.testing.assert_array_equal(settings.mask.pixels(), mask != 0)


def test_masks_and_flats_may_lie_in_the_files_of_detectors(tmp_path: Path) -> None:
    """Where Dectris and X-Spectrum write them, the latter with an axis of length one."""
    masked = np.zeros((1, SIDE, SIDE), np.uint32)
    masked[0, 3], masked[0, 7, 5] = 1, 2**31
    with h5py.File(tmp_path / "master.h5", "w") as file:
        detector = file.create_group("entry/instrument/detector")
        detector.create_dataset("pixel_mask", data=masked, **hdf5plugin.Bitshuffle(cname="lz4"))
        detector["flatfield"] = np.full((SIDE, SIDE), 2.0)
    place = f"{tmp_path / 'master.h5'}::/entry/instrument/detector"
    modality = PowderDiffraction(
        poni=SQUARE, mask=f"{place}/pixel_mask", flat=f"{place}/flatfield", solid_angle=False
    )
    again = PowderDiffraction(**json.loads(modality.settings.model_dump_json()))
    np.testing.assert_array_equal(again.settings.mask.pixels(), masked[0] != 0)
    made, setup = run(again, frames=np.full((1, SIDE, SIDE), 6, np.uint16))
    assert setup.bins.pixels == SIDE * SIDE - SIDE - 1
    np.testing.assert_allclose(made["intensity"][~np.isnan(made["intensity"])], 3)
    for wrong, message in {
        f"{place}/nothing": "cannot read .*nothing",
        "no.h5::/mask": "there is no file 'no.h5",
        place: "holds no picture",
    }.items():
        with pytest.raises(SettingsError, match=message):
            PowderDiffraction(poni=SQUARE, mask=wrong)


def test_a_mask_may_be_named_by_its_detector() -> None:
    poni = {**PILATUS, "pixel1": 172e-6}
    del poni["detector"]
    frames = np.ones((1, 619, 487), np.int32)
    _, setup = run(PowderDiffraction(poni=poni, mask="Pilatus 300k"), frames=frames)
    _, named = run(PowderDiffraction(poni=PILATUS), frames=frames)
    assert setup.bins.pixels == named.bins.pixels < 619 * 487


def test_a_picture_that_has_changed_is_refused(tmp_path: Path) -> None:
    flat = np.full((SIDE, SIDE), 2.0)
    np.save(tmp_path / "flat.npy", flat)
    modality = PowderDiffraction(poni=SQUARE, flat=str(tmp_path / "flat.npy"), solid_angle=False)
    frames = np.full((1, SIDE, SIDE), 6, np.uint16)
    again = PowderDiffraction(**json.loads(modality.settings.model_dump_json()))
    made, _ = run(again, frames=frames)
    np.testing.assert_allclose(made["intensity"][~np.isnan(made["intensity"])], 3)
    np.save(tmp_path / "flat.npy", flat + 1)
    with pytest.raises(ValueError, match=r"flat.npy has changed since the settings were made"):
        run(again, frames=frames)
    (tmp_path / "flat.npy").unlink()
    with pytest.raises(ValueError, match=r"cannot read .*flat.npy': No such file"):
        run(again, frames=frames)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "poni: Field required"),
        ({"poni": "nowhere.poni"}, "there is no .poni file 'nowhere.poni'"),
        ({"poni": "[fit]\nxmin: 1\n"}, "no .poni file: it has no line 'Distance"),
        ({"poni": {**SQUARE, "wavelength": 1.0}}, "wavelength: .* less than 0.00000001, got 1.0"),
        ({"poni": {**SQUARE, "distance": 200}}, "distance: .* less than or equal to 100"),
        ({"poni": {**SQUARE, "rot4": 1}}, "rot4: Extra inputs"),
        ({"poni": {**PILATUS, "detector": None}}, "how large pixels are: detector, or pixel1"),
        ({"poni": {**PILATUS, "detector": "my.h5"}}, "cannot read .*my.h5': No such file"),
        ({"poni": {**SQUARE, "splinefile": "a.spline"}}, "cannot read .*a.spline': No such file"),
        ({"poni": V2 + "\n" + WHERE}, "detector_config.*not JSON|not JSON"),
        ({"unit": "q"}, r"unit: .*'q_nm\^-1', 'q_A\^-1' or '2th_deg'"),
        ({"bins": 0}, "bins: .*greater than or equal to 1"),
        ({"bins": 60_000, "azimuthal_bins": 100}, "bins times azimuthal_bins is 6000000, at most"),
        ({"range": (5, 5)}, "lower limit must be below"),
        ({"azimuth_range": (-90, 200)}, "within -180 to 180 or within 0 to 360"),
        ({"splitting": "pseudo"}, "splitting"),
        ({"polarization_factor": 2}, "polarization_factor"),
        ({"rings": {"intensity": (1, 2)}}, "'intensity' is no name for a column"),
        ({"rings": {"a": (1, 2), "a_sigma": (1, 2)}}, "'a_sigma' is no name for a column"),
        ({"rings": {"a.b": (1, 2)}}, "'a.b' is no name"),
        ({"rings": {"a": (2, 1)}}, "2 is not below 1"),
        ({"rings": {"a": {"low": 1, "high": 2, "background": [(4, 3)]}}}, "4 is not below 3"),
        ({"mask": "no/such.edf"}, "there is no file 'no/such.edf'"),
        ({"mask": np.ones(3)}, "a mask has two axes"),
        ({"mask": {"shape": (4, 5), "bits": "eJwDAAAAAAE="}}, "bits are not those of a mask"),
        ({"mask": {"shape": (4, 5), "bits": "%%"}}, "bits are not those of a mask"),
        ({"flat": "no.npy"}, "cannot read .*no.npy"),
        ({"dark": -1}, "dark"),
        ({"max_invalid": 0}, "max_invalid"),
        ({"pony": 1}, "pony: Extra inputs"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        PowderDiffraction(**{"poni": SQUARE, **settings} if settings else {})


def test_pyfai_says_nothing_beside(caplog: pytest.LogCaptureFixture) -> None:
    frames = np.ones((1, SIDE, SIDE), np.uint16)
    with caplog.at_level("INFO"):
        run(PowderDiffraction(poni=SQUARE), frames=frames)
        with pytest.raises(ValueError, match="range: no used pixel"):
            run(PowderDiffraction(poni=SQUARE, range=(200, 300), splitting="full"), frames=frames)
    assert not [one for one in caplog.records if one.name.startswith("pyFAI")]
