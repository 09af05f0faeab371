"""Recorded runs as they are: replayed, and described."""

import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from p06bs.bus.log import DocumentLog
from p06bs.model.documents import Document, NamedDocument, is_derived, is_snapshots

NAMING = ("uid", "run_start", "descriptor", "stream_resource", "resource")
"""Fields by which a document names itself or another document of its run."""


def replayed(
    documents: Sequence[NamedDocument], *, keep_uid: bool = False, speed: float = 0.0
) -> Iterator[NamedDocument]:
    """Yield a run's documents again, under new uids unless told otherwise.

    Parameters
    ----------
    speed : float
        Times real time, by the documents' own times; 0 is without waiting.
    """
    fresh: dict[str, str] = {}

    def renamed(value: Any, key: str = "") -> Any:
        if keep_uid:
            return value
        if isinstance(value, str) and key in NAMING:
            return fresh.setdefault(value, str(uuid.uuid4()))
        if isinstance(value, list) and key == "uid":
            return [renamed(v, key) for v in value]
        return value

    began = time.monotonic()
    first: float | None = None
    for name, document in documents:
        at = document.get("time")
        moment = float(np.max(at)) if at is not None and np.size(at) else None
        if speed > 0 and moment is not None:
            first = moment if first is None else first
            time.sleep(max(0.0, began + (moment - first) / speed - time.monotonic()))
        yield name, {key: renamed(value, key) for key, value in document.items()}


def describe(directory: Path, uid: str) -> dict[str, Any]:
    """Return what is known of a run's log: plan or modality, documents, events, status."""
    start: Document = {}
    status, number, events = "running or unfinished", 0, 0
    snapshots: set[str] = set()
    for name, document in DocumentLog(directory).read(uid):
        number += 1
        if name == "start":
            start = document
        elif name == "descriptor" and is_derived(start) and is_snapshots(document):
            snapshots.add(document["uid"])
        elif document.get("descriptor") in snapshots:
            continue  # of the whole run
        elif name == "event":
            events += 1
        elif name == "event_page":
            events += len(document["seq_num"])
        elif name == "stop":
            status = document["exit_status"]
    return {
        "uid": uid,
        "scan_id": start.get("scan_id"),
        "what": start["process"]["name"] if is_derived(start) else start.get("plan_name", ""),
        "original_run_uid": start.get("original_run_uid"),
        "documents": number,
        "events": events,
        "status": status,
    }
