"""Maps from documents alone: what a notebook gets is what a server serves."""

from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pytest
from bluesky import plans as bp

from p06bs import maps_of
from p06bs.bus.frames import Frames
from p06bs.model.collected import CollectedStream, ColumnInFiles
from p06bs.model.maps import Maps, grid_map
from p06bs.model.picture import PictureAxis
from p06bs.model.positions import corrects
from p06bs.server.sink.sink import Sink
from p06bs.server.tree import maps as server
from tests.documents import raw_run
from tests.test_server_maps import (
    MOTORS,
    NX,
    NY,
    RASTER,
    XRF,
    Writer,
    axes_and_detector,
    corrected,
    document_lists,
    nominal,
    phantom,
    truth,
    xrf,
)

PLANS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "grid_scan": lambda d, x, y: bp.grid_scan([d], y, 0, 1, 3, x, 2, 0, 4, snake_axes=True),
    "rel_grid_scan": lambda d, x, y: bp.rel_grid_scan([d], y, 0, 1, 3, x, 2, 0, 4),
    "spiral_square": lambda d, x, y: bp.spiral_square([d], x, y, 1, 0.5, 2, 1, 4, 3),
    "spiral": lambda d, x, y: bp.spiral([d], x, y, 0.2, -0.1, 2.0, 3.0, 0.4, 12),
    "spiral_fermat": lambda d, x, y: bp.spiral_fermat([d], x, y, 0, 0, 2.0, 2.0, 0.3, 1.0),
    "list_scan": lambda d, x, y: bp.list_scan([d], x, [0, 1, 2, 3], y, [1, 0, 1, 0]),
    "one_dimension": lambda d, x, y: bp.scan([d], x, 0, 1, 5),
}


class Both:
    """Give documents to a server's sink, and to maps of documents; compare what they make."""

    def __init__(self, **more: Any) -> None:
        self.sink = Sink(500_000_000)
        self.served = server.Maps(self.sink.view)
        self.maps = Maps(**more)

    def __call__(self, name: str, document: Any) -> None:
        self.sink(name, document)
        self.maps(name, document)

    def check(self, uid: str) -> dict[str, Any]:
        found = self.maps.of(uid)
        expected = self.served.of(self.sink.view(uid))
        assert list(found) == list(expected)
        for name, one in expected.items():
            seen = self.served.look(self.sink.view(uid), one)
            np.testing.assert_array_equal(found[name].values, seen.values)
            assert (found[name].rows, found[name].unit) == (seen.rows, one.unit)
            assert found[name].extents == seen.extents
            assert found[name].statistics == seen.statistics
            assert found[name].placed == one.where.kind
            names = [(axis.name, axis.unit) for axis in (found[name].y, found[name].x)]
            assert names == [(axis.name, axis.unit) for axis in one.where.axes]
        return found


@pytest.mark.parametrize("plan", PLANS)
def test_the_maps_of_a_server_while_documents_come(plan):
    x, y, detector = axes_and_detector()
    documents = document_lists(PLANS[plan](detector, x, y))
    both = Both()
    for number, one in enumerate(documents):
        both(*one)
        if number % 7 == 5:
            both.check(documents[0][1]["uid"])
    found = both.check(documents[0][1]["uid"])
    at_once = maps_of(documents)
    assert list(at_once) == [f"raw.{name}" for name in found]
    for name, one in found.items():  # a fitted grid depends on the rows, not on when one looked
        np.testing.assert_array_equal(at_once[name].values, one.values)


def test_corrected_positions_rewinds_and_outputs_that_change():
    both = Both()
    x, y = nominal()
    numbers, values = np.arange(1, NY * NX + 1), phantom(*nominal())
    raw = Writer(both, "raw", **RASTER, **MOTORS)
    raw.stream(units={"x": "um", "y": "um", "i0": "counts"})
    run = xrf(both, "run", "raw")
    positions = corrected(both, "positions", "raw")
    turned = sum((10.0, -4.0)) - x
    for first in range(0, len(x), 6):
        cut = slice(first, first + 6)
        raw.page(numbers[cut], x=x[cut], y=y[cut], i0=values[cut])
        run.page(numbers[cut], Fe_K=values[cut], valid=numbers[cut] != 3)
        for uid in ("raw", "run", "positions"):
            both.check(uid)
        positions.page(numbers[cut], x=turned[cut], y=y[cut])
    expected = grid_map(np.where(numbers == 3, np.nan, values), numbers, (NY, NX), snaking=True)
    np.testing.assert_array_equal(both.maps.of("run")["Fe_K"].values[:, ::-1], expected)
    raw.page([7], x=x[6:7], y=y[6:7], i0=[5.0])  # a rewind
    positions.page([7], x=x[6:7], y=y[6:7])
    run.stream("primary_r1", units={"Fe_K": "counts/s", "Ni_K": "counts/s"})
    run.page([7], "primary_r1", Fe_K=[4.0], Ni_K=[2.0])
    for uid in ("raw", "run", "positions"):
        both.check(uid)
    found = both.maps.scan()
    assert {"xrf.Fe_K", "xrf.Ni_K", "raw.i0", "positions.x"} <= found.keys()
    assert found["Fe_K"] is found["xrf.Fe_K"]
    with pytest.raises(KeyError, match=r"no map is 'Fe_L'.*Fe_K"):
        found["Fe_L"]
    both("stop", {"uid": "p", "run_start": "positions", "time": 9.0, "exit_status": "fail"})
    both.check("run")


def test_columns_in_files(tmp_path):
    x, y = nominal()
    columns = {"x": x, "y": y, "counts": phantom(x, y)}
    path = tmp_path / "box.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for name, values in columns.items():
            file[name] = values[:, None]
    documents: list[Any] = []
    raw = Writer(lambda *one: documents.append(one), "flown", **RASTER, **MOTORS)
    number = {"dtype": "number", "dtype_numpy": "<f8", "shape": [1], "source": "test"}
    raw.stream(keys={key: {**number, "external": "STREAM:"} for key in columns})
    for name in columns:
        resource = {
            "uid": name, "run_start": "flown", "data_key": name, "uri": f"file://localhost{path}",
            "mimetype": "application/x-hdf5", "parameters": {"dataset": name},
        }  # fmt: skip
        documents.append(("stream_resource", resource))
        for start, stop in ((0, 30), (30, NY * NX)):
            datum = {
                "uid": f"{name}/{start}", "stream_resource": name, "descriptor": "flown-primary",
                "indices": {"start": start, "stop": stop},
                "seq_nums": {"start": start + 1, "stop": stop + 1},
            }  # fmt: skip
            documents.append(("stream_datum", datum))
    with Frames(final=True) as read:
        both = Both(read=read)
        for one in documents:
            both(*one)
        found = both.check("flown")
    np.testing.assert_allclose(found["counts"].values, truth(), rtol=1e-12)
    assert maps_of(documents) == {}
    path.unlink()
    with Frames(final=True) as read:
        lost = maps_of(documents, read=read)["counts"]
    assert (lost.rows, lost.statistics.count) == (0, 0)


def test_values_that_are_none_and_descriptors_that_are_wrong():
    both = Both()
    raw = Writer(both, "odd", **RASTER, **MOTORS)
    text = {"dtype": "string", "shape": [], "source": "test"}
    raw.stream(units={"a": "mm", "b": "mm", "seq_num": "mm"}, keys={"text": text})
    raw.page([1, 2], a=[1, 2], b=[[1.0, 2.0]] * 2, seq_num=[5.0, 6.0], text=["1", "2"])
    assert list(both.maps.of("odd")) == list(both.served.of(both.sink.view("odd")))
    np.testing.assert_array_equal(both.maps.of("odd")["a"].values[0, :3], [1, 2, np.nan])
    none = Writer(both.maps, "none", **RASTER)
    none.stream(units={"a": "mm"})
    none.page([1, 2, 3], a=[None, 2.0, "x"])
    np.testing.assert_array_equal(both.maps.of("none")["a"].values[0, :3], [np.nan, 2, np.nan])


def test_columns_go_on_under_a_further_descriptor(tmp_path):
    path = tmp_path / "box.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["seq_num"] = [20.0, 21.0, 22.0]
    number = {"dtype": "number", "dtype_numpy": "<f8", "shape": [], "source": "test"}
    keys = {"time": number, "a": number, "seq_num": {**number, "external": "STREAM:"}}
    resource = {
        "uid": "r", "data_key": "seq_num", "uri": f"file://localhost{path}",
        "mimetype": "application/x-hdf5", "parameters": {"dataset": "seq_num"},
    }  # fmt: skip
    with Frames(final=True) as read:
        stream = CollectedStream({"data_keys": keys}, read)
        for start, stop in ((0, 2), (2, 3)):
            rows = range(start, stop)
            data = {"time": [10.0 + n for n in rows], "a": [float(n) for n in rows]}
            page = {"seq_num": [n + 1 for n in rows], "time": [1.0 for _ in rows], "data": data}
            stream.add(page)
            stream.announce(resource, {"indices": {"start": start, "stop": stop}})
            stream.describe({"data_keys": keys})
        found = {name: column.read(0, 3).tolist() for name, column in stream.columns.items()}
    assert found == {
        "seq_num": [1, 2, 3], "time": [1.0, 1.0, 1.0], "time_": [10.0, 11.0, 12.0],
        "a": [0.0, 1.0, 2.0], "seq_num_": [20.0, 21.0, 22.0],
    }  # fmt: skip


def test_rows_of_a_step_scan_are_read_at_once():
    """It announces them one by one."""
    asked: list[tuple[str, int, int]] = []

    def read(resource: Any, start: int, count: int, _: Any) -> Any:
        asked.append((resource["uid"], start, count))
        return np.arange(start, start + count, dtype=float)

    column = ColumnInFiles("a", (), "<f8", read)
    a, b = {"uid": "a"}, {"uid": "b"}
    for row in range(100):
        column.announce(a, row, row + 1)
    for row in range(100):
        column.announce(b, row, row + 1)
    column.announce(b, 20, 30)  # what was taken again
    assert column.read(0, column.rows).tolist() == [*range(100), *range(100), *range(20, 30)]
    assert asked == [("a", 0, 100), ("b", 0, 100), ("b", 20, 10)]
    for start, stop in ((40, 60), (99, 101), (150, 150), (198, 205), (205, 999), (210, 220)):
        expected = [*range(100), *range(100), *range(20, 30)][start:stop]
        assert column.read(start, stop).tolist() == expected


def test_only_the_newest_scans_are_kept_and_what_nobody_began_is_left():
    maps = Maps(scans=2)
    for scan in range(4):
        raw = Writer(maps, f"raw{scan}", **RASTER)
        raw.stream(units={"a": None})
        raw.page([1], a=[float(scan)])
        xrf(maps, f"run{scan}", f"raw{scan}").page([1], Fe_K=[1.0])
    maps("event", {"descriptor": "raw0-primary", "data": {}, "seq_num": 1, "time": 0, "uid": "e"})
    maps("stop", {"uid": "s", "run_start": "raw0", "exit_status": "success", "time": 1.0})
    with pytest.raises(KeyError):
        maps.of("raw1")
    assert list(maps.scan()) == ["raw.a", "xrf.Fe_K"]
    assert maps.scan("run2")["a"].values[0, 0] == 2.0
    assert maps_of([]) == {}


@pytest.mark.parametrize(
    "process", [{"name": "positions"}, {**XRF, "name": "positions", "reprocessing": None}]
)
def test_processes_of_others_may_be_called_positions(process):
    maps = Maps()
    raw = Writer(maps, "raw", **RASTER)
    raw.stream(units={"a": None})
    raw.page([1], a=[1.0])
    xrf(maps, "run", "raw")
    maps("start", {"uid": "p", "time": 2.0, "original_run_uid": "raw", "process": process})
    assert list(maps.scan("raw")) == ["raw.a", "xrf.Fe_K"]
    assert not corrects({"uid": "p", "original_run_uid": "raw", "process": process})


def test_edges_and_extents_of_what_is_shown():
    documents = raw_run({"a": np.arange(6.0)}, shape=[2, 3], extents=[[0, 1], [4, 0]])
    shown = maps_of(documents)["a"]
    assert shown.extents == ((0.0, 1.0), (4.0, 0.0))
    assert shown.edges == (5.0, -1.0, -0.5, 1.5)
    assert shown.x == PictureAxis("x", None, 4.0, 0.0)
    assert shown.x.places(3).tolist() == [4.0, 2.0, 0.0]
