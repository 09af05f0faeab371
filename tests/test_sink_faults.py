"""Pages that fail half-way into the columns: no row is shifted, none is seen, all is counted."""

import contextlib
import errno
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p06bs.bus.framing import LogCorruptError
from p06bs.server.sink import number_columns, text_columns
from p06bs.server.sink.places import LoggedPage, Place
from p06bs.server.sink.sink import DocumentError, Sink
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
        stream = logged.sink._runs["r"].streams["primary"]
        fitted = stream.fit(
            LoggedPage(entry.document, Place(reader.path, entry.offset, entry.nbytes))
        )
        with reader.path.open("r+b") as file:  # as a file server does that loses the end of it
            file.truncate(entry.offset + entry.nbytes - 60_000)
        with pytest.raises(LogCorruptError, match="ends before"):
            stream.put(fitted)
        assert {column.rows for column in fitted.columns.values()} == {0}


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
