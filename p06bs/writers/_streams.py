"""One stream of a run as an HDF5 group: its columns, its descriptors, its external frames."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from p06bs.model.documents import Document
from p06bs.writers._columns import Column, Table
from p06bs.writers._external import External
from p06bs.writers._h5 import Array, Names, field, group, json_text

_TEXT = {"dtype": "string", "shape": []}
_TIME = {"dtype": "number", "dtype_numpy": "<f8", "shape": [], "units": "s"}
_INTEGER = {"dtype": "integer", "dtype_numpy": "<i8", "shape": []}


class Texts:
    """Documents of one kind as a growing list of JSON texts."""

    def __init__(self, parent: h5py.Group, name: str) -> None:
        self._column = Column(parent, name, _TEXT)

    def append(self, document: Document) -> None:
        """Append a document."""
        self._column.append([json_text(document)])


class Stream:
    """The events and frames of one stream, as they come."""

    def __init__(self, parent: h5py.Group, node: str, descriptor: Document) -> None:
        self.name = str(descriptor.get("name", "primary"))
        self.node = node
        self.group = group(parent, node, "NXcollection", stream=self.name)
        self.data_keys: Mapping[str, Mapping[str, Any]] = descriptor["data_keys"]
        self.descriptors: list[Document] = []
        self.external: dict[str, External] = {}
        inline = [k for k, d in self.data_keys.items() if not _is_stream_asset(d)]
        columns: dict[str, Column] = {
            "seq_num": Column(self.group, "seq_num", _INTEGER),
            "time": Column(self.group, "time", _TIME, epoch="1970-01-01T00:00:00Z"),
            "uid": Column(self.group, "uid", _TEXT),
            "descriptor": Column(self.group, "descriptor", _INTEGER, meaning="row of descriptors"),
        }
        for part in ("data", "timestamps"):
            home, names = group(self.group, part, "NXcollection"), Names()
            for key in inline:
                described = self.data_keys[key] if part == "data" else _TIME
                columns[f"{part}/{key}"] = Column(home, names(key), described, data_key=key)
        self._inline = inline
        self._events = Table(columns)
        self._filled: list[tuple[str, Mapping[str, Any]]] = []
        self._external_names = Names()

    @property
    def count(self) -> int:
        """Number of events."""
        return self._events.count

    @property
    def data(self) -> dict[str, Column]:
        """Columns by data key."""
        return {key: self._events.columns[f"data/{key}"] for key in self._inline}

    @property
    def seq_num(self) -> Column:
        """The column of sequence numbers."""
        return self._events.columns["seq_num"]

    @property
    def time(self) -> Column:
        """The column of event times, s since 1970."""
        return self._events.columns["time"]

    def describe(self, descriptor: Document) -> None:
        """Take a further descriptor; the events after it belong to it."""
        self.descriptors.append(descriptor)

    def add(self, page: Document) -> None:
        """Take an event_page.

        Raises
        ------
        ValueError
            If its columns are not those of its descriptor, or unequally long.
        """
        count = len(page["seq_num"])
        number = [d["uid"] for d in self.descriptors].index(page["descriptor"])
        rows = {key: page[key] for key in ("seq_num", "time", "uid")}
        rows["descriptor"] = [number] * count
        for part in ("data", "timestamps"):
            rows.update({f"{part}/{key}": column for key, column in page[part].items()})
        try:
            self._events.extend(rows)
        except ValueError as error:
            raise ValueError(
                f"stream {self.name!r}, event {page['seq_num'][0] if count else '-'}: {error}"
            ) from None
        if page.get("filled"):
            self._filled += [(uid, _row(page["filled"], i)) for i, uid in enumerate(page["uid"])]

    def add_frames(self, datum: Document, resource: Document) -> None:
        """Take a stream_datum and the stream resource that it names."""
        key = resource["data_key"]
        if key not in self.external:
            if "external" not in self.group:
                group(self.group, "external", "NXcollection")
            home = self.group["external"]
            name, described = self._external_names(key), self.data_keys.get(key, {})
            self.external[key] = External(home, name, key, described)
        self.external[key].add(datum, resource)

    def finish(self, tree: Path, directory: Path) -> None:
        """Write what is buffered, the descriptors, and the links to external frames."""
        self._events.flush()
        field(self.group, "descriptors", [json_text(d) for d in self.descriptors])
        if self._filled:
            field(self.group, "filled", json_text(dict(self._filled)))
        for external in self.external.values():
            external.finish(tree, directory)

    def numbers(self) -> Array:
        """Return the numbers that name the points: raw_seq_num if there is one, else seq_num."""
        column = self.data.get("raw_seq_num")
        if column is None or not column.is_scalar_number:
            column = self.seq_num
        assert column.dataset is not None
        return np.asarray(column.dataset[...])


def _is_stream_asset(described: Mapping[str, Any]) -> bool:
    return str(described.get("external", "")).startswith("STREAM:")


def _row(columns: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {key: values[index] for key, values in columns.items()}
