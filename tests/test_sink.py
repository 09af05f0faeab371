"""The sink and its columns, fed with documents directly."""

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs.server.columns import NumberColumn, TextColumn, values_of
from p06bs.server.sink import DocumentError, Sink

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


@given(
    parts=st.lists(st.integers(0, 40), max_size=30),
    shape=st.sampled_from([(), (3,), (2, 70_000)]),
    cuts=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), max_size=5),
)
def test_column_of_numbers_holds_what_was_put(parts, shape, cuts):
    if len(shape) == 2:
        parts = [n % 4 for n in parts]
    rows = sum(parts)
    width = int(np.prod(shape))
    truth = np.arange(rows)[:, None] * 1000 + np.arange(min(width, 5))
    numbers = NumberColumn(np.dtype("f8"), shape)
    views = []
    row = 0
    for count in parts:
        flat = np.zeros((count, width))
        flat[:, : truth.shape[1]] = truth[row : row + count]
        numbers.put(row, flat.reshape((count, *shape)))
        row += count
        views.append(numbers.view(row))
    for view in views:
        for cut in [(0, view.rows), *cuts]:
            low, high = sorted(min(at, view.rows) for at in cut)
            got = view.read(low, high).reshape((-1, width))
            assert np.array_equal(got[:, : truth.shape[1]], truth[low:high])
    assert numbers.nbytes >= rows * width * 8


def test_large_column_grows_without_being_copied():
    numbers = NumberColumn(np.dtype("u4"), (4, 4096))  # 64 KiB a row, 16 rows a chunk
    numbers.put(0, np.ones((16, 4, 4096), "u4"))
    before = numbers.view(16)
    for row in range(16, 160):
        numbers.put(row, np.full((1, 4, 4096), row, "u4"))
    assert np.shares_memory(before.read(0, 16), numbers.view(160).read(0, 16))
    assert numbers.nbytes == 160 * 4 * 4096 * 4
    assert numbers.view(160).read(15, 17)[:, 0, 0].tolist() == [1, 16]


def test_float_after_integers_converts_the_column_and_loses_nothing():
    numbers = NumberColumn(np.dtype("i8"), ())
    numbers.put(0, np.array([2**40, 7]))
    old = numbers.view(2)
    numbers.put(2, np.array([0.5]))
    assert numbers.view(3).read(0, 3).tolist() == [2.0**40, 7.0, 0.5]
    assert old.read(0, 2).tolist() == [2**40, 7]


def test_text_is_never_cut():
    texts = TextColumn()
    texts.put(0, ["", "a"])
    assert texts.view(2).dtype == "<U16"
    texts.put(2, ["µ" * 100])
    assert texts.view(3).read(0, 3).tolist() == ["", "a", "µ" * 100]


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([1, 2], np.array([1, 2])),
        ([1.5, None], np.array([1.5, np.nan])),
        ([True, False], np.array([True, False])),
        (["a", "b"], ["a", "b"]),
        ([[1], [1, 2]], ["[1]", "[1, 2]"]),
        ([{"a": 1}], ['{"a": 1}']),
        (np.array(["x", "yy"]), ["x", "yy"]),
        ([np.arange(2), np.arange(2)], np.array([[0, 1], [0, 1]])),
    ],
)
def test_values_become_an_array_or_text(values, want):
    got = values_of(values)
    assert type(got) is type(want)
    assert np.array_equal(got, want, equal_nan=isinstance(want, np.ndarray))


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


def test_empty_page_says_nothing_about_the_columns():
    sink = Sink(10_000_000)
    sink("start", start("r"))
    sink("descriptor", descriptor("r", {"why": {"dtype": "string", "shape": [], "source": "x"}}))
    sink("event_page", page("r", {"why": []}))
    assert not sink.view("r").streams["primary"]().columns
    sink("event_page", page("r", {"why": ["beam lost"]}))
    assert column(sink, "r", "why").tolist() == ["beam lost"]


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("start", {}),
        ("start", {"uid": "../x", "time": 0.0}),
        ("start", {"uid": "r", "time": 0.0}),
        ("start", None),
        ("descriptor", {"uid": "d", "run_start": "unknown", "data_keys": {}}),
        ("descriptor", {"uid": "d", "run_start": "r", "data_keys": {"a/b": {}}}),
        ("descriptor", {"uid": "d", "run_start": "r", "name": "..", "data_keys": {}}),
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
    assert sink.nbytes == before
    assert not sink.view("r").streams


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
    # At least three f8 columns and an i8 one of 1000 rows, and 1000 uids; not twice that.
    assert 1000 * (4 * 8 + 50) < one < 1000 * (4 * 16 + 100)
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


def test_running_run_over_the_budget_leaves_and_its_later_documents_are_passed_over(caplog):
    sink = Sink(200_000)
    sink("start", start("big"))
    sink("descriptor", descriptor("big", KEYS))
    for i in range(20):
        sink("event_page", page("big", {"Fe_K": np.zeros(COUNT)}, i * COUNT + 1))
        if not len(sink):
            break
    assert "leaves the server's memory while it runs" in caplog.text
    sink("event_page", page("big", {"Fe_K": np.zeros(COUNT)}))
    sink("descriptor", descriptor("big", KEYS, "baseline"))
    sink("stop", stop("big"))
    assert sink.runs() == []
    assert sink.nbytes == 0
    run_of(sink, "next", 1.0, rows=10)
    assert sink.runs() == ["next"]


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
