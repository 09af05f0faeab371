"""Raw documents for tests, made by event-model's own composers."""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import event_model
import numpy as np

from p06bs.bus.log import DocumentLog
from p06bs.model.documents import Document, NamedDocument


def acquisition(legs: list[tuple[int, int]]) -> list[int]:
    """Return seq_nums of a scan that goes on n points, then back by m, and so on."""
    seqs: list[int] = []
    at = 0
    for forward, back in legs:
        seqs += range(at + 1, at + forward + 1)
        at = max(0, at + forward - back)
    return seqs


def raw_run(
    columns: dict[str, Any],
    *,
    seqs: Sequence[int] | None = None,
    page: int = 0,
    units: dict[str, str] | None = None,
    stop: bool = True,
    **md: Any,
) -> list[NamedDocument]:
    """Return a run with one stream, as single events or pages of `page` events."""
    count = len(next(iter(columns.values())))
    seqs = list(seqs or range(1, count + 1))
    bundle = event_model.compose_run(metadata=md)
    keys = {}
    for name, column in columns.items():
        array = np.asarray(column)
        keys[name] = {
            "source": "test",
            "dtype": "array" if array.ndim > 1 else "number",
            "dtype_numpy": array.dtype.str,
            "shape": list(array.shape[1:]),
            **({"units": units[name]} if units and name in units else {}),
        }
    described = bundle.compose_descriptor(name="primary", data_keys=keys)
    documents: list[NamedDocument] = [
        ("start", bundle.start_doc),
        ("descriptor", described.descriptor_doc),
    ]
    uids = [str(uuid.uuid4()) for _ in range(count)]
    step = page or 1
    for first in range(0, count, step):
        cut = slice(first, min(first + step, count))
        rows = range(count)[cut]
        if page:
            documents.append(
                (
                    "event_page",
                    {
                        "descriptor": described.descriptor_doc["uid"],
                        "uid": uids[cut],
                        "seq_num": seqs[cut],
                        "time": [1000.0 + r for r in rows],
                        "data": {k: np.asarray(c)[cut] for k, c in columns.items()},
                        "timestamps": {k: [0.0] * len(rows) for k in columns},
                    },
                )
            )
        else:
            documents.append(
                (
                    "event",
                    {
                        "descriptor": described.descriptor_doc["uid"],
                        "uid": uids[first],
                        "seq_num": seqs[first],
                        "time": 1000.0 + first,
                        "data": {k: np.asarray(c)[first] for k, c in columns.items()},
                        "timestamps": dict.fromkeys(columns, 0.0),
                    },
                )
            )
    if stop:
        documents.append(
            (
                "stop",
                {
                    "uid": str(uuid.uuid4()),
                    "run_start": bundle.start_doc["uid"],
                    "time": 2000.0,
                    "exit_status": "success",
                    "reason": "",
                    "num_events": {"primary": len(set(seqs))},
                },
            )
        )
    return documents


def rows_of(documents: Sequence[NamedDocument], *keys: str) -> list[tuple[Any, ...]]:
    """Return the rows of a derived run: stream, seq_num, uid, then the given data keys."""
    streams = {d["uid"]: d["name"] for n, d in documents if n == "descriptor"}
    found: list[tuple[Any, ...]] = []
    for name, document in documents:
        if name != "event_page":
            continue
        columns = [np.asarray(document["data"][k]).tolist() for k in keys]
        found += [
            (streams[document["descriptor"]], seq, uid, *values)
            for seq, uid, *values in zip(
                document["seq_num"], document["uid"], *columns, strict=True
            )
        ]
    return found


def validate(documents: Sequence[NamedDocument]) -> None:
    """Check documents against event-model's own schemas, and that they refer to each other."""
    seen: set[str] = set()
    for name, document in documents:
        schema = event_model.schema_validators[event_model.DocumentNames[name]]
        schema.validate(document)
        if name == "descriptor":
            assert document["run_start"] in seen
        if name == "event_page":
            assert document["descriptor"] in seen
            lengths = {len(document[k]) for k in ("uid", "seq_num", "time")}
            lengths |= {len(c) for c in document["data"].values()}
            assert len(lengths) == 1
            assert set(document["data"]) == set(document["timestamps"])
        if isinstance(document["uid"], str):
            assert document["uid"] not in seen
            seen.add(document["uid"])


def frame_documents(
    run: str,
    path: Path,
    count: int,
    shape: Sequence[int],
    *,
    key: str = "det",
    stream: str = "frames",
    dataset: str = "/entry/data",
    dtype: str = "<u2",
    per: int = 3,
    first: int = 0,
    descriptor: Mapping[str, Any] | None = None,
    **described: Any,
) -> list[NamedDocument]:
    """Return descriptor, stream resource and stream datums (of `per` rows) of an HDF5 file.

    `shape` is one event's shape as described; `first` the seq_num before the first
    row; `descriptor` an earlier one, which is then not repeated.
    """
    documents: list[NamedDocument] = []
    if descriptor is None:
        described_key = {
            "source": "test",
            "dtype": "array",
            "dtype_numpy": dtype,
            "shape": list(shape),
            "external": "STREAM:",
            **described,
        }
        descriptor = {
            "uid": str(uuid.uuid4()),
            "run_start": run,
            "time": 1000.0,
            "name": stream,
            "data_keys": {key: described_key},
            "object_keys": {key: [key]},
            "configuration": {},
            "hints": {},
        }
        documents.append(("descriptor", descriptor))
    resource = {
        "uid": str(uuid.uuid4()),
        "run_start": run,
        "data_key": key,
        "mimetype": "application/x-hdf5",
        "uri": f"file://localhost{path}",
        "parameters": {"dataset": dataset, "chunk_shape": [1, *shape]},
    }
    documents.append(("stream_resource", resource))
    for number, start in enumerate(range(0, count, per)):
        stop = min(start + per, count)
        documents.append(
            (
                "stream_datum",
                {
                    "uid": f"{resource['uid']}/{number}",
                    "stream_resource": resource["uid"],
                    "descriptor": descriptor["uid"],
                    "indices": {"start": start, "stop": stop},
                    "seq_nums": {"start": first + start + 1, "stop": first + stop + 1},
                },
            )
        )
    return documents


def write(directory: Path, documents: list[NamedDocument]) -> str:
    """Write the log of a run into a directory; return its uid."""
    with DocumentLog(directory) as log:
        for name, document in documents:
            log.append(name, document)
    return str(documents[0][1]["uid"])


class Recorded:
    """Documents of runs, each checked against its schema."""

    def __init__(self) -> None:
        self.documents: list[NamedDocument] = []

    def __call__(self, name: str, document: Document) -> None:
        """Take a document of a RunEngine."""
        event_model.schema_validators[event_model.DocumentNames[name]].validate(document)
        self.documents.append((name, document))

    def named(self, name: str) -> list[Document]:
        """Return the documents of a kind."""
        return [d for n, d in self.documents if n == name]
