"""What the columns of a run will hold: the first of two passes over its log.

Columns of a file have one type and one shape, which are known when all rows have been seen:
a number that was an integer for an hour may become a float, a list may change its length.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from p06bs.bus.framing import Entry
from p06bs.metadata import FOLDER, folder_of
from p06bs.model.documents import Document
from p06bs.server.archive.layouts import Column
from p06bs.server.archive.pages import Page, Pages, Rows, Source, check_event, columns_of
from p06bs.server.archive.schema import LONGEST_FOLDER
from p06bs.server.files.announced import rows_announced
from p06bs.server.files.detector import rows_per_chunk
from p06bs.server.files.roots import check_resource
from p06bs.server.sink.names import column_names, node_name
from p06bs.server.sink.values import plain, time_of

LEFT_OUT = "documents left out"
"""In the reason that is noted of a run some of whose documents fit nowhere."""
REASONS = 5
"""Of so many documents that were left out it is kept why."""
LONGEST_REASON = 200
"""Characters of each."""


class RunError(ValueError):
    """Documents that are no run: they do not begin with its start document."""


@dataclass(slots=True)
class StreamSurvey:
    """A stream: its descriptors as metadata, its columns, where the rest of its data lie."""

    metadata: dict[str, Any]
    rows: int = 0
    nbytes: int = 0
    columns: dict[Source, Column] = field(default_factory=dict)
    external: dict[str, list[tuple[str, int, int]]] = field(default_factory=dict)
    """Resource uid, first and last + 1 index, by data key."""
    announced: dict[str, int] = field(default_factory=dict)
    """Number of rows in files, by data key."""

    def update(self, descriptor: Mapping[str, Any]) -> None:
        """Note a further descriptor: new configuration, perhaps new keys."""
        news = {k: descriptor[k] for k in ("uid", "time", "configuration") if k in descriptor}
        self.metadata.setdefault("_config_updates", []).append(news)
        self.metadata["data_keys"] = {**descriptor["data_keys"], **self.metadata["data_keys"]}

    def see(self, page: Page, nbytes: int) -> None:
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
        """Return what the columns are called as nodes; sources of external ones are ``data``."""
        sources = [key for part, key in self.columns if part]
        keys = [*self.metadata["data_keys"], *sources, *self.external]
        stamped = {key for part, key in self.columns if part == "timestamps"}
        return {(part, key): name for (part, key), name in column_names(keys, stamped).items()}

    def announce(self, data_key: str, resource: str, start: int, stop: int) -> None:
        """Add rows that lie in a file.

        Raises
        ------
        ValueError
            If the indices are none, or the rows more than can be shown.
        """
        before = self.announced.get(data_key, 0)
        per_chunk = rows_per_chunk(self.metadata["data_keys"].get(data_key))
        self.announced[data_key] = rows_announced(before, start, stop, per_chunk)
        segments = self.external.setdefault(data_key, [])
        if segments and segments[-1][0] == resource and segments[-1][2] == start:
            segments[-1] = (resource, segments[-1][1], stop)
        elif stop > start:
            segments.append((resource, start, stop))


@dataclass(slots=True)
class LeftOut:
    """The documents of a run that fit nowhere: how many, and what is wrong with the first few."""

    count: int = 0
    reasons: list[str] = field(default_factory=list)

    def note(self, entry: Entry, error: Exception) -> None:
        """Count one."""
        self.count += 1
        if len(self.reasons) < REASONS:
            reason = f"{type(error).__name__}: {error}"[:LONGEST_REASON]
            self.reasons.append(f"document {entry.index} ({entry.name}): {reason}")

    def __str__(self) -> str:
        """Say it in a line; nothing if there are none."""
        if not self.count:
            return ""
        more = ["..."] if self.count > len(self.reasons) else []
        return f"{self.count} {LEFT_OUT}: {'; '.join([*self.reasons, *more])}"


class Survey:
    """A run without its rows, as far as its documents have been taken.

    Both passes over a log take its documents here, so that both leave out the same: those
    that are malformed, or refer to what never came. They leave no other trace, and all are
    in the run's log.

    Parameters
    ----------
    start : dict
        The start document, which is the first one.

    Attributes
    ----------
    documents : int
        Taken, those left out included.
    streams : dict
        By the names of their nodes.
    resources : dict
        Stream resources by their uids.
    """

    def __init__(self, start: dict[str, Any]) -> None:
        self.start = start
        self.stop: dict[str, Any] | None = None
        self.documents = 1
        self.streams: dict[str, StreamSurvey] = {}
        self.resources: dict[str, dict[str, Any]] = {}
        self.left_out = LeftOut()
        self._pages = Pages()
        self._stream_names: dict[str, str] = {}

    def take(self, entry: Entry) -> Sequence[Rows]:
        """Take the next document; return the pages of rows that it completes."""
        self.documents += 1
        try:
            found = self._take(entry.name, entry.document)
        except MemoryError:
            raise
        except Exception as error:
            # Whatever one document holds, the others are rows all the same.
            self.left_out.note(entry, error)
            return ()
        if found is None:
            return ()
        stream, rows = found
        if entry.name == "event":
            return self._pages.add_event(stream, rows, entry.nbytes)
        return self._pages.add_page(stream, rows, entry.nbytes)

    def rest(self) -> Sequence[Rows]:
        """Return the pages of rows that no document completed."""
        return self._pages.rest()

    def _take(self, name: str, document: Document) -> tuple[str, Any] | None:
        """Note what a document says; return an event, or a page of columns, and its stream."""
        match name:
            case "event":
                check_event(document)
                return self._stream_name(document), document
            case "event_page":
                return self._stream_name(document), columns_of(document)
            case "descriptor":
                self._descriptor(document)
            case "stream_resource":
                self._stream_resource(document)
            case "stream_datum":
                self._stream_datum(document)
            case "stop":
                self.stop = self._checked({"run_start": None, **document})
            case "resource" | "datum" | "datum_page":
                pass  # the events hold the datum ids, and that is what the column shows
            case "start":
                raise ValueError("the run has started before")
            case _:
                raise ValueError("no such kind of document")
        return None

    def _stream_name(self, document: Document) -> str:
        name = self._stream_names.get(document["descriptor"])
        if name is None:
            raise ValueError(f"descriptor {document['descriptor']} is none of the run's")
        return name

    def _descriptor(self, document: Document) -> None:
        descriptor = self._checked({"run_start": None, **document})
        uid = _text(descriptor, "uid")
        name = node_name(descriptor.get("name", "primary"))
        if not isinstance(descriptor["data_keys"], Mapping):
            raise TypeError("data_keys map names to what they describe")
        if uid in self.resources or self._stream_names.get(uid, name) != name:
            raise ValueError(f"another document of the run has the uid {uid}")
        if name in self.streams:
            self.streams[name].update(descriptor)
        else:
            shown = {k: v for k, v in descriptor.items() if k not in ("name", "run_start")}
            self.streams[name] = StreamSurvey(shown)
        self._stream_names[uid] = name

    def _stream_resource(self, document: Document) -> None:
        resource = self._checked(document)
        uid = _text(resource, "uid")
        check_resource(resource)
        if uid in self._stream_names or self.resources.setdefault(uid, resource) != resource:
            raise ValueError(f"another document of the run has the uid {uid}")

    def _stream_datum(self, document: Document) -> None:
        stream = self.streams[self._stream_name(document)]
        uid, indices = document["stream_resource"], document["indices"]
        if uid not in self.resources:
            raise ValueError(f"stream resource {uid} is none of the run's")
        data_key = self.resources[uid]["data_key"]
        stream.announce(data_key, uid, int(indices["start"]), int(indices["stop"]))

    def _checked(self, document: Document) -> dict[str, Any]:
        """Return a document as metadata, if it is one of this run, and has a time if any."""
        if document.get("run_start", self.start["uid"]) != self.start["uid"]:
            raise ValueError(f"run_start is {document['run_start']}: another run")
        if "time" in document:
            time_of(document)
        checked: dict[str, Any] = plain(document)
        return checked


def survey(entries: Iterable[Entry]) -> Survey:
    """Return what a run holds.

    Raises
    ------
    RunError
        If its documents are no run.
    LogCorruptError
        If `entries` do.
    """
    entries = iter(entries)
    first = next(entries, None)
    if first is None:
        raise RunError("the log has no documents")
    run = Survey(_start(first))
    for entry in entries:
        for name, page, nbytes in run.take(entry):
            run.streams[name].see(page, nbytes)
    for name, page, nbytes in run.rest():
        run.streams[name].see(page, nbytes)
    return run


def _start(entry: Entry) -> dict[str, Any]:
    start = entry.document
    if entry.name != "start":
        raise RunError(f"the log begins with a {entry.name} document, and not with start")
    if start.get("uid") != entry.run:
        raise RunError(f"the start document says uid {start.get('uid')!r}, the log {entry.run}")
    if not isinstance(start.get("time"), int | float):
        raise RunError("the start document has no time")
    folder = folder_of(start) or ""
    if len(folder.encode(errors="replace")) > LONGEST_FOLDER:
        raise RunError(
            f"{FOLDER} {folder[:40]}... has more than {LONGEST_FOLDER} bytes: it is no path"
        )
    try:
        shown: dict[str, Any] = plain(start)
    except ValueError as error:
        raise RunError(f"the start document: {error}") from error
    return shown


def _text(document: Document, key: str) -> str:
    value = document[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is {str(value)[:80]}, and no text")
    return value
