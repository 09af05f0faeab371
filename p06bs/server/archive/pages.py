"""The events of a run as pages of columns, whether they were events or pages."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from p06bs.model.documents import Document
from p06bs.server.archive.layouts import Values
from p06bs.server.sink.names import OWN
from p06bs.server.sink.pages import timestamps_of

PAGE_ROWS = 1024
PAGE_BYTES = 1 << 22

DEEPEST = 256
"""Levels of lists and mappings in a value; our codec writes no more.

More than in metadata (`p06bs.server.sink.values`): clients get values as text.
"""

Source = tuple[str, str]
"""Where in an event a column's values are: "", ``data`` or ``timestamps``, and the key."""

Page = dict[Source, Values]

Rows = tuple[str, Page, int]
"""Name of a stream, rows of it as columns, and how many bytes they have in the log."""

_NUMBER = int | float | np.bool_ | np.integer | np.floating | None
_PLAIN = {bool, float, int, str, bytes, type(None)}
_TIMES = {float, int, type(None)}


class Pages:
    """Join the events of a run to pages of columns, each of one stream."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Document]] = {}
        self._nbytes: dict[str, int] = {}

    def add_event(self, stream: str, event: Document, nbytes: int) -> Sequence[Rows]:
        """Take an event that is one; return the page that it completes, if it does."""
        waiting = self._waiting.setdefault(stream, [])
        waiting.append(event)
        self._nbytes[stream] = self._nbytes.get(stream, 0) + nbytes
        full = len(waiting) >= PAGE_ROWS or self._nbytes[stream] >= PAGE_BYTES
        return self._joined(stream) if full else ()

    def add_page(self, stream: str, page: Page, nbytes: int) -> Sequence[Rows]:
        """Return a page, see `columns_of`, behind the events that wait before it."""
        before = self._joined(stream)
        return [*before, (stream, page, nbytes)] if len(page["", "seq_num"]) else before

    def rest(self) -> Sequence[Rows]:
        """Return the pages that nothing completed."""
        return [rows for stream in list(self._waiting) for rows in self._joined(stream)]

    def _joined(self, stream: str) -> list[Rows]:
        """Return the events that wait as a page, if there are any."""
        events = self._waiting.pop(stream, [])
        return [(stream, _page_of(events), self._nbytes.pop(stream))] if events else []


def _page_of(events: Sequence[Document]) -> Page:
    """Return events as columns; None where one has no such key."""
    page: Page = {("", key): [event[key] for event in events] for key in OWN}
    parts = {
        "data": [event["data"] for event in events],
        "timestamps": [timestamps_of(event) for event in events],
    }
    for part, rows in parts.items():
        keys = dict.fromkeys(key for row in rows for key in row)
        page.update(((part, key), [row.get(key) for row in rows]) for key in keys)
    return page


def check_event(event: Document) -> None:
    """Check that an event is one.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is none: fields are missing, or are not what they are in every event.
    """
    data, stamps = _parts(event)
    numbers = (event["seq_num"], event["time"], *stamps.values())
    # Nearly all are of these types, which are looked at quickly.
    if not _PLAIN.issuperset(map(type, (event["uid"], *data.values()))):
        for key, value in (("uid", event["uid"]), *data.items()):
            _check_depth(key, [value])
    if not _TIMES.issuperset(map(type, numbers)) and not _are_numbers(numbers):
        raise ValueError("seq_num, time or one of the timestamps is no number")


def columns_of(page: Document) -> Page:
    """Return the columns of an event_page.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is none: fields are missing, are not what they are in every page, or differ
        in length.
    """
    data, stamps = _parts(page)
    columns: Page = {("", key): page[key] for key in OWN}
    columns.update((("data", key), values) for key, values in data.items())
    columns.update((("timestamps", key), values) for key, values in stamps.items())
    count = len(page["seq_num"])
    for (part, key), values in columns.items():
        if not isinstance(values, list | np.ndarray):
            raise TypeError(f"column {key} is no list")
        if len(values) != count:
            raise ValueError(f"column {key} has {len(values)} rows, its page has {count}")
        if part == "data" or (part, key) == ("", "uid"):
            _check_depth(key, values)
        elif not _are_numbers(values):
            raise ValueError(f"{part or 'column'} {key}: no numbers")
    return columns


def _parts(document: Document) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Return data and timestamps of an event, or a page, that has the fields of all."""
    for key in OWN:
        if key not in document:
            raise KeyError(key)
    if not isinstance(document["data"], dict):
        raise TypeError("data map data keys to values")
    return document["data"], timestamps_of(document)


def _are_numbers(values: Values) -> bool:
    if isinstance(values, np.ndarray):
        return values.ndim == 1 and values.dtype.kind in "biuf"
    return all(isinstance(value, _NUMBER) for value in values)  # one that is missing is NaN


def _check_depth(key: str, values: Values, levels: int = DEEPEST) -> None:
    if levels < 0:
        raise ValueError(f"{key} is nested deeper than {DEEPEST} levels")
    if isinstance(values, np.ndarray) or _PLAIN.issuperset(map(type, values)):
        return
    for value in values:
        if isinstance(value, list | dict):
            _check_depth(key, value.values() if isinstance(value, dict) else value, levels - 1)
