"""Runs for the NeXus tests, and what every file of a run must hold."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import event_model
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from ophyd.sim import SynAxis, SynGauss

from p06bs.writers.nexus import export
from p06bs.writers.validate import validate
from tests.engines import end

Documents = list[tuple[str, dict[str, Any]]]


def run(
    plan: Iterable[Any],
    during: Callable[[RunEngine], None] | None = None,
    subscriber: Callable[[str, Any], None] | None = None,
) -> Documents:
    """Return the documents of a plan run by a real RunEngine."""
    engine = RunEngine({}, call_returns_result=True)
    documents: Documents = []
    engine.subscribe(lambda name, doc: documents.append((name, doc)))
    if subscriber is not None:
        engine.subscribe(subscriber)
    try:
        if during is None:
            engine(plan)
        else:
            with pytest.raises(RunEngineInterrupted):
                engine(plan)
            during(engine)
    finally:
        end(engine)
    return documents


def stage() -> tuple[SynAxis, SynGauss]:
    motor = SynAxis(name="motor")
    return motor, SynGauss("det", motor, "motor", center=0, Imax=5, sigma=1)


def pages(documents: Documents) -> dict[str, dict[str, list[Any]]]:
    """Return the rows of every descriptor's stream, from events and pages alike."""
    streams = {d["uid"]: d["name"] for n, d in documents if n == "descriptor"}
    found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for name, doc in documents:
        if name not in ("event", "event_page"):
            continue
        columns = found[streams[doc["descriptor"]]]
        one = name == "event"
        for key in ("seq_num", "time", "uid"):
            columns[key] += [doc[key]] if one else list(doc[key])
        for part in ("data", "timestamps"):
            for key, value in doc[part].items():
                columns[f"{part}/{key}"] += [value] if one else list(value)
    return found


def read(dataset: h5py.Dataset) -> list[Any]:
    """Return the rows of a column as the documents had them."""
    if dataset.dtype.kind != "O":
        return list(dataset[...])
    texts = list(dataset.asstr()[...])
    return [json.loads(t) for t in texts] if "encoding" in dataset.attrs else texts


def same(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    return len(found) == len(expected) and all(
        np.array_equal(f, e, equal_nan=np.asarray(e).dtype.kind == "f")
        for f, e in zip(found, expected, strict=True)
    )


def plain(document: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(document, default=lambda a: a.tolist()))


def check_lossless(path: Path, documents: Documents) -> None:
    """Assert that the file holds what the documents say, all of it."""
    with h5py.File(path) as file:
        tree = file["entry/bluesky"]
        for name in ("start", "stop"):
            (document,) = [d for n, d in documents if n == name]
            assert json.loads(tree[name].asstr()[()]) == plain(document)
        nodes = {node.attrs["stream"]: node for node in tree["streams"].values()}
        descriptors: dict[str, list[Any]] = defaultdict(list)
        for name, doc in documents:
            if name == "descriptor":
                descriptors[doc["name"]].append(plain(doc))
        assert nodes.keys() == descriptors.keys()
        rows = pages(documents)
        for stream, node in nodes.items():
            texts = node["descriptors"].asstr()[...]
            assert [json.loads(text) for text in texts] == descriptors[stream]
            expected = rows.get(stream, {})
            for key in ("seq_num", "time", "uid"):
                assert same(read(node[key]) if key in node else [], expected.get(key, []))
            for part in ("data", "timestamps"):
                columns = {d.attrs["data_key"]: d for d in node[part].values()}
                wanted = {k.split("/", 1)[1]: v for k, v in expected.items() if k.startswith(part)}
                assert columns.keys() == wanted.keys()
                for key, values in wanted.items():
                    assert same(read(columns[key]), values), (stream, part, key)
                    units = descriptors[stream][0]["data_keys"][key].get("units")
                    if part == "data" and units:
                        assert columns[key].attrs["units"] == units
        for name in ("stream_resource", "resource", "datum"):
            sent = [plain(d) for n, d in documents if n == name]
            kept = [json.loads(t) for t in tree[name].asstr()[...]] if name in tree else []
            assert kept == sent


def write(documents: Documents, directory: Path, **options: Any) -> Path:
    """Export, and assert that the file is valid, lossless and alone."""
    (path,) = export(documents, directory, **options)["all"]
    assert validate(path) == []
    check_lossless(path, documents)
    assert not list(directory.rglob("*.part"))
    return path


def text(file: h5py.File, path: str) -> str:
    return str(file[path].asstr()[()])


def frames(directory: Path, name: str = "det.h5", count: int = 6) -> np.ndarray:
    images = np.random.default_rng(1).integers(0, 99, (count, 4, 5), dtype=np.uint16)
    directory.mkdir(parents=True, exist_ok=True)
    with h5py.File(directory / name, "w") as file:
        file["entry/data"] = images
    return images


def run_with_frames(uri: str, *, mimetype: str = "application/x-hdf5") -> Documents:
    """Compose a fly scan: frames by reference, I0 in events, joined by seq_num."""
    bundle = event_model.compose_run(metadata={"aligned_streams": ["primary", "frames"]})
    made: Documents = [("start", bundle.start_doc)]
    keys = {"cam-image": {"source": "s", "dtype": "array", "shape": [1, 4, 5], "units": "counts",
                          "dtype_numpy": "<u2", "external": "STREAM:"}}  # fmt: skip
    frames = bundle.compose_descriptor(name="frames", data_keys=keys, object_keys={"cam": ["*"]})
    made.append(("descriptor", {**frames.descriptor_doc, "object_keys": {"cam": ["cam-image"]}}))
    i0 = bundle.compose_descriptor(
        name="primary",
        data_keys={"i0": {"source": "s", "dtype": "number", "shape": [], "units": "counts"}},
        hints={"box": {"fields": ["i0"]}},
        object_keys={"box": ["i0"]},
    )
    made.append(("descriptor", i0.descriptor_doc))
    compose = bundle.compose_stream_resource(
        mimetype=mimetype,
        uri=uri,
        data_key="cam-image",
        parameters={"dataset": "/entry/data", "chunk_shape": (1, 4, 5)},
    )
    made.append(("stream_resource", compose.stream_resource_doc))
    for start, stop in ((0, 2), (2, 6)):
        datum = compose.compose_stream_datum(
            indices={"start": start, "stop": stop},
            seq_nums={"start": start + 1, "stop": stop + 1},
            descriptor=frames.descriptor_doc,
        )
        made.append(("stream_datum", datum))
    n = 6
    page = i0.compose_event_page(
        data={"i0": np.arange(n) + 0.5},
        timestamps={"i0": np.zeros(n)},
        seq_num=list(range(1, n + 1)),
        time=np.linspace(1, 2, n),
        validate=False,
    )
    made.append(("event_page", page))
    made.append(("stop", bundle.compose_stop()))
    return made


SHAPE = (3, 4)


def derived_run(rows: list[tuple[int, float, bool]], revise_after: int | None = None) -> Documents:
    """Compose a derived run by the conventions: rows of (raw_seq_num, value, valid)."""
    bundle = event_model.compose_run(
        metadata={
            "original_run_uid": "0f0f0f0f-0000-4000-8000-000000000000",
            "derived_from": ["0f0f0f0f-0000-4000-8000-000000000000"],
            "process": {
                "name": "xrf", "version": "1", "modality": "p06bs.callbacks.xrf:RegionSums",
                "settings": "{}", "settings_digest": "ab", "inputs": {}, "reprocessing": 0,
            },
            "shape": SHAPE, "snaking": True, "extents": [[0.0, 20.0], [5.0, 35.0]],
            "motors": ["stage-y", "stage-x"], "scan": {"units": "um"}, "beamtime_id": "11012345",
        }
    )  # fmt: skip
    keys = {
        "Fe_K": {"source": "p", "dtype": "number", "dtype_numpy": "<f8", "shape": [],
                 "units": "counts/s"},
        "Fe_K_sigma": {"source": "p", "dtype": "number", "shape": [], "units": "counts/s"},
        "Cu-K": {"source": "p", "dtype": "integer", "dtype_numpy": "<i8", "shape": [],
                 "units": "counts"},
        "spectrum": {"source": "p", "dtype": "array", "dtype_numpy": "<f4", "shape": [3],
                     "units": None},
        "raw_seq_num": {"source": "p", "dtype": "integer", "shape": []},
        "raw_uid": {"source": "p", "dtype": "string", "shape": []},
        "valid": {"source": "p", "dtype": "boolean", "shape": []},
        "invalid_reason": {"source": "p", "dtype": "string", "shape": []},
    }  # fmt: skip

    def describe(revision: int) -> Any:
        data = {"settings": json.dumps({"regions": {"Fe_K": [6.2, 6.6]}, "threshold": revision}),
                "settings_digest": "ab", "revision": revision}  # fmt: skip
        return bundle.compose_descriptor(
            name="primary",
            data_keys=keys,
            hints={"xrf": {"fields": ["Fe_K", "Cu-K"]}},
            object_keys={"xrf": list(keys)},
            configuration={"xrf": {"data": data, "timestamps": {}, "data_keys": {}}},
        )

    current = describe(0)
    made: Documents = [("start", bundle.start_doc), ("descriptor", current.descriptor_doc)]
    for first in range(0, len(rows), 5):
        if first and first == revise_after:
            current = describe(1)
            made.append(("descriptor", current.descriptor_doc))
        part = rows[first : first + 5]
        seq, value, valid = (np.array([r[i] for r in part]) for i in range(3))
        data = {
            "Fe_K": np.where(valid, value, np.nan),
            "Fe_K_sigma": np.sqrt(np.where(valid, np.abs(value), np.nan)),
            "Cu-K": np.where(valid, value, np.iinfo(np.int64).min).astype(np.int64),
            "spectrum": np.repeat(value[:, None], 3, 1).astype(np.float32),
            "raw_seq_num": seq,
            "raw_uid": [f"raw-{i}" for i in range(first, first + len(part))],
            "valid": valid,
            "invalid_reason": np.where(valid, "", "NaN in the spectrum"),
        }
        count = len(part)
        page = current.compose_event_page(
            data=data,
            timestamps={key: np.full(count, 1.0) for key in data},
            seq_num=list(range(first + 1, first + count + 1)),
            time=[2.0] * count,
            validate=False,
        )
        made.append(("event_page", page))
    return [*made, ("stop", {**bundle.compose_stop(), "num_invalid": {"primary": 1}})]
