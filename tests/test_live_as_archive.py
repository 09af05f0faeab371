"""What ``/live`` shows of a run is what ``/archive`` will show: names, shapes and values."""

import contextlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from suitcase.utils.tests.conftest import (  # noqa: F401 -- fixtures
    RE,
    detector_list,
    event_type,
    example_data,
    generate_data,
    plan_type,
)

from p06bs.bus.log import DocumentLog
from p06bs.bus.reader import read_log
from p06bs.server.archive.runfiles import read_run, write_run
from p06bs.server.archive.survey import survey
from p06bs.server.files.roots import FileRoots
from p06bs.server.sink.places import Place, RowsLostError
from p06bs.server.sink.sink import DocumentError, Sink
from tests.malformed import malformed, packed


@contextlib.contextmanager
def both(directory, documents, budget=50_000_000):
    """Give a run as the sink and as the archive show it, and what the sink refused."""
    with DocumentLog(directory / "log") as log:
        for name, document in documents:
            log.append(name, document)
        uid = documents[0][1]["uid"]
        path = log.path(uid)
        sink, refused = Sink(budget), []
        for entry in log.reader(uid, arrays=False).read():
            try:
                sink(entry.name, entry.document, Place(path, entry.offset, entry.nbytes))
            except DocumentError as refusal:
                refused.append(str(refusal))
        write_run(path, survey(read_log(path)), directory / "run", read_log)
        yield sink.view(uid), read_run(directory / "run", FileRoots()), refused


def assert_alike(live, archive):
    assert set(live.streams) == set(archive.streams)
    for name, stream in archive.streams.items():
        one, other = live.streams[name](), stream()
        if not other.columns["seq_num"].rows if other.columns else True:
            continue  # the archive learns of columns by their values
        assert set(one.columns) == set(other.columns)
        for key, column in other.columns.items():
            found = one.columns[key]
            assert (found.rows, found.shape) == (column.rows, column.shape), key
            if key in other.external:
                continue  # there is no file
            rows, others = found.read(0, found.rows), column.read(0, column.rows)
            assert np.array_equal(rows, others, equal_nan=others.dtype.kind == "f"), key


def test_document_sets_of_suitcase(tmp_path, example_data):  # noqa: F811
    with both(tmp_path, example_data()) as (live, archive, refused):
        assert not refused
        assert_alike(live, archive)


def run_of(keys, rows, *, paged=False):
    """Documents of a run with these data keys and rows (dicts)."""
    events = [
        {
            "uid": f"e{i}", "descriptor": "d", "seq_num": i, "time": float(i), "data": row,
            "timestamps": dict.fromkeys(row, i * 0.5), "filled": {},
        }
        for i, row in enumerate(rows, 1)
    ]  # fmt: skip
    documents = [
        ("start", {"uid": "r", "time": 1.0}),
        ("descriptor", {"uid": "d", "run_start": "r", "time": 1.0, "name": "primary",
                        "data_keys": keys, "configuration": {}, "hints": {}}),
    ]  # fmt: skip
    if paged:
        for first in range(0, len(events), 3):
            part = events[first : first + 3]
            page = {k: [event[k] for event in part] for k in ("uid", "seq_num", "time")}
            for what in ("data", "timestamps"):
                page[what] = {key: [event[what][key] for event in part] for key in keys}
            documents.append(("event_page", {"descriptor": "d", **page}))
    else:
        documents += [("event", event) for event in events]
    stop = {"uid": "s", "run_start": "r", "time": 9.0, "exit_status": "success"}
    return [*documents, ("stop", stop)]


def nested(shape, value):
    return value if not shape else [nested(shape[1:], value)] * shape[0]


SHAPES = st.sampled_from([(), (1,), (3,), (2, 2), (2, 3), (40, 120)])
DESCRIBED = st.sampled_from([[], [3], [2, 2], [2, None], [-1]])
NAMES = st.sampled_from(["a", "ts_a", "ts_ts_a", "a_", "ts_a_", "time", "ts_time", "x/y", "uid"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(NAMES, min_size=1, max_size=4, unique=True),
    kind=st.sampled_from(["array", "number"]),
    described=DESCRIBED,
    shapes=st.lists(SHAPES, min_size=1, max_size=8) | SHAPES.map(lambda shape: [shape] * 7),
    ragged=st.sampled_from([None, None, 0, 3]),
    as_array=st.booleans(),
    paged=st.booleans(),
    budget=st.sampled_from([300_000, 50_000_000]),
)
def test_any_shapes_and_names(
    tmp_path_factory, names, kind, described, shapes, ragged, as_array, paged, budget
):
    keys = {n: {"source": "test", "dtype": kind, "shape": described} for n in names}
    rows = []
    for number, shape in enumerate(shapes):
        value = np.full(shape, number + 0.5) if as_array else nested(shape, number + 0.5)
        if number == ragged:
            value = [[1.5], [2.5, 3.5]]
        rows.append(dict.fromkeys(names, value))
    documents = run_of(keys, rows, paged=paged)
    with both(tmp_path_factory.mktemp("run"), documents, budget) as (live, archive, refused):
        assert not refused
        assert_alike(live, archive)


KEYS = {
    "x": {"source": "test", "dtype": "number", "shape": []},
    "n": {"source": "test", "dtype": "integer", "shape": []},
    "w": {"source": "test", "dtype": "array", "shape": [3000]},
}
DETECTOR = {"source": "test", "dtype": "array", "shape": [2], "external": "STREAM:"}


def with_rows_in_files(documents):
    """Return a run whose detector `det` announces rows behind each third document."""
    start, (_, described), *rest = documents
    keys = {**described["data_keys"], "det": DETECTOR}
    resource = {
        "uid": "res", "run_start": "r", "data_key": "det", "mimetype": "application/x-hdf5",
        "uri": "file://localhost/none.h5", "parameters": {"dataset": "d", "chunk_shape": [1, 2]},
    }  # fmt: skip
    found = [start, ("descriptor", {**described, "data_keys": keys}), ("stream_resource", resource)]
    for number, document in enumerate(rest[:-1]):
        found.append(document)
        if not number % 3:
            indices = {"start": number, "stop": number + 3}
            about = {"uid": f"res/{number}", "descriptor": "d", "stream_resource": "res"}
            found.append(("stream_datum", {**about, "indices": indices, "seq_nums": indices}))
    return [*found, rest[-1]]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    malformed=st.lists(st.tuples(st.integers(0, 20), malformed("r", "d", "res")), max_size=12),
    values=st.lists(st.floats() | st.none(), max_size=8).map(lambda values: [1.5, *values]),
    paged=st.booleans(),
    budget=st.sampled_from([300_000, 50_000_000]),
)
def test_documents_that_fit_nowhere_cost_no_row(tmp_path_factory, malformed, values, paged, budget):
    rows = [{"x": x, "n": 2**53 + i, "w": np.full(3000, i)} for i, x in enumerate(values)]
    # It becomes text, and another key comes late: rows before are in the log only.
    rows.append({"x": 0.5, "n": None, "w": np.zeros(3000), "late": [True, False]})
    clean = with_rows_in_files(run_of(KEYS, rows, paged=paged))
    documents = list(clean)
    for place, document in malformed:
        documents.insert(min(place + 3, len(documents) - 1), document)
    with both(tmp_path_factory.mktemp("run"), documents, budget) as (live, archive, refused):
        assert len(refused) == len(malformed), refused
        assert_alike(live, archive)
        with both(tmp_path_factory.mktemp("clean"), clean) as (_, undisturbed, none):
            assert not none
            assert_alike(undisturbed, archive)
            assert archive.metadata == undisturbed.metadata
            columns = archive.streams["primary"]().columns
            assert columns["det"].rows == undisturbed.streams["primary"]().columns["det"].rows


def test_an_event_before_its_descriptor_costs_no_row(tmp_path):
    keys = {key: KEYS[key] for key in ("x", "n")}
    start, descriptor, *events, stop = run_of(keys, [{"x": 0.5, "n": 2**53 + 1}] * 3)
    early = ("event", {**events[0][1], "descriptor": "d2", "data": {"x": 9.0, "n": 9}})
    again = ("descriptor", {**descriptor[1], "uid": "d2"})
    gap = ("event", {**events[0][1], "descriptor": "d2", "data": {"x": 1.5}})
    documents = [start, descriptor, events[0], packed("r", *early), *events[1:], again, gap, stop]
    with both(tmp_path, documents) as (live, archive, refused):
        assert refused == ["event document refused: KeyError: 'd2'"]
        assert_alike(live, archive)
        column = live.streams["primary"]().columns["n"]
        assert column.read(0, 4).tolist() == [*["9007199254740993"] * 3, "null"]


def test_a_stream_resource_need_not_name_its_run(tmp_path):
    documents = with_rows_in_files(run_of({"x": KEYS["x"]}, [{"x": 0.5}] * 3))
    bare = {key: value for key, value in documents[2][1].items() if key != "run_start"}
    documents[2] = "stream_resource", bare
    with both(tmp_path, documents) as (live, archive, refused):
        assert not refused
        assert_alike(live, archive)
        assert live.streams["primary"]().columns["det"].rows == 3


@pytest.mark.parametrize("timestamps", [[1, 2, 3], "now", 5, None, {}], ids=str)
def test_timestamps_that_are_no_mapping_are_as_if_absent(tmp_path, timestamps):
    start, descriptor, event, stop = run_of({"x": KEYS["x"]}, [{"x": 0.5}])
    page = {
        "descriptor": "d", "uid": ["a", "b"], "seq_num": [1, 2], "time": [1.0, 2.0],
        "data": {"x": [1.0, 2.0]}, "timestamps": timestamps,
    }  # fmt: skip
    bare = packed("r", "event", {**event[1], "timestamps": timestamps})
    documents = [start, descriptor, ("event_page", page), event, bare, stop]
    with both(tmp_path, documents) as (live, archive, refused):
        assert not refused
        assert_alike(live, archive)
        columns = live.streams["primary"]().columns
        assert columns["x"].read(0, 4).tolist() == [1.0, 2.0, 0.5, 0.5]
        stamps = columns["ts_x"].read(0, 4)
        assert np.array_equal(stamps, [np.nan, np.nan, 0.5, np.nan], equal_nan=True)


def test_a_document_in_the_log_of_another_run_changes_neither(tmp_path):
    start, descriptor, event, stop = run_of({"x": KEYS["x"]}, [{"x": 0.5}])
    strays = [
        ("start", {"uid": "new", "time": 1.0}),
        ("descriptor", {**descriptor[1], "uid": "d2", "name": "other"}),
        event,
        ("stream_resource", {"uid": "res", "run_start": "r", "data_key": "x", "uri": "file:///f"}),
        stop,
    ]
    with DocumentLog(tmp_path) as log:
        sink = Sink(50_000_000)

        def publish(run, *documents):
            reader = readers.setdefault(run, log.reader(run, arrays=False))
            for document in documents:
                log.append(*document)
            for entry in reader.read():
                sink(entry.name, entry.document, Place(reader.path, entry.offset, entry.nbytes))

        readers = {}
        publish("r", start, descriptor, event)
        publish("b", ("start", {"uid": "b", "time": 1.0}))
        for stray in strays:
            with pytest.raises(DocumentError, match="and lies in the log of run b"):
                publish("b", packed("b", *stray))
        publish("r", event, stop)
        assert sink.runs() == ["r", "b"]
        assert list(sink.view("r").streams) == ["primary"]
        assert sink.view("r").streams["primary"]().columns["x"].rows == 2


@pytest.mark.parametrize(
    ("kind", "shape", "values", "became", "now"),
    [
        ("array", [2], [[1.5, 2.5], [3.5, 4.5], [5.5]], "become text",
         ["[1.5, 2.5]", "[3.5, 4.5]", "[5.5]"]),
        ("number", [], [None, None, [1.5, 2.5]], r"rows of shape \(2,\) now",
         [[np.nan] * 2, [np.nan] * 2, [1.5, 2.5]]),
    ],
)  # fmt: skip
def test_who_looks_while_a_column_becomes_another_is_told_to_look_again(
    tmp_path, kind, shape, values, became, now
):
    keys = {"x": {"source": "test", "dtype": kind, "shape": shape}}
    documents = run_of(keys, [{"x": value} for value in values])
    with DocumentLog(tmp_path) as log:
        sink = Sink(50_000_000)
        for name, document in documents:
            log.append(name, document)
        entries = list(log.reader("r", arrays=False).read())
        for entry in entries[:4]:
            place = Place(log.path("r"), entry.offset, entry.nbytes)
            sink(entry.name, entry.document, place)
        before = sink.view("r").streams["primary"]()
        for entry in entries[4:]:
            place = Place(log.path("r"), entry.offset, entry.nbytes)
            sink(entry.name, entry.document, place)
        with pytest.raises(RowsLostError, match=f"column x has {became}: ask for it again"):
            before.columns["x"].read(0, 2)
        with pytest.raises(RowsLostError, match=f"column x has {became}: ask for it again"):
            before.read(["seq_num", "x"], 0, 2)
        assert before.columns["seq_num"].read(0, 2).tolist() == [1, 2]
        rows = sink.view("r").streams["primary"]().columns["x"].read(0, 3)
        assert np.array_equal(rows, now, equal_nan=kind == "number")
        assert sink.nbytes == sink.held()[0].nbytes
