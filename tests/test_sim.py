"""The simulated beamline: its phantom, its spectra, and what its instruments read."""

import math

import numpy as np
import pytest
import xraydb
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.ndimage import map_coordinates

from p06bs.sim.beamline import Beamline
from p06bs.sim.clock import TriggerClock
from p06bs.sim.emission import COUNT_RATE, Measured
from p06bs.sim.layers import Layer
from p06bs.sim.metrology import Metrology
from p06bs.sim.phantom import Phantom, PhantomError, expected_maps
from p06bs.sim.spectra import (
    BANDS,
    CHANNELS,
    DISCRIMINATOR,
    LINES,
    SPECTRA,
    measured,
    pymca_configuration,
    regions,
    spectrum_of,
)

GATE = 0.005


def scan(beamline, nx, ny):
    """Return what a snake over the whole phantom records, with the points' grid indices."""
    iy, ix = np.divmod(np.arange(nx * ny), nx)
    ix = np.where(iy % 2, nx - 1 - ix, ix)
    x = np.linspace(*beamline.phantom.x_range, nx)[ix]
    y = np.linspace(*beamline.phantom.y_range, ny)[iy]
    points = range(nx * ny)
    at = beamline.metrology.readback(points, {"x": x, "y": y})
    return beamline.expose(points, at["x"], at["y"], GATE), iy, ix


# The phantom


def test_equal_shapes_meet_pixel_by_pixel():
    rng = np.random.default_rng(1)
    maps = {name: rng.random((17, 23)) for name in SPECTRA}
    for name, seen in expected_maps(Phantom(maps), nx=23, ny=17).items():
        np.testing.assert_array_equal(seen, maps[name])


def test_stage_jitter_hardly_changes_what_is_seen():
    phantom = Phantom.default((41, 41))
    beamline = Beamline(phantom)
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(-20, 20, 41), np.linspace(-20, 20, 41)))
    limit = Metrology().jitter_limit
    read = beamline.metrology.readback(range(x.size), {"x": x, "y": y})
    x_read, y_read = read["x"], read["y"]
    assert 0 < np.abs(x_read - x).max() <= limit
    for name, weights in phantom.weights(x_read, y_read).items():
        # 30 nm of 1 µm per axis, times the largest step from 0 to 1
        np.testing.assert_allclose(weights, phantom.maps[name].ravel(), atol=2 * limit)


def test_other_shapes_are_sampled_between_pixel_centres():
    weights = np.random.default_rng(3).random((3, 4))
    phantom = Phantom({"Steel": weights}, x_range=(0, 3), y_range=(10, 30))
    x, y = np.array([0.4, 0.6, 2.9, 3.2]), np.array([14.9, 15.1, 30.0, 9.0])
    seen = phantom.weights(x, y)["Steel"]
    expected = map_coordinates(weights, [(y - 10) / 10, x], order=1, mode="nearest")
    np.testing.assert_allclose(seen, expected, rtol=1e-9)


def test_there_is_no_sample_beyond_its_edge():
    phantom = Phantom({"Steel": np.ones((3, 3))}, x_range=(0, 2), y_range=(0, 2))
    seen = phantom.weights([-0.6, -0.4, 2.4, 2.6], 1.0)["Steel"]
    np.testing.assert_array_equal(seen, [0, 1, 1, 0])


def test_maps_take_spectra_by_name_then_in_order(tmp_path):
    first, second = np.full((2, 2), 0.25), np.full((2, 2), 0.75)
    by_name, by_order, mixed = (tmp_path / f"{i}.npz" for i in range(3))
    np.savez(by_name, Steel=first, XRFSpectrum=second)
    np.savez(by_order, iron=first, cobalt=second)
    np.savez(mixed, other=first, XRFSpectrum=second)
    expected = {
        by_name: {"Steel": first, "XRFSpectrum": second},
        by_order: {"XRFSpectrum": first, "Steel": second},
        mixed: {"Steel": first, "XRFSpectrum": second},
    }
    for path, maps in expected.items():
        loaded = Phantom.load(path).maps
        assert loaded.keys() == maps.keys()
        for name, weights in maps.items():
            np.testing.assert_array_equal(loaded[name], weights)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({"a": np.ones((2, 2)), "b": np.ones((2, 2)), "c": np.ones((2, 2))}, "3 maps"),
        ({"a": np.full((2, 2), 1.01)}, r"'a' must hold weights in 0\.\.1"),
        ({"a": np.full((2, 2), -0.1)}, r"weights in 0\.\.1"),
        ({"a": np.array([[0, 255]], np.uint8)}, r"weights in 0\.\.1, not 0\.\.255"),
        ({"a": np.array([[0.1, np.nan]])}, "must be finite"),
        ({"a": np.ones(4)}, "2-D"),
        ({"a": np.ones((0, 4))}, "not empty"),
        ({"a": np.array([["x"]])}, "real numbers"),
        ({"a": np.array([[{}]])}, r"phantom\.npz is no readable"),
        ({"a": np.ones((2, 2)), "b": np.ones((2, 3))}, "one shape"),
        ({}, "at least one map"),
    ],
)
def test_unusable_phantoms_are_refused_with_the_reason(tmp_path, maps, message):
    np.savez(tmp_path / "phantom.npz", **maps)
    with pytest.raises(PhantomError, match=message):
        Phantom.load(tmp_path / "phantom.npz")


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 half an archive"])
def test_a_file_that_is_no_phantom_is_named(tmp_path, content):
    (tmp_path / "phantom.npz").write_bytes(content)
    with pytest.raises(PhantomError, match=r"phantom\.npz is no readable"):
        Phantom.load(tmp_path / "phantom.npz")


def test_a_phantom_that_is_not_there_or_has_no_names_is_refused(tmp_path):
    with pytest.raises(PhantomError, match=r"cannot read .*none\.npz: No such file"):
        Phantom.load(tmp_path / "none.npz")
    np.save(tmp_path / "one.npy", np.ones((2, 2)))
    with pytest.raises(PhantomError, match=r"save maps with np\.savez"):
        Phantom.load(tmp_path / "one.npy")


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float16, np.float32, ">f8"])
def test_maps_of_all_real_numbers_become_floats(tmp_path, dtype):
    np.savez(tmp_path / "phantom.npz", a=np.array([[0, 1, 1]], dtype))
    (loaded,) = Phantom.load(tmp_path / "phantom.npz").maps.values()
    assert loaded.dtype == float
    assert loaded.tolist() == [[0, 1, 1]]


def test_default_phantom_reveals_turned_mirrored_and_unravelled_maps():
    for weights in Phantom.default().maps.values():
        snake = weights.copy()
        snake[1::2] = snake[1::2, ::-1]
        for wrong in (weights.T, weights[::-1], weights[:, ::-1], weights[::-1, ::-1], snake):
            assert np.corrcoef(weights.ravel(), wrong.ravel())[0, 1] < 0.9


# The spectra


def test_spectra_are_the_measured_ones():
    for name in SPECTRA:
        spectrum = measured(name)
        assert spectrum.shape == (CHANNELS,)
        assert spectrum.sum() == pytest.approx(1)
        assert not spectrum[:DISCRIMINATOR].any()
        # Counts of one measurement: all are multiples of one count.
        counts = spectrum / spectrum[spectrum > 0].min()
        np.testing.assert_allclose(counts, np.rint(counts), atol=1e-6)
    # Main peaks where PyMca says they are: Fe Ka at 6.40 keV, Co Ka at 6.93 keV.
    assert measured("Steel").argmax() == round((6.40 + 0.0061) / 0.011928)
    cobalt = measured("XRFSpectrum")[1440:1510]
    assert abs(1440 + cobalt.argmax() - 1474) < 5


def test_lines_are_separated_by_their_channels():
    for line, (lo, hi) in regions().items():
        own = spectrum_of(line)
        shares = {name: measured(name)[int(lo) : int(hi) + 1].sum() for name in SPECTRA}
        assert sum(shares.values()) - shares[own] < 0.02 * shares[own]
    with pytest.raises(KeyError, match="no line 'Xx_K'"):
        spectrum_of("Xx_K")


def test_pymca_configurations_are_there():
    for name in SPECTRA:
        assert "[peaks]" in pymca_configuration(name)
    assert "Co = K" in pymca_configuration("XRFSpectrum")


# What the instruments read


def phantoms():
    rng = np.random.default_rng(7)
    smooth = [ndimage.gaussian_filter(rng.random((21, 24)), s) for s in (3, 5)]
    smooth = [(m - m.min()) / np.ptp(m) for m in smooth]
    blocky = [np.kron(rng.integers(0, 2, (5, 6)), np.ones((4, 4))) * w for w in (1.0, 0.5)]
    return {
        "default": Phantom.default((25, 23)),
        "smooth": Phantom(dict(zip(SPECTRA, smooth, strict=True))),
        "blocky": Phantom(dict(zip(SPECTRA, blocky, strict=True))),
        "correlated": Phantom({"XRFSpectrum": smooth[0], "Steel": 0.2 + 0.8 * smooth[0] ** 2}),
        "one map": Phantom({"Steel": smooth[1]}),
    }


@pytest.mark.parametrize("kind", ["default", "smooth", "blocky", "correlated", "one map"])
def test_sums_over_lines_show_the_phantom(kind):
    phantom = phantoms()[kind]
    ny, nx = phantom.shape
    exposures, iy, ix = scan(Beamline(phantom, seed=3), nx, ny)
    for name, weights in phantom.maps.items():
        for lo, hi in [*LINES[name].values(), BANDS[name]]:
            counts = exposures.spectrum[:, :, lo : hi + 1].sum(axis=(1, 2))
            seen = np.empty((ny, nx))
            seen[iy, ix] = counts
            assert np.corrcoef(seen.ravel(), weights.ravel())[0, 1] > 0.99


def test_draws_depend_on_seed_and_point_only():
    x, y = np.linspace(-10, 10, 12), np.linspace(-5, 8, 12)
    one = Beamline(seed=5).expose(range(12), x, y, GATE)
    cut = [
        Beamline(seed=5).expose(range(a, b), x[a:b], y[a:b], GATE)
        for a, b in ((0, 1), (1, 8), (8, 12))
    ]
    for key in ("spectrum", "live_time", "real_time", "input_counts", "output_counts"):
        np.testing.assert_array_equal(
            getattr(one, key), np.concatenate([getattr(e, key) for e in cut])
        )
    other = Beamline(seed=6).expose(range(12), x, y, GATE)
    assert (one.spectrum != other.spectrum).any()
    # Same expectation, another point: other numbers.
    twice = Beamline(Phantom({"Steel": np.ones((1, 1))})).expose(
        range(2), np.zeros(2), np.zeros(2), GATE
    )
    assert (twice.spectrum[0] != twice.spectrum[1]).any()


def test_spectra_are_poisson_around_the_dead_time_corrected_mean():
    beamline = Beamline(Phantom({name: np.full((1, 1), 0.8) for name in SPECTRA}), seed=11)
    n = 200
    at = np.zeros(n)
    exposures = beamline.expose(range(n), at, at, GATE)
    arriving = beamline.expected(range(n), at, at, GATE)
    mean = arriving * (exposures.live_time / exposures.real_time)[:, :, None]
    seen = mean > 0
    pulls = (exposures.spectrum[seen] - mean[seen]) / np.sqrt(mean[seen])
    assert abs(pulls.mean()) < 5 / math.sqrt(pulls.size)
    assert pulls.std() == pytest.approx(1, abs=0.01)
    assert not exposures.spectrum[~seen].any()
    # Counts per live second are the rate that arrives, whatever the dead time.
    rate = exposures.spectrum.sum(axis=(0, 2)) / exposures.live_time.sum(axis=0)
    current = beamline.current(np.arange(n), GATE).mean()
    efficiency = np.array(beamline.emission.efficiency)
    np.testing.assert_allclose(rate, 1.6 * COUNT_RATE * current * efficiency, rtol=2e-3)
    tau = np.array(beamline.emission.dead_time)
    arriving_rate = arriving.sum(axis=2) / GATE
    np.testing.assert_allclose(
        exposures.live_time, exposures.real_time / (1 + arriving_rate * tau), rtol=1e-12
    )
    # So is the ratio of pulses that arrived to those recorded.
    np.testing.assert_array_equal(exposures.output_counts, exposures.spectrum.sum(axis=2))
    counted = exposures.input_counts.sum(axis=0)
    np.testing.assert_allclose(counted / arriving.sum(axis=(0, 2)), 1, rtol=1e-3)


def test_counters_follow_current_and_absorption():
    """10 µm of copper against xraydb's own attenuation of the material."""
    layers = {"Cu": Layer({"Cu": 89600.0}, (0.0, 10.0))}
    beamline = Beamline(Phantom({"Cu": np.array([[0.0, 1.0]])}, layers=layers))
    at = np.tile(beamline.phantom.x_range, 500)
    i0, diode = beamline.counters(range(at.size), at, np.zeros(at.size), GATE)
    clear, covered = diode[::2] / i0[::2], diode[1::2] / i0[1::2]
    assert clear.mean() == pytest.approx(1, abs=1e-3)
    absorbed = xraydb.material_mu("Cu", 17.5e3, density=8.96, kind="photo") * 1e-3
    assert covered.mean() == pytest.approx(math.exp(-absorbed), rel=5e-3)
    current = beamline.current(range(at.size), GATE)
    np.testing.assert_allclose(i0 / i0.max(), current, atol=0.03)
    np.testing.assert_allclose(beamline.ring_current(range(at.size), GATE), 100 * current)


def test_impossible_beamlines_are_refused():
    with pytest.raises(ValueError, match="seed must be 0 or more"):
        Beamline(seed=-1)
    with pytest.raises(ValueError, match="one of each per detector element"):
        Measured(efficiency=(1.0,))


# The clock


def test_clock_does_not_drift():
    clock = TriggerClock(100_000, 200.0)
    clock.start(1000.0)
    assert clock.count(999.0) == 0
    for point in (0, 1, 777, 99_999):
        assert clock.count(clock.due(point)) == point + 1
        assert clock.count(clock.due(point) - 1e-3) == point
    assert clock.count(1e9) == 100_000


def test_clock_at_infinite_rate_is_done_at_once():
    clock = TriggerClock(5, math.inf)
    assert clock.count(3.0) == 0
    clock.start(3.0)
    assert clock.count(3.0) == 5
    assert clock.ended(3.0)


@given(steps=st.lists(st.tuples(st.sampled_from(["hold", "release", "look"]), st.floats(0, 3))))
def test_only_running_time_counts(steps):
    clock, now, running, held = TriggerClock(10**6, 100.0), 50.0, 0.0, False
    clock.start(now)
    seen = 0
    for action, seconds in steps:
        now += seconds
        running += 0 if held else seconds
        if action == "hold":
            clock.hold(now)
            held = True
        elif action == "release":
            clock.release(now)
            held = False
        assert abs(clock.count(now) - running * 100) <= 1 + 1e-3
        assert clock.count(now) >= seen
        seen = clock.count(now)
    clock.end(now)
    assert clock.count(now + 100) == seen
    assert clock.ended(now)


def test_impossible_clocks_are_refused():
    with pytest.raises(ValueError, match="at least one point"):
        TriggerClock(0, 1.0)
    with pytest.raises(ValueError, match="more than 0 points/s"):
        TriggerClock(1, 0.0)
