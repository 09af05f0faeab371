"""Bilinear gridding: exact for what is linear, whatever the cuts, gaps cost their value only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs.model.bilinear import Bilinear

EXTENTS = ((-1.0, 3.0), (10.0, 4.0))  # x falls


def rows(count: int, columns: int = 3, seed: int = 1, gaps: float = 0.0):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(3.5, 10.5, count), rng.uniform(-1.5, 3.5, count)
    values = rng.normal(0, 1, (columns, count))
    values[rng.random(values.shape) < gaps] = np.nan
    return x, y, values


def one_by_one(shape, extents, x, y, values):
    """Return sums and weights by the formula, one row and column after the other."""
    sums, weights = np.zeros((len(values), *shape)), np.zeros((len(values), *shape))
    centres = [np.linspace(*extent, count) for count, extent in zip(shape, extents, strict=True)]
    steps = [(e[1] - e[0]) / (n - 1) for n, e in zip(shape, extents, strict=True)]
    for at in np.ndindex(shape):
        ny, nx = ((p - c[i]) / s for p, c, i, s in zip((y, x), centres, at, steps, strict=True))
        near = np.clip(1 - abs(ny), 0, 1) * np.clip(1 - abs(nx), 0, 1)
        for i, column in enumerate(values):
            there = ~np.isnan(column)
            sums[(i, *at)] = (near * column)[there].sum()
            weights[(i, *at)] = near[there].sum()
    return sums, weights


@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_sums_and_weights_are_those_of_the_formula(gaps: float) -> None:
    x, y, values = rows(300, gaps=gaps)
    made = Bilinear((5, 4), EXTENTS, 3)
    made.add(x, y, values)
    sums, weights = one_by_one((5, 4), EXTENTS, x, y, values)
    np.testing.assert_allclose(made.sums, sums, atol=1e-12)
    np.testing.assert_allclose(np.broadcast_to(made.weights, sums.shape), weights, atol=1e-12)
    mean = sums / weights
    np.testing.assert_allclose(made.read(), mean, atol=1e-9)


def test_a_value_at_a_centre_is_that_pixel() -> None:
    made = Bilinear((2, 3), ((0.0, 1.0), (0.0, 2.0)))
    made.add([0, 1, 2, 0, 2], [0, 0, 0, 1, 1], [[1, 2, 3, 4, 6]])
    assert np.array_equal(made.read(), [[[1, 2, 3], [4, np.nan, 6]]], equal_nan=True)


def test_a_plane_that_is_sampled_evenly_is_kept_in_the_middle() -> None:
    grid = np.linspace(-0.5, 9.5, 200, endpoint=False) + 0.025
    x, y = (each.ravel() for each in np.meshgrid(grid, grid))
    made = Bilinear((10, 10), ((0.0, 9.0), (0.0, 9.0)))
    made.add(x, y, [3 * x - 2 * y])
    rest = made.read()[0] - (3 * np.arange(10) - 2 * np.arange(10)[:, None])
    assert abs(rest[1:-1, 1:-1]).max() < 1e-9


@given(
    cuts=st.lists(st.integers(1, 200), max_size=6),
    gaps=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 99),
)
def test_however_rows_are_cut_sums_are_the_same_to_the_last_bit(cuts, gaps, seed) -> None:
    x, y, values = rows(200, seed=seed, gaps=gaps)
    whole, parts = Bilinear((5, 4), EXTENTS, 3), Bilinear((5, 4), EXTENTS, 3)
    whole.add(x, y, values)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 200], strict=True):
        parts.add(x[start:stop], y[start:stop], values[:, start:stop])
    assert np.array_equal(whole.sums, parts.sums)
    assert np.array_equal(whole.read(), parts.read(), equal_nan=True)


@pytest.mark.parametrize(("first", "second"), [(0.0, 0.2), (0.2, 0.0), (0.0, 0.0)])
def test_what_several_have_can_be_put_together(first: float, second: float) -> None:
    a, b = rows(100, seed=1, gaps=first), rows(150, seed=2, gaps=second)
    both, one, other = (Bilinear((5, 4), EXTENTS, 3) for _ in range(3))
    for each in (a, b):
        both.add(*each)
    one.add(*a)
    other.add(*b)
    one.merge(other)
    np.testing.assert_allclose(one.sums, both.sums, atol=1e-12)
    np.testing.assert_allclose(one.read(), both.read(), rtol=1e-9)
    with pytest.raises(ValueError, match="other columns, or on another grid"):
        one.merge(Bilinear((5, 4), EXTENTS, 2))


def test_what_has_no_place_or_no_number_is_left_out() -> None:
    made = Bilinear((2, 2), ((0.0, 1.0), (0.0, 1.0)), 2)
    x = [np.nan, np.inf, -0.6, 1.51, 0, 0, 1, 1e308]
    y = [0, 0, 0, 0, np.nan, 0, 1, 0]
    values = [[9, 9, 9, 9, 9, 1, np.nan, 9], [9, 9, 9, 9, 9, np.nan, np.inf, 9]]
    made.add(x, y, values)
    nan = np.nan
    first, second = made.read()
    assert np.array_equal(first, [[1, nan], [nan, nan]], equal_nan=True)
    assert np.array_equal(second, [[nan, nan], [nan, np.inf]], equal_nan=True)
    made.add([], [], np.empty((2, 0)))


def test_rows_without_any_number_need_no_weights_of_their_own() -> None:
    x, y, values = rows(100)
    values[:, 7] = np.nan  # an invalid event
    made = Bilinear((5, 4), EXTENTS, 3)
    made.add(x, y, values)
    assert made.weights.shape == (1, 5, 4)


def test_along_an_axis_of_one_pixel_everything_lies_in_it() -> None:
    made = Bilinear((1, 3), ((0.0, 0.0), (0.0, 2.0)))
    made.add([0, 1.5], [77.0, -3.0], [[4.0, 6.0]])
    assert made.read().tolist() == [[[4.0, 6.0, 6.0]]]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="x: 3 pixels from 1 to 1 are no axis"):
        Bilinear((1, 3), ((0.0, 0.0), (1.0, 1.0)))
    with pytest.raises(ValueError, match="2 x, 1 y and 2 values are no rows"):
        Bilinear((2, 2), ((0.0, 1.0), (0.0, 1.0))).add([0, 1], [0], [[1, 2]])
