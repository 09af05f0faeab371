"""What documents can do to the sink: pages that fail half-way, depths and lengths beyond sense."""

import contextlib
import errno
import threading
from unittest import mock

import httpx
import numpy as np
import ormsgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from p06bs.bus.codec import Packed
from p06bs.bus.follow import Follower
from p06bs.bus.framing import LogCorruptError
from p06bs.bus.log import DocumentLog
from p06bs.server.app import build_app
from p06bs.server.files.detector import detector_view
from p06bs.server.files.roots import FileRoots
from p06bs.server.sink import number_columns, text_columns
from p06bs.server.sink.feed import Feed, Placed
from p06bs.server.sink.pages import LoggedPage
from p06bs.server.sink.places import Place
from p06bs.server.sink.retention import Retention
from p06bs.server.sink.sink import DocumentError, Sink
from tests.doors import KEY
from tests.live_server import serving
from tests.test_by_reference import KEYS, Logged, page_of_rows


class Torn:
    """Rows of which only the first can be read."""

    def __init__(self, values, error):
        self.values, self.error = np.asarray(values), error
        self.dtype, self.shape = self.values.dtype, self.values.shape

    def __len__(self):
        return len(self.values)

    def into(self, target, start):
        target[:1] = 0
        raise self.error

    def whole(self):
        raise self.error


@contextlib.contextmanager
def no_memory(after):
    """No block of a column can be had any more after so many."""
    had = iter(range(10**9))
    real = number_columns.block_of

    def block_of(nbytes):
        if next(had) >= after:
            raise OSError(errno.ENOMEM, "no memory")
        return real(nbytes)

    with (
        mock.patch.object(number_columns, "block_of", block_of),
        mock.patch.object(text_columns, "block_of", block_of),
    ):
        yield


ERRORS = st.sampled_from([OSError(errno.EIO, "disk"), LogCorruptError("ends before offset 7")])
FAULTS = st.one_of(
    st.none(),
    st.none(),
    st.tuples(st.sampled_from(["x", "n", "mca", "a/b", "why"]), ERRORS),
    st.integers(0, 12),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.integers(1, 90), FAULTS, st.booleans()), min_size=1, max_size=15),
    budget=st.sampled_from([1_000_000, 50_000_000]),
)
def test_whatever_fails_at_whichever_column_no_row_is_shifted(tmp_path_factory, steps, budget):
    with Logged(tmp_path_factory.mktemp("log"), budget) as logged:
        logged.begin("r")
        for count, fault, fraction in steps:
            before = logged.rows["r", "primary"]
            reader = logged._readers["r"]
            page = page_of_rows("r", "primary", before, count)
            if fraction and not isinstance(fault, tuple):
                page["data"]["n"] = page["data"]["n"] * 1.0  # integers that are sent as floats
            logged.log.append("event_page", page)
            (entry,) = reader.read()
            place = Place(reader.path, entry.offset, entry.nbytes)
            if isinstance(fault, tuple):
                key, error = fault
                entry.document["data"][key] = Torn(page["data"][key], error)
            memory = no_memory(fault) if isinstance(fault, int) else contextlib.nullcontext()
            try:
                with memory:
                    logged.sink(entry.name, entry.document, place)
                logged.rows["r", "primary"] += count
            except DocumentError:
                assert fault is not None
            (held,) = logged.sink.held()
            assert held.rows == logged.rows["r", "primary"]
            assert held.nbytes == logged.sink.nbytes <= budget
        logged.check("r", cuts=[(0, 10**9), (3, 40)])


def test_log_that_is_cut_off_while_a_page_is_copied_leaves_no_trace(tmp_path):
    with Logged(tmp_path, 50_000_000) as logged:
        logged.begin("r", {**KEYS, "second": KEYS["mca"]})
        page = page_of_rows("r", "primary", 0, 20)
        page["data"]["second"] = page["data"]["mca"] + 1
        logged.log.append("event_page", page)
        reader = logged._readers["r"]
        (entry,) = reader.read()
        stream = logged.sink._holding.runs["r"].streams["primary"]
        fitted = stream.fit(
            LoggedPage(entry.document, Place(reader.path, entry.offset, entry.nbytes))
        )
        with reader.path.open("r+b") as file:  # as a file server does that loses the end of it
            file.truncate(entry.offset + entry.nbytes - 60_000)
        with pytest.raises(LogCorruptError, match="ends before"):
            stream.put(fitted)
        assert {column.rows for column in fitted.columns.values()} == {0}


def test_memory_of_a_page_that_failed_is_let_go_like_any_other(tmp_path):
    with Logged(tmp_path, 1_000_000) as logged:
        logged.begin("r")
        logged.add("r", 1000)  # 2.4 MB: all rows are by reference
        with no_memory(6), pytest.raises(DocumentError):
            logged.add("r", 40)
        stream = logged.sink._holding.runs["r"].streams["primary"]
        assert stream.data_bytes > 0
        assert stream.drop(1) > 0  # else the feed would ask for ever
        for _ in range(20):
            logged.add("r", 40)
        logged.check("r")


def column_of(sink, key, dtype, values, block):
    """A sink with a run whose column has these values in many blocks."""
    keys = {key: {"dtype": "number", "shape": [], "dtype_numpy": dtype, "source": "test"}}
    sink("start", {"uid": "r", "time": 1.0})
    sink("descriptor", {"uid": "d", "run_start": "r", "time": 1.0, "data_keys": keys})
    sink("event_page", page_with(key, values, 0))
    column = sink.view("r").streams["primary"]().columns[key]
    assert len(values) * column.dtype.itemsize > 3 * block
    return column


def page_with(key, values, first):
    seq = np.arange(first + 1, first + 1 + len(values))
    return {
        "descriptor": "d", "seq_num": seq, "time": seq * 0.5, "uid": [str(i) for i in seq],
        "data": {key: values}, "timestamps": {key: seq * 0.5},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "values", "comes"),
    [
        ("<u8", 2**60 + np.arange(50_000, dtype="u8"), [-1]),
        ("<i4", np.arange(50_000, dtype="i4"), [0.5]),
        ("<f8", np.arange(50_000) * 0.1, [1j]),
    ],
)
def test_reader_sees_a_column_in_one_type_while_it_becomes_another(dtype, values, comes):
    sink = Sink(50_000_000)
    column = column_of(sink, "x", dtype, values, sink.shares.block)
    real, read = number_columns.block_of, []

    def block_of(nbytes):  # a reader comes at every block that is converted
        for now in (column, sink.view("r").streams["primary"]().columns["x"]):
            got = now.read(0, now.rows)
            read.append(got.dtype == dtype and np.array_equal(got, values))
        return real(nbytes)

    with mock.patch.object(number_columns, "block_of", block_of):
        sink("event_page", page_with("x", comes, len(values)))
    assert len(read) > 6
    assert all(read)
    after = sink.view("r").streams["primary"]().columns["x"]
    assert after.dtype != dtype
    assert after.read(0, after.rows).tolist() == [*values.tolist(), *comes]
    assert column.read(0, column.rows).dtype == dtype
    assert np.array_equal(column.read(0, column.rows), values)
    assert sink.nbytes == sink.held()[0].nbytes


NUMBER = {"dtype": "number", "shape": [], "source": "test"}
FRAMES = {"dtype": "array", "shape": [2], "dtype_numpy": "<f8", "external": "STREAM:",
          "source": "test"}  # fmt: skip


def with_deep(document, levels):
    """The bytes of a document that holds the text "deep" where it is to be so deep."""
    deep = b"\x81\xa1a" * levels + b"\x01"
    return ormsgpack.packb(document).replace(b"\xa4deep", deep)


@pytest.mark.parametrize("levels", [200, 1000])
def test_deeply_nested_documents_are_refused_and_the_feed_goes_on(tmp_path, levels):
    def append(run, kind, **document):
        log.append(kind, Packed(with_deep(document, levels), run=run))

    def begin(run, **more):
        log.append("start", {"uid": run, "time": 1.0})
        append(run, "descriptor", uid=f"{run}-d", run_start=run, time=1.0, name="primary",
               data_keys={"x": NUMBER}, **more)  # fmt: skip

    def event(run, number, value, **more):
        append(run, "event", uid=f"{run}-{number}", descriptor=f"{run}-d", seq_num=number,
               time=1.0, data={"x": value}, timestamps={"x": 1.0}, **more)  # fmt: skip

    with contextlib.closing(DocumentLog(tmp_path)) as log:
        begin("deep-descriptor", hints="deep")
        event("deep-descriptor", 1, 1.0)
        begin("deep-event")
        event("deep-event", 1, 1.0)
        event("deep-event", 2, "deep")
        event("deep-event", 3, 3.0, filled="deep")
        append("deep-event", "stop", uid="s", run_start="deep-event", time=2.0,
               exit_status="success", reason="deep")  # fmt: skip
        begin("next")
        event("next", 1, 1.0)
        sink = Sink(10_000_000)
        follower = Follower(None, log, arrays=False)
        with contextlib.closing(Feed(Placed(follower), sink)) as feed:
            assert follower.caught_up.wait(30)
            assert feed.alive
            refused = dict(sink.refused)
    # as text 200 levels are no deeper than others
    events = 1 if levels == 200 else 2
    assert sum(refused[kind] for kind in refused if kind.startswith("event: ")) == events, refused
    assert sum(refused.values()) == events + 2, refused
    assert refused["descriptor: ValueError"] == refused["stop: ValueError"] == 1
    columns = {run: sink.view(run).streams["primary"]().columns for run in ("deep-event", "next")}
    if levels == 200:
        texts = ["1.0", '{"a": ' * levels + "1" + "}" * levels, "3.0"]
        assert columns["deep-event"]["x"].read(0, 3).tolist() == texts
    else:
        assert columns["deep-event"]["x"].read(0, 2).tolist() == [1.0, 3.0]
    assert columns["next"]["x"].read(0, 1).tolist() == [1.0]


def test_what_is_refused_for_its_depth_says_so():
    deep = 1
    for _ in range(200):
        deep = {"a": deep}
    with pytest.raises(DocumentError, match="nested deeper than 128 levels"):
        Sink(10_000_000)("start", {"uid": "r", "time": 1.0, "sample": deep})


ABSURD = [
    {"start": 0, "stop": 10**15},
    {"start": 10**15, "stop": 10**15 + 10**14},
    {"start": 0, "stop": 10**30},
    {"start": 10**30, "stop": 10**30 + 1},
    {"start": -5, "stop": 3},
    {"start": 3, "stop": 1},
    {"start": 0.5, "stop": float("inf")},
    {"start": "many", "stop": None},
]


def test_absurd_index_ranges_are_refused_and_cost_nothing():
    sink = Sink(10_000_000)
    sink("start", {"uid": "r", "time": 1.0})
    keys = {"frames": FRAMES, "x": NUMBER}
    sink("descriptor", {"uid": "d", "run_start": "r", "time": 1.0, "data_keys": keys})
    sink("stream_resource", {"uid": "res", "run_start": "r", "data_key": "frames",
                             "uri": "file://localhost/nowhere.h5", "parameters": {},
                             "mimetype": "application/x-hdf5"})  # fmt: skip
    before = sink.nbytes
    for indices in ABSURD:
        datum = {"uid": "x", "stream_resource": "res", "descriptor": "d", "indices": indices}
        with pytest.raises(DocumentError, match="stream_datum document refused"):
            sink("stream_datum", datum)
    assert sink.nbytes == before
    sink("stream_datum", {**datum, "indices": {"start": 0, "stop": 10**9}})
    with (
        serving(build_app(sink, KEY)) as url,
        httpx.Client(base_url=url, headers={"Authorization": f"Apikey {KEY}"}) as http,
    ):
        node = http.get("/api/v1/metadata/live/r/primary/frames").json()
        structure = node["data"]["attributes"]["structure"]
        assert structure["shape"] == [10**9, 2]
        assert len(structure["chunks"][0]) <= 1 << 20
        for path in ("search/live/r/primary", "metadata/live/r"):
            assert http.get(f"/api/v1/{path}").status_code == 200


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 10**15), (0, 10**30), (10**30, 10**30 + 1), (-5, 3)]
)
def test_archive_shows_absurd_index_ranges_as_unreadable(start, stop):
    view = detector_view("frames", FRAMES, [({"uid": "res"}, start, stop)], FileRoots())
    assert (view.rows, view.rows_per_chunk) == (0, 1)
    with pytest.raises(HTTPException, match=r"frames cannot be read: .*(indices|announced)"):
        view.read(0, 1)


@pytest.mark.parametrize("external", ["STREAM:", ""])
@pytest.mark.parametrize(
    "odd",
    [
        {"shape": [10**9] * 4},
        {"shape": [1] * 10_000},
        {"shape": [0, 10**9, 10**9, 10**9]},
        {"shape": [-1]},
        {"dtype_numpy": "i4,("},
        {"dtype_numpy": "<U0"},
        {"dtype_numpy": "V0"},
        {"dtype_numpy": "(99999999999,)f8"},
    ],
)
def test_absurd_descriptions_cost_their_column_only(external, odd):
    keys = {"odd": {**FRAMES, "external": external, **odd}, "x": NUMBER}
    sink = Sink(10_000_000)
    sink("start", {"uid": "r", "time": 1.0})
    sink("descriptor", {"uid": "d", "run_start": "r", "time": 1.0, "data_keys": keys})
    view = sink.view("r").streams["primary"]()
    for column in view.columns.values():
        assert len(column.read(0, column.rows)) == 0
    data = {"x": 1.0} if external else {"x": 1.0, "odd": [1.0, 2.0]}
    sink("event", {"descriptor": "d", "uid": "e", "seq_num": 1, "time": 1.0, "data": data})
    view = sink.view("r").streams["primary"]()
    assert view.columns["x"].read(0, 1).tolist() == [1.0]


def test_nobody_reads_while_it_is_decided_what_gives_way(monkeypatch):
    # a reader's touch changed the order of the runs meanwhile, and a good start was refused
    sink = Sink(1_000_000)
    could, decide = [], Retention.room

    def room(self, run, nbytes):
        def reader():
            could.append(sink._holding.lock.acquire(blocking=False))

        thread = threading.Thread(target=reader)
        thread.start()
        thread.join()
        return decide(self, run, nbytes)

    monkeypatch.setattr(Retention, "room", room)
    for uid in map(str, range(300)):
        sink("start", {"uid": uid, "time": 1.0})
        sink("stop", {"uid": f"stop of {uid}", "run_start": uid, "time": 1.0})
    assert sink.evicted
    assert not any(could)
