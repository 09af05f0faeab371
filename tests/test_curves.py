"""Curves of runs along a line or through time: the newest row of each point, over what it is of."""

import numpy as np
import pytest

from p06bs.model.collected_runs import CollectedRuns
from p06bs.model.curves import curves
from p06bs.model.map_columns import described
from tests.test_server_maps import MOTORS, RASTER, Writer, xrf

LINE = {"hints": {"dimensions": [[["x"], "primary"]]}}


def shown(runs, uid, without_raw=False):
    """Return the curves of a run by name."""
    start, streams = runs.runs[uid].start, runs.runs[uid].streams
    found = runs.beside(start).get("raw")
    raw = (described(*found), found[1]) if found and not without_raw else None
    run = described(start, streams)
    named = curves(run, raw and raw[0])
    return {name: curve.picture(run, streams, raw) for name, curve in named.items()}


@pytest.fixture
def line():
    """A scan of three points, the second again after a rewind, and what was derived from it."""
    runs = CollectedRuns()
    raw = Writer(runs, "raw", **LINE)
    raw.stream(units={"i0": "counts", "x": "um"})
    raw.page([1, 2], x=[0.0, 9.0], i0=[10.0, 99.0])
    raw.page([2, 3], x=[1.0, 5.0], i0=[11.0, 12.0])
    derived = xrf(runs, "run", "raw", shape=None, extents=None, motors=None, **LINE)
    derived.page([1, 2, 2, 3], Fe_K=[1.0, 7.0, 2.0, 3.0], valid=[True, True, True, False])
    return runs, derived


def test_points_lie_where_the_raw_run_says(line):
    runs, _ = line
    found = shown(runs, "raw")
    assert list(found) == ["i0", "x"]  # axes last
    i0 = found["i0"]
    assert i0.values.tolist() == [[10.0, 11.0, 12.0]]
    assert (i0.kind, i0.unit, i0.rows, i0.x.label) == ("curve", "counts", 4, "x (um)")
    assert i0.places.tolist() == [0.0, 1.0, 5.0]
    iron = shown(runs, "run")["Fe_K"]
    np.testing.assert_array_equal(iron.values, [[1.0, 2.0, np.nan]])
    assert iron.places.tolist() == [0.0, 1.0, 5.0]


def test_without_the_raw_run_and_before_it_points_are_counted(line):
    runs, derived = line
    alone = shown(runs, "run", without_raw=True)["Fe_K"]
    assert (alone.x.name, alone.x.first, alone.x.last, alone.places) == ("point", 1.0, 3.0, None)
    derived.page([4], Fe_K=[4.0])  # ahead of its raw run's position
    assert shown(runs, "run")["Fe_K"].x.name == "point"


def test_a_time_series_goes_through_time_from_its_first_point():
    runs = CollectedRuns()
    raw = Writer(runs, "raw", hints={"dimensions": [[["time"], "primary"]]})
    raw.stream(units={"i0": "counts"})
    assert shown(runs, "raw")["i0"].values.shape == (1, 0)
    raw.page([1, 2, 3], i0=[1.0, 2.0, 3.0])
    (i0,) = shown(runs, "raw").values()
    assert (i0.x.name, i0.x.unit, i0.x.first, i0.x.last) == ("time", "s", 0.0, 1.0)
    assert i0.places is None


def test_an_area_has_no_curves_and_several_dimensions_are_counted():
    runs = CollectedRuns(scans=3)
    area = Writer(runs, "area", **RASTER, **MOTORS)
    area.stream(units={"i0": "counts"})
    area.page([1], i0=[1.0])
    assert shown(runs, "area") == {}
    cube = Writer(runs, "cube", hints={"dimensions": [[[key], "primary"] for key in "zyx"]})
    cube.stream(units={"i0": "counts", "z": "um"})
    cube.page([1, 2], i0=[1.0, 2.0], z=[0.0, 0.0])
    assert shown(runs, "cube")["i0"].x.name == "point"
