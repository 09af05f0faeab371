"""Rows that lack a key, have one that nobody described, or another kind of value than before:

``/live`` shows them as ``/archive`` will.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p06bs.bus.log import DocumentLog
from p06bs.server.sink.places import Place
from p06bs.server.sink.sink import DocumentError, Sink
from p06bs.server.sink.stream import COLUMN_BYTES
from tests.test_live_as_archive import both, run_of

MISSING = object()

SCALARS = {
    "float": st.floats(-1e9, 1e9, width=32) | st.just(np.nan),
    "int": st.integers(-(2**31), 2**31),
    "wide": st.integers(2**53 + 1, 2**62).map(lambda value: value | 1),
    "huge": st.integers(2**63, 2**64 - 1),
    "bool": st.booleans(),
    "text": st.text("aµ", max_size=20),
}
VALUES = {
    **SCALARS,
    "array": st.lists(st.floats(-9, 9, width=16), min_size=3, max_size=3),
    "ndarray": st.integers(0, 9).map(lambda n: np.arange(n, n + 6, dtype="i4").reshape(2, 3)),
    "large": st.integers(0, 9).map(lambda n: np.arange(n, n + 9000, dtype="u4")),
    "bytes": st.binary(max_size=5),
    "ragged": st.lists(st.integers(0, 9), max_size=4),
    "dict": st.dictionaries(st.sampled_from("ab"), st.integers(0, 9), max_size=2),
    "none": st.none(),
    "missing": st.just(MISSING),
}
DESCRIBED = {
    "x": {"source": "test", "dtype": "number", "shape": []},
    "n": {"source": "test", "dtype": "integer", "shape": []},
    "a": {"source": "test", "dtype": "array", "shape": [3]},
    "w": {"source": "test", "dtype": "array", "shape": [-1]},
}


@st.composite
def rows_of_any_kind(draw):
    """Rows whose columns are mostly of one kind, with gaps and now and then another kind."""
    columns = {}
    count = draw(st.integers(1, 9))
    for key in [*DESCRIBED, "extra", "late"]:
        kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=2))
        kinds = [*kinds, *draw(st.sampled_from([[], ["none"], ["missing"], ["none", "missing"]]))]
        kind = st.sampled_from(kinds).flatmap(VALUES.get)
        columns[key] = draw(st.lists(kind, min_size=count, max_size=count))
    rows = [{key: values[i] for key, values in columns.items()} for i in range(count)]
    return [{k: value for k, value in row.items() if value is not MISSING} for row in rows]


def with_late_key(documents, at):
    """The run with a second descriptor, from its event `at` on, that has one key more."""
    start, (_, described), *rest = documents
    keys = {**described["data_keys"], "late": {"source": "t", "dtype": "number", "shape": []}}
    again = ("descriptor", {**described, "uid": "d2", "data_keys": keys})
    events = [(n, {**d, "descriptor": "d2"} if n == "event" else d) for n, d in rest[at:]]
    return [start, documents[1], *rest[:at], again, *events]


def is_gap(value):
    return str(value) in ("null", "nan") or (np.ndim(value) > 0 and np.isnan(value).all())


def assert_alike(live, archive):
    one, other = live.streams["primary"](), archive.streams["primary"]()
    for key in one.columns.keys() | other.columns.keys():
        found, kept = (
            list(view.columns[key].read(0, view.columns[key].rows)) if key in view.columns else []
            for view in (one, other)
        )
        if all(map(is_gap, kept)):  # nobody knows what it would be
            assert all(map(is_gap, found)), key
            continue
        assert one.columns[key].shape == other.columns[key].shape, key
        assert len(found) == len(kept)
        numbers = all(np.asarray(value).dtype.kind != "U" for value in (*found, *kept))
        assert np.array_equal(found, kept, equal_nan=numbers), (key, found, kept)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=rows_of_any_kind(),
    at=st.integers(0, 8),
    budget=st.sampled_from([300_000, 50_000_000]),
)
def test_rows_of_any_kind_are_shown_as_the_archive_shows_them(tmp_path_factory, rows, at, budget):
    documents = with_late_key(run_of(DESCRIBED, rows), min(at, len(rows)))
    with both(tmp_path_factory.mktemp("run"), documents, budget) as (live, archive, refused):
        assert not refused
        assert_alike(live, archive)


def test_pages_may_lack_keys_and_bring_new_ones(tmp_path):
    start, descriptor, *_, stop = run_of(DESCRIBED, [])
    pages = [
        {"x": [1.0, 2.0], "n": [1, 2]},
        {"x": [3.0], "n": [3], "a": np.ones((1, 3)), "new": ["text"]},
        {"x": ["beam lost", 4.0]},
        {"x": [5.0, 6.0], "n": [5, 6], "new": [None, "more"]},
    ]
    documents = [start, descriptor]
    seq = 0
    for data in pages:
        count = len(data["x"])
        numbers = list(range(seq, seq + count))
        documents.append(
            ("event_page", {
                "descriptor": "d", "seq_num": numbers, "time": [1.0] * count,
                "uid": [f"e{n}" for n in numbers], "data": data,
                "timestamps": {key: [0.5] * count for key in data},
            })
        )  # fmt: skip
        seq += count
    with both(tmp_path, [*documents, stop]) as (live, archive, refused):
        assert not refused
        assert_alike(live, archive)
        columns = live.streams["primary"]().columns
        texts = columns["x"].read(0, 7).tolist()
        assert texts == ["1.0", "2.0", "3.0", "beam lost", "4.0", "5.0", "6.0"]
        numbers = columns["n"].read(0, 7)
        assert np.array_equal(numbers, [1, 2, 3, *[np.nan] * 2, 5, 6], equal_nan=True)
        assert columns["new"].read(0, 7).tolist() == ["null", "null", "text", *["null"] * 3, "more"]


LARGE = np.arange(9000)
"""So large that a page leaves it in the log."""


@pytest.mark.parametrize(
    "pages",
    [
        [[2**53 + 1, None]],
        [[1.5], [None, 2**53 + 1]],
        [[2**63 - 1, 2.0]],
        [[1], [2**63 - 1, 2.0]],
        [[2.5], [2**60]],
        [[2**60], [None]],
        [[1], [2**63]],
        [[[2**63 - 1, 2.0], [1.0, 2.0]]],
        [[2**63 + 1, -1]],
        [[None], [2**53 + 1, None]],
        [np.array([1, 2**63 + 1], "u8")],
        [np.array([1, 2**63 + 1], "u8"), [-1]],
        [[None], np.array([1, 2**63 + 1], "u8")],
        [np.arange(2**63, 2**63 + 9000, dtype="u8")],
        [[None], np.arange(2**63, 2**63 + 9000, dtype="u8")],
        [[LARGE, 1.5]],
        [[1.5, LARGE]],
        [["text", LARGE, None]],
        [[1.5], [[1, LARGE]]],
        [[{"a": LARGE}, {"a": 1}]],
        [[LARGE, LARGE], [LARGE, LARGE[:-1]]],
        [[b"\xff", b"text"]],
        [[1.5], [b"\xff"]],
        [np.array([b"a", b"bc"])],
        [[b"a\x00", "text"]],
        [[np.ones(3, "f2"), np.zeros(3, "f2")]],
    ],
    ids=lambda pages: str(pages)[:60],
)
@pytest.mark.parametrize("kind", ["number", "integer", "array"])
def test_no_value_costs_the_rows_of_its_page(tmp_path, pages, kind):
    start, descriptor, *_, stop = run_of({"x": {"source": "t", "dtype": kind, "shape": []}}, [])
    documents, seq = [start, descriptor], 0
    for values in pages:
        numbers = list(range(seq + 1, seq + 1 + len(values)))
        documents.append(
            ("event_page", {
                "descriptor": "d", "seq_num": numbers, "time": [1.0] * len(values),
                "uid": [f"e{n}" for n in numbers], "data": {"x": values},
                "timestamps": {"x": [0.5] * len(values)},
            })
        )  # fmt: skip
        seq += len(values)
    with both(tmp_path, [*documents, stop]) as (live, archive, refused):
        assert not refused
        assert live.streams["primary"]().columns["seq_num"].rows == seq
        assert_alike(live, archive)


@pytest.mark.parametrize("paged", [True, False])
@pytest.mark.parametrize("dtype_numpy", [None, "<u8", "<i8", "<f8"])
@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([2**63, 3], "u8"),
        ([3, 4, 5, 2**64 - 1, True, 6], "u8"),
        ([[3, 4], [5, 2**63]], "u8"),
        ([2**63, 3, -1], "U"),
        ([-1, 3, 3, 2**63], "U"),
        ([3, None, 2**63, 4], "U"),
        ([2**63, 2.5], "U"),
    ],
    ids=str,
)
def test_only_unsigned_integers_hold_the_largest(tmp_path, values, dtype, dtype_numpy, paged):
    described = {"source": "t", "dtype": "integer", "shape": []}
    keys = {"x": described if dtype_numpy is None else {**described, "dtype_numpy": dtype_numpy}}
    documents = run_of(keys, [{"x": value} for value in values], paged=paged)
    with both(tmp_path, documents) as (live, archive, refused):
        assert not refused
        assert_alike(live, archive)
        for run in (live, archive):
            column = run.streams["primary"]().columns["x"]
            assert column.dtype.kind == dtype[0]
            if dtype == "u8":
                assert column.read(0, column.rows).tolist() == values


def test_rows_that_are_in_no_log_need_the_keys_that_are_described():
    sink = Sink(10_000_000)
    for document in run_of(DESCRIBED, [])[:2]:
        sink(*document)
    event = {"descriptor": "d", "uid": "e", "seq_num": 1, "time": 1.0, "timestamps": {}}
    before = sink.nbytes
    with pytest.raises(DocumentError, match="missing data keys: a, n, w; not described: new"):
        sink("event", {**event, "data": {"x": 1.0, "new": 1.0}})
    assert sink.nbytes == before


def test_keys_without_values_are_counted_too(tmp_path):
    """Whoever sends other keys in each row cannot take memory that nobody counts."""
    documents = run_of(DESCRIBED, [{f"k{i}": None} for i in range(100)])
    with DocumentLog(tmp_path) as log:
        sink = Sink(10_000_000)
        for document in documents[:-1]:
            log.append(*document)
        sizes = []
        for entry in log.reader("r", arrays=False).read():
            sink(entry.name, entry.document, Place(log.path("r"), entry.offset, entry.nbytes))
            sizes.append(sink.nbytes)
        assert sink.nbytes == sink.held()[0].nbytes
        assert sizes[-1] - sizes[2] > 95 * COLUMN_BYTES
