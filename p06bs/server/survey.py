"""What the columns of a run will hold: the first of two passes over its log.

Columns of a file have one type and one shape, which are known when all rows have been seen:
a number that was an integer for an hour may become a float, a list may change its length.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from p06bs.bus.framing import Entry
from p06bs.model.documents import Document, LoggedArray
from p06bs.server.columnfile import Array, Layout
from p06bs.server.names import node_name

PAGE_ROWS = 1024
PAGE_BYTES = 1 << 22

NUMBERS = "biufcmM"
"""numpy's kinds of what columns of numbers hold."""

OWN = ("seq_num", "time", "uid")
"""Columns that every stream has."""

RESERVED = (*OWN, "internal")
"""Names that a data key's column cannot have."""

Source = tuple[str, str]
"""Where in an event a column's values are: "", ``data`` or ``timestamps``, and the key."""

Values = Any
"""Rows of a column in a page: a sequence, an array, or what stands for one."""


Page = dict[Source, Values]


class RunError(ValueError):
    """Documents that are no run: no start, or one that refers to what never came."""


@dataclass(slots=True)
class Column:
    """What the values of a column have in common so far.

    Attributes
    ----------
    layout : Layout or None
        None while no value came.
    gaps : bool
        Whether a row has no value.
    """

    layout: Layout | None = None
    gaps: bool = False

    def see(self, values: Values) -> None:
        """Take further rows into account."""
        layout, gaps = layout_of(values)
        self.gaps = self.gaps or gaps
        if layout is not None:
            self.layout = layout if self.layout is None else _common(self.layout, layout)

    def final(self) -> Layout:
        """Return the layout that all rows fit: gaps are NaN, or null."""
        if self.layout is None:
            return Layout("json", "<U4")
        if not self.gaps or self.layout.kind == "json":
            return self.layout
        if self.layout.kind == "text":
            return Layout("json", self.layout.dtype)
        dtype = np.dtype(self.layout.dtype)
        holds = dtype.kind in "fcmM"
        return self.layout if holds else replace(self.layout, dtype="<f8")


@dataclass(slots=True)
class StreamSurvey:
    """A stream: its descriptors as metadata, its columns, where the rest of its data lie."""

    name: str
    metadata: dict[str, Any]
    rows: int = 0
    nbytes: int = 0
    columns: dict[Source, Column] = field(default_factory=dict)
    external: dict[str, list[tuple[str, int, int]]] = field(default_factory=dict)
    """Resource uid, first and last + 1 index, by data key."""

    def update(self, descriptor: Mapping[str, Any]) -> None:
        """Note a further descriptor: new configuration, perhaps new keys."""
        news = {k: descriptor[k] for k in ("uid", "time", "configuration") if k in descriptor}
        self.metadata.setdefault("_config_updates", []).append(news)
        self.metadata["data_keys"] = {**descriptor["data_keys"], **self.metadata["data_keys"]}

    def see(self, page: Mapping[Source, Values], nbytes: int) -> None:
        """Take the rows of a page into account."""
        count = len(page["", "seq_num"])
        for source, values in page.items():
            if source not in self.columns:
                self.columns[source] = Column(gaps=self.rows > 0)
            self.columns[source].see(values)
        for source, column in self.columns.items():
            column.gaps = column.gaps or source not in page
        self.rows += count
        self.nbytes += nbytes

    def names(self) -> dict[Source, str]:
        """Return what the columns are called as nodes; sources of external ones are ``data``.

        A data key that is called as a column of every stream has an underscore behind it,
        as in the sink.
        """
        names: dict[Source, str] = {("", key): key for key in OWN}
        taken = set(RESERVED)
        keys = [key for part, key in self.columns if part == "data"]
        for key in dict.fromkeys([*self.metadata["data_keys"], *keys, *self.external]):
            name = node_name(key)
            while name in taken:
                name += "_"
            taken.add(name)
            names["data", key] = name
        for part, key in self.columns:
            if part == "timestamps":
                name = node_name(f"ts_{key}")
                while name in taken:
                    name += "_"
                taken.add(name)
                names[part, key] = name
        return names

    def announce(self, data_key: str, resource: str, start: int, stop: int) -> None:
        """Add rows that lie in a file."""
        segments = self.external.setdefault(data_key, [])
        if segments and segments[-1][0] == resource and segments[-1][2] == start:
            segments[-1] = (resource, segments[-1][1], stop)
        elif stop > start:
            segments.append((resource, start, stop))


@dataclass(slots=True)
class Survey:
    """A run without its rows."""

    start: dict[str, Any]
    stop: dict[str, Any] | None = None
    documents: int = 0
    streams: dict[str, StreamSurvey] = field(default_factory=dict)
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)


def survey(entries: Iterable[Entry]) -> Survey:
    """Return what a run holds.

    Raises
    ------
    RunError
        If its documents do not fit together.
    LogCorruptError
        If `entries` do.
    """
    pages = Pages()
    run: Survey | None = None
    resources: dict[str, str] = {}
    for entry in entries:
        if run is None:
            run = _begin(entry)
        run.documents += 1
        try:
            if entry.name == "descriptor":
                _describe(run, entry.document)
            elif entry.name == "stream_resource":
                run.resources[entry.document["uid"]] = plain(entry.document)
                resources[entry.document["uid"]] = entry.document["data_key"]
            elif entry.name == "stream_datum":
                stream = run.streams[pages.stream_of(entry)]
                indices, resource = entry.document["indices"], entry.document["stream_resource"]
                stream.announce(resources[resource], resource, indices["start"], indices["stop"])
            elif entry.name == "stop":
                run.stop = plain(entry.document)
            for name, page, nbytes in pages.take(entry):
                run.streams[name].see(page, nbytes)
        except (LookupError, TypeError, AttributeError) as error:
            raise RunError(
                f"document {entry.index} ({entry.name}) does not fit: "
                f"{type(error).__name__}: {error}"
            ) from error
    if run is None:
        raise RunError("the log has no documents")
    for name, page, nbytes in pages.rest():
        run.streams[name].see(page, nbytes)
    return run


class Pages:
    """Cut the events of a run into pages of columns, each of one stream."""

    def __init__(self) -> None:
        self._streams: dict[str, str] = {}
        self._events: dict[str, list[Document]] = {}
        self._nbytes: dict[str, int] = {}

    def stream_of(self, entry: Entry) -> str:
        """Return the name of the stream that a document belongs to."""
        return self._streams[entry.document["descriptor"]]

    def take(self, entry: Entry) -> Iterator[tuple[str, Page, int]]:
        """Yield stream, columns and bytes of the pages that a document completes."""
        document = entry.document
        if entry.name == "descriptor":
            self._streams[document["uid"]] = str(document.get("name", "primary"))
        elif entry.name == "event_page":
            stream = self.stream_of(entry)
            yield from self._flush(stream)
            if len(document["seq_num"]):
                yield stream, columns_of(document), entry.nbytes
        elif entry.name == "event":
            stream = self.stream_of(entry)
            waiting = self._events.setdefault(stream, [])
            waiting.append(document)
            self._nbytes[stream] = self._nbytes.get(stream, 0) + entry.nbytes
            if len(waiting) >= PAGE_ROWS or self._nbytes[stream] >= PAGE_BYTES:
                yield from self._flush(stream)

    def rest(self) -> Iterator[tuple[str, Page, int]]:
        """Yield the pages that nothing completed."""
        for stream in list(self._events):
            yield from self._flush(stream)

    def _flush(self, stream: str) -> Iterator[tuple[str, Page, int]]:
        events = self._events.pop(stream, [])
        if events:
            yield stream, _joined(events), self._nbytes.pop(stream)


def columns_of(page: Document) -> Page:
    """Return the columns of an event_page.

    Raises
    ------
    RunError
        If they differ in length.
    """
    columns: Page = {("", key): page[key] for key in OWN}
    columns.update((("data", key), values) for key, values in page["data"].items())
    stamps = page.get("timestamps") or {}
    columns.update((("timestamps", key), values) for key, values in stamps.items())
    for (_, key), values in columns.items():
        if len(values) != len(page["seq_num"]):
            raise RunError(
                f"column {key} has {len(values)} rows, its page has {len(page['seq_num'])}"
            )
    return columns


def layout_of(values: Values) -> tuple[Layout | None, bool]:
    """Return what the rows of a page hold, and whether some are None."""
    if isinstance(values, np.ndarray | LoggedArray):
        if values.dtype.kind in NUMBERS:
            return Layout("numbers", values.dtype.newbyteorder("=").str, values.shape[1:]), False
        if values.dtype.kind == "U" and values.ndim == 1:
            return Layout("text", "<U1"), False
        if isinstance(values, LoggedArray):
            return Layout("json", "<U1"), False
    there = [value for value in values if value is not None]
    gaps = len(there) < len(values)
    if not there:
        return None, gaps
    if all(isinstance(value, str) for value in there):
        return Layout("text", "<U1"), gaps
    if any(isinstance(value, LoggedArray) for value in there):
        return _stacked(there), gaps
    try:
        array = np.asarray(there)
    except (ValueError, OverflowError):
        return Layout("json", "<U1"), gaps
    if array.dtype.kind not in NUMBERS:
        return Layout("json", "<U1"), gaps
    return Layout("numbers", array.dtype.newbyteorder("=").str, array.shape[1:]), gaps


def conform(values: Values, layout: Layout, count: int) -> Array | list[str]:
    """Return the rows of a page as a column of this layout holds them."""
    if values is None:  # the page has no such column
        values = [None] * count
    if layout.kind == "numbers":
        if isinstance(values, np.ndarray) and values.dtype != object:
            return values.astype(layout.dtype, copy=False)
        dtype = np.dtype(layout.dtype)
        if layout.shape and any(value is None for value in values):
            gap = np.full(layout.shape, np.nan if dtype.kind in "fc" else "NaT", dtype)
            values = [gap if value is None else value for value in values]
        return np.asarray(values, dtype).reshape((count, *layout.shape))
    return [value if isinstance(value, str) else json_text(value) for value in values]


def json_text(value: Any) -> str:
    """Return a value as JSON; arrays as lists, what JSON does not know as text."""
    return json.dumps(value, default=_listed)


def plain(value: Any) -> Any:
    """Return a document with lists and numbers in place of numpy's."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _stacked(arrays: Sequence[Any]) -> Layout:
    """Return the layout of rows that are arrays, some of which were left in the log."""
    if len({tuple(np.shape(a)) if not isinstance(a, LoggedArray) else a.shape for a in arrays}) > 1:
        return Layout("json", "<U1")
    dtypes = {a.dtype if isinstance(a, LoggedArray) else np.asarray(a).dtype for a in arrays}
    if any(dtype.kind not in NUMBERS for dtype in dtypes):
        return Layout("json", "<U1")
    first = arrays[0]
    shape = first.shape if isinstance(first, LoggedArray) else np.shape(first)
    return Layout("numbers", np.result_type(*dtypes).newbyteorder("=").str, tuple(shape))


def _common(one: Layout, other: Layout) -> Layout:
    """Return the layout that takes the rows of both."""
    if one == other:
        return one
    if one.kind == other.kind == "numbers" and one.shape == other.shape:
        try:
            return replace(one, dtype=np.result_type(one.dtype, other.dtype).str)
        except TypeError:
            pass
    return Layout("json", "<U1")


def _begin(entry: Entry) -> Survey:
    start = entry.document
    if entry.name != "start":
        raise RunError(f"the log begins with a {entry.name} document, and not with start")
    if start.get("uid") != entry.run:
        raise RunError(f"the start document says uid {start.get('uid')!r}, the log {entry.run}")
    if not isinstance(start.get("time"), int | float):
        raise RunError("the start document has no time")
    return Survey(plain(start))


def _describe(run: Survey, document: Document) -> None:
    descriptor = plain(document)
    name = str(descriptor.get("name", "primary"))
    if name in run.streams:
        run.streams[name].update(descriptor)
    else:
        shown = {k: v for k, v in descriptor.items() if k not in ("name", "run_start")}
        run.streams[name] = StreamSurvey(name, {**shown, "data_keys": dict(shown["data_keys"])})


def _joined(events: Sequence[Document]) -> Page:
    """Return events as columns; None where one has no such key."""
    data = dict.fromkeys(key for event in events for key in event["data"])
    timestamps = dict.fromkeys(key for event in events for key in event.get("timestamps") or ())
    return columns_of(
        {
            "seq_num": [event["seq_num"] for event in events],
            "time": [event["time"] for event in events],
            "uid": [event["uid"] for event in events],
            "data": {key: [event["data"].get(key) for event in events] for key in data},
            "timestamps": {
                key: [(event.get("timestamps") or {}).get(key) for event in events]
                for key in timestamps
            },
        }
    )
