"""Columns against plain numpy arrays and lists: growth, change of type, letting rows go."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs.server.sink.columns import NumberColumn, TextColumn, texts_of
from p06bs.server.sink.names import node_name, original
from p06bs.server.sink.values import exactly, values_of

BLOCK = 1 << 10
TEXTS = st.text(max_size=40) | st.integers(300, 3000).map(lambda n: "µ" * n)
STEPS = st.lists(st.tuples(st.sampled_from(["put", "put", "put", "forget", "skip"]),
                           st.integers(0, 90)), max_size=40)  # fmt: skip


def numbers(values):
    return np.concatenate(values) if len(values) else np.empty(0)


@given(steps=STEPS, shape=st.sampled_from([(), (3,), (2, 200)]), dtype=st.sampled_from("fui"))
def test_numbers_are_what_was_put_whatever_is_let_go(steps, shape, dtype):
    column = NumberColumn(np.dtype(f"{dtype}4"), shape, block=BLOCK)
    truth = np.empty((0, *shape), column.dtype)
    for what, count in steps:
        if what == "forget":
            column.forget(len(truth) * count // 90)
        elif what == "skip":
            truth = np.concatenate([truth, np.zeros((count, *shape), column.dtype)])
            column.skip(np.zeros((count, *shape), column.dtype))
            assert column.nbytes == 0
        else:
            new = np.arange(count * int(np.prod(shape))).reshape((count, *shape)) + len(truth)
            truth = np.concatenate([truth, new.astype(column.dtype)])
            fitted = column.fit(new.astype(column.dtype), count)
            before, needed = column.nbytes, column.needs(fitted)
            column.put(fitted)
            assert column.nbytes - before == needed
        assert column.rows == len(truth)
        assert 0 <= column.first <= column.rows
        if column.first < column.rows:
            held = np.concatenate(column.parts(column.first, column.rows))
            assert np.array_equal(held, truth[column.first :])
            used = (column.rows - column.first) * column.dtype.itemsize * int(np.prod(shape))
            assert column.nbytes >= used
            middle = (column.first + column.rows) // 2
            low, high = middle - (middle - column.first) // 2, column.rows
            assert np.array_equal(np.concatenate(column.parts(low, high)), truth[low:high])
    column.forget(column.rows)
    assert column.nbytes == 0


@given(steps=st.lists(st.lists(TEXTS, max_size=20) | st.integers(0, 100), max_size=25))
def test_texts_are_what_was_put_whatever_is_let_go(steps):
    column = TextColumn(block=BLOCK)
    truth = []
    for step in steps:
        if isinstance(step, int):
            column.forget(len(truth) * step // 100)
        else:
            truth += step
            fitted = column.fit(step, len(step))
            before, needed = column.nbytes, column.needs(fitted)
            column.put(fitted)
            assert column.nbytes - before <= needed
        assert column.rows == len(truth)
        assert texts_of(column.parts(column.first, column.rows)) == truth[column.first :]
        low = (column.first + column.rows) // 2
        assert texts_of(column.parts(low, column.rows)) == truth[low:]
        assert max(map(len, truth), default=0) <= column.dtype.itemsize // 4
    column.forget(column.rows)
    assert column.nbytes == 0


def test_large_column_grows_without_being_copied():
    column = NumberColumn(np.dtype("u4"), (4, 4096))  # 64 KiB a row, 16 rows a block
    column.put(column.fit(np.ones((16, 4, 4096), "u4"), 16))
    before = column.parts(0, 16)[0]
    for row in range(16, 160):
        column.put(column.fit(np.full((1, 4, 4096), row, "u4"), 1))
    assert np.shares_memory(before, column.parts(0, 16)[0])
    rows = np.concatenate(column.parts(15, 17))
    assert rows[:, 0, 0].tolist() == [1, 16]


@pytest.mark.parametrize(
    ("dtype", "there", "comes", "becomes"),
    [
        ("i8", [2**40, 7], [0.5], "f8"),
        ("i8", [1], [3.0], "i8"),
        ("f8", [0, 1.5], [7], "f8"),
        ("f8", [0, 1], [2**60 + 1], "i8"),
        ("u4", [1], [-1], "i8"),
        ("i8", [1], [True], "i8"),
        ("?", [True], [0], "?"),
        ("?", [True], [2], "i8"),
        ("f4", [0.5], [0.1], "f8"),
        ("f8", [0.5], [None], "f8"),
        ("f8", [0.5], [1j], "c16"),
    ],
)
def test_type_of_a_column_changes_only_without_loss(dtype, there, comes, becomes):
    column = NumberColumn(np.dtype(dtype), ())
    column.put(column.fit(there, len(there)))
    column.put(column.fit(comes, 1))
    got = np.concatenate(column.parts(0, len(there) + 1)).tolist()
    want = [np.nan if value is None else value for value in there + comes]
    assert np.array_equal(got, want, equal_nan=True)
    assert column.dtype == becomes


@pytest.mark.parametrize(
    ("dtype", "there", "comes"),
    [
        ("f8", [0.5], [2**53 + 1]),
        ("i8", [2**53 + 1], [0.5]),
        ("f8", [0.5], ["text"]),
        ("f8", [0.5], [[1.0, 2.0]]),
        ("f8", [0.5], [{"a": 1}]),
        ("f8", [0.5], [2**70]),
        ("f8", [0.5], [1.0, 2.0]),
        ("i8", [-1], [2**63 + 1]),
        ("f8", [0.5], [2**63]),
        ("i8", [-1], [2**63]),
        ("f8", [0.5], [None, 2**53 + 1]),
        ("f8", [0.5], [2**63 - 1, 2.0]),
    ],
)
def test_what_would_change_a_value_is_refused_and_changes_nothing(dtype, there, comes):
    column = NumberColumn(np.dtype(dtype), ())
    column.put(column.fit(there, len(there)))
    with pytest.raises((ValueError, TypeError)):
        column.fit(comes, 1 if comes == [1.0, 2.0] else len(comes))
    assert column.dtype == dtype
    assert np.concatenate(column.parts(0, 1)).tolist() == there


@given(
    values=st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=5),
    dtype=st.sampled_from(["i1", "u1", "i4", "u4", "i8", "u8", "f4", "f8", "?"]),
)
def test_exactly_means_every_value_stays(values, dtype):
    try:
        array = np.array(values)
    except OverflowError:
        return
    if array.dtype.kind not in "iu":
        return
    cast = exactly(array, np.dtype(dtype))
    if cast is not None:
        assert [int(value) for value in cast.tolist()] == [int(value) for value in array.tolist()]
    elif dtype in ("i8", "u8"):
        low, high = (0, 2**64 - 1) if dtype == "u8" else (-(2**63), 2**63 - 1)
        assert not all(low <= int(value) <= high for value in array)


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


@given(st.text(max_size=12) | st.sampled_from([".", "..", "", "=", "=2F", "a/b", "=3D2F", "%41"]))
def test_node_names_fit_a_path_and_can_be_undone(name):
    node = node_name(name)
    assert original(node) == name
    assert node not in ("", ".", "..")
    assert not set(node) & set("/\\?#%\n\0")
    if name.isidentifier():
        assert node == name
