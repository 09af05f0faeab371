"""Gather a batch's columns from events and frames; one bad value costs one event, not a batch."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from p06bs.model.binding import Binding, source_of
from p06bs.model.documents import Document
from p06bs.model.modality import BoundInput
from p06bs.model.source import Span

Array = npt.NDArray[Any]


class NotYetError(Exception):
    """Rows of a file are not there yet: the batch is to be gathered again, later.

    `place` names the file and what in it is read, `progress` says how far it is.
    """

    def __init__(self, place: str, progress: tuple[int, int], problem: str) -> None:
        super().__init__(problem)
        self.place = place
        self.progress = progress


class ReadFrames(Protocol):
    """Read rows of a stream resource: shape ``(count, *one event's shape)``.

    Raises
    ------
    NotYetError
        If they may come; it ends `gather`.
    OSError, ValueError, TimeoutError
        If the rows cannot be had; the affected events become invalid.
    """

    def __call__(self, resource: Document, start: int, count: int, bound: BoundInput) -> Array: ...


class UnreadableError(Exception):
    """An event or page is damaged where it lies; its events are invalid."""


ReadEvents = Callable[[Any], Document]
"""Return the event or event_page document that lies at a span's `where`."""


_KINDS = {
    **dict.fromkeys("biuf", "biuf"),
    "c": "biufc",
    "m": "m",
    "M": "M",
    **dict.fromkeys("US", "US"),
}
"""Kind of dtype that a data key is described with -> kinds that its values may have."""


@dataclass(frozen=True, slots=True)
class _Unread:
    """Stands for a value that could not be had; no input of whatever dtype takes it for one."""

    reason: str


def gather(
    binding: Binding,
    count: int,
    spans: Mapping[str, Sequence[Span]],
    resources: Mapping[str, Document],
    read_events: ReadEvents,
    read_frames: ReadFrames,
) -> tuple[dict[str, Array | None], list[str]]:
    """Return a batch's columns by input, and a reason per event that could not be read.

    Columns have the shape ``(count, *input shape)``; what they hold in rows with a reason means
    nothing. What is invalid in a derived run is invalid here, with its name and reason.

    Raises
    ------
    NotYetError
        If `read_frames` does.
    """
    reasons = [""] * count
    columns: dict[str, Array | None] = {}
    pages: dict[str, list[Document | _Unread]] = {}
    for name, bound in binding.bound.items():
        if bound.value is not None:
            value = np.asarray(bound.value, bound.dtype).reshape(bound.shape)
            columns[name] = np.repeat(value[np.newaxis], count, axis=0)
            continue
        source = bound.run or source_of(bound).key
        if bound.external:
            pieces = [_frames(s, bound, resources, read_frames) for s in spans[source]]
        else:
            if source not in pages:
                pages[source] = [_document(s, read_events) for s in spans[source]]
                if bound.run:
                    _pass_on(bound.pipeline, pages[source], spans[source], reasons)
            pieces = [
                _said_values(page, span, bound.data_key)
                for page, span in zip(pages[source], spans[source], strict=True)
            ]
        columns[name] = _column(name, bound, pieces, reasons)
    return columns, reasons


def _frames(
    span: Span, bound: BoundInput, resources: Mapping[str, Document], read: ReadFrames
) -> Array | list[Any]:
    """Return the rows of a span; where some cannot be read, a list with their reasons."""
    try:
        return read(resources[span.where], span.start, span.count, bound)
    except NotYetError:
        raise
    except Exception as error:  # whatever a file holds, it costs the rows it is about
        if span.count == 1:
            said = f"{bound.data_key} could not be read: {type(error).__name__}: {error}"
            return [_Unread(said)]
    singly: list[Any] = []
    for row in range(span.start, span.start + span.count):
        singly.extend(_frames(Span(span.where, row, 1), bound, resources, read))
    return singly


def _document(span: Span, read_events: ReadEvents) -> Document | _Unread:
    if span.lacking:
        return _Unread(span.lacking)
    try:
        return read_events(span.where)
    except UnreadableError as error:
        return _Unread(f"its document cannot be read: {error}")


def _pass_on(
    pipeline: str, pages: Sequence[Document | _Unread], spans: Sequence[Span], reasons: list[str]
) -> None:
    """Give the rows their reasons that are invalid in a derived run."""
    at = 0
    for page, span in zip(pages, spans, strict=True):
        if not isinstance(page, _Unread):
            valid = np.atleast_1d(page["data"]["valid"])[span.start : span.start + span.count]
            said = np.atleast_1d(np.asarray(page["data"]["invalid_reason"], object))
            for row in np.flatnonzero(~valid.astype(bool)).tolist():
                reason = f"{pipeline}: {said[span.start + row] or 'invalid'}"
                reasons[at + row] = reasons[at + row] or reason
        at += span.count


def _said_values(page: Document | _Unread, span: Span, key: str) -> Array | list[Any]:
    if isinstance(page, _Unread):
        return [page] * span.count
    try:
        return _values(page, span, key)
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        said = f"{key} cannot be taken from its document: {type(error).__name__}: {error}"
        return [_Unread(said)] * span.count


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
    kinds = _KINDS[np.dtype(bound.dtype or "f8").kind]
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
    made = column.view()
    if bound.scale != 1.0:
        made = made * bound.scale
    return made + bound.offset if bound.offset else made
