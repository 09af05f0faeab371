"""One stream of a run in memory: its descriptors' metadata and its columns."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from p06bs.model.documents import Document
from p06bs.server.columns import Array, Column, TextColumn, View, column_for, values_of
from p06bs.server.external import ExternalColumn

TABLE = "internal"
"""Name of the table of a stream's one-dimensional columns, as bluesky's TiledWriter has it."""

RESERVED = frozenset({"seq_num", "time", "uid", TABLE})


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream at one moment: all its event columns have the same rows."""

    metadata: Mapping[str, Any]
    columns: Mapping[str, View]
    external: frozenset[str]


class Stream:
    """One stream of a run: metadata of its descriptors and its columns."""

    def __init__(self, name: str, descriptor: Document) -> None:
        self.name = name
        self.metadata = {k: v for k, v in descriptor.items() if k not in ("name", "run_start")}
        self.rows = 0
        self.counted = 0  # bytes that retention knows of
        self.columns: dict[str, Column] = {}
        self.external: dict[str, ExternalColumn] = {}
        self.document_bytes = size_of(self.metadata)

    @property
    def nbytes(self) -> int:
        nbytes = self.document_bytes
        for column in self.columns.values():
            nbytes += column.nbytes
        for external in self.external.values():
            nbytes += external.nbytes
        return nbytes

    def update(self, descriptor: Document) -> None:
        """Note a further descriptor, which brings new configuration and no new keys."""
        if set(descriptor["data_keys"]) != set(self.metadata["data_keys"]):
            raise ValueError(f"the data keys of stream {descriptor['name']} changed")
        news = {k: descriptor[k] for k in ("uid", "time", "configuration") if k in descriptor}
        # A new dict each time: views hold the old one.
        updates = [*self.metadata.get("_config_updates", ()), news]
        self.metadata = {**self.metadata, "_config_updates": updates}
        self.document_bytes += size_of(news)

    def put(self, page: Document) -> dict[str, Column]:
        """Write the rows of an event_page behind those that are there; return the columns.

        Nobody sees them before `commit`, so a page that fails half-way leaves no
        trace, and readers need not wait while the rows are copied.
        """
        count = len(page["seq_num"])
        if not count:
            return self.columns
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
        return columns

    def commit(self, columns: dict[str, Column], count: int) -> None:
        """Show the rows that `put` wrote."""
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


def page_of(event: Document) -> Document:
    """Return the event as a page of one row."""
    return {
        "descriptor": event["descriptor"],
        "seq_num": [event["seq_num"]],
        "time": [event["time"]],
        "uid": [event["uid"]],
        "data": {key: [value] for key, value in event["data"].items()},
        "timestamps": {key: [value] for key, value in event.get("timestamps", {}).items()},
    }


def node_name(name: object) -> str:
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


def plain(value: Any) -> Any:
    """Return a document with lists and numbers in place of numpy's: metadata is compared."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    return value


def size_of(value: Any) -> int:
    """Return about how many bytes a document takes in memory."""
    size = sys.getsizeof(value)
    if isinstance(value, Mapping):
        size += sum(size_of(key) + size_of(item) for key, item in value.items())
    elif isinstance(value, list):
        size += sum(map(size_of, value))
    return size
