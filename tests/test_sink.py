"""The sink and its columns, fed with documents directly."""

import contextlib
import json

import h5py
import numpy as np
import pytest

from p06bs.server.sink.sink import DocumentError, Sink

COUNT = 100


def start(uid, time=1.0, **more):
    return {"uid": uid, "time": time, **more}


def descriptor(run, keys, name="primary", uid=None, **more):
    uid = uid or f"{run}-{name}"
    return {"uid": uid, "run_start": run, "time": 1.0, "name": name, "data_keys": keys, **more}


def page(run, data, first=1, name="primary"):
    count = len(next(iter(data.values())))
    seq = np.arange(first, first + count)
    return {
        "descriptor": f"{run}-{name}",
        "seq_num": seq,
        "time": seq * 0.5,
        "uid": [f"{run}/{i}" for i in seq],
        "data": data,
        "timestamps": dict.fromkeys(data, seq * 0.5),
    }


def stop(run, **more):
    return {"uid": f"{run}-stop", "run_start": run, "time": 2.0, "exit_status": "success", **more}


KEYS = {"Fe_K": {"dtype": "number", "shape": [], "source": "x", "units": "counts/s"}}


def column(sink, run, key, name="primary"):
    view = sink.view(run).streams[name]().columns[key]
    return view.read(0, view.rows)


def test_pages_and_events_make_the_same_columns():
    sink = Sink(10_000_000)
    keys = {
        **KEYS,
        "ok": {"dtype": "boolean", "shape": [], "source": "x"},
        "why": {"dtype": "string", "shape": [], "source": "x"},
        "mca": {"dtype": "array", "shape": [2, 3], "source": "x"},
    }
    rows = [
        {"Fe_K": i * 0.5, "ok": i % 2 == 0, "why": "x" * i, "mca": np.full((2, 3), i)}
        for i in range(1, 8)
    ]
    for run in ("events", "pages"):
        sink("start", start(run))
        sink("descriptor", descriptor(run, keys))
    for i, row in enumerate(rows, 1):
        event = {
            "uid": f"events/{i}",
            "descriptor": "events-primary",
            "seq_num": i,
            "time": i * 0.5,
            "data": row,
            "timestamps": dict.fromkeys(row, i * 0.5),
        }
        sink("event", event)
    for first, last in ((0, 3), (3, 7)):
        data = {key: [row[key] for row in rows[first:last]] for key in keys}
        data["Fe_K"] = np.array(data["Fe_K"])
        data["mca"] = np.array(data["mca"])
        sink("event_page", page("pages", data, first + 1))
    for key in (*keys, "seq_num", "time", "ts_mca"):
        one, other = column(sink, "events", key), column(sink, "pages", key)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert column(sink, "events", "why").tolist() == ["x" * i for i in range(1, 8)]
    assert column(sink, "pages", "uid").tolist() == [f"pages/{i}" for i in range(1, 8)]


def test_page_that_does_not_fit_leaves_no_trace():
    sink = Sink(10_000_000)
    sink("start", start("r"))
    sink("descriptor", descriptor("r", {**KEYS, "b": KEYS["Fe_K"]}))
    sink("event_page", page("r", {"Fe_K": [1.0, 2.0], "b": [1.0, 2.0]}))
    for bad in (
        {"Fe_K": [3.0], "b": [[1.0, 2.0]]},
        {"Fe_K": [3.0, 4.0], "b": [1.0]},
        {"Fe_K": [3.0]},
        {"Fe_K": [3.0], "b": ["text"]},
    ):
        with pytest.raises(DocumentError, match="event_page document refused"):
            sink("event_page", page("r", bad, 3))
    sink("event_page", page("r", {"Fe_K": [3.0], "b": [4.0]}, 3))
    assert column(sink, "r", "Fe_K").tolist() == [1.0, 2.0, 3.0]
    assert column(sink, "r", "b").tolist() == [1.0, 2.0, 4.0]
    assert column(sink, "r", "seq_num").tolist() == [1, 2, 3]


def test_columns_are_there_before_their_rows():
    sink = Sink(10_000_000)
    sink("start", start("r"))
    sink("descriptor", descriptor("r", {"why": {"dtype": "string", "shape": [], "source": "x"}}))
    assert column(sink, "r", "why").tolist() == []
    sink("event_page", page("r", {"why": []}))
    assert column(sink, "r", "why").tolist() == []
    sink("event_page", page("r", {"why": ["beam lost"]}))
    assert column(sink, "r", "why").tolist() == ["beam lost"]


@pytest.mark.parametrize(
    ("keys", "bad", "good"),
    [
        ({"dtype": "number", "shape": []}, "text", 1.5),
        ({"dtype": "number", "shape": []}, {"a": 1}, 1.5),
        ({"dtype": "integer", "shape": []}, "7", 7),
        ({"dtype": "boolean", "shape": []}, "True", True),
        ({"dtype": "array", "shape": [3]}, "text", [1, 2, 3]),
        ({"dtype": "array", "shape": [3]}, [1, "two", 3], [1, 2, 3]),
        (
            {"dtype": "array", "shape": [2, 2], "dtype_numpy": "<u4"},
            [["1"], [2, 3]],
            [[1, 2], [3, 4]],
        ),
    ],
)
def test_malformed_first_event_does_not_hide_the_good_ones(keys, bad, good):
    sink = Sink(10_000_000)
    sink("start", start("r"))
    sink("descriptor", descriptor("r", {"x": {"source": "x", **keys}}))
    for first, values in ((1, [bad]), (2, [good]), (3, [bad]), (4, [good, good])):
        with contextlib.suppress(DocumentError):
            sink("event_page", page("r", {"x": values}, first))
    assert column(sink, "r", "x").tolist() == [good] * 3
    assert column(sink, "r", "seq_num").tolist() == [2, 4, 5]
    assert sink.refused == {"event_page: ValueError": 2}


def test_integers_beyond_a_float_are_never_silently_wrong():
    sink = Sink(10_000_000)
    sink("start", start("r"))
    sink("descriptor", descriptor("r", KEYS))
    nanoseconds = [0, 1_700_000_000_123_456_789, 1_700_000_000_123_456_791]
    for seq, value in enumerate(nanoseconds, 1):
        sink("event_page", page("r", {"Fe_K": [value]}, seq))
    with pytest.raises(DocumentError, match="would change in a column of int64"):
        sink("event_page", page("r", {"Fe_K": [0.5]}, 4))
    assert column(sink, "r", "Fe_K").tolist() == nanoseconds


@pytest.mark.parametrize(
    ("description", "values"),
    [
        ({"dtype": "array", "shape": []}, [[1, 2, 3], [4, 5, 6]]),
        ({"dtype": "array", "shape": [1, 3], "dtype_numpy": "<f8"}, [[1.0, 2.0, 3.0]]),
        ({"dtype": "number", "shape": []}, [[[1.0, 2.0]], [[3.0, 4.0]]]),
        ({"dtype": "array", "shape": [5], "dtype_numpy": "<u4"}, [7, 8]),
        ({"dtype": "array", "shape": [2, None]}, [["a", "b"]]),
    ],
)
def test_data_are_believed_where_the_descriptor_says_another_shape(description, values):
    sink = Sink(10_000_000)
    sink("start", start("r"))
    sink("descriptor", descriptor("r", {"x": {"source": "x", **description}}))
    for first in (1, 3):
        sink("event_page", page("r", {"x": values}, first))
    got = column(sink, "r", "x").tolist()
    assert [json.loads(v) if isinstance(v, str) else v for v in got] == values * 2
    assert not sink.refused


def test_missing_times_are_nan():
    sink = Sink(10_000_000)
    sink("start", start("r"))
    sink("descriptor", descriptor("r", KEYS))
    sink("event_page", {**page("r", {"Fe_K": [1.0]}), "timestamps": {}})
    assert np.isnan(column(sink, "r", "ts_Fe_K")).tolist() == [True]


def test_data_keys_that_no_path_can_have_are_served_under_another_name():
    sink = Sink(10_000_000)
    keys = ["a/b", "..", ".", "", "_x", "50%", "time", "time_", "a=2Fb"]
    sink("start", start("r"))
    sink("descriptor", descriptor("r", dict.fromkeys(keys, KEYS["Fe_K"]), name="x/y", uid="r-x/y"))
    sink("event_page", page("r", {key: [i] for i, key in enumerate(keys)}, name="x/y"))
    stream = sink.view("r").streams["x=2Fy"]()
    names = [name for name in stream.columns if not name.startswith("ts_")]
    assert names == [
        "seq_num", "time", "uid", "a=2Fb", "=2E=2E", "=2E", "=", "_x", "50=25", "time_", "time__",
        "a=3D2Fb",
    ]  # fmt: skip
    for name in names[3:]:
        (value,) = stream.columns[name].read(0, 1)
        assert stream.description(name).get("data_key", name) == keys[int(value)]


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("start", {}),
        ("start", {"uid": "../x", "time": 0.0}),
        ("start", {"uid": "r", "time": 0.0}),
        ("start", None),
        ("start", {"uid": "s", "time": 10**400}),
        ("start", {"uid": "s", "time": float("nan")}),
        ("start", {"uid": "s", "time": float("inf")}),
        ("start", {"uid": "s", "time": "1"}),
        ("start", {"uid": "s", "time": 1.0, "serial": 1 << 64}),
        ("descriptor", {"uid": "d", "run_start": "r", "time": float("nan"), "data_keys": {}}),
        ("stop", {"uid": "e", "run_start": "r", "time": 10**400}),
        ("stop", {"uid": "e", "run_start": "r", "time": float("-inf")}),
        ("descriptor", {"uid": "d", "run_start": "unknown", "data_keys": {}}),
        ("descriptor", {"uid": "d", "run_start": "r", "data_keys": {7: {}}}),
        ("descriptor", {"uid": "d", "run_start": "r", "name": 7, "data_keys": {}}),
        ("descriptor", {"uid": "d", "run_start": "r"}),
        ("descriptor", {"uid": [], "run_start": "r", "data_keys": {}}),
        ("stream_resource", {"run_start": "r", "uri": "x" * 10_000}),
        ("stream_resource", {"uid": {}, "run_start": "r", "uri": "x" * 10_000}),
        ("event", {"descriptor": "unknown"}),
        ("stream_datum", {"descriptor": "unknown"}),
        ("stop", {"run_start": "unknown"}),
        ("nonsense", {}),
    ],
)
def test_refused_documents_change_nothing(name, document):
    sink = Sink(10_000_000)
    sink("start", start("r"))
    before = sink.nbytes
    with pytest.raises(DocumentError, match=f"{name} document refused"):
        sink(name, document)
    assert sink.runs() == ["r"]
    assert not sink.view("r").streams
    sink("descriptor", descriptor("r", {}))  # all of the run is counted anew
    other = Sink(10_000_000)
    other("start", start("r"))
    assert before == other.nbytes
    other("descriptor", descriptor("r", {}))
    assert sink.nbytes == other.nbytes


def test_reserved_data_keys_get_an_underscore():
    sink = Sink(10_000_000)
    sink("start", start("r"))
    sink("descriptor", descriptor("r", {"time": KEYS["Fe_K"]}))
    sink("event_page", page("r", {"time": [7.0]}))
    assert column(sink, "r", "time").tolist() == [0.5]
    assert column(sink, "r", "time_").tolist() == [7.0]


def test_second_descriptor_brings_configuration_and_the_rows_go_on():
    sink = Sink(10_000_000)
    sink("start", start("r"))
    sink("descriptor", descriptor("r", KEYS, configuration={"xrf": {"data": {"revision": 0}}}))
    sink("event_page", page("r", {"Fe_K": [1.0]}))
    news = {"xrf": {"data": {"revision": 1}}}
    sink("descriptor", descriptor("r", KEYS, uid="d2", configuration=news))
    sink("event_page", {**page("r", {"Fe_K": [2.0]}, 2), "descriptor": "d2"})
    assert column(sink, "r", "Fe_K").tolist() == [1.0, 2.0]
    stream = sink.view("r").streams["primary"]()
    assert [u["configuration"] for u in stream.metadata["_config_updates"]] == [news]


def test_external_rows_are_read_from_the_file_and_cost_no_memory(tmp_path):
    frames = np.arange(40 * 8 * 6, dtype="u2").reshape(40, 8, 6)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("entry/data", data=frames, chunks=(1, 8, 6))
    sink = Sink(10_000_000)
    keys = {
        "eiger": {
            "dtype": "array", "dtype_numpy": "<u2", "shape": [8, 6],
            "source": "x", "external": "STREAM:",
        }
    }  # fmt: skip
    sink("start", start("r"))
    sink("descriptor", descriptor("r", keys, "detectors"))
    resource = {
        "uid": "res", "run_start": "r", "data_key": "eiger", "mimetype": "application/x-hdf5",
        "uri": f"file://localhost{tmp_path}/f.h5", "parameters": {"dataset": "entry/data"},
    }  # fmt: skip
    sink("stream_resource", resource)
    before = sink.nbytes
    for low, high in ((0, 10), (10, 25), (30, 40)):
        datum = {
            "uid": f"res/{low}", "stream_resource": "res", "descriptor": "r-detectors",
            "indices": {"start": low, "stop": high}, "seq_nums": {"start": low + 1, "stop": high},
        }  # fmt: skip
        sink("stream_datum", datum)
    view = sink.view("r").streams["detectors"]().columns["eiger"]
    assert view.rows == 35
    want = np.concatenate([frames[:25], frames[30:]])
    assert np.array_equal(view.read(0, 35), want)
    assert np.array_equal(view.read(23, 27), want[23:27])
    assert sink.nbytes - before < 1000


def run_of(sink, uid, time, rows=1000):
    sink("start", start(uid, time))
    sink("descriptor", descriptor(uid, KEYS))
    sink("event_page", page(uid, {"Fe_K": np.zeros(rows)}))


def test_oldest_untouched_run_leaves_first_and_memory_is_counted_truly():
    sink = Sink(10**9)
    run_of(sink, "probe", 0.0)
    one = sink.nbytes
    # Three f8 columns and an i8 one of 1000 rows, and 1000 uids; not twice that.
    assert 1000 * (4 * 8 + 4 + len("probe/100")) < one < 2 * 1000 * (4 * 8 + 4 + len("probe/100"))
    now = iter(range(10**6))
    sink = Sink(int(3.5 * one), clock=lambda: float(next(now)))
    for time, uid in enumerate(["a", "b", "c"]):
        run_of(sink, uid, time)
        sink("stop", stop(uid))
    sink.touch("a")
    run_of(sink, "d", 3.0)
    assert sink.runs() == ["a", "c", "d"]
    sink("stop", stop("d"))
    run_of(sink, "e", 4.0)
    assert sink.runs() == ["a", "d", "e"]
    assert sink.nbytes <= sink.budget
    with pytest.raises(KeyError):
        sink.view("b")


def test_running_run_that_lies_in_no_log_leaves_when_nothing_else_can(caplog):
    sink = Sink(150_000)
    run_of(sink, "idle", 0.0, rows=10)
    sink("start", start("big"))
    sink("descriptor", descriptor("big", KEYS))
    refusals = []
    for i in range(200):
        try:
            sink("event_page", page("big", {"Fe_K": np.zeros(COUNT)}, i * COUNT + 1))
        except DocumentError as refusal:
            refusals.append(str(refusal))
        assert sink.nbytes <= sink.budget
    assert "not so many can give way" in refusals[0]
    assert "run idle leaves memory while it runs" in caplog.text
    rows = len(column(sink, "big", "Fe_K"))
    assert rows > 1000
    sink("stop", stop("big"))
    run_of(sink, "next", 1.0)
    assert sink.runs() == ["next"]
    assert 0 < sink.nbytes <= sink.budget


def test_view_stays_what_it_was_while_the_run_goes_on():
    sink = Sink(10_000_000)
    run_of(sink, "r", 1.0, rows=5)
    run = sink.view("r")
    stream = run.streams["primary"]()
    sink("event_page", page("r", {"Fe_K": np.ones(5000)}, 6))
    sink("stop", stop("r"))
    assert {view.rows for view in stream.columns.values()} == {5}
    assert stream.columns["Fe_K"].read(0, 5).tolist() == [0.0] * 5
    assert "stop" not in run.metadata
    assert sink.view("r").metadata["stop"]["exit_status"] == "success"
