"""Powder rings: where the lattice has them, and as pyFAI's geometry sees them."""

from dataclasses import replace

import numpy as np
import pytest

from p06bs.plans.maps import grid
from p06bs.sim.beamline import Beamline
from p06bs.sim.crystals import CRYSTALS
from p06bs.sim.diffraction import Geometry, PowderRings
from p06bs.sim.layers import Layer
from p06bs.sim.phantom import Phantom
from p06bs.sim.trajectory import Trajectory

FINE = {"shape": (192, 192), "pixel": (150e-6, 150e-6)}
GEOMETRY = Geometry(**FINE, rot1=0.05, rot2=-0.08, rot3=0.3)


def powder(crystal):
    layers = {"powder": Layer({"C": 1.0}, crystal=crystal)}
    return Phantom({"powder": np.ones((2, 2))}, layers=layers)


def rings(crystal="LaB6", **kwargs):
    return PowderRings(powder(crystal), **kwargs)


def path_over(seen, points=5):
    beamline = Beamline(seen.phantom, seed=seen.seed)
    return Trajectory(beamline, grid((-2, 2), points, (0, 0), 1, rate=100.0))


@pytest.mark.parametrize(
    ("crystal", "expected"),
    [
        ("LaB6", [(1, 0, 0), (1, 1, 0), (1, 1, 1), (2, 0, 0), (2, 1, 0), (2, 1, 1)]),
        ("CeO2", [(1, 1, 1), (2, 0, 0), (2, 2, 0), (3, 1, 1), (2, 2, 2), (4, 0, 0)]),
        ("austenite", [(1, 1, 1), (2, 0, 0), (2, 2, 0), (3, 1, 1), (2, 2, 2)]),
    ],
)
def test_reflections_are_those_of_the_lattice(crystal, expected):
    found = CRYSTALS[crystal].reflections
    assert [r.hkl for r in found[: len(expected)]] == expected
    edge = CRYSTALS[crystal].edge
    for reflection in found:
        spacing = edge / np.sqrt(sum(i * i for i in reflection.hkl))
        assert reflection.spacing == pytest.approx(spacing)


def test_spacings_are_the_calibrants_of_pyfai():
    calibrant = pytest.importorskip("pyFAI.calibrant")
    for crystal in ("LaB6", "CeO2"):
        known = calibrant.get_calibrant(crystal)
        # Families such as 300 and 221 have one spacing.
        ours = np.unique([round(r.spacing, 9) for r in CRYSTALS[crystal].reflections])[::-1]
        np.testing.assert_allclose(ours[:10], known.dspacing[:10], rtol=2e-5)


def test_geometry_is_pyfais(tmp_path):
    pyfai = pytest.importorskip("pyFAI")
    seen = rings(geometry=GEOMETRY)
    file = tmp_path / "sim.poni"
    file.write_text(seen.poni())
    loaded = pyfai.load(str(file))
    assert loaded.wavelength == pytest.approx(12.39841984e-10 / 17.5, rel=1e-6)
    two_theta, azimuth, _ = GEOMETRY.angles()
    np.testing.assert_allclose(two_theta, loaded.twoThetaArray(GEOMETRY.shape), atol=1e-6)
    np.testing.assert_allclose(azimuth, loaded.chiArray(GEOMETRY.shape), atol=2e-5)


@pytest.mark.parametrize("crystal", ["LaB6", "CeO2"])
def test_integrated_rings_are_where_braggs_law_has_them(crystal):
    """pyFAI integrates what we draw: rings, polarisation and solid angle come out right."""
    pytest.importorskip("pyFAI")
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

    seen = rings(crystal, geometry=GEOMETRY, background=0.0, width=0.4)
    names = {k: getattr(GEOMETRY, k) for k in ("poni1", "poni2", "rot1", "rot2", "rot3")}
    integrator = AzimuthalIntegrator(
        dist=GEOMETRY.distance,
        **names,
        pixel1=GEOMETRY.pixel[0],
        pixel2=GEOMETRY.pixel[1],
        wavelength=seen.wavelength * 1e-10,
    )
    mean = seen.expected(path_over(seen), range(1))[0]
    two_theta, intensity = integrator.integrate1d(
        mean,
        600,
        unit="2th_deg",
        mask=seen.mask,
        polarization_factor=0.99,
        method=("no", "histogram", "cython"),
    )[:2]
    calm = (two_theta > 5) & (two_theta < 24) & (intensity > 0)
    expected = seen.profile(crystal, np.deg2rad(two_theta))
    ratio = intensity[calm].sum() / expected[calm].sum()
    peak = expected[calm].max()
    np.testing.assert_allclose(intensity[calm] / ratio, expected[calm], atol=0.05 * peak)
    for centre in np.rad2deg(seen.ring_angles(crystal)):
        near = np.abs(two_theta - centre) < 0.5
        alone = (np.abs(np.rad2deg(seen.ring_angles(crystal)) - centre) < 1.2).sum() == 1
        if alone and 6 < centre < 23:
            found = (two_theta[near] * intensity[near]).sum() / intensity[near].sum()
            assert found == pytest.approx(centre, abs=0.01)


@pytest.mark.parametrize("bits", [16, 32])
def test_bad_pixels_read_the_largest_value_and_no_other_does(bits):
    seen = rings(bits=bits, photons=1e9 if bits == 16 else 1e6)
    frames = seen.rows(path_over(seen), range(5))["data"]
    assert frames.dtype == f"<u{bits // 8}"
    assert (frames[:, seen.mask] == 2**bits - 1).all()
    assert (frames[:, ~seen.mask] < 2**bits - 1).all()
    assert 0.02 < seen.mask.mean() < 0.04  # gap and dead pixels


def test_frames_are_poisson_and_depend_on_seed_and_point_only():
    seen = rings(seed=4)
    path = path_over(seen, 40)
    whole = seen.rows(path, range(40))["data"]
    parts = [seen.rows(path, r)["data"] for r in (range(1), range(1, 17), range(17, 40))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    mean = seen.expected(path, range(40))
    good = ~seen.mask
    pulls = (whole - mean)[:, good] / np.sqrt(mean[:, good])
    assert abs(pulls.mean()) < 5 / np.sqrt(pulls.size)
    assert pulls.std() == pytest.approx(1, abs=0.01)
    other = replace(seen, seed=5)
    assert (other.rows(path, range(1))["data"][0][good] != whole[0][good]).any()


def test_each_layer_shows_its_own_crystal():
    phantom = Phantom.default()
    seen = PowderRings(phantom)
    assert list(seen.patterns) == ["XRFSpectrum", "Steel"]
    path = Trajectory(Beamline(phantom), grid((-20, 20), 9, (-20, 20), 9, rate=100.0))
    at = path.exposed()
    weights = phantom.weights(at["x"], at["y"])
    mean = seen.expected(path, range(81)) / path.beamline.current(range(81), 0.01)[:, None, None]
    flat = np.stack([p.ravel() for p in (*seen.patterns.values(), seen.air)], axis=1)
    found = np.linalg.lstsq(flat * 0.01, mean.reshape(81, -1).T, rcond=None)[0]
    for name, amount in zip(weights, found, strict=False):
        np.testing.assert_allclose(amount, weights[name], atol=1e-9)


def test_impossible_detectors_are_refused():
    with pytest.raises(ValueError, match="16 or 32 bits"):
        rings(bits=8)
    with pytest.raises(ValueError, match="fraction of dead pixels"):
        rings(dead=1.0)
