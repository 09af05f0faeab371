"""The sink: the newest runs, raw and derived, in memory under a byte budget."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from p06bs.model.documents import Document
from p06bs.server.columns import (
    Array,
    Column,
    ExternalColumn,
    TextColumn,
    View,
    column_for,
    values_of,
)
from p06bs.server.retention import Retention

logger = logging.getLogger(__name__)

TABLE = "internal"
"""Name of the table of a stream's one-dimensional columns, as bluesky's TiledWriter has it."""

RESERVED = frozenset({"seq_num", "time", "uid", TABLE})


class DocumentError(ValueError):
    """A document that does not fit what came before; it left no trace in the sink."""


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream at one moment: all its event columns have the same rows."""

    metadata: Mapping[str, Any]
    columns: Mapping[str, View]
    external: frozenset[str]


@dataclass(frozen=True, slots=True)
class RunView:
    """A run at one moment; its streams are looked at when they are asked for."""

    metadata: Mapping[str, Any]
    streams: Mapping[str, Callable[[], StreamView]]
    touch: Callable[[], None]


class _Stream:
    """One stream of a run: metadata of its descriptors and its columns."""

    def __init__(self, descriptor: Document) -> None:
        self.metadata = {k: v for k, v in descriptor.items() if k not in ("name", "run_start")}
        self.rows = 0
        self.columns: dict[str, Column] = {}
        self.external: dict[str, ExternalColumn] = {}
        self.document_bytes = _size(self.metadata)

    @property
    def nbytes(self) -> int:
        columns = [*self.columns.values(), *self.external.values()]
        return self.document_bytes + sum(column.nbytes for column in columns)

    def update(self, descriptor: Document) -> None:
        """Note a further descriptor, which brings new configuration and no new keys."""
        if set(descriptor["data_keys"]) != set(self.metadata["data_keys"]):
            raise ValueError(f"the data keys of stream {descriptor['name']} changed")
        news = {k: descriptor[k] for k in ("uid", "time", "configuration") if k in descriptor}
        # A new dict each time: views hold the old one.
        updates = [*self.metadata.get("_config_updates", ()), news]
        self.metadata = {**self.metadata, "_config_updates": updates}
        self.document_bytes += _size(news)

    def append(self, page: Document) -> None:
        """Append the rows of an event_page: all of its columns or nothing."""
        count = len(page["seq_num"])
        news: dict[str, Array | list[str]] = {
            "seq_num": np.asarray(page["seq_num"], np.int64),
            "time": np.asarray(page["time"], np.float64),
            "uid": list(map(str, page["uid"])),
        }
        dtypes: dict[str, str] = {}
        for key, values in page["data"].items():
            name = _column_name(key)
            news[name] = values_of(values)
            dtypes[name] = self.metadata["data_keys"].get(key, {}).get("dtype", "")
        for key, values in page.get("timestamps", {}).items():
            if f"ts_{key}" not in news:
                news[f"ts_{key}"] = np.asarray(values, np.float64)
        for name, values in news.items():
            if len(values) != count:
                raise ValueError(f"column {name} has {len(values)} rows, the page has {count}")
        if self.columns and self.columns.keys() != news.keys():
            odd = ", ".join(sorted(self.columns.keys() ^ news.keys()))
            raise ValueError(f"the page has other columns than the pages before it: {odd}")
        columns = self.columns or {
            name: column_for(values, dtypes.get(name)) for name, values in news.items()
        }
        for name, values in news.items():
            column = columns[name]
            if isinstance(column, TextColumn):
                column.put(self.rows, [str(v) for v in values])
            elif isinstance(values, list):
                raise ValueError(f"column {name} got text after numbers")
            else:
                column.put(self.rows, values)
        self.columns = columns
        self.rows += count

    def announce(self, data_key: str, resource: Document, start: int, stop: int) -> None:
        """Add rows that lie in a file."""
        name = _column_name(data_key)
        if name not in self.external:
            description = self.metadata["data_keys"][data_key]
            self.external[name] = ExternalColumn(data_key, description)
        self.external[name].announce(resource, start, stop)

    def view(self) -> StreamView:
        columns: dict[str, View] = {k: c.view(self.rows) for k, c in self.columns.items()}
        columns.update((key, column.view()) for key, column in self.external.items())
        return StreamView(self.metadata, columns, frozenset(self.external))


class _Run:
    def __init__(self, start: Document) -> None:
        self.metadata: dict[str, Any] = {"start": start}
        self.streams: dict[str, _Stream] = {}
        self.discarded = False
        self.routes: list[str] = []


class Sink:
    """Keep the newest runs in memory: a plain ``(name, document)`` callable.

    One thread feeds it, any number of threads look at it. When the runs need
    more than the budget the one whose data nobody has read for longest leaves,
    finished runs before running ones; later documents of a running run that had
    to leave are passed over.

    Parameters
    ----------
    budget : int
        Bytes that the runs together may hold: what their arrays have allocated,
        their text and their documents.
    clock : callable
        Returns the time that touches are compared by, s.
    """

    def __init__(self, budget: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._retention = Retention(budget)
        self._clock = clock
        self._lock = threading.RLock()
        self._runs: dict[str, _Run] = {}
        self._streams: dict[str, tuple[_Run, _Stream]] = {}
        self._resources: dict[str, tuple[_Run, Document]] = {}
        self._evicted_running: dict[str, _Run] = {}

    @property
    def budget(self) -> int:
        """Bytes that the runs together may hold."""
        return self._retention.budget

    @property
    def nbytes(self) -> int:
        """Bytes that the runs hold."""
        return self._retention.nbytes

    def __call__(self, name: str, document: Document) -> None:
        """Take one document.

        Raises
        ------
        DocumentError
            If it does not fit what came before, or names what never came.
        """
        try:
            with self._lock:
                self._take(name, document)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise DocumentError(f"{name} document refused: {problem}") from error

    def runs(self) -> list[str]:
        """Return the uids of the runs, in the order of their start times."""
        with self._lock:
            return sorted(self._runs, key=lambda uid: self._runs[uid].metadata["start"]["time"])

    def __len__(self) -> int:
        return len(self._runs)

    def view(self, uid: str) -> RunView:
        """Return a run as it is now.

        Raises
        ------
        KeyError
            If the run is not in the sink (any more).
        """
        with self._lock:
            run = self._runs[uid]
            streams = {name: self._viewer(stream) for name, stream in run.streams.items()}
            return RunView(run.metadata, streams, lambda: self.touch(uid))

    def touch(self, uid: str) -> None:
        """Note that somebody reads data of the run."""
        with self._lock:
            self._retention.touched(uid, self._clock())

    def _viewer(self, stream: _Stream) -> Callable[[], StreamView]:
        def view() -> StreamView:
            with self._lock:
                return stream.view()

        return view

    def _take(self, name: str, document: Document) -> None:
        match name:
            case "start":
                self._start(document)
            case "descriptor":
                self._descriptor(document)
            case "event":
                self._append(_page(document))
            case "event_page":
                self._append(document)
            case "stream_resource":
                run = self._run(document["run_start"])
                self._resources[document["uid"]] = run, _plain(document)
                run.routes.append(document["uid"])
            case "stream_datum":
                self._stream_datum(document)
            case "stop":
                self._stop(document)
            case "resource" | "datum" | "datum_page":
                pass  # the events hold the datum ids, and that is what the column shows
            case _:
                raise ValueError("no such kind of document")

    def _start(self, document: Document) -> None:
        uid = _node_name(document["uid"])
        if uid in self._runs:
            raise ValueError(f"run {uid} has started before")
        start = _plain(document)
        start["time"] = float(start["time"])
        run = self._runs[uid] = _Run(start)
        self._account(run, _size(start))

    def _descriptor(self, document: Document) -> None:
        run = self._run(document["run_start"])
        descriptor = _plain(document)
        name = _node_name(descriptor.get("name", "primary"))
        stream = run.streams.get(name)
        if stream is None:
            for key in descriptor["data_keys"]:
                _node_name(key)
            stream = _Stream(descriptor)
            run.streams[name] = stream
            news = stream.nbytes
        else:
            before = stream.nbytes
            stream.update(descriptor)
            news = stream.nbytes - before
        self._streams[descriptor["uid"]] = run, stream
        run.routes.append(descriptor["uid"])
        self._account(run, news)

    def _append(self, page: Document) -> None:
        run, stream = self._streams[page["descriptor"]]
        if run.discarded:
            return
        before = stream.nbytes
        try:
            stream.append(page)
        finally:
            self._account(run, stream.nbytes - before)

    def _stream_datum(self, document: Document) -> None:
        run, stream = self._streams[document["descriptor"]]
        _, resource = self._resources[document["stream_resource"]]
        if run.discarded:
            return
        indices = document["indices"]
        before = stream.nbytes
        stream.announce(resource["data_key"], resource, indices["start"], indices["stop"])
        self._account(run, stream.nbytes - before)

    def _stop(self, document: Document) -> None:
        uid = document["run_start"]
        run = self._run(uid)
        # A new dict: views hold the old one.
        run.metadata = {**run.metadata, "stop": _plain(document)}
        for route in run.routes:
            self._streams.pop(route, None)
            self._resources.pop(route, None)
        self._evicted_running.pop(uid, None)
        self._retention.finished(uid)

    def _run(self, uid: str) -> _Run:
        return self._evicted_running.get(uid) or self._runs[uid]

    def _account(self, run: _Run, nbytes: int) -> None:
        """Count what a run holds more and let the runs leave that have to."""
        if run.discarded:
            return
        uid = run.metadata["start"]["uid"]
        for leaving in self._retention.added(uid, nbytes, self._clock()):
            gone = self._runs.pop(leaving)
            if "stop" not in gone.metadata:
                gone.discarded = True
                self._evicted_running[leaving] = gone
                logger.warning(
                    "run %s leaves the server's memory while it runs: the budget is %d bytes; "
                    "its documents are in the log",
                    leaving,
                    self.budget,
                )
                for stream in gone.streams.values():
                    stream.columns.clear()
                    stream.external.clear()


def _page(event: Document) -> Document:
    """Return the event as a page of one row."""
    return {
        "descriptor": event["descriptor"],
        "seq_num": [event["seq_num"]],
        "time": [event["time"]],
        "uid": [event["uid"]],
        "data": {key: [value] for key, value in event["data"].items()},
        "timestamps": {key: [value] for key, value in event.get("timestamps", {}).items()},
    }


def _node_name(name: object) -> str:
    """Return a name that can be a part of a path.

    Raises
    ------
    ValueError
        If it cannot: empty, a dot or two, or with a slash.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name:
        raise ValueError(f"{name!r} cannot be a part of a path")
    return name


def _column_name(data_key: str) -> str:
    """Return the data key, with an underscore behind what is a column already."""
    return f"{data_key}_" if data_key in RESERVED else data_key


def _plain(value: Any) -> Any:
    """Return a document with lists and numbers in place of numpy's: metadata is compared."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value


def _size(value: Any) -> int:
    """Return about how many bytes a document takes in memory."""
    size = sys.getsizeof(value)
    if isinstance(value, Mapping):
        size += sum(_size(key) + _size(item) for key, item in value.items())
    elif isinstance(value, list):
        size += sum(map(_size, value))
    return size
