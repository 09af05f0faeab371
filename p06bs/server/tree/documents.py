"""The documents of a run, as clients get them: ``run.documents()``.

They come from the run's log, one at a time, as JSON text sequences (RFC 7464). What is
equal to the documents in the log, but for how JSON says it:

- arrays and tuples are lists, numpy's numbers are numbers; NaN and infinities are written
  as Python's `json` reads them;
- complex numbers are ``[real, imaginary]``, times ISO 8601, bytes hexadecimal digits;
- a ``datum`` is a ``datum_page`` of one datum, because clients know no other.
"""

import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from tiled.media_type_registration import SerializationRegistry, default_serialization_registry

from p06bs.bus.envelope import is_run_uid
from p06bs.bus.framing import SUFFIX
from p06bs.bus.reader import read_log
from p06bs.model.documents import Document

JSON_SEQ = "application/json-seq"
SEPARATOR = b"\x1e"


def serialization_registry(logs: Path | None = None) -> SerializationRegistry:
    """Return Tiled's serializers, and ours of a run's documents.

    Parameters
    ----------
    logs : Path, optional
        Directory of the logs, where the documents of the sink's runs are.
    """
    registry = SerializationRegistry()
    for family in default_serialization_registry.structure_families:
        for media_type in default_serialization_registry.media_types(family):
            registry.register(
                family, media_type, default_serialization_registry.dispatch(family, media_type)
            )

    def documents(
        mimetype: str, run: Any, metadata: Any, filter_for_access: Any
    ) -> Iterator[bytes]:
        path = getattr(run, "documents", None)
        if path is None:
            uid = (metadata.get("start") or {}).get("uid")
            if logs is None or not is_run_uid(uid):
                raise HTTPException(404, "There are no documents of this run.")
            path = logs / f"{uid}{SUFFIX}"
        if not path.exists():
            raise HTTPException(404, "The log of this run is not there any more.")
        return json_seq(path)

    registry.register("BlueskyRun", JSON_SEQ, documents)
    return registry


def json_seq(log: Path) -> Iterator[bytes]:
    """Yield the records of what is in a log now."""
    for entry in read_log(log):
        name, document = portable(entry.name, entry.document)
        text = json.dumps({"name": name, "doc": document}, default=_plain)
        yield SEPARATOR + text.encode() + b"\n"


def portable(name: str, document: Document) -> tuple[str, Document]:
    """Return a document as one that clients know; what a malformed one lacks its page lacks."""
    if name != "datum":
        return name, document
    page: dict[str, Any] = {key: [value] for key, value in document.items()}
    if "resource" in document:
        page["resource"] = document["resource"]
    if isinstance(kwargs := document.get("datum_kwargs"), Mapping):
        page["datum_kwargs"] = {key: [value] for key, value in kwargs.items()}
    return "datum_page", page


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, complex):
        return [value.real, value.imag]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
