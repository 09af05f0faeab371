"""Compute a batch: gather its columns, run the modality, keep one bad event from spoiling it.

The same function runs in a worker, in a notebook callback and in the
reference `process`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from p06bs.model.binding import Binding
from p06bs.model.documents import Document
from p06bs.model.modality import INVALID, BoundInput, Columns, Modality, ModalitySettings, Output
from p06bs.model.rows import Source, Span

Array = npt.NDArray[Any]


class ReadFrames(Protocol):
    """Read rows of a stream resource: shape ``(count, *one event's shape)``.

    Raises
    ------
    OSError, ValueError, TimeoutError
        If the rows cannot be had; the affected events become invalid.
    """

    def __call__(self, resource: Document, start: int, count: int, bound: BoundInput) -> Array: ...


ReadEvents = Callable[[Any], Document]
"""Return the event or event_page document that lies at a span's `where`."""


@dataclass(frozen=True)
class Setup:
    """A modality made ready for a run and its settings, once per worker."""

    modality: Modality
    settings: ModalitySettings
    binding: Binding
    prepared: Any
    outputs: Mapping[str, Output]


@dataclass(frozen=True, slots=True)
class Result:
    """What a batch gave: a reason per event ("" if valid), and columns of the valid ones."""

    reasons: list[str]
    columns: dict[str, Array]

    def __len__(self) -> int:
        return len(self.reasons)

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Mask of the events that have a row in `columns`."""
        return np.array([not r for r in self.reasons], bool)


@dataclass(frozen=True, slots=True)
class _Unread:
    """Stands for a value that could not be had; no input of whatever dtype takes it for one."""

    reason: str


BATCH_BYTES = 1 << 25
"""Most bytes of a batch's inputs or outputs, so that a worker's memory is bounded."""


def rows_within(binding: Binding, outputs: Mapping[str, Output], most: int) -> int:
    """Return how many events a batch may have: `most`, or fewer where they are large."""
    made = sum(math.prod(o.shape) * np.dtype(o.dtype).itemsize for o in outputs.values())
    return max(1, min(most, BATCH_BYTES // max(1, binding.row_bytes, made)))


def make_ready(modality: Modality, settings: ModalitySettings, binding: Binding) -> Setup:
    """Return the setup of a modality; slow, so call it once for a run and its settings."""
    prepared = modality.prepare(settings, binding.bound)
    outputs = dict(modality.outputs(settings, binding.bound))
    reserved = {"raw_seq_num", "raw_uid", "valid", "invalid_reason", INVALID} & set(outputs)
    if reserved:
        raise ValueError(f"{modality.name} may not call outputs {', '.join(sorted(reserved))}")
    return Setup(modality, settings, binding, prepared, outputs)


def invalid(count: int, reason: str) -> Result:
    """Return a result whose `count` events are all invalid for `reason`."""
    return Result([reason or "unknown"] * count, {})


def gather(
    binding: Binding,
    count: int,
    spans: Mapping[str, Sequence[Span]],
    resources: Mapping[str, Document],
    read_events: ReadEvents,
    read_frames: ReadFrames,
) -> tuple[dict[str, Array | None], list[str]]:
    """Return a batch's columns by input, and a reason per event that could not be read.

    Columns have the shape ``(count, *input shape)``; rows with a reason hold zeros.
    """
    reasons = [""] * count
    columns: dict[str, Array | None] = {}
    pages: dict[str, list[Document]] = {}
    for name, bound in binding.bound.items():
        source = Source(bound.stream, bound.data_key if bound.external else None).key
        if bound.external:
            pieces = [_frames(s, bound, resources, read_frames) for s in spans[source]]
        else:
            if source not in pages:
                pages[source] = [read_events(s.where) for s in spans[source]]
            pieces = [
                _values(page, span, bound.data_key)
                for page, span in zip(pages[source], spans[source], strict=True)
            ]
        columns[name] = _column(name, bound, pieces, reasons)
    return columns, reasons


def compute(setup: Setup, columns: Mapping[str, Array | None], reasons: list[str]) -> Result:
    """Run the modality over a batch's columns.

    If it fails, the batch is halved until single events are left; those that
    still fail are invalid with the exception as reason.
    """
    good = np.array([not r for r in reasons], bool)
    if not good.all():
        if not good.any():
            return Result(reasons, {})
        columns = {k: None if c is None else c[good] for k, c in columns.items()}
    arrays: dict[str, Array | None] = dict.fromkeys(setup.modality.declared)
    for name, column in columns.items():
        if column is not None:
            column.flags.writeable = False
        arrays[name] = column
    part = _halving(setup, arrays, int(good.sum()))
    if good.all():
        return part
    merged = list(reasons)
    for i, reason in zip(np.flatnonzero(good).tolist(), part.reasons, strict=True):
        merged[i] = reason
    return Result(merged, part.columns)


def _halving(setup: Setup, columns: Mapping[str, Array | None], count: int) -> Result:
    try:
        return _once(setup, columns, count)
    except Exception as error:  # an author's code may raise anything; the event is to blame
        if count == 1:
            return invalid(1, f"{type(error).__name__}: {error}")
    half = count // 2
    parts = [
        _halving(setup, {k: None if c is None else c[cut] for k, c in columns.items()}, n)
        for cut, n in ((slice(0, half), half), (slice(half, count), count - half))
    ]
    return join(parts)


def join(parts: Sequence[Result]) -> Result:
    """Put results of consecutive batches together."""
    made = [p for p in parts if p.columns]
    columns = (
        {k: np.concatenate([p.columns[k] for p in made]) for k in made[0].columns} if (made) else {}
    )
    return Result([r for p in parts for r in p.reasons], columns)


def _once(setup: Setup, columns: Mapping[str, Array | None], count: int) -> Result:
    made = dict(setup.modality.process(setup.prepared, **columns))
    flags = made.pop(INVALID, None)
    if setup.modality.scan is None:
        made = check_outputs(setup, made, count)
    else:
        made = {k: np.asarray(c) for k, c in made.items()}
        short = [k for k, c in made.items() if c.shape[:1] != (count,)]
        if short:
            raise ValueError(f"process made columns of wrong length: {', '.join(short)}")
    if flags is None:
        return Result([""] * count, made)
    reasons = [str(f) for f in np.asarray(flags).tolist()]
    if len(reasons) != count:
        raise ValueError(f"process flagged {len(reasons)} events of a batch of {count}")
    keep = np.array([not r for r in reasons], bool)
    if not keep.all():
        made = {k: c[keep] for k, c in made.items()} if keep.any() else {}
    return Result(reasons, made)


def check_outputs(setup: Setup, made: Columns, count: int) -> dict[str, Array]:
    """Return the columns as declared.

    Raises
    ------
    ValueError
        If a column is missing, unknown, or has another shape or dtype than declared.
    """
    if set(made) != set(setup.outputs):
        missing = sorted(set(setup.outputs) - set(made))
        extra = sorted(set(made) - set(setup.outputs))
        raise ValueError(
            f"{setup.modality.name} made columns other than declared: "
            f"missing {missing}, not declared {extra}"
        )
    checked: dict[str, Array] = {}
    for name, declared in setup.outputs.items():
        column = np.asarray(made[name])
        if column.shape != (count, *declared.shape):
            raise ValueError(
                f"{setup.modality.name} made {name} with shape {column.shape}, "
                f"declared is {(count, *declared.shape)}"
            )
        dtype = np.dtype(declared.dtype)
        if column.dtype != dtype:
            if not np.can_cast(column.dtype, dtype, "same_kind"):
                raise ValueError(
                    f"{setup.modality.name} made {name} as {column.dtype}, declared is {dtype}"
                )
            column = column.astype(dtype)
        checked[name] = column
    return checked


def _frames(
    span: Span, bound: BoundInput, resources: Mapping[str, Document], read: ReadFrames
) -> Array | list[Any]:
    """Return the rows of a span; where some cannot be read, a list with their reasons."""
    try:
        return read(resources[span.where], span.start, span.count, bound)
    except (OSError, ValueError, KeyError, TimeoutError) as error:
        if span.count == 1:
            said = f"{bound.data_key} could not be read: {type(error).__name__}: {error}"
            return [_Unread(said)]
    singly: list[Any] = []
    for row in range(span.start, span.start + span.count):
        singly.extend(_frames(Span(span.where, row, 1), bound, resources, read))
    return singly


def _values(page: Document, span: Span, key: str) -> Array | list[Any]:
    if key not in page["data"]:
        return [_Unread(f"{key} is not in the event")] * span.count
    if isinstance(page["uid"], str):  # an event, not a page
        return [page["data"][key]]
    values: Array | list[Any] = page["data"][key][span.start : span.start + span.count]
    if len(values) < span.count:
        missing = _Unread(f"{key} has fewer values than its page has events")
        return [*values, *[missing] * (span.count - len(values))]
    return values


def _column(
    name: str, bound: BoundInput, pieces: list[Array | list[Any]], reasons: list[str]
) -> Array:
    """Put pieces together to one column; rows that do not fit get a reason instead."""
    kinds = "US" if np.dtype(bound.dtype or "f8").kind in "US" else "biufcmM"
    try:
        if len(pieces) == 1:
            whole = np.asarray(pieces[0])
        elif all(isinstance(p, np.ndarray) for p in pieces):
            whole = np.concatenate(pieces)
        else:
            whole = np.array([row for piece in pieces for row in piece])
        if whole.dtype.kind in kinds and len(whole) == len(reasons):
            return _scaled(whole.reshape((len(reasons), *bound.shape)), bound)
    except ValueError:
        pass  # ragged or of another shape: find out which rows are to blame
    return _row_by_row(name, bound, [row for p in pieces for row in p], reasons, kinds)


def _row_by_row(
    name: str, bound: BoundInput, rows: list[Any], reasons: list[str], kinds: str
) -> Array:
    good: dict[int, Array] = {}
    for i, row in enumerate(rows):
        if isinstance(row, _Unread):
            reasons[i] = reasons[i] or row.reason
            continue
        try:
            value = np.asarray(row)
        except ValueError:
            reasons[i] = reasons[i] or f"{name} ({bound.data_key}) is ragged"
            continue
        if value.dtype.kind not in kinds:
            what = f"a {type(row).__name__}" if value.ndim == 0 else f"an array of {value.dtype}"
            reasons[i] = reasons[i] or f"{name} ({bound.data_key}) holds {what}"
        elif value.size != math.prod(bound.shape):
            reasons[i] = reasons[i] or (
                f"{name} ({bound.data_key}) has shape {list(value.shape)}, "
                f"described is {list(bound.source_shape)}"
            )
        else:
            good[i] = value.reshape(bound.shape)
    common = np.result_type(*good.values()) if good else np.dtype(bound.dtype or "f8")
    column = np.zeros((len(rows), *bound.shape), common)
    for i, value in good.items():
        column[i] = value
    return _scaled(column, bound)


def _scaled(column: Array, bound: BoundInput) -> Array:
    view = column.view()
    return view if bound.scale == 1.0 else view * bound.scale
