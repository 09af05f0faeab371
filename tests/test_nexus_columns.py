"""Event columns in HDF5: any value that a document holds comes back equal."""

import json
from pathlib import Path
from typing import Any

import event_model
import h5py
import numpy as np
import psutil
from hypothesis import given, settings
from hypothesis import strategies as st

from p06bs.writers._columns import Column
from p06bs.writers.nexus import Serializer
from tests.nexus_runs import (
    Documents,
    read,
    text,
    write,
)


def test_a_big_run_and_frames_inside_events(tmp_path: Path) -> None:
    bundle = event_model.compose_run()
    keys = {
        "frame": {"source": "s", "dtype": "array", "shape": [256, 512], "dtype_numpy": "<u4"},
        "n": {"source": "s", "dtype": "integer", "shape": []},
    }
    stream = bundle.compose_descriptor(name="primary", data_keys=keys)
    documents: Documents = [("start", bundle.start_doc), ("descriptor", stream.descriptor_doc)]
    rng = np.random.default_rng(0)
    for i in range(30):
        frame = rng.poisson(2, (256, 512)).astype("<u4")
        event = stream.compose_event(
            data={"frame": frame, "n": i}, timestamps={"frame": 0.0, "n": 0.0}, validate=False
        )
        documents.append(("event", event))
    documents.append(("stop", bundle.compose_stop()))
    with h5py.File(write(documents, tmp_path)) as file:
        frames = file["entry/bluesky/streams/primary/data/frame"]
        assert frames.chunks == (1, 256, 512)
        assert frames.id.get_storage_size() < 0.3 * frames.size * 4


def test_values_that_no_array_holds(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "ragged": [[1, 2], [3], []],
        "late_float": [1, 2, 2.5],
        "late_text": [1, 2.0, "off"],
        "none": [1.0, None, 3.0],
        "nul": ["a", "b\0c", ""],
        "surrogate": ["\ud800", "ok", "ok"],
        "huge": [1, 2**70, -1],
        "exact": [2**53 + 1, 0.5, 1],
        "unsigned": [2**64 - 1, 0, 1],
        "nested": [{"a": [1, 2]}, {}, {"b": None}],
        "texts": [["a", "µ"], ["c", "d"], ["", "f"]],
        "special": [float("nan"), float("inf"), -0.0],
        "complex_shape": [[[1.5]], [[2.5]], [[3.5]]],
        "empty": [[], [], []],
    }
    bundle = event_model.compose_run()
    keys = {k: {"source": "s", "dtype": "array", "shape": []} for k in columns}
    stream = bundle.compose_descriptor(name="primary", data_keys=keys)
    documents: Documents = [("start", bundle.start_doc), ("descriptor", stream.descriptor_doc)]
    for i in range(3):
        data = {key: values[i] for key, values in columns.items()}
        event = stream.compose_event(data=data, timestamps=dict.fromkeys(data, 1.0), validate=False)
        documents.append(("event", event))
    path = write([*documents, ("stop", bundle.compose_stop())], tmp_path)
    with h5py.File(path) as file:
        data = file["entry/bluesky/streams/primary/data"]
        assert data["unsigned"].dtype == np.uint64
        assert np.signbit(data["special"][2])
        encoded = {key for key, dataset in data.items() if "encoding" in dataset.attrs}
    assert encoded == {"ragged", "late_text", "none", "nul", "surrogate", "huge", "exact", "nested"}


scalar = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=5),
    st.lists(st.integers(-5, 300), max_size=3), st.lists(st.text(max_size=2), max_size=2),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(scalar, max_size=4), max_size=5))
def test_a_column_holds_any_rows_in_any_portions(portions: list[list[Any]]) -> None:
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        column = Column(file, "c", {})
        for portion in portions:
            column.append(portion)
        rows = [row for portion in portions for row in portion]
        found = read(column.dataset) if column.dataset is not None else []
        assert len(found) == len(rows)
        for f, row in zip(found, rows, strict=True):
            value = f.tolist() if isinstance(f, np.ndarray | np.generic) else f
            assert repr(value) == repr(row) or value == row  # repr: NaN equals itself


def test_documents_of_old_areadetectors(tmp_path: Path) -> None:
    bundle = event_model.compose_run()
    keys = {"img": {"source": "s", "dtype": "array", "shape": [2, 2], "external": "FILESTORE:"}}
    stream = bundle.compose_descriptor(name="primary", data_keys=keys)
    resource = bundle.compose_resource(
        spec="AD_TIFF", root="/", resource_path="a", resource_kwargs={}
    )
    datum = resource.compose_datum(datum_kwargs={"point_number": 0})
    event = stream.compose_event(
        data={"img": datum["datum_id"]}, timestamps={"img": 1.0}, filled={"img": False}
    )
    documents: Documents = [
        ("start", bundle.start_doc),
        ("descriptor", stream.descriptor_doc),
        ("resource", resource.resource_doc),
        ("datum", datum),
        ("event", event),
        ("stop", bundle.compose_stop()),
    ]
    with h5py.File(write(documents, tmp_path)) as file:
        filled = json.loads(text(file, "entry/bluesky/streams/primary/filled"))
        assert filled == {event["uid"]: {"img": False}}


def test_memory_stays_bounded(tmp_path: Path) -> None:
    bundle = event_model.compose_run()
    keys = {"mca": {"source": "s", "dtype": "array", "shape": [4, 4096], "dtype_numpy": "<u4"}}
    stream = bundle.compose_descriptor(name="primary", data_keys=keys)
    spectra = np.random.default_rng(0).poisson(3, (16, 4, 4096)).astype("<u4")
    process, used = psutil.Process(), []
    with Serializer(tmp_path) as serializer:
        serializer("start", bundle.start_doc)
        serializer("descriptor", stream.descriptor_doc)
        for i in range(1500):  # 98 MB
            data = {"mca": spectra[i % 16].copy()}
            event = stream.compose_event(data=data, timestamps={"mca": 0.0}, validate=False)
            serializer("event", event)
            if i >= 300:
                used.append(process.memory_info().rss)
        serializer("stop", bundle.compose_stop())
    assert max(used) - used[0] < 30e6
    with h5py.File(serializer.artifacts["all"][0]) as file:
        mca = file["entry/bluesky/streams/primary/data/mca"]
        np.testing.assert_array_equal(mca[1499], spectra[1499 % 16])
