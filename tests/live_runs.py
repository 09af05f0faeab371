"""Runs of known content for the tests of subscriptions."""

import numpy as np

KEYS = {
    "Fe_K": {"dtype": "number", "dtype_numpy": "<f8", "shape": [], "source": "xrf"},
    "why": {"dtype": "string", "shape": [], "source": "xrf"},
    "mca": {"dtype": "array", "dtype_numpy": "<u4", "shape": [4, 16], "source": "xrf"},
}


def row_data(seq):
    """What the columns hold in the rows `seq`: known truth."""
    seq = np.asarray(seq)
    return {
        "Fe_K": seq * 0.25,
        "why": np.array([f"reason {i}" for i in seq]),
        "mca": (seq[:, None, None] * np.ones((4, 16))).astype("u4"),
    }


def begin(sink, uid, time=1.0, keys=KEYS, stream="primary", **more):
    sink("start", {"uid": uid, "time": time, **more})
    describe(sink, uid, time, keys, stream)


def describe(sink, uid, time=1.0, keys=KEYS, stream="primary", suffix="d", **more):
    descriptor = {
        "uid": f"{uid}-{stream}-{suffix}", "run_start": uid, "time": time, "name": stream,
        "data_keys": keys, "configuration": {}, "hints": {}, "object_keys": {}, **more,
    }  # fmt: skip
    sink("descriptor", descriptor)


def add_page(sink, uid, first, count=10, data=None, stream="primary"):
    seq = np.arange(first, first + count)
    data = row_data(seq) if data is None else data
    page = {
        "descriptor": f"{uid}-{stream}-d", "seq_num": seq.tolist(), "time": (seq * 0.5).tolist(),
        "uid": [f"{uid}/{i}" for i in seq], "data": data,
        "timestamps": dict.fromkeys(data, seq * 0.5),
    }  # fmt: skip
    sink("event_page", page)


def end(sink, uid, time=9.0):
    stop = {"uid": f"{uid}-s", "run_start": uid, "time": time, "exit_status": "success"}
    sink("stop", stop)
