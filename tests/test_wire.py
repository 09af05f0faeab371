"""The codec: everything that documents carry comes back as it was, and nothing else passes."""

import contextlib
import datetime
import math
import pickle
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p06bs.bus import codec, wire
from p06bs.bus.codec import LARGE, Packed, pack_document
from p06bs.bus.envelope import pack_envelope, run_of, unpack_envelope
from p06bs.bus.log import DocumentLog
from p06bs.model.documents import LoggedArray

DTYPES = st.one_of(
    hnp.scalar_dtypes(),
    hnp.unicode_string_dtypes(),
    hnp.byte_string_dtypes(),
    hnp.array_dtypes(hnp.scalar_dtypes(), allow_subarrays=False),
)
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.just(datetime.UTC))
    | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def assert_same(got, expected):
    assert type(got) is type(expected)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert got.tobytes() == expected.tobytes()


@given(PLAIN)
def test_plain_values_come_back(value):
    assert codec.unpack(codec.pack(value)) == value


@given(ARRAYS)
def test_arrays_come_back_bit_by_bit_read_only_and_aligned(array):
    got = codec.unpack(codec.pack({"a": [array]}))["a"][0]
    assert_same(got, array)
    assert not got.flags.writeable
    assert got.flags.aligned


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(10)[::-2],
        np.broadcast_to(np.float32(2), (3, 2)),
        np.array([1, 2], ">i2"),
        np.array(["2026-11-23T18:50", "NaT"], "M8[us]"),
        np.array([1, -1], "m8[ns]"),
        np.array(["", "µm", "\U0001f600"]),
        np.array([np.nan, np.inf, -np.inf]),
        np.array(7, "u8"),
        np.zeros((0, 3), "f4"),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}{array.strides}",
)
def test_layouts_that_are_not_plain(array):
    assert_same(codec.unpack(codec.pack(array)), array)


@pytest.mark.parametrize(
    "scalar",
    [np.float32(1.5), np.int8(-3), np.bool_(True), np.complex64(1j), np.datetime64("2026", "s")],
)
def test_numpy_scalars_keep_their_type(scalar):
    got = codec.unpack(codec.pack({"x": scalar}))["x"]
    assert type(got) is type(scalar)
    assert got == scalar


def test_nan_comes_back_as_nan():
    got = codec.unpack(codec.pack({"python": math.nan, "numpy": np.float64("nan")}))
    assert math.isnan(got["python"])
    assert math.isnan(got["numpy"])


def test_arrays_of_string_objects_and_what_becomes_a_list():
    names = np.array([["Fe", "Kα"], ["", "Cu"]], dtype=object)
    got = codec.unpack(codec.pack(names))
    assert got.dtype == object
    assert got.tolist() == names.tolist()
    assert codec.unpack(codec.pack(np.array(["Fe", None, 2], dtype=object))) == ["Fe", None, 2]
    assert codec.unpack(codec.pack(np.ma.array([1.0, 2.0], mask=[False, True]))) == [1.0, None]
    document = OrderedDict(
        shape=(3, 4), queue=deque([1]), path=Path("/gpfs/raw"), kind=np.str_("x")
    )
    assert codec.unpack(codec.pack(document)) == {
        "shape": [3, 4],
        "queue": [1],
        "path": "/gpfs/raw",
        "kind": "x",
    }
    assert codec.unpack(codec.pack({np.str_("key"): 1})) == {"key": 1}


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"data": {"det": [1, 2**64]}}, r"event\['data'\]\['det'\]\[1\] = 18446744073709551616"),
        ({"data": {"det": object()}}, r"event\['data'\]\['det'\] = <object"),
        ({"data": {7: "x"}}, r"event\['data'\] has the key 7"),
        ({"data": np.array([1, {2j: 3}], dtype=object)}, r"event\['data'\]\[1\] has the key 2j"),
        ({"name": "\ud800"}, r"event\['name'\]"),
    ],
)
def test_what_cannot_travel_is_named(document, named):
    with pytest.raises(TypeError, match=named):
        pack_document("event", document)


def test_an_envelope_carries_the_place_and_a_stock_listener_gets_the_document():
    document = {"uid": "u", "data": {"x": np.arange(3)}}
    envelope = pack_envelope("run-1", 2, 5, "event", pack_document("event", document))
    said = unpack_envelope(envelope)
    assert (said.run, said.epoch, said.index, said.name) == ("run-1", 2, 5, "event")
    assert run_of(envelope) == "run-1"
    assert wire.deserialize(envelope)["data"]["x"].tolist() == [0, 1, 2]
    prefix, name, payload = wire.split_message(b"p06 event " + envelope)
    assert (prefix, name, payload) == (b"p06", b"event", envelope)


@pytest.mark.parametrize(
    "fields",
    [
        ["../run", 1, 0, "event", 0, {}],
        ["", 1, 0, "event", 0, {}],
        ["run", 0, 0, "event", 0, {}],
        ["run", 1, -1, "event", 0, {}],
        ["run", True, 0, "event", 0, {}],
        ["run", 1, 0.0, "event", 0, {}],
        ["run", 1, 0, "bulk_events", 0, {}],
        ["run", 1, 0, ["event"], 0, {}],
        ["run", 1, 0, "event", 0, []],
        ["run", 1, 0, "event", -1, {}],
        ["run", 1, 0, "event", None, {}],
        ["run", 1, 0, "event", {}],
        {"run": 1},
    ],
    ids=str,
)
def test_an_envelope_that_no_writer_makes_is_refused(fields):
    with pytest.raises(codec.WireError):
        unpack_envelope(codec.pack(fields))


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda b: b"\x96\xa1r\x01\x00" + b))
def test_random_bytes_raise_wire_errors_only(data):
    with pytest.raises(codec.WireError):
        unpack_envelope(data)


@given(st.integers(0), st.integers(0, 255))
def test_a_damaged_envelope_is_refused_or_still_one(place, byte):
    document = {"a": np.arange(4.0), "b": "text", "c": np.zeros(LARGE)}
    good = bytearray(pack_envelope("run", 1, 0, "event", pack_document("event", document)))
    good[place % len(good)] = byte
    with contextlib.suppress(codec.WireError):  # anything else would fail the test
        assert type(unpack_envelope(good).document) is dict


def test_nothing_is_unpickled():
    with pytest.raises(codec.WireError):
        unpack_envelope(pickle.dumps(["run", 1, 0, "event", 0, {}]))
    bare_objects = b"('|O', (1,))\n" + b"\0" * 8
    extension = b"\xc7" + bytes([len(bare_objects), 1]) + bare_objects
    with pytest.raises(codec.WireError):
        codec.unpack(extension)


def test_huge_announced_lengths_fail_at_once():
    head = b"('<f8', (4611686018427387904,))\n"
    for data in (b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 5000):
        with pytest.raises(codec.WireError):
            codec.unpack(data)
    with pytest.raises(codec.WireError):
        codec.unpack(b"\xc7" + bytes([len(head), 1]) + head)


LARGE_ARRAYS = [
    np.arange(LARGE, dtype="<u4").reshape(4, -1),
    np.arange(2 * LARGE).reshape(-1, 2).T[::-1],
    np.arange(LARGE, dtype=">f8"),
    np.full(LARGE, "2026-11-25", "M8[s]"),
    np.full(LARGE, "µm"),
    np.zeros(LARGE, [("a", "i1"), ("b", "<f4", (3,))]),
    np.broadcast_to(np.float32(2), (LARGE, 3)),
]


@pytest.mark.parametrize("array", LARGE_ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_large_arrays_stay_out_of_band(array):
    small = np.arange(3)
    view = array[...]
    data = {"one": array, "small": small, "two": [view], "again": array}
    packed = pack_document("event", {"data": data})
    assert len(packed.body) < 500
    assert 2 * array.nbytes <= packed.nbytes < 3 * array.nbytes  # an array is there once
    got = packed.unpack()["data"]
    assert_same(got["one"], array)
    assert_same(got["two"][0], array)
    assert_same(got["again"], array)
    assert_same(got["small"], small)
    assert got["two"][0].flags.aligned
    assert not got["one"].flags.writeable
    left = codec.unpack(packed.body)["data"]["one"]
    assert isinstance(left, LoggedArray)
    assert (left.dtype, left.shape, left.size) == (array.dtype, array.shape, array.size)
    assert left[0].shape == array.shape[1:]


def test_arrays_beyond_the_buffers_are_refused():
    packed = pack_document("event", {"x": np.zeros(LARGE)})
    with pytest.raises(codec.WireError):
        codec.unpack(packed.body, bytes(packed.nbytes - 1))
    masked = np.ma.masked_equal(np.zeros(LARGE), 0)
    assert Packed(codec.pack(masked)).unpack()[:2] == [None, None]


@pytest.mark.parametrize("run", ["r", "a" * 31, "b" * 32, "c" * 128])
def test_the_run_of_an_envelope_is_known_without_decoding_it(run):
    envelope = pack_envelope(run, 7, 300, "event", pack_document("event", {"x": 1}))
    assert run_of(memoryview(envelope)) == run
    for cut in range(len(run)):
        assert run_of(envelope[:cut]) != run


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: b"\x97\xd9" + b))
def test_random_bytes_have_no_run_or_a_proper_one(data):
    run = run_of(data)
    assert run == "" or data.find(run.encode()) > 0


@pytest.fixture
def appended(tmp_path):
    """Return a function that logs an event and says where it went."""
    with DocumentLog(tmp_path) as log:
        log.append("start", {"uid": "run"})
        log.append("descriptor", {"uid": "d", "run_start": "run"})
        yield lambda **data: log.append("event", {"uid": "e", "descriptor": "d", "data": data})


def test_a_message_of_a_small_document_carries_it(appended):
    small = appended(x=np.arange(3))
    _, _, payload = wire.split_message(wire.message(b"", "event", small))
    assert payload == small.envelope
    assert wire.unpack_payload(payload).document["data"]["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("x", [np.arange(LARGE), [0.5] * 1000], ids=["array", "list"])
def test_a_message_of_a_larger_document_says_where_it_is(appended, x):
    there = appended(x=x)
    assert there.has_buffers == isinstance(x, np.ndarray)
    message = wire.message(b"p06", "event", there)
    assert len(message) < 300
    prefix, name, payload = wire.split_message(message)
    assert (prefix, name) == (b"p06", b"event")
    assert run_of(payload) == "run"
    notice = wire.unpack_payload(payload)
    assert (notice.run, notice.epoch, notice.index, notice.name) == ("run", 1, 2, "event")
    assert np.array_equal(wire.deserialize(payload)["data"]["x"], x)


@pytest.mark.parametrize(
    "changed",
    [
        {"path": "/etc/passwd"},
        {"path": "/nowhere/run.doclog"},
        {"path": 7},
        {"offset": 0},
        {"offset": -1},
        {"nbytes": 0},
        {"nbytes": 2**62},
        {"index": 1},
        {"epoch": 0},
        {"run": "other"},
        {"run": "../run"},
        {"name": "bulk_events"},
    ],
    ids=str,
)
def test_notices_of_what_is_not_there_are_refused(appended, changed):
    _, _, payload = wire.split_message(wire.message(b"", "event", appended(x=np.arange(LARGE))))
    fields = asdict(wire.unpack_payload(payload)) | changed
    with pytest.raises(codec.WireError):
        wire.deserialize(codec.pack(list(fields.values())))


class Lazy(Sequence):
    """A sequence that makes its items when it is asked for them."""

    def __len__(self):
        return 300

    def __getitem__(self, index):
        if not 0 <= index < 300:
            raise IndexError(index)
        return np.full(3, index)


def test_arrays_that_are_made_while_they_are_encoded_are_told_apart():
    got = pack_document("event", {"data": {"x": Lazy()}}).unpack()["data"]["x"]
    assert [item.tolist() for item in got] == [[n] * 3 for n in range(300)]
