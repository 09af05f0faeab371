"""Streaming gridding: whatever the cuts, the same maps as the batch functions make of all rows."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs.model.fitting import fitted_grid
from p06bs.model.gridding import RunningMap
from p06bs.model.maps import Grid, grid_map, nearest, newest, regular_map
from p06bs.model.placement import Measured, Placement, Raster
from p06bs.model.points import Points, Positions
from p06bs.model.statistics import statistics

EXTENTS = ((0.0, 2.0), (4.0, 0.0))
shapes = st.tuples(st.integers(1, 6), st.integers(1, 6))
values = st.one_of(st.floats(-9, 9), st.sampled_from([np.nan, np.inf, -np.inf, 1e308]))
places = st.one_of(st.floats(-1, 5), st.sampled_from([np.nan, np.inf, 1e300]))


@dataclass
class Column:
    """The first `rows` of an array."""

    array: np.ndarray
    rows: int

    def read(self, start, stop):
        assert 0 <= start <= stop <= self.rows
        return self.array[start:stop]


def columns(rows, *dtypes):
    return [np.array([row[i] for row in rows], dtype) for i, dtype in enumerate(dtypes)]


def cuts(data, rows):
    return [*sorted(data.draw(st.lists(st.integers(0, rows), max_size=6))), rows]


def make(placement: Placement, running: RunningMap, points: Points, column: Column):
    placement.update(points)
    running.update(placement, points, column)
    return running.read(placement.grid.shape)


@given(
    shapes,
    st.booleans(),
    st.lists(st.tuples(st.integers(-1, 40), values, st.booleans()), max_size=80),
    st.data(),
)
def test_a_raster_in_pieces_is_the_raster_at_once(shape, snaking, rows, data):
    numbers, column, valid = columns(rows, int, float, bool)
    placement, running = Raster(Grid(shape, snaking)), RunningMap()
    for n in cuts(data, len(rows)):
        points = Points(Column(numbers, n), valid=Column(valid, n))
        found = make(placement, running, points, Column(column, n))
        expected = grid_map(column[:n], numbers[:n], shape, snaking, valid[:n])
        np.testing.assert_array_equal(found, expected)
        assert running.rows == n


@given(
    st.lists(st.tuples(st.integers(1, 20), values, places, places, st.booleans()), max_size=80),
    st.data(),
)
def test_measured_positions_in_pieces_are_those_at_once(rows, data):
    numbers, column, x, y, valid = columns(rows, int, float, float, float, bool)
    grid = Grid((3, 5), extents=EXTENTS)

    def points(n):
        positions = Positions(Column(x, n), Column(y, n))
        return Points(Column(numbers, n), positions, Column(valid, n))

    placement, running = Measured(grid), RunningMap()
    for n in cuts(data, len(rows)):
        found = make(placement, running, points(n), Column(column, n))
        kept = newest(numbers[:n])
        counted = np.where(valid, column, np.nan)[kept]
        expected = regular_map(x[kept], y[kept], counted, (3, 5), EXTENTS)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    at_once = make(Measured(grid), RunningMap(), points(len(rows)), Column(column, len(rows)))
    np.testing.assert_array_equal(found, at_once)  # to the last bit


@given(
    st.lists(st.tuples(st.integers(1, 15), places, places), max_size=40),
    st.lists(st.tuples(st.integers(1, 15), st.floats(-9, 9)), max_size=60),
    st.booleans(),
    st.data(),
)
def test_positions_of_another_stream_are_joined_by_number(there, here, fitted, data):
    """Each may come first, and either may rewind: what is there decides, not when it came."""
    at, x, y = columns(there, int, float, float)
    numbers, column = columns(here, int, float)

    def points(n, m):
        positions = Positions(Column(x, m), Column(y, m), (2.0, 0.5), Column(at, m))
        return Points(Column(numbers, n), positions)

    def fresh():
        return Measured(None if fitted else Grid((3, 5), extents=EXTENTS)), RunningMap()

    placement, running = fresh()
    steps = list(zip(cuts(data, len(here)), cuts(data, len(there)), strict=False))
    for n, m in [*steps, (len(here), len(there))]:
        found = make(placement, running, points(n, m), Column(column, n))
        if fitted:
            continue
        where = {number: row for row, number in enumerate(at[:m].tolist())}
        last = {number: row for row, number in enumerate(numbers[:n].tolist())}
        kept = [(row, where[number]) for number, row in last.items() if number in where]
        rows, places = (np.array([pair[i] for pair in kept], int) for i in range(2))
        expected = regular_map(0.5 * x[places], 2 * y[places], column[rows], (3, 5), EXTENTS)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    other, again = fresh()
    at_once = make(other, again, points(len(here), len(there)), Column(column, len(here)))
    assert placement.grid == other.grid
    np.testing.assert_array_equal(found, at_once)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(-9, 9), places, places), max_size=60),
    st.booleans(),
    st.data(),
)
def test_a_fitted_grid_holds_every_position(rows, alike, data):
    numbers, column, x, y = columns(rows, int, float, float, float)
    placement, running = Measured(alike=alike), RunningMap()
    for n in cuts(data, len(rows)):
        points = Points(Column(numbers, n), Positions(Column(x, n), Column(y, n)))
        found = make(placement, running, points, Column(column, n))
    kept = newest(numbers)
    kept = kept[np.isfinite(x[kept]) & np.isfinite(y[kept])]
    total = np.nansum(found * running._count.reshape(found.shape))
    assert total == pytest.approx(column[kept].sum())
    assert running._count.sum() == len(kept)


ends = st.tuples(
    st.floats(-1e6, 1e6), st.one_of(st.just(0.0), st.floats(1e-9, 1e6))
).map(lambda pair: (pair[0], pair[0] + pair[1]))  # fmt: skip


@given(ends, ends, st.integers(1, 10**7), st.booleans())
def test_a_fitted_grid_is_as_fine_as_positions_are_dense(y, x, count, alike):
    grid = fitted_grid(y, x, count, alike=alike)
    ny, nx = grid.shape
    assert 1 <= ny * nx <= 5 * count + 4
    assert max(ny, nx) <= 2049
    assert grid.extents is not None
    for (first, last), n, (low, high) in zip(grid.extents, grid.shape, (y, x), strict=True):
        step = (last - first) / (n - 1) if n > 1 else np.inf
        tolerance = 1e-9 * max(abs(low), abs(high), 1e-9)
        assert first - step / 2 - tolerance <= low
        assert high <= last + step / 2 + tolerance
        if n > 1:
            assert first / step == pytest.approx(round(first / step), rel=1e-6)


def test_pixels_of_a_fitted_grid_stay_when_it_extends():
    grid = fitted_grid
    assert grid((0, 9), (0, 9), 100) == Grid((10, 10), extents=((0.0, 9.0), (0.0, 9.0)))
    assert grid((-3, 12), (0, 10), 150) == Grid((16, 11), extents=((-3.0, 12.0), (0.0, 10.0)))
    assert grid((-3, 12), (0, 10), 149) == Grid((8, 6), extents=((-2.0, 12.0), (0.0, 10.0)))
    assert fitted_grid((0, 0.3), (0, 0.3), 16).extents == ((0.0, 0.3), (0.0, 0.3))


def test_degenerate_rectangles():
    assert fitted_grid((2, 2), (5, 5), 7) == Grid((1, 1), extents=((2.0, 2.0), (5.0, 5.0)))
    assert fitted_grid((2, 2), (0, 6), 7) == Grid((1, 7), extents=((2.0, 2.0), (0.0, 6.0)))
    assert fitted_grid((0, 6), (3, 3), 7).shape == (7, 1)
    assert fitted_grid((0, 5e-324), (0, 6), 7).shape == (1, 7)
    assert fitted_grid((-1e308, 1e308), (0, 6), 7).shape == (1, 7)
    assert fitted_grid((1e9, 1e9 + 1e-7), (0, 6), 7).shape == (1, 7)


def test_a_superseded_position_leaves_no_trace():
    """What was summed is not subtracted: 1e17 + 1 - 1e17 would be 0."""
    numbers, x = np.array([1, 2, 2, 3]), np.array([0.0, 0.0, 4.0, 4.0])
    column = np.array([1.0, 1e17, 5.0, np.inf])
    placement, running = Measured(Grid((1, 5), extents=((0, 0), (0, 4)))), RunningMap()
    wanted = {2: [5e16, np.nan], 3: [1, 5], 4: [1, np.inf]}
    for n, (first, last) in wanted.items():
        points = Points(Column(numbers, n), Positions(Column(x, n), Column(0 * x, n)))
        found = make(placement, running, points, Column(column, n))
        np.testing.assert_array_equal(found, [[first, np.nan, np.nan, np.nan, last]])


def test_fewer_rows_than_before_begin_anew():
    numbers, x = np.arange(1, 9), np.arange(8.0)
    for placement in (Raster(Grid((2, 4))), Measured(Grid((2, 4), extents=((0, 1), (0, 3))))):
        running = RunningMap()
        for n in (8, 3):
            points = Points(Column(numbers, n), Positions(Column(x % 4, n), Column(x // 4, n)))
            found = make(placement, running, points, Column(x, n))
            np.testing.assert_array_equal(found.ravel()[:n], x[:n])
            assert np.isnan(found.ravel()[n:]).all()


@given(st.lists(values, max_size=50))
def test_statistics_are_numpys_of_the_finite_pixels(pixels):
    found = statistics(np.array(pixels, float).reshape(1, -1))
    finite = np.array([p for p in pixels if np.isfinite(p)])
    assert found.count == len(finite)
    if not len(finite):
        assert found.min is found.max is found.mean is found.low is found.high is None
        return
    assert (found.min, found.max) == (finite.min(), finite.max())
    assert (found.low, found.high) == tuple(np.percentile(finite, (1, 99)))
    with np.errstate(over="ignore"):
        mean = finite.mean()
    assert found.mean == (mean if np.isfinite(mean) else None)


def test_the_range_of_a_large_map_is_close():
    pixels = np.random.default_rng(1).normal(size=(1000, 1000))
    pixels[:3, :3] = 1e9
    found = statistics(pixels)
    assert found.low == pytest.approx(-2.33, abs=0.1)
    assert found.high == pytest.approx(2.33, abs=0.1)
    assert found.max == 1e9


def test_nearest_needs_an_extent():
    with pytest.raises(ValueError, match="axis x has 3 pixels, but both ends lie at 1"):
        nearest([0], [0], (1, 3), ((0, 0), (1, 1)))
