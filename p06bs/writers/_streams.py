"""One stream of a run as an HDF5 group: its columns, its descriptors, its external frames."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from p06bs.bus.frames import dataset_of
from p06bs.model.documents import Document
from p06bs.writers._columns import Column, Table
from p06bs.writers._h5 import Array, Names, field, group, json_text

log = logging.getLogger(__name__)

_PAIR = {"dtype": "array", "dtype_numpy": "<i8", "shape": [2]}
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


class External:
    """The row map of one external data key: which frames of which file belong to which seq_nums."""

    def __init__(self, parent: h5py.Group, name: str, data_key: str) -> None:
        self.data_key = data_key
        self.group = group(parent, name, "NXcollection", data_key=data_key)
        described: dict[str, dict[str, Any]] = {
            "indices": _PAIR,
            "seq_nums": _PAIR,
            "stream_resource": _TEXT,
            "descriptor": _TEXT,
            "uid": _TEXT,
        }
        self._rows = Table({key: Column(self.group, key, d) for key, d in described.items()})
        self.resources: dict[str, Document] = {}
        self.announced: list[tuple[Document, int, int]] = []  # resource, first and last index + 1
        self.links: list[tuple[str, str]] = []

    def add(self, datum: Document, resource: Document) -> None:
        """Take a stream_datum and the stream resource that it names."""
        self.resources[resource["uid"]] = resource
        self.announced.append((resource, datum["indices"]["start"], datum["indices"]["stop"]))
        row = {key: [datum[key]] for key in ("stream_resource", "descriptor", "uid")}
        for key in ("indices", "seq_nums"):
            row[key] = [[datum[key]["start"], datum[key]["stop"]]]
        self._rows.extend(row)

    def finish(self, tree: Path, directory: Path) -> None:
        """Write the row map and link the frames that can be found."""
        self._rows.flush()
        self.group.attrs["ranges"] = "start inclusive, stop exclusive, as in the stream_datum"
        field(self.group, "resource_uid", list(self.resources))
        for number, resource in enumerate(self.resources.values()):
            name = f"frames_{number}"
            found = _dataset(resource)
            if isinstance(found, str):
                log.warning("%s is not linked: %s", self.data_key, found)
                field(self.group, f"{name}_not_linked", found)
                continue
            path, dataset = found
            inside = path.is_relative_to(tree) and directory.is_relative_to(tree)
            target = os.path.relpath(path, directory) if inside else str(path)
            self.group[name] = h5py.ExternalLink(target, dataset)
            self.links.append((target, dataset))


def _dataset(resource: Document) -> tuple[Path, str] | str:
    """Return (file, dataset) of a stream resource, or why there is nothing to link.

    A link to a file that is not there would make the NeXus file invalid, and a
    virtual dataset over one would read as zeros.
    """
    try:
        path, dataset = dataset_of(resource)
    except ValueError as error:
        return str(error)
    try:
        # The detector may write it still: a reader of its SWMR file sees what is flushed.
        with h5py.File(path, "r", swmr=True) as file:
            if not isinstance(file.get(dataset), h5py.Dataset):
                return f"{path} has no dataset {dataset}"
    except OSError as error:
        return f"{path} cannot be opened: {error}"
    return path.resolve(), dataset


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
            self.external[key] = External(home, self._external_names(key), key)
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
