"""Compose the event pages of a derived run, where their rows were computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from p06bs.model.compute import Array, Result
from p06bs.model.documents import Document, event_uids
from p06bs.model.modality import Output
from p06bs.model.taken import RowNames

BOOKKEEPING: Mapping[str, Mapping[str, Any]] = {
    "raw_seq_num": {"dtype": "integer", "dtype_numpy": "<i8", "shape": []},
    "raw_uid": {"dtype": "string", "shape": []},
    "valid": {"dtype": "boolean", "dtype_numpy": "|b1", "shape": []},
    "invalid_reason": {"dtype": "string", "shape": []},
}
"""The data keys that every derived stream has beside its outputs."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of a derived run under one descriptor; its first event is the row `first`."""

    run: str
    name: str
    descriptor: str
    first: int


def compose_page(
    stream: Stream, outputs: Mapping[str, Output], rows: RowNames, result: Result, now: float
) -> Document:
    """Return the event page of rows that were computed at `now` (Unix time, s)."""
    count = len(rows)
    valid = result.valid
    all_valid = bool(valid.all())
    data: dict[str, Array | list[str]] = {}
    for name, output in outputs.items():
        if all_valid:
            data[name] = result.columns[name]
            continue
        column = np.full((count, *output.shape), output.fill, np.dtype(output.dtype))
        if valid.any():
            column[valid] = result.columns[name]
        data[name] = column
    data["raw_seq_num"] = rows.seq
    data["raw_uid"] = rows.uids
    data["valid"] = valid
    data["invalid_reason"] = result.reasons
    first = rows.first - stream.first + 1
    stamps = np.full(count, now)
    return {
        "descriptor": stream.descriptor,
        "uid": event_uids(stream.run, rows.uids),
        "seq_num": list(range(first, first + count)),
        "time": rows.times or [now] * count,
        "data": data,
        "timestamps": dict.fromkeys(data, stamps),
    }
