"""The events of a run as pages of columns, whether they were events or pages."""

from collections.abc import Iterator, Sequence

from p06bs.bus.framing import Entry
from p06bs.model.documents import Document
from p06bs.server.archive.layouts import Values
from p06bs.server.sink.names import OWN

PAGE_ROWS = 1024
PAGE_BYTES = 1 << 22

Source = tuple[str, str]
"""Where in an event a column's values are: "", ``data`` or ``timestamps``, and the key."""

Page = dict[Source, Values]


class RunError(ValueError):
    """Documents that are no run: no start, or one that refers to what never came."""


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
