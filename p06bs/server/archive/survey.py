"""What the columns of a run will hold: the first of two passes over its log.

Columns of a file have one type and one shape, which are known when all rows have been seen:
a number that was an integer for an hour may become a float, a list may change its length.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import index
from typing import Any

from p06bs.bus.framing import Entry
from p06bs.metadata import FOLDER, folder_of
from p06bs.model.documents import Document
from p06bs.server.archive.layouts import Column, Values
from p06bs.server.archive.pages import Pages, RunError, Source
from p06bs.server.archive.schema import LONGEST_FOLDER
from p06bs.server.sink.names import column_names
from p06bs.server.sink.values import plain


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
        """Return what the columns are called as nodes; sources of external ones are ``data``."""
        sources = [key for part, key in self.columns if part]
        keys = [*self.metadata["data_keys"], *sources, *self.external]
        stamped = {key for part, key in self.columns if part == "timestamps"}
        return {(part, key): name for (part, key), name in column_names(keys, stamped).items()}

    def announce(self, data_key: str, resource: str, start: int, stop: int) -> None:
        """Add rows that lie in a file.

        Raises
        ------
        TypeError
            If the indices are no integers.
        """
        start, stop = index(start), index(stop)
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


def _begin(entry: Entry) -> Survey:
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
    return Survey(plain(start))


def _describe(run: Survey, document: Document) -> None:
    descriptor = plain(document)
    name = str(descriptor.get("name", "primary"))
    if name in run.streams:
        run.streams[name].update(descriptor)
    else:
        shown = {k: v for k, v in descriptor.items() if k not in ("name", "run_start")}
        run.streams[name] = StreamSurvey(name, {**shown, "data_keys": dict(shown["data_keys"])})
