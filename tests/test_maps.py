"""Columns to maps: rewinds, snakes, measured positions; against plain loops and by property."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs.model.maps import Grid, grid_map, grid_of, newest, pixels, regular_map

shapes = st.tuples(st.integers(1, 7), st.integers(1, 7))


@given(st.lists(st.integers(1, 20), max_size=60))
def test_newest_is_the_last_row_of_each_number_in_their_order(numbers: list[int]) -> None:
    last = {number: row for row, number in enumerate(numbers)}
    assert newest(np.array(numbers, int)).tolist() == [last[n] for n in sorted(last)]


@given(shapes, st.booleans(), st.data())
def test_a_complete_scan_is_the_raster_whatever_the_order_of_its_rows(
    shape: tuple[int, int], snaking: bool, data: st.DataObject
) -> None:
    truth = np.arange(shape[0] * shape[1], dtype=float).reshape(shape)
    acquired = truth.copy()
    if snaking:
        acquired[1::2] = acquired[1::2, ::-1]
    numbers = np.arange(1, acquired.size + 1)
    order = np.array(data.draw(st.permutations(range(acquired.size))), int)
    found = grid_map(acquired.ravel()[order], numbers[order], shape, snaking)
    np.testing.assert_array_equal(found, truth)


@given(shapes, st.booleans(), st.data())
def test_rewinds_invalid_and_missing_rows_against_a_loop(
    shape: tuple[int, int], snaking: bool, data: st.DataObject
) -> None:
    size = shape[0] * shape[1]
    rows = data.draw(
        st.lists(st.tuples(st.integers(-1, size + 2), st.floats(-9, 9), st.booleans()), max_size=80)
    )
    expected = np.full(shape, np.nan)
    for number, value, valid in rows:
        if 1 <= number <= size:
            y, x = divmod(number - 1, shape[1])
            x = shape[1] - 1 - x if snaking and y % 2 else x
            expected[y, x] = value if valid else np.nan
    numbers, values, valid = (np.array([r[i] for r in rows]) for i in range(3))
    found = grid_map(values, numbers.astype(int), shape, snaking, valid.astype(bool))
    np.testing.assert_array_equal(found, expected)


@given(shapes, st.booleans())
def test_every_pixel_is_visited_once(shape: tuple[int, int], snaking: bool) -> None:
    size = shape[0] * shape[1]
    assert sorted(pixels(np.arange(size), shape, snaking).tolist()) == list(range(size))


def test_integers_become_floats_and_lengths_are_checked() -> None:
    found = grid_map(np.array([5, 7], np.uint32), [1, 3], (2, 2), snaking=True)
    np.testing.assert_array_equal(found, [[5, np.nan], [np.nan, 7]])
    with pytest.raises(ValueError, match=r"values \(2,\), raw_seq_num \(3,\)"):
        grid_map([1, 2], [1, 2, 3], (1, 3))
    with pytest.raises(ValueError, match="valid"):
        grid_map([1, 2], [1, 2], (1, 2), valid=[True])


@given(shapes, st.data())
def test_positions_near_the_centres_give_the_raster(
    shape: tuple[int, int], data: st.DataObject
) -> None:
    ends = st.sampled_from([(-3.0, 3.0), (10.0, -2.0), (0.0, 1e-3)])
    extents = (data.draw(ends), data.draw(ends))
    truth = np.arange(shape[0] * shape[1], dtype=float).reshape(shape)
    iy, ix = np.indices(shape).reshape(2, -1)
    seed = np.random.default_rng(data.draw(st.integers(0, 1000)))

    def place(i: np.ndarray, n: int, extent: tuple[float, float]) -> np.ndarray:
        step = (extent[1] - extent[0]) / max(n - 1, 1)
        return extent[0] + step * (i + seed.uniform(-0.45, 0.45, len(i)))

    x, y = place(ix, shape[1], extents[1]), place(iy, shape[0], extents[0])
    order = seed.permutation(len(x))
    found = regular_map(x[order], y[order], truth.ravel()[order], shape, extents)
    np.testing.assert_array_equal(found, truth)


@given(st.lists(st.tuples(st.floats(-2, 6), st.floats(-2, 6), st.floats(-9, 9)), max_size=60))
def test_measured_positions_against_a_loop(points: list[tuple[float, float, float]]) -> None:
    sums: dict[tuple[int, int], list[float]] = {}
    for x, y, value in points:
        if -0.5 <= x <= 4.5 and -0.5 <= y <= 2.5:
            pixel = min(int(np.floor(y + 0.5)), 2), min(int(np.floor(x + 0.5)), 4)
            sums.setdefault(pixel, []).append(value)
    expected = np.full((3, 5), np.nan)
    for pixel, values in sums.items():
        expected[pixel] = np.mean(values)
    x, y, v = (np.array([p[i] for p in points], float) for i in range(3))
    found = regular_map(x, y, v, (3, 5), ((0, 2), (0, 4)))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_what_has_no_place_is_left_out() -> None:
    extents = ((0.0, 1.0), (0.0, 1.0))
    x = [0.0, np.nan, np.inf, 0.0, 1e300, 1.0]
    y = [0.0, 0.0, 0.0, np.nan, 0.0, 1.0]
    found = regular_map(x, y, [1, 2, 3, 4, 5, np.nan], (2, 2), extents)
    np.testing.assert_array_equal(found, [[1, np.nan], [np.nan, np.nan]])
    with pytest.raises(ValueError, match="axis y has 2 pixels, but both ends lie at"):
        regular_map([0], [0], [0], (2, 2), ((1, 1), (0, 1)))


def test_the_raster_of_a_start_document() -> None:
    start = {
        "plan_name": "grid_scan",
        "shape": (2, 3),
        "extents": ([0, 1], [5, 7]),
        "snaking": (False, True),
        "motors": ["y", "x"],
    }
    assert grid_of(start) == Grid((2, 3), True, ((0.0, 1.0), (5.0, 7.0)), ("y", "x"))
    assert grid_of({"shape": [2, 3], "snaking": True}) == Grid((2, 3), True)
    for other in ({}, {"shape": [5]}, {"shape": [2, 3, 4]}, {"shape": [0, 3]}, {"shape": "ab"}):
        assert grid_of(other) is None
    for plan in ("spiral_square", "rel_spiral_square", "list_grid_scan"):
        assert grid_of({**start, "plan_name": plan}) is None
