"""Where the simulated stage and sample are, and what encoders and interferometers say."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs.plans.maps import grid
from p06bs.sim.air import refractivity
from p06bs.sim.beamline import Beamline
from p06bs.sim.metrology import BLOCK, Air, Metrology
from p06bs.sim.trajectory import CAPTURES, Trajectory, speed

GRID = grid((-20, 20), 41, (-20, 20), 41, rate=200.0)


def trajectory(points=GRID, seed=1, **metrology):
    return Trajectory(Beamline(seed=seed, metrology=Metrology(**metrology)), points)


def unwrapped(words):
    """Unwrap signed 32-bit words."""
    return np.unwrap(words, period=2.0**32)


@pytest.mark.parametrize(
    ("humidity", "expected"), [(0.0, 2.7180e-4), (50.0, 2.7137e-4)], ids=["dry", "moist"]
)
def test_air_refracts_as_published(humidity, expected):
    assert refractivity(633.0, 20.0, 1013.25, humidity) == pytest.approx(expected, abs=1.0e-8)


def test_everything_depends_on_seed_and_point_only():
    whole = trajectory().capture()
    parts = [trajectory().capture(a, b) for a, b in ((0, 1), (1, 700), (700, None))]
    assert whole.keys() == CAPTURES.keys()
    for key, column in whole.items():
        assert column.dtype.str == CAPTURES[key].dtype
        assert column.shape == (41 * 41,)
        np.testing.assert_array_equal(column, np.concatenate([part[key] for part in parts]))
    other = trajectory(seed=2).capture()
    for key in ("x", "i0", "encoder_x", "interferometer_y", "interferometer_y_valid"):
        assert (whole[key] != other[key]).any()


def test_encoder_and_interferometer_say_where_the_sample_is():
    path = trajectory()
    captured, sample = path.capture(), path.sample()
    settings = path.beamline.metrology
    for axis in ("x", "y"):
        # Encoder alone: off by the thermal drift, 52 nm rms over this scan in x.
        largest = captured[f"encoder_{axis}_max"].astype(float)
        whole = largest - captured[f"encoder_{axis}_min"] < 2**31  # no wrap within the gate
        assert whole.sum() > 0.9 * len(path)
        word = unwrapped(captured[f"encoder_{axis}"][whole]) - settings.origin(axis)
        word -= np.rint(word[0] / 2**32) * 2**32
        off = word * settings.encoder_resolution - sample[axis][whole]
        drift = settings.drifted(axis, np.arange(len(path)), path.gate_time)
        np.testing.assert_allclose(off, -drift[whole], atol=0.006)
        # Interferometer: 0.5 nm rms, and 0.1 nm resolution.
        valid = captured[f"interferometer_{axis}_valid"]
        counts = captured[f"interferometer_{axis}"]
        place = counts * 1e-4 / settings.refractive_index
        error = (place - sample[axis])[valid]
        assert error.std() == pytest.approx(0.0005, rel=0.1)
        assert abs(error.mean()) < 0.0001
        assert not counts[~valid].any()
    drift_x = settings.drifted("x", np.arange(len(path)), path.gate_time)
    assert np.sqrt((drift_x**2).mean()) == pytest.approx(0.052, rel=0.03)


def test_beams_are_lost_once_a_block_and_read_what_they_are_told():
    path = trajectory(lost=math.nan)
    captured = path.capture()
    for axis in ("x", "y"):
        valid = captured[f"interferometer_{axis}_valid"]
        np.testing.assert_array_equal(np.isnan(captured[f"interferometer_{axis}"]), ~valid)
        for begin in range(0, 4 * BLOCK, BLOCK):
            gaps = np.flatnonzero(np.diff(valid[begin : begin + BLOCK].astype(int)))
            assert gaps.size == 2
            assert 12 <= gaps[1] - gaps[0] <= 30
    assert (captured["interferometer_x_valid"] != captured["interferometer_y_valid"]).any()
    assert trajectory(gap=(0, 0)).capture()["interferometer_x_valid"].all()


def test_words_wrap_within_a_scan():
    captured = trajectory().capture()
    for axis in ("x", "y"):
        assert np.ptp(captured[f"encoder_{axis}"]) > 2**31
        within = captured[f"encoder_{axis}_max"].astype(float) - captured[f"encoder_{axis}_min"]
        good = within < 2**31
        np.testing.assert_array_less(within[good], 2000)  # 1 µm and noise
        mean = captured[f"encoder_{axis}"][good]
        assert (mean >= captured[f"encoder_{axis}_min"][good] - 1).all()
        assert (mean <= captured[f"encoder_{axis}_max"][good] + 1).all()


@given(
    origin=st.integers(-(2**40), 2**40) | st.integers(2**31 - 600, 2**31 + 600),
    sweep=st.floats(-1.0, 1.0),
    resolution=st.sampled_from([0.001, -0.001, 0.0005]),
)
def test_a_gate_is_summed_over_wrapped_words(origin, sweep, resolution):
    """Against the words of many samples, one after the other."""
    settings = Metrology(
        encoder_offset=(origin, 0), encoder_resolution=resolution, encoder_noise=0.0, drift=0.0
    )
    gate_time = 8e-5  # 10 000 samples
    seen = settings.encoder("x", [0], np.array([0.3]), np.array([sweep]), gate_time)
    within = (np.arange(10_000) + 0.5) / 10_000 - 0.5
    counts = origin + (0.3 + within * sweep) / resolution
    # The encoder's word is whole, its mean is not: compare what is left of each range.
    words = (counts + 2**31) % 2**32 - 2**31
    if abs(np.rint(counts.max()) - counts.max()) > 1e-3:
        assert abs(float(seen["min"][0]) - words.min()) <= 1.5 or np.ptp(words) < 3
    # A wrap that hits the outermost half count may or may not be seen.
    near_edge = min((counts.min() + 2**31) % 2**32, -(counts.max() + 2**31) % 2**32) < 1.5
    if not near_edge:
        slack = 2.0**32 * 2 / max(abs(sweep / resolution), 1) if np.ptp(words) > 2**31 else 1.0
        assert abs(float(seen["mean"][0]) - words.mean()) <= slack
        assert int(seen["sum"][0]) == pytest.approx(float(seen["mean"][0]) * 10_000, abs=1)
    assert -(2**31) <= int(seen["min"][0]) <= int(seen["max"][0]) < 2**31


def test_an_empty_gate_reads_zero():
    captured = trajectory(empty_gates=frozenset({3})).capture(2, 5)
    assert captured["gate_samples"].tolist() == [625_000, 0, 625_000]
    for key in ("encoder_x", "encoder_x_sum", "encoder_y_min", "encoder_y_max"):
        assert (captured[key] == 0).tolist() == [False, True, False]


def test_lag_moves_odd_and_even_lines_against_each_other():
    lagging = trajectory(lag=0.001)  # 1 ms of 5 ms per µm: 0.2 µm
    shift = lagging.exposed()["x"] - trajectory().exposed()["x"]
    lines = shift.reshape(41, 41)
    np.testing.assert_allclose(lines[::2], 0.2, atol=1e-9)
    np.testing.assert_allclose(lines[1::2], -0.2, atol=1e-9)
    np.testing.assert_array_equal(
        lagging.capture()["encoder_x"], trajectory().capture()["encoder_x"]
    )


def test_speed_at_the_ends_of_lines_is_the_lines():
    x = np.array([0, 1, 2, 2, 1, 0, 0, 1, 2], float)
    np.testing.assert_allclose(speed(x, 0.1), [10, 10, 10, -10, -10, -10, 10, 10, 10])
    raster = np.array([0, 1, 2, 0, 1, 2], float)
    np.testing.assert_allclose(speed(raster, 1.0), np.ones(6))
    assert speed([7.0], 1.0).tolist() == [0.0]
    np.testing.assert_allclose(speed([0.0, 2.0], 2.0), [1, 1])


def test_impossible_metrology_is_refused():
    with pytest.raises(ValueError, match="gaps must have"):
        Metrology(gap=(5, 3))
    with pytest.raises(ValueError, match="must not be 0"):
        Metrology(encoder_resolution=0.0)
    with pytest.raises(ValueError, match="0 or NaN"):
        Metrology(lost=1.0)
    with pytest.raises(ValueError, match="does not fit"):
        Trajectory(Beamline(), replace(GRID, gate_time=1.0))
    with pytest.raises(ValueError, match=r"shorter than 34.4 s, .* not 60 s"):
        Trajectory(Beamline(), replace(GRID, gate_time=60.0, rate=np.inf)).capture(0, 1)
    with pytest.raises(ValueError, match="one length"):
        Trajectory(Beamline(), replace(GRID, positions={"x": np.zeros(5), "y": np.zeros(4)}))


def test_thicker_air_makes_longer_paths():
    dense, vacuum = (
        trajectory(interferometer_noise=0.0, gap=(0, 0), air=Air(pressure=p)).capture(0, 41)
        for p in (1013.25, 0.0)
    )
    paths = (dense["interferometer_x"] - vacuum["interferometer_x"]) * 0.1  # nm
    # 40 µm in x by n - 1 = 2.7e-4
    assert paths[40] - paths[0] == pytest.approx(40e3 * 2.65e-4, abs=0.4)
