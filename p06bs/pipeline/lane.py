"""What a pipeline and its workers say to each other over 0MQ.

Each message is one part, packed by the wire codec: a list whose first item is
its kind. Nothing is pickled; a modality travels as ``module:Class`` and must be
importable where the worker runs.
"""

import importlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from p06bs.bus.wire import WireError, pack, unpack
from p06bs.model.binding import Binding
from p06bs.model.compute import Result, Setup, make_ready
from p06bs.model.derived import modality_path
from p06bs.model.modality import BoundInput, Modality, ModalitySettings
from p06bs.model.rows import Span, Taken

Message = list[Any]

# worker to pipeline
JOIN, ALIVE, RESULT, BYE = "join", "alive", "result", "bye"
NEED, UNREAD, REFUSED = "need", "unread", "refused"  # setup missing, log unseen, setup failed
# pipeline to worker
BEAT, BATCH, STOP = "beat", "batch", "stop"

LENGTHS: Mapping[str, int] = {
    JOIN: 2,
    ALIVE: 3,
    RESULT: 6,
    NEED: 4,
    UNREAD: 5,
    REFUSED: 5,
    BYE: 1,
    BEAT: 3,
    BATCH: 9,
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


def setup_record(
    modality: Modality,
    settings: ModalitySettings,
    binding: Binding,
    *,
    log: str | None,
    deadline: float,
) -> dict[str, Any]:
    """Return all that a worker needs to make a modality ready for a run."""
    return {
        "modality": modality_path(modality),
        "inputs": dict(modality.inputs),
        "settings": settings.model_dump(mode="json"),
        "bound": {name: asdict(bound) for name, bound in binding.bound.items()},
        "primary": binding.primary,
        "log": log,
        "deadline": deadline,
    }


def load_modality(path: str) -> type[Modality]:
    """Import a modality by ``module:Class``.

    Raises
    ------
    ImportError
        If it cannot be imported here; says what to do.
    TypeError
        If it is no modality.
    """
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"cannot import modality {path!r}: {error}. A modality that pipelines use must be in "
            "an installed module (not in a notebook or in __main__)"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Modality)):
        raise TypeError(f"{path} is no Modality")
    return found


def make_setup(record: Mapping[str, Any]) -> Setup:
    """Make a modality ready as a setup record says; slow."""
    modality = load_modality(record["modality"])(inputs=record["inputs"], **record["settings"])
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


def encode_spans(rows: Taken) -> dict[str, list[list[Any]]]:
    """Return a batch's spans as plain lists."""
    return {key: [[s.where, s.start, s.count] for s in spans] for key, spans in rows.spans.items()}


def decode_spans(spans: Mapping[str, list[list[Any]]]) -> dict[str, list[Span]]:
    """Return spans as `encode_spans` took them."""
    return {
        key: [
            Span(tuple(w) if isinstance(w, list) else w, start, count) for w, start, count in all_
        ]
        for key, all_ in spans.items()
    }


def encode_result(result: Result) -> tuple[list[str], dict[str, Any]]:
    """Return (reasons, columns); reasons are empty where every event is valid."""
    if not any(result.reasons):
        return [], result.columns
    # A reason is whatever an exception said; half a surrogate pair cannot travel.
    return [r.encode("utf-8", "replace").decode() for r in result.reasons], result.columns


def decode_result(reasons: list[str], columns: dict[str, Any], count: int) -> Result:
    """Return the result of a batch of `count` events.

    Raises
    ------
    WireError
        If its lengths do not agree with the batch.
    """
    result = Result(reasons or [""] * count, columns)
    valid = sum(not r for r in result.reasons)
    if len(result) != count or any(len(c) != valid for c in columns.values()):
        raise WireError(f"a result does not have the {count} events of its batch")
    return result
