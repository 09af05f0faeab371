"""What the beam meets in the phantom, at every position and angle."""

from itertools import pairwise

import numpy as np
import pytest
import xraydb
from scipy.integrate import quad

from p06bs.sim.layers import Layer
from p06bs.sim.phantom import Phantom, PhantomError

RNG = np.random.default_rng(5)
LAYERS = {
    "front": Layer({"Fe": 7800.0}, depth=(-3.0, -1.0), luminescence=0.01, collection=0.5),
    "back": Layer({"Cu": 500.0, "C": 900.0}, depth=(0.0, 1.5), luminescence=0.002, collection=1.0),
}
PHANTOM = Phantom(
    {"front": RNG.random((4, 6)), "back": RNG.random((4, 6))},
    x_range=(-5, 5),
    y_range=(0, 9),
    layers=LAYERS,
)


@pytest.mark.parametrize("angle", [0.0, 3.0, -30.0, 77.0, 90.0, 130.0, 180.0, 271.0])
def test_the_weight_is_the_integral_along_the_ray(angle):
    """Compare with numbers: walk along the ray through the sample as it stands at angle 0."""
    sine, cosine = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
    for x, y in ((-1.2, 4.0), (0.7, 8.1), (2.3, 1.5)):
        for name, seen in PHANTOM.weights(x, y, angle).items():
            begin, end = LAYERS[name].depth

            def density(s, name=name, x=x, y=y, begin=begin, end=end):
                depth = s * cosine - x * sine
                if not begin <= depth <= end:
                    return 0.0
                return float(PHANTOM.weights(x * cosine + s * sine, y)[name])

            # Where the ray enters or leaves a layer or a pixel, the integrand is not smooth.
            kinks = [(d + x * sine) / cosine for d in (begin, end)] if abs(cosine) > 1e-9 else []
            if abs(sine) > 1e-9:
                kinks += [(u - x * cosine) / sine for u in (-6, -5, -3, -1, 1, 3, 5, 6)]
            edges = sorted({-20.0, 20.0, *(k for k in kinks if -20 < k < 20)})
            total = sum(quad(density, a, b)[0] for a, b in pairwise(edges))
            assert float(seen) == pytest.approx(total / (end - begin), rel=1e-6, abs=1e-9)


def test_mass_is_the_same_from_all_sides():
    x = np.linspace(-12, 12, 24001)
    mass = [
        {e: d.sum() * (x[1] - x[0]) for e, d in PHANTOM.areal_density(x, 4.0, angle).items()}
        for angle in (0.0, 20.0, 65.0, 90.0)
    ]
    assert list(mass[0]) == ["Fe", "Cu", "C"]
    for other in mass[1:]:
        assert other == pytest.approx(mass[0], rel=1e-3)


def test_angles_are_broadcast_against_positions():
    x, angle = np.linspace(-4, 4, 5), np.array([[0.0], [40.0], [90.0]])
    together = PHANTOM.areal_density(x, 4.0, angle)["Fe"]
    assert together.shape == (3, 5)
    for row, degrees in zip(together, angle[:, 0], strict=True):
        np.testing.assert_allclose(row, PHANTOM.areal_density(x, 4.0, degrees)["Fe"])


def test_half_a_turn_mirrors():
    x = np.linspace(-6, 6, 31)
    np.testing.assert_allclose(
        PHANTOM.thickness(x, 3.0, 25.0), PHANTOM.thickness(-x, 3.0, 205.0), atol=1e-12
    )


def test_transmission_is_what_xraydb_says_of_the_foil():
    """1 µm of iron against xraydb's own refractive index of the material."""
    foil = Phantom({"front": np.ones((2, 2))}, layers={"front": Layer({"Fe": 7874.0}, (0.0, 1.0))})
    amplitude = complex(foil.transmission(0.0, 0.0, energy=12.0))
    delta, beta, attenuation_length = xraydb.xray_delta_beta("Fe", 7.874, 12e3)
    wave_number = 2 * np.pi / (12.3984198e-4 / 12.0)  # 1/µm
    assert np.angle(amplitude) == pytest.approx(wave_number * delta, rel=1e-3)
    assert -np.log(abs(amplitude)) == pytest.approx(wave_number * beta, rel=1e-2)
    assert abs(amplitude) ** 2 == pytest.approx(np.exp(-1e-4 / attenuation_length), rel=1e-2)
    assert complex(foil.transmission(500.0, 0.0, energy=12.0)) == 1


def test_light_and_charge_follow_the_layers():
    phantom = Phantom(
        {"front": np.array([[1.0, 0.5, 0.0]]), "back": np.array([[0.0, 0.5, 0.0]])},
        x_range=(0, 2),
        layers=LAYERS,
    )
    x = np.arange(3)
    np.testing.assert_allclose(phantom.luminescence(x, 0.0), [0.01, 0.006, 0])
    np.testing.assert_allclose(phantom.collection_efficiency(x, 0.0), [0.5, 0.75, 0])
    np.testing.assert_allclose(phantom.thickness(x, 0.0), [2, 1.75, 0])


def test_impossible_layers_are_refused():
    with pytest.raises(PhantomError, match="no layer is called 'other'; there are front, back"):
        Phantom({"other": np.ones((1, 1))}, layers=LAYERS)
    with pytest.raises(ValueError, match="0 or more ng/mm²"):
        Layer({"Fe": -1.0})
    with pytest.raises(ValueError, match="end behind its begin"):
        Layer({}, depth=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"collection within 0\.\.1"):
        Layer({}, collection=1.5)
