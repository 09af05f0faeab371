"""What a pipeline and its workers say to each other over 0MQ.

A message is packed by the bus's codec: a list whose first item is its kind. Behind a
composed page come the page itself and its buffers, in parts of their own, which the
pipeline passes on as they are. Nothing is pickled; a modality travels as
``module:Class`` and must be importable where the worker runs.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from p06bs.bus.codec import Buffer, Packed, pack, unpack
from p06bs.bus.errors import WireError
from p06bs.bus.framing import SUFFIX
from p06bs.model.binding import Binding
from p06bs.model.compute import Result, Setup, make_ready
from p06bs.model.modality import BoundInput
from p06bs.model.page import Stream
from p06bs.model.reference import load, reference_to
from p06bs.model.source import Span
from p06bs.model.taken import Taken

Message = list[Any]

Where = tuple[int, int] | tuple[int, int, str]
"""A frame of the raw run's log, or of that of another run beside it: offset, nbytes, run uid."""

PART = 1 << 21
"""Most bytes of a part of a message."""

# worker to pipeline
JOIN, ALIVE, BYE = "join", "alive", "bye"
PAGE, COLUMNS = "page", "columns"  # results: a composed event page, or what scan has to see
NEED, UNREAD, REFUSED = "need", "unread", "refused"  # setup missing, log unseen, setup failed
LATE, READY = "late", "ready"  # rows of a file are not there yet; a setup is made
# pipeline to worker
BEAT, BATCH, FORGET, STOP = "beat", "batch", "forget", "stop"

LENGTHS: Mapping[str, int] = {
    JOIN: 2,
    ALIVE: 4,
    PAGE: 8,
    COLUMNS: 8,
    NEED: 4,
    UNREAD: 5,
    REFUSED: 5,
    BYE: 1,
    BEAT: 3,
    LATE: 6,
    READY: 4,
    BATCH: 9,
    FORGET: 2,
    STOP: 1,
}


def encode(*message: Any) -> bytes:
    """Return a message as bytes."""
    return pack(list(message))


def decode(data: bytes) -> Message:
    """Return a message.

    Raises
    ------
    WireError
        If the bytes are none.
    """
    message = unpack(data)
    if not isinstance(message, list) or not message or not isinstance(message[0], str):
        raise WireError("a lane message is a list that begins with its kind")
    if LENGTHS.get(message[0]) != len(message):
        raise WireError(f"a lane message {message[0]!r} has {len(message)} fields")
    return message


def setup_record(setup: Setup, stream: Stream, log: Path) -> dict[str, Any]:
    """Return all that a worker needs to make a modality ready for a run, and compose its pages."""
    binding = setup.binding
    return {
        "modality": reference_to(setup.modality),
        "inputs": dict(setup.modality.inputs),
        "settings": setup.settings.model_dump(mode="json"),
        "bound": {name: asdict(bound) for name, bound in binding.bound.items()},
        "primary": binding.primary,
        "stream": asdict(stream),
        "log": str(log.resolve()),
    }


def frame_place(log: str | Path, where: Where) -> tuple[str, int, int]:
    """Return path, offset and nbytes of a frame, by the path of the raw run's log."""
    offset, nbytes, *run = where
    path = os.path.join(os.path.dirname(log), f"{run[0]}{SUFFIX}") if run else str(log)
    return path, offset, nbytes


def frame_key(where: Where) -> str:
    """Return by which name a batch carries a frame."""
    return "/".join(map(str, (where[0], *where[2:])))


def carried(log: Path, rows: Taken) -> dict[str, bytes]:
    """Return the logs' frames that rows lie in, for a worker that does not see the logs."""
    wanted = {
        frame_key(span.where): frame_place(log, span.where)
        for spans in rows.spans.values()
        for span in spans
        if isinstance(span.where, tuple)
    }
    return {key: _bytes_of(*place) for key, place in wanted.items()}


def _bytes_of(path: str, offset: int, nbytes: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, nbytes, offset)
    finally:
        os.close(fd)


def make_setup(record: Mapping[str, Any]) -> Setup:
    """Make a modality ready as a setup record says; slow."""
    modality = load(record["modality"])(inputs=record["inputs"], **record["settings"])
    bound = {
        name: BoundInput(
            **{
                **fields,
                "shape": tuple(fields["shape"]),
                "source_shape": tuple(fields["source_shape"]),
            }
        )
        for name, fields in record["bound"].items()
    }
    return make_ready(modality, modality.settings, Binding(bound, record["primary"]))


def encode_rows(rows: Taken) -> list[Any]:
    """Return a batch's rows as plain lists."""
    spans = {
        key: [[s.where, s.start, s.count, s.lacking] for s in all_]
        for key, all_ in rows.spans.items()
    }
    return [rows.first, rows.seq, rows.uids, rows.times, spans]


def decode_rows(said: list[Any]) -> Taken:
    """Return rows as `encode_rows` took them."""
    first, seq, uids, times, spans = said
    return Taken(
        first,
        seq,
        uids,
        times,
        {
            key: tuple(
                Span(tuple(w) if isinstance(w, list) else w, start, count, lacking)
                for w, start, count, lacking in all_
            )
            for key, all_ in spans.items()
        },
    )


def pieces(buffers: Iterable[Buffer]) -> Iterator[Buffer]:
    """Cut buffers into parts that 0MQ carries well: larger ones cost it page faults."""
    for buffer in buffers:
        view = memoryview(buffer)
        for start in range(0, view.nbytes, PART):
            yield view[start : start + PART]


def packed_page(parts: list[bytes]) -> Packed:
    """Return the composed page that came behind its message; it is not looked into.

    Raises
    ------
    WireError
        If there is none.
    """
    if not parts:
        raise WireError("a page is missing behind its message")
    body, *buffers = parts
    return Packed(body, tuple(buffers))


def encode_result(result: Result) -> tuple[list[str], dict[str, Any]]:
    """Return (reasons, columns); reasons are empty where every event is valid."""
    return result.reasons if any(result.reasons) else [], result.columns


def decode_result(
    reasons: list[str], columns: dict[str, Any], parts: list[Any], count: int
) -> Result:
    """Return the result of a batch of `count` events.

    Raises
    ------
    WireError
        If its lengths do not agree with the batch.
    """
    result = Result(reasons or [""] * count, columns, tuple(parts))
    valid = sum(not r for r in result.reasons)
    if len(result) != count or any(len(c) != valid for c in columns.values()):
        raise WireError(f"a result does not have the {count} events of its batch")
    return result
