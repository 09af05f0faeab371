"""Maps of runs: stock Tiled clients over a real server against a phantom of known values."""

import contextlib
import threading
import tracemalloc

import h5py
import httpx
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plans as bp
from hypothesis import given
from hypothesis import strategies as st
from ophyd.sim import SynAxis, SynSignal
from tiled.adapters.mapping import MapAdapter
from tiled.client.utils import ClientError
from tiled.config import Authentication
from tiled.server.app import build_app

from p06bs.bus.log import DocumentLog
from p06bs.metadata.indexed import FOLDER
from p06bs.model.map_columns import Chain, Counted
from p06bs.model.maps import grid_map, pixels
from p06bs.server.gate.gate import Gate
from p06bs.server.sink.places import Place
from p06bs.server.sink.sink import Sink
from p06bs.server.tree import expected
from p06bs.server.tree.maps import KEPT_BYTES, Maps
from p06bs.server.tree.recent import Recent
from p06bs.server.tree.runs import runs_adapter
from tests import live_server

KEY = "k3y"
HEADERS = {"Authorization": f"Apikey {KEY}"}
NY, NX = 6, 8
X = (10.0, -4.0)
Y = (-1.0, 1.5)
RASTER = {"shape": [NY, NX], "extents": [list(Y), list(X)], "snaking": [False, True]}
MOTORS = {"motors": ["y", "x"], "hints": {"dimensions": [[["y"], "primary"], [["x"], "primary"]]}}
XRF = {"name": "xrf", "settings": {}, "settings_digest": "0", "inputs": {}}
NUMBER = {"dtype": "number", "dtype_numpy": "<f8", "shape": [], "source": "test"}


def phantom(x, y):
    """What the sample would give at a place: of both signs."""
    return np.sin(np.asarray(x)) * 100 + 7 * np.asarray(y) - 3


def nominal(shape=(NY, NX), x=X, y=Y, snaking=True):
    """Return x and y of the points of a raster in the order of acquisition."""
    at = pixels(np.arange(shape[0] * shape[1]), shape, snaking)
    rows, columns = np.divmod(at, shape[1])
    return np.linspace(*x, shape[1])[columns], np.linspace(*y, shape[0])[rows]


def truth(shape=(NY, NX), x=X, y=Y):
    return phantom(*np.meshgrid(np.linspace(*x, shape[1]), np.linspace(*y, shape[0])))


class Writer:
    """Write the documents of one run to a sink."""

    def __init__(self, sink, uid, raw=None, time=1.0, **start):
        self.sink, self.uid, self.derived = sink, uid, raw is not None
        if raw is not None:
            start = {"original_run_uid": raw, "derived_from": [raw], "process": XRF, **start}
        sink("start", {"uid": uid, "time": time, **start})

    def stream(self, name="primary", units=None, keys=None, **more):
        keys = {key: {**NUMBER, "units": unit} for key, unit in (units or {}).items()} | (
            keys or {}
        )
        if self.derived:
            keys |= {
                "raw_seq_num": {**NUMBER, "dtype": "integer", "dtype_numpy": "<i8"},
                "valid": {**NUMBER, "dtype": "boolean", "dtype_numpy": "|b1"},
            }
        document = {
            "uid": f"{self.uid}-{name}", "run_start": self.uid, "time": 1.0, "name": name,
            "data_keys": keys, "configuration": {}, "hints": {}, "object_keys": {"xrf": [*keys]},
        }  # fmt: skip
        self.sink("descriptor", document | more)

    def page(self, numbers, name="primary", valid=None, **columns):
        numbers = np.asarray(numbers)
        if self.derived:
            flags = np.ones(len(numbers), bool) if valid is None else np.asarray(valid)
            columns |= {"raw_seq_num": numbers, "valid": flags}
        page = {
            "descriptor": f"{self.uid}-{name}", "seq_num": numbers.tolist(),
            "time": (numbers * 0.5).tolist(), "uid": [f"{self.uid}/{n}" for n in numbers],
            "data": columns, "timestamps": dict.fromkeys(columns, numbers * 0.5),
        }  # fmt: skip
        self.sink("event_page", page)

    def stop(self):
        stop = {
            "uid": f"{self.uid}-s",
            "run_start": self.uid,
            "time": 9.0,
            "exit_status": "success",
        }
        self.sink("stop", stop)


def xrf(sink, uid, raw="nowhere", **start):
    """Begin a derived run with one map."""
    run = Writer(sink, uid, raw, **{**RASTER, **MOTORS, **start})
    run.stream(units={"Fe_K": "counts/s"}, hints={"xrf": {"fields": ["Fe_K"]}})
    return run


@contextlib.contextmanager
def serving(sink, maps):
    app = build_app(
        MapAdapter({"live": runs_adapter(sink, maps)}),
        authentication=Authentication(single_user_api_key=KEY),
    )
    expected.install(app)
    with live_server.serving(Gate(app)) as url:
        yield url


@pytest.fixture(scope="module")
def served():
    sink = Sink(500_000_000)
    with serving(sink, Maps(sink.view)) as url:
        yield sink, url


def test_a_derived_run_on_the_raster_of_its_start_document(served, live):
    run = xrf(served[0], "raster", scan={"units": "um"})
    values = phantom(*nominal())
    run.page(range(1, 20), Fe_K=values[:19])
    maps = live["raster"]["maps"]
    assert list(maps) == ["Fe_K"]
    node = maps["Fe_K"]
    assert (node.shape, node.dtype, node.dims) == ((NY, NX), np.dtype(float), ("y", "x"))
    expected = truth()
    missing = np.ones((NY, NX), bool)
    missing.flat[pixels(np.arange(19), (NY, NX), snaking=True)] = False
    np.testing.assert_array_equal(node.read(), np.where(missing, np.nan, expected))
    run.page(range(20, NY * NX + 1), Fe_K=values[19:])
    np.testing.assert_allclose(node.read(), expected, rtol=1e-14)
    np.testing.assert_array_equal(node[1:4, ::-2], node.read()[1:4, ::-2])
    np.testing.assert_array_equal(node[-1], node.read()[-1])
    np.testing.assert_array_equal(node.read_block((0, 0), (slice(2, 3),)), node.read()[2:3])
    assert node.read().flags["C_CONTIGUOUS"]
    metadata = dict(maps["Fe_K"].metadata)
    statistics = metadata.pop("statistics")
    assert metadata == {
        "kind": "raster", "column": "Fe_K", "stream": "primary", "streams": ["primary"],
        "unit": "counts/s", "rows": NY * NX,
        "axes": [
            {"name": "y", "unit": "um", "first": -1.0, "last": 1.5},
            {"name": "x", "unit": "um", "first": 10.0, "last": -4.0},
        ],
    }  # fmt: skip
    low, high = np.percentile(expected, (1, 99))
    wanted = {
        "count": NY * NX, "min": expected.min(), "max": expected.max(), "mean": expected.mean(),
        "low": low, "high": high,
    }  # fmt: skip
    assert statistics == pytest.approx(wanted)
    ((name, listed),) = maps.items()
    assert (name, listed.metadata["statistics"]) == ("Fe_K", statistics)
    np.testing.assert_allclose(listed.read(), expected, rtol=1e-14)


def test_rewinds_and_invalid_rows(served, live):
    run = xrf(served[0], "rewound")
    values = phantom(*nominal())
    run.page(range(1, 11), Fe_K=np.full(10, 1e6))
    node = live["rewound"]["maps"]["Fe_K"]
    assert np.nanmax(node.read()) == 1e6
    run.page(range(5, NY * NX + 1), Fe_K=values[4:])
    run.page([1, 2, 3, 4], Fe_K=[*values[:3], 1e6], valid=[True, True, True, False])
    run.page([9], Fe_K=[5e5], valid=[False])
    expected = truth()
    expected[0, 3] = expected[1, 7] = np.nan
    np.testing.assert_allclose(node.read(), expected, rtol=1e-14)


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1)])
def test_one_row_and_one_column(served, live, shape):
    uid = "line-{}-{}".format(*shape)
    x, y = nominal(shape, snaking=False)
    start = {"shape": list(shape), "extents": [list(Y), list(X)], "snaking": False}
    raw = Writer(served[0], uid, **start, motors=["y", "x"])
    raw.stream(units={"counts": None, "x": "mm", "y": "mm"})
    raw.page(range(1, len(x) + 1), counts=phantom(x, y), x=x + 0.01, y=y - 0.01)
    node = live[uid]["maps"]["counts"]
    assert node.metadata["kind"] == "measured"
    np.testing.assert_array_equal(node.read().ravel(), phantom(x, y))


def test_measured_positions_of_the_raw_run(served, live):
    """The stage lags by more than a pixel: the claimed raster would be wrong."""
    sink, _ = served
    x, y = nominal()
    lagging = x + np.where(np.arange(len(x)) // NX % 2, -1, 1) * 1.2 * (X[1] - X[0]) / (NX - 1)
    devices = {"panda": {"roles": {"px": "position_x", "py": "position_y"}}}
    raw = Writer(sink, "stage", **RASTER, **MOTORS, devices=devices, scan={"units": "mm"})
    raw.stream(units={"px": "um", "py": "mm"}, object_keys={"panda": ["px", "py"]})
    run = xrf(sink, "measured", "stage", scan={"units": "mm"})
    values = phantom(lagging, y)
    for first in range(0, NY * NX, 5):
        rows = slice(first, min(first + 5, NY * NX))
        numbers = np.arange(NY * NX)[rows] + 1
        raw.page(numbers, px=1000 * lagging[rows], py=y[rows])
        run.page(numbers, Fe_K=values[rows])
        assert live["measured"]["maps"]["Fe_K"].metadata["rows"] == numbers[-1]
    node = live["measured"]["maps"]["Fe_K"]
    assert node.metadata["kind"] == "measured"
    assert [axis["unit"] for axis in node.metadata["axes"]] == ["mm", "mm"]
    steps = (X[1] - X[0]) / (NX - 1)
    # 0.2 of a pixel is left between a value's place and the pixel's centre.
    sideways = np.where(np.arange(NY) % 2, -0.2, 0.2)[:, None] * steps
    grid_x, grid_y = np.meshgrid(np.linspace(*X, NX), np.linspace(*Y, NY))
    expected = phantom(grid_x + sideways, grid_y)
    expected[0::2, 0] = expected[1::2, -1] = np.nan
    np.testing.assert_allclose(node.read(), expected, rtol=1e-9)
    maps = live["stage"]["maps"]
    assert list(maps) == ["px", "py"]
    # The raw run rewinds a point, to another place; the derived run follows.
    raw.page([1], px=1000 * lagging[:1] + 1000 * 2 * steps, py=y[:1])
    run.page([1], Fe_K=[1e6])
    now = node.read()
    assert now[0, 3] == pytest.approx((1e6 + expected[0, 3]) / 2)
    assert np.isnan(now[0, 1])
    # Derived rows count once: the one in the other folder does not see the positions.
    other = xrf(sink, "elsewhere", "stage", beamtime_folder="/other")
    other.page([1], Fe_K=[1.0])
    assert live["elsewhere"]["maps"]["Fe_K"].metadata["kind"] == "raster"


def test_a_joined_row_waits_for_its_position(served, live):
    sink, _ = served
    x, y = nominal()
    raw = Writer(sink, "late-raw", **RASTER, **MOTORS)
    raw.stream(units={"x": None, "y": None})
    raw.page([1, 2], x=x[:2], y=y[:2])
    run = xrf(sink, "later", "late-raw")
    run.page([1, 2, 3, 4], Fe_K=phantom(x, y)[:4])
    node = live["later"]["maps"]["Fe_K"]
    assert node.metadata["rows"] == 2
    raw.page([3, 4], x=x[2:4], y=y[2:4])
    np.testing.assert_allclose(node.read()[0, :4], phantom(x, y)[:4])


def document_lists(plan):
    documents = []
    RunEngine({})(plan, lambda name, document: documents.append((name, document)))
    return documents


def axes_and_detector():
    x, y = SynAxis(name="x"), SynAxis(name="y")
    return x, y, SynSignal(func=lambda: phantom(x.position, y.position), name="det")


def test_a_spiral_of_bluesky(served, live):
    sink, _ = served
    x, y, detector = axes_and_detector()
    plan = bp.spiral([detector], x, y, 0.2, -0.1, 2.0, 3.0, 0.2, 20)
    documents = document_lists(plan)
    uid = documents[0][1]["uid"]
    nodes = []
    for number, (name, document) in enumerate(documents):
        sink(name, document)
        if number % 40 == 39:
            nodes.append(live[uid]["maps"]["det"])
    assert len({node.shape for node in nodes}) > 2
    with pytest.raises(ClientError, match=r"422.*shape has changed"):
        nodes[0].read()
    with pytest.raises(ClientError, match="422"):
        nodes[0].read_block((0, 0))
    maps = live[uid]["maps"]
    assert list(maps) == ["det", "x_setpoint", "y_setpoint", "x", "y"]
    metadata = maps["det"].metadata
    assert metadata["kind"] == "scattered"
    slow, fast = metadata["axes"]
    assert (slow["name"], fast["name"]) == ("y", "x")
    found = maps["det"].read()
    count = metadata["rows"]
    assert count == documents[-1][1]["num_events"]["primary"]
    assert 0.2 * count < np.isfinite(found).sum() <= count
    centres = [
        np.linspace(a["first"], a["last"], n)
        for a, n in zip((slow, fast), found.shape, strict=True)
    ]
    pitch = centres[1][1] - centres[1][0]
    assert pitch == pytest.approx(centres[0][1] - centres[0][0])
    # A mean over a pixel is within it: the slope is at most 100 per unit in x and 7 in y.
    expected = phantom(*np.meshgrid(centres[1], centres[0]))
    assert np.nanmax(np.abs(found - expected)) < 107 * pitch / 2 + 1e-9
    for key, mesh in zip("xy", np.meshgrid(centres[1], centres[0]), strict=True):
        assert np.nanmax(np.abs(maps[key].read() - mesh)) <= pitch / 2 + 1e-9


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("grid_scan", "measured"), ("rel_grid_scan", "raster"), ("spiral_square", "measured"),
        ("list_scan", "scattered"), ("count", None), ("scan", None), ("one_dimension", None),
    ],
)  # fmt: skip
def test_plans_of_bluesky(served, live, name, kind):
    x, y, detector = axes_and_detector()
    plans = {
        "grid_scan": lambda: bp.grid_scan([detector], y, 0, 1, 3, x, 2, 0, 4, snake_axes=True),
        "rel_grid_scan": lambda: bp.rel_grid_scan([detector], y, 0, 1, 3, x, 2, 0, 4),
        "spiral_square": lambda: bp.spiral_square([detector], x, y, 1, 0.5, 2, 1, 4, 3),
        "list_scan": lambda: bp.list_scan([detector], x, [0, 1, 2, 3], y, [1, 0, 1, 0]),
        "count": lambda: bp.count([detector], 3),
        "scan": lambda: bp.scan([detector], x, 0, 1, y, 0, 2, 5),
        "one_dimension": lambda: bp.scan([detector], x, 0, 1, 5),
    }
    documents = document_lists(plans[name]())
    for one in documents:
        served[0](*one)
    run = live[documents[0][1]["uid"]]
    assert ("maps" in run) == (kind is not None)
    if kind is None:
        return
    node = run["maps"]["det"]
    assert node.metadata["kind"] == kind
    slow, fast = node.metadata["axes"]
    ends = [(a["first"], a["last"]) for a in (fast, slow)]
    expected = truth(node.shape, *ends)
    found = node.read()
    assert np.isfinite(found).sum() == 4 if name == "list_scan" else np.isfinite(found).all()
    np.testing.assert_allclose(found, np.where(np.isnan(found), np.nan, expected), atol=1e-9)


def test_settings_changed_in_mid_scan(served, live):
    """The outputs changed: the derived run goes on in another stream, and so do its maps."""
    sink, _ = served
    values = phantom(*nominal())
    run = xrf(sink, "revised")
    run.page(range(1, 21), Fe_K=values[:20])
    run.stream("primary_r10", units={"Fe_K": "ct/s", "Ni_K": "counts/s", "sum": "m"})
    run.page(range(11, 41), "primary_r10", Fe_K=values[10:40], Ni_K=values[10:40], sum=values[:30])
    run.stream("primary_r9", units={"sum": "s"})
    run.page([40], "primary_r9", sum=[5.0])
    maps = live["revised"]["maps"]
    assert list(maps) == ["Fe_K", "sum", "Ni_K", "primary_r10.sum"]
    flat = maps["Fe_K"].read().ravel()[pixels(np.arange(NY * NX), (NY, NX), snaking=True)]
    np.testing.assert_allclose(flat[:40], values[:40])
    assert maps["Fe_K"].metadata["streams"] == ["primary", "primary_r10"]
    assert np.isfinite(maps["Ni_K"].read()).sum() == 30
    assert np.isfinite(maps["primary_r10.sum"].read()).sum() == 30
    assert maps["primary_r10.sum"].metadata["unit"] == "m"
    # r9 is before r10, whatever came first: the newest row of number 40 is r10's, without it.
    assert np.isfinite(maps["sum"].read()).sum() == 0
    # A rewind to before the change, with outputs that are no more: the newest row counts.
    run.page([1], "primary_r10", Fe_K=[1.0], Ni_K=[2.0], sum=[3.0])
    assert maps["Fe_K"].read()[0, 0] == 1.0


def test_aligned_streams_and_what_is_no_map(served, live):
    sink, _ = served
    text = {"dtype": "string", "shape": [], "source": "test"}
    array = {"dtype": "array", "dtype_numpy": "<f8", "shape": [3], "source": "test"}
    raw = Writer(sink, "aligned", **RASTER, aligned_streams=["primary", "i0"])
    values = np.arange(1, 11) * 1.0
    raw.stream(units={"counts": "count"}, keys={"label": text, "spectrum": array})
    for name in ("i0", "dark", "baseline"):
        raw.stream(name, units={"counts": "count"})
    raw.page(
        range(1, 11), counts=values, label=["a"] * 10, spectrum=np.zeros((10, 3))
    )  # fmt: skip
    for name in ("i0", "dark", "baseline"):
        raw.page(range(1, 11), name, counts=-values)
    maps = live["aligned"]["maps"]
    assert list(maps) == ["counts", "i0.counts"]
    assert maps["counts"].read()[0].tolist() == values[:8].tolist()
    assert maps["i0.counts"].read()[0].tolist() == (-values[:8]).tolist()
    assert maps["i0.counts"].metadata["stream"] == "i0"


def test_a_stream_that_is_called_maps_stays(served, live):
    run = xrf(served[0], "stream-maps")
    run.stream("maps", units={"Fe_K": None})
    run.page([1], Fe_K=[1.0])
    run.page([1], "maps", Fe_K=[2.0])
    assert live["stream-maps"]["maps"].metadata["data_keys"]
    assert live["stream-maps"]["maps"]["Fe_K"].read().tolist() == [2.0]


def test_positions_in_a_file(served, live, tmp_path):
    """A fly scan: positions and counts are written by the trigger box, no events are emitted."""
    sink, _ = served
    x, y = nominal()
    path = tmp_path / "box.h5"
    columns = {"x": x, "y": y, "counts": phantom(x, y)}
    with h5py.File(path, "w", libver="latest") as file:
        for name, values in columns.items():
            file[name] = values[:, None]
    raw = Writer(sink, "flown", **RASTER, **MOTORS)
    key = {**NUMBER, "shape": [1], "external": "STREAM:"}
    raw.stream(keys=dict.fromkeys(columns, key))
    run = xrf(sink, "from-flown", "flown")
    for name in columns:
        resource = {
            "uid": f"flown-{name}", "run_start": "flown", "data_key": name,
            "mimetype": "application/x-hdf5", "uri": f"file://localhost{path}",
            "parameters": {"dataset": name, "chunk_shape": [1024]},
        }  # fmt: skip
        sink("stream_resource", resource)
        # More is announced than is in the file, as it happens while a file is written.
        for start, stop in ((0, 30), (30, NY * NX)):
            datum = {
                "uid": f"flown-{name}/{start}", "stream_resource": f"flown-{name}",
                "descriptor": "flown-primary", "indices": {"start": start, "stop": stop},
                "seq_nums": {"start": start + 1, "stop": stop + 1},
            }  # fmt: skip
            sink("stream_datum", datum)
    np.testing.assert_allclose(live["flown"]["maps"]["counts"].read(), truth(), rtol=1e-12)
    run.page(range(1, NY * NX + 1), Fe_K=phantom(x, y))
    node = live["from-flown"]["maps"]["Fe_K"]
    assert node.metadata["kind"] == "measured"
    np.testing.assert_allclose(node.read(), truth(), rtol=1e-12)
    path.unlink()
    xrf(sink, "after-flown", "flown").page([1, 2], Fe_K=[1.0, 2.0])
    lost = live["after-flown"]["maps"]["Fe_K"]
    assert lost.metadata["rows"] == 0
    assert np.isnan(lost.read()).all()


def test_bluesky_clients_see_a_run(served, live):
    streams = pytest.importorskip("bluesky_tiled_plugins.clients.bluesky_event_stream")
    uid = "0e8dc6a8-aaaa-4a4a-8888-000000000002"
    run = xrf(served[0], uid, scan_id=815)
    run.page(range(1, 11), Fe_K=np.arange(10.0))
    found = live[uid]
    assert type(found).__name__ == "BlueskyRunV3"
    assert "maps" in repr(found)
    assert [d["name"] for d in found.descriptors] == ["primary"]
    assert found["primary"].read()["Fe_K"].values.tolist() == list(range(10))
    assert found["maps"]["Fe_K"].read()[0].tolist() == list(range(8))
    assert found.maps["Fe_K"][0, 1] == 1.0
    assert found["maps", "Fe_K"].shape == (NY, NX)
    assert sorted(found) == ["maps", "primary"]
    assert found["maps"].read()["Fe_K"].dims == ("y", "x")
    # The older interfaces take every child for a stream. (Not through `found.v2`, which
    # changes what all clients of the process get.)
    older = streams.BlueskyEventStreamV2SQL.from_stream_client(found["maps"])
    assert [d["name"] for d in older.descriptors] == ["maps"]
    assert older.read()["Fe_K"].shape == (NY, NX)


def test_a_map_is_a_picture(served, http):
    run = xrf(served[0], "picture")
    run.page(range(1, 11), Fe_K=np.arange(10.0))
    answer = http.get("/array/full/live/picture/maps/Fe_K", params={"format": "image/tiff"})
    assert answer.status_code == 200
    assert answer.content[:2] in (b"II", b"MM")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/array/full/live/hostile/maps/Fe_K?slice=0:2,0:3", 200),
        ("/array/full/live/hostile/maps/Fe_K?slice=99", 400),
        ("/array/full/live/hostile/maps/Fe_K?slice=0,0,0", 400),
        ("/array/full/live/hostile/maps/Fe_K?slice=::0", 400),
        ("/array/block/live/hostile/maps/Fe_K?block=0,0", 200),
        ("/array/block/live/hostile/maps/Fe_K?block=1,0", 422),
        ("/array/full/live/hostile/maps/Fe_K?expected_shape=6,8", 200),
        ("/array/full/live/hostile/maps/Fe_K?expected_shape=8,6", 422),
        ("/array/full/live/hostile/maps/Fe_K?expected_shape=scalar", 422),
        ("/array/full/live/hostile/primary/Fe_K?expected_shape=1,1", 422),
        ("/array/full/live/hostile/maps/none", 404),
        ("/array/full/live/hostile/maps/Fe_K/more", 404),
        ("/metadata/live/hostile/maps", 200),
        ("/search/live/hostile/maps?page[offset]=1", 200),
        ("/search/live/hostile/maps?page[limit]=1", 200),
        ("/search/live/hostile/maps?fields=", 200),
        ("/search/live/hostile/maps?filter[eq][condition][key]=unit&filter[eq][condition][value]=1",
         200),
        ("/search/live/hostile/maps?sort=unit", 200),
        ("/container/full/live/hostile/maps?format=json", 200),
        ("/container/full/live/hostile?format=json", 200),
    ],
)  # fmt: skip
def test_requests(served, http, path, status):
    sink, _ = served
    if "hostile" not in sink.runs():
        xrf(sink, "hostile").page([1], Fe_K=[1.0])
    assert http.get(path).status_code == status


@pytest.mark.parametrize(
    "start",
    [
        {"shape": [10**6, 10**6]}, {"shape": [3, -1]}, {"shape": "ab"},
        {"extents": [[0, 0], [0, 0]]},
        {"extents": [["a", 1], [0, 1]]}, {"extents": 5}, {"hints": {"dimensions": [[5], 3]}},
        {"hints": 7}, {"motors": [{}, []]}, {"scan": []}, {"devices": 5}, {"plan_name": None},
        {"aligned_streams": 3}, {"original_run_uid": {}}, {"extents": [[0, float("nan")], [0, 1]]},
    ],
)  # fmt: skip
def test_odd_metadata_cost_maps_at_most(http, served, start, request):
    uid = f"odd-{request.node.name.partition('[')[2].strip(']')}"
    x, y = nominal()
    base = {**RASTER, **MOTORS, **start}
    raw = Writer(served[0], uid, **base)
    raw.stream(units={"x": None, "y": None, "counts": None})
    raw.page(range(1, 11), x=x[:10], y=y[:10], counts=x[:10])
    for path in (f"/metadata/live/{uid}", f"/search/live/{uid}", "/search/live"):
        assert http.get(path).status_code == 200
    answer = http.get(f"/search/live/{uid}/maps")
    assert answer.status_code in (200, 404)


def test_maps_are_read_while_a_thread_feeds(served, http):
    """Each pixel holds its number, and pixels come without a gap: no map is torn."""
    run = xrf(served[0], "feeding", shape=[50, 100], snaking=False)
    run.page([1], Fe_K=[1.0])
    failures = []

    def feed():
        try:
            for first in range(2, 5001, 7):
                numbers = np.arange(first, min(first + 7, 5001))
                run.page(numbers, Fe_K=numbers * 1.0)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=feed)
    thread.start()
    seen = 0
    while seen < 5000:
        answer = http.get("/array/full/live/feeding/maps/Fe_K")
        assert answer.status_code == 200
        flat = np.frombuffer(answer.content)
        rows = int(np.isfinite(flat).sum())
        assert rows >= seen
        assert np.array_equal(flat[:rows], np.arange(1, rows + 1))
        seen = rows
        assert not failures
    thread.join()


def test_reading_is_a_touch_and_looking_is_none():
    touched = []
    sink = Sink(500_000_000, clock=lambda: touched.append(1) or 0.0)
    xrf(sink, "run").page([1], Fe_K=[1.0])
    with (
        serving(sink, Maps(sink.view)) as url,
        httpx.Client(base_url=f"{url}/api/v1", headers=HEADERS) as http,
    ):
        touched.clear()
        for path in ("metadata/live/run/maps/Fe_K", "search/live/run/maps", "metadata/live/run"):
            assert http.get(path).status_code == 200
        assert not touched
        assert http.get("array/full/live/run/maps/Fe_K").status_code == 200
        assert touched


def look(maps, sink, uid, name="Fe_K"):
    run = sink.view(uid)
    return maps.look(run, maps.of(run)[name])


def test_what_is_kept_is_bounded_and_let_go():
    sink = Sink(500_000_000)
    size = 8 * 50 * 100 + 2 * KEPT_BYTES
    maps = Maps(sink.view, limit=3 * size)
    for number in range(5):
        run = xrf(sink, f"run{number}", shape=[50, 100])
        run.page([1], Fe_K=[number])
        assert look(maps, sink, f"run{number}").values[0, 0] == number
        assert maps.nbytes == min(number + 1, 3) * size
    assert look(maps, sink, "run0").values[0, 0] == 0  # made again
    maps.forget("run0")
    maps.forget("run0")
    assert maps.nbytes == 2 * size
    small = Maps(sink.view, limit=12 * 50 * 100 - 1)
    assert not small.of(sink.view("run3"))
    assert not small(sink.view("run3"))


@pytest.mark.parametrize("shape", [[5, 4], [50, 100]])
def test_what_is_kept_is_counted_truly(shape):
    sink = Sink(500_000_000)
    for number in range(200):
        xrf(sink, f"run{number}", shape=shape).page([1], Fe_K=[number])
    maps = Maps(sink.view)
    look(maps, sink, "run0")
    tracemalloc.start()
    try:
        before, kept = tracemalloc.get_traced_memory()[0], maps.nbytes
        for number in range(1, 200):
            look(maps, sink, f"run{number}")
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.7 * (maps.nbytes - kept) < taken < 1.1 * (maps.nbytes - kept)


def test_positions_that_left_the_memory():
    """Without the raw run the raster of the start document has to do."""
    sink = Sink(500_000_000)
    maps = Maps(sink.view)
    x, y = nominal()
    raw = Writer(sink, "raw", **RASTER, **MOTORS)
    raw.stream(units={"x": None, "y": None})
    raw.page(range(1, 11), x=x[:10], y=y[:10])
    xrf(sink, "run", "raw").page(range(1, 11), Fe_K=np.arange(10.0))
    without = Maps()
    assert look(maps, sink, "run").rows == 10
    assert maps.of(sink.view("run"))["Fe_K"].where.kind == "measured"
    assert without.of(sink.view("run"))["Fe_K"].where.kind == "raster"
    np.testing.assert_array_equal(look(maps, sink, "run").values, look(without, sink, "run").values)


def corrected(sink, uid, raw, **start):
    """Begin a derived run that corrects positions."""
    process = {**XRF, "name": "positions"}
    run = Writer(sink, uid, raw, **{**RASTER, **MOTORS, "process": process, **start})
    roles = {"x-role": "position_x", "y-role": "position_y"}
    run.stream(units={"x": "um", "y": "um"}, configuration={"xrf": {"data": roles}})
    return run


def test_corrected_positions_place_the_rows_of_all_runs_of_a_scan():
    sink = Sink(500_000_000)
    maps = Maps(sink.view)
    x, y = nominal()
    numbers, values = range(1, NY * NX + 1), np.arange(NY * NX) + 1.0
    raw = Writer(sink, "raw", **RASTER, **MOTORS)
    raw.stream(units={"x": "um", "y": "um", "i0": "counts"})
    raw.page(numbers, x=x, y=y, i0=values)
    run = xrf(sink, "run", "raw")
    run.page(numbers, Fe_K=values)
    assert look(maps, sink, "run").values[0, 0] == 1
    positions = corrected(sink, "positions", "raw")
    turned = sum(X) - x  # as if x had gone the other way
    turned[3] = np.nan
    positions.page(numbers[:20], x=turned[:20], y=y[:20])
    for uid, column in (("run", "Fe_K"), ("raw", "i0")):
        place = maps.of(sink.view(uid))[column].where
        assert (place.kind, place.measured.of) == ("measured", "corrected")
        assert look(maps, sink, uid, column).rows == 20  # rows wait for their positions
    positions.page(numbers[20:], x=turned[20:], y=y[20:])
    positions.stop()
    expected = grid_map(np.r_[values[:3], np.nan, values[4:]], numbers, (NY, NX), True)[:, ::-1]
    for uid, column in (("run", "Fe_K"), ("raw", "i0")):
        np.testing.assert_array_equal(look(maps, sink, uid, column).values, expected)
    assert maps.of(sink.view("positions"))["x"].where.measured.of == ""


def test_positions_that_failed_or_feed_nobody_or_are_anothers_correct_nothing():
    sink = Sink(500_000_000)
    maps = Maps(sink.view)
    x, y = nominal()
    raw = Writer(sink, "raw", **RASTER, **MOTORS)
    raw.stream(units={"x": "um", "y": "um", "i0": "counts"})
    raw.page(range(1, 49), x=x, y=y, i0=x)

    def used():
        return maps.of(sink.view("raw"))["i0"].where.measured.of

    again = {**XRF, "name": "positions", "reprocessing": 1}
    corrected(sink, "again", "raw", process=again).page([1], x=[0.0], y=[0.0])
    for uid, other in {
        "part": {**again, "rows": 1},
        "sample": {**again, "reprocessing": -1},
    }.items():
        part = corrected(sink, uid, "raw", process=other)
        part.page([1], x=[0.0], y=[0.0])
        part.stop()
    folder = {FOLDER: "/of/another"}
    corrected(sink, "theirs", "raw", **folder).page([1], x=[0.0], y=[0.0])
    corrected(sink, "elsewhere", "other").page([1], x=[0.0], y=[0.0])
    assert used() == ""
    failing = corrected(sink, "failing", "raw")
    failing.page([1], x=[0.0], y=[0.0])
    assert used() == "corrected"
    failed = {"uid": "f", "run_start": "failing", "time": 9.0, "exit_status": "fail"}
    sink("stop", failed)
    assert sink.corrected("raw").metadata["start"]["uid"] == "theirs"
    assert used() == ""


def test_rows_that_are_in_the_log_only(tmp_path):
    """A run that is larger than the memory has all of its map."""
    sink, shape = Sink(4_000_000), (300, 500)
    with DocumentLog(tmp_path) as log:
        reader = log.reader("large", arrays=False)

        def publish(name, document):
            log.append(name, document)
            for entry in reader.read():
                place = Place(reader.path, entry.offset, entry.nbytes)
                sink(entry.name, entry.document, place)

        run = xrf(publish, "large", shape=list(shape))
        values = phantom(*nominal(shape))
        maps = Maps(sink.view)
        for first in range(0, len(values), 10_000):
            rows = np.arange(first, min(first + 10_000, len(values)))
            run.page(rows + 1, Fe_K=values[rows])
            assert look(maps, sink, "large").rows == rows[-1] + 1
        (held,) = sink.held()
        assert held.in_log > 0.3 * held.rows
        expected = truth(shape)
        np.testing.assert_allclose(look(maps, sink, "large").values, expected, rtol=1e-14)
        np.testing.assert_allclose(look(Maps(), sink, "large").values, expected, rtol=1e-14)
    reader.path.unlink()
    assert look(Maps(), sink, "large").rows == 0
    assert look(maps, sink, "large").rows == len(values)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("keep"), st.integers(0, 5), st.integers(0, 40)),
            st.tuples(st.just("get"), st.integers(0, 5), st.just(0)),
            st.tuples(st.just("drop"), st.integers(0, 5), st.just(0)),
        )
    )
)
def test_recent_keeps_the_most_recently_used(steps):
    recent = Recent(100)
    model: dict[int, int] = {}  # in the order of use
    for what, key, nbytes in steps:
        if what == "keep":
            model.pop(key, None)
            model[key] = nbytes
            recent.keep(key, f"value {key}", nbytes)
        elif what == "get":
            assert recent.get(key) == (f"value {key}" if key in model else None)
            if key in model:
                model[key] = model.pop(key)
        else:
            model.pop(key, None)
            recent.drop(key)
        while sum(model.values()) > 100:
            model.pop(next(iter(model)))
        assert recent.nbytes == sum(model.values()) <= 100
        assert {key for key in range(6) if key in recent} == set(model)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), min_size=1), st.data()
)
def test_a_chain_is_its_parts_one_after_the_other(lengths, data):
    parts, flat = [], []
    for number, (rows, there, lacking) in enumerate(lengths):
        column = None if lacking else Counted(there)
        parts.append((column, rows))
        known = 0 if lacking else min(rows, there)
        last = number == len(lengths) - 1
        flat += [*range(1, known + 1)]
        flat += [-1.0] * (rows - known if not last or lacking else 0)
    chain = Chain(parts, -1.0)
    assert chain.rows == len(flat)
    stop = data.draw(st.integers(0, len(flat)))
    start = data.draw(st.integers(0, stop))
    assert chain.read(start, stop).tolist() == flat[start:stop]
