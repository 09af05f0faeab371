"""Documents that fit nowhere, to be mixed into those of a run."""

from dataclasses import replace
from types import NoneType
from typing import Any

import numpy as np
from hypothesis import strategies as st

from p06bs.bus.codec import Packed, pack_document

MISSING = object()

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)


def _junk(*kinds: type) -> Any:
    """Return a strategy for anything but values of some kinds, or nothing at all."""
    return st.just(MISSING) | JUNK.filter(lambda value: not isinstance(value, kinds))


def _deep() -> Any:
    value: Any = 1
    for _ in range(200):
        value = [value]
    return value


TIMES = st.text(max_size=3) | st.lists(st.none()) | st.just({"a": 1})
NO_ROWS = st.just(-1) | st.just(1 << 60) | st.text("ab", min_size=1) | st.just([1])

NO_UID = _junk() | st.just(np.array(5))

EVENT = {
    "descriptor": NO_UID,
    "seq_num": _junk(int, float, NoneType),
    "time": TIMES | st.just(MISSING),
    "uid": st.just(MISSING),
    "data": _junk(dict),
    "timestamps": st.just({"x": "late"}),
}
PAGE = {
    "descriptor": NO_UID,
    "seq_num": _junk(list, dict, str) | st.just([1]) | st.just(["a", "b"]),
    "time": _junk(list) | st.just([1.0]) | st.just(["a", "b"]),
    "uid": st.just(MISSING) | st.just(["a"]) | st.just(5),
    "data": _junk(dict) | st.just({"x": [1.0]}) | st.just({"x": 5}) | st.just({"x": [1.0] * 3}),
    "timestamps": st.just({"x": [1.0]}) | st.just({"x": 1.0}) | st.just({"x": ["a", "b"]}),
}
DESCRIPTOR = {
    "uid": _junk(str),
    "run_start": _junk(),
    "time": TIMES | st.just(float("nan")),
    "name": st.just(5) | st.just(["primary"]),
    "data_keys": _junk(dict),
    "configuration": st.just(_deep()),
}
RESOURCE = {
    "uid": _junk(str),
    "run_start": st.just("another run"),
    "data_key": _junk(str),
    "uri": _junk(str),
    "parameters": st.just(_deep()) | JUNK.filter(lambda value: not isinstance(value, dict | None)),
}
DATUM = {
    "descriptor": NO_UID,
    "stream_resource": NO_UID,
    "indices": _junk(dict)
    | st.fixed_dictionaries({"start": NO_ROWS, "stop": st.just(3)})
    | st.just({"start": 3, "stop": 2}),
}


def malformed(uid: str, descriptor: str, resource: str) -> Any:
    """Return a strategy for documents that fit nowhere in a run, with their names.

    Parameters
    ----------
    uid, descriptor, resource : str
        Of the run, and of a stream of it with one column x, and of a stream resource.
    """
    row = {"descriptor": descriptor, "seq_num": 1, "time": 1.0, "uid": "bad", "data": {"x": 1.0}}
    page = {
        "descriptor": descriptor, "seq_num": [1, 2], "time": [1.0, 2.0], "uid": ["a", "b"],
        "data": {"x": [1.0, 2.0]},
    }  # fmt: skip
    of_run = {"uid": "bad", "run_start": uid, "time": 1.0}
    keys = {"data_keys": {"x": {"source": "s", "dtype": "number", "shape": []}}}
    datum = {
        "uid": "bad", "descriptor": descriptor, "stream_resource": resource,
        "indices": {"start": 0, "stop": 1}, "seq_nums": {"start": 1, "stop": 2},
    }  # fmt: skip
    uids = [descriptor, resource]
    kinds = [
        ("event", row, EVENT),
        ("event_page", page, PAGE),
        ("descriptor", {**of_run, **keys}, DESCRIPTOR),
        ("stream_resource", {**of_run, "data_key": "det", "uri": "file:///f.h5"}, RESOURCE),
        ("stream_datum", datum, DATUM),
        ("descriptor", {**of_run, **keys, "name": "b"}, {"uid": st.sampled_from(uids)}),
        ("stream_resource", {"uri": "file:///f", "data_key": "det"}, {"uid": st.just(descriptor)}),
        ("start", {"uid": uid, "time": 2.0}, {"plan_name": JUNK}),
    ]
    return st.one_of(
        values.map(lambda value, n=name, d=document, k=key: packed(uid, n, {**d, k: value}))
        for name, document, wrong in kinds
        for key, values in wrong.items()
    )


def packed(uid: str, name: str, document: dict[str, Any]) -> tuple[str, Packed]:
    """Return a document as one of a run, whatever it says itself, with its name."""
    there = {key: value for key, value in document.items() if value is not MISSING}
    return name, replace(pack_document(name, there), run=uid)
