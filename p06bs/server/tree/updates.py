"""The messages of Tiled's subscriptions: what a stock client gets for rows and children.

Small rows travel in the message; rows of files, and those too large for a client's
limit of 1 MB a message, by reference: the client fetches them when it wants them.
A message is bounded by bytes, so a subscriber costs the server one message at most.
"""

import io
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from math import prod
from typing import Any

import orjson
import pyarrow
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import DataSource, Management
from tiled.utils import APACHE_ARROW_FILE_MIME_TYPE, safe_json_dump

from p06bs.server.files.detector import DetectorView
from p06bs.server.sink.columns import Array, View

MESSAGE_BYTES = 1 << 18
"""Bytes of the rows in one message; a stock client takes messages of 1 MB."""

REFERENCE_BYTES = 1 << 24
"""Bytes of the rows that one message refers to: what a client fetches at once."""

JSON_BYTES = 24
"""Bytes of a number as JSON text, at most."""

MIMETYPE = "application/x-p06bs-sink"
"""Where a data source lies that has no file: in the memory of the server."""

Message = tuple[dict[str, Any], bytes | None]
"""What Tiled's formatters take: the fields of a message, and its payload."""

CONTAINER_SCHEMA: Mapping[str, Any] = {"type": "container-schema", "version": 1}


def array_schema(view: View) -> dict[str, Any]:
    """Return what a client has to know of an array before its rows come."""
    data_type = asdict(BuiltinDtype.from_numpy_dtype(view.dtype))
    return {"type": "array-schema", "version": 1, "data_type": data_type}


def table_schema(arrow_schema: str) -> dict[str, Any]:
    """Return what a client has to know of a table before its rows come."""
    return {"type": "table-schema", "version": 1, "arrow_schema": arrow_schema}


def row_bytes(view: View, json: bool) -> int:
    """Return the bytes of a row in a message, at most."""
    nbytes = int(view.dtype.itemsize * prod(view.shape))
    if json and view.dtype.kind not in "SU":
        nbytes = max(nbytes, JSON_BYTES * prod(view.shape))
    return max(1, nbytes)


def by_reference(view: View, json: bool) -> bool:
    """Return whether a subscriber fetches the rows itself: JSON has no complex numbers."""
    return (
        isinstance(view, DetectorView)
        or row_bytes(view, json) > MESSAGE_BYTES
        or (json and view.dtype.kind not in "biufUM")
    )


def most_rows(view: View, json: bool) -> int:
    """Return how many rows of an array a message may have."""
    if by_reference(view, json):
        return max(1, REFERENCE_BYTES // row_bytes(view, json=False))
    return max(1, MESSAGE_BYTES // row_bytes(view, json))


def array_data(values: Array, start: int, sequence: int, json: bool) -> Message:
    """Return the message of rows, the first of which is row `start` of the array."""
    message = {
        "type": "array-data",
        "sequence": sequence,
        "timestamp": _now(),
        "mimetype": "application/octet-stream",
        "shape": values.shape,
        "offset": (start, *(0 for _ in values.shape[1:])),
        "block": None,
    }
    if json:
        return {**message, "mimetype": "application/json", "payload": values}, None
    return message, values.tobytes()


def array_ref(structure: ArrayStructure, start: int, stop: int, sequence: int, uri: str) -> Message:
    """Return the message that rows `start` to `stop - 1` are there, and where."""
    offset = (start, *(0 for _ in structure.shape[1:]))
    shape = (stop - start, *structure.shape[1:])
    picks = ",".join(f"{low}:{low + count}" for low, count in zip(offset, shape, strict=True))
    message = {
        "type": "array-ref",
        "sequence": sequence,
        "timestamp": _now(),
        "data_source": data_source(StructureFamily.array, structure),
        "patch": {"offset": offset, "shape": shape},
        "shape": structure.shape,
        "uri": f"{uri}?slice={picks}",
    }
    return message, None


def table_data(values: Any, sequence: int, json: bool) -> Message:
    """Return the message of rows that were appended to the only partition of a table.

    `values` is an Arrow table, or arrays and lists of text by name.
    """
    message = {
        "type": "table-data",
        "sequence": sequence,
        "timestamp": _now(),
        "mimetype": APACHE_ARROW_FILE_MIME_TYPE,
        "partition": 0,
        "append": True,
    }
    if json:
        columns = values.to_pydict() if isinstance(values, pyarrow.Table) else dict(values)
        return {**message, "mimetype": "application/json", "payload": columns}, None
    if isinstance(values, pyarrow.Table):
        table = values
    else:
        table = pyarrow.table({name: _arrow(column) for name, column in values.items()})
    buffer = io.BytesIO()
    with pyarrow.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    return message, buffer.getvalue()


def child_created(key: str, child: Any, sequence: int) -> Message:
    """Return the message that a node has a child, an adapter."""
    family = child.structure_family
    sources = []
    if family != StructureFamily.container:
        sources.append(data_source(family, child.structure()))
    message = {
        "type": "container-child-created",
        "sequence": sequence,
        "timestamp": _now(),
        "key": key,
        "structure_family": family.value,
        "specs": [spec.dict() for spec in child.specs or ()],
        "metadata": _metadata(child),
        "data_sources": sources,
        "access_tags": [],
    }
    return message, None


def child_updated(key: str, child: Any, sequence: int) -> Message:
    """Return the message that a child has other metadata."""
    message = {
        "type": "container-child-metadata-updated",
        "sequence": sequence,
        "timestamp": _now(),
        "key": key,
        "specs": [spec.dict() for spec in child.specs or ()],
        "metadata": _metadata(child),
    }
    return message, None


def data_source(family: StructureFamily, structure: Any) -> dict[str, Any]:
    """Return a node's data source as plain data; it names no file, see Tiled's raw assets."""
    source = DataSource(
        structure_family=family,
        structure=structure,
        mimetype=MIMETYPE,
        management=Management.external,
    )
    plain: dict[str, Any] = orjson.loads(safe_json_dump(asdict(source)))
    return plain


def _metadata(child: Any) -> dict[str, Any]:
    """Return a child's metadata, or none where a message cannot take them: they are fetched."""
    metadata = dict(child.metadata())
    return metadata if len(safe_json_dump(metadata)) <= MESSAGE_BYTES else {}


def _arrow(values: Array | list[str]) -> Any:
    if isinstance(values, list):
        return pyarrow.array(values, pyarrow.string())
    return pyarrow.array(values)


def _now() -> str:
    return datetime.now().astimezone().isoformat()
