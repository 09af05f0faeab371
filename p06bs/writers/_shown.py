"""The columns in a file as what maps are made of; nothing is copied."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import h5py
import numpy as np

from p06bs.model.collected import NUMBERS, ColumnInFiles, ReadRows, is_one, kind_of
from p06bs.model.documents import Document
from p06bs.model.map_columns import Typed
from p06bs.writers._columns import Column
from p06bs.writers._h5 import Array
from p06bs.writers._streams import Stream


class ShownColumn:
    """One number per row, in the file that is written."""

    shape: tuple[int, ...] = ()

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dtype: np.dtype[Any] = dataset.dtype
        self.rows = len(dataset)
        self._dataset = dataset

    def read(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop - 1`."""
        return np.asarray(self._dataset[start:stop]).reshape(-1)


class ShownStream:
    """The columns of a stream that hold one number a row, in the file or in a detector's."""

    def __init__(self, stream: Stream, read: ReadRows) -> None:
        self.metadata: Document = stream.descriptors[-1]
        self.columns: dict[str, Typed] = {}
        self._described: dict[str, Mapping[str, Any]] = {}
        for name, own in (("seq_num", stream.seq_num), ("time", stream.time)):
            self._add(name, own, {})
        for key, column in stream.data.items():
            name = f"{key}_" if key in self.columns else key
            described = column.described
            self._add(name, column, described if name == key else {**described, "data_key": key})
        for key, external in stream.external.items():
            described = stream.data_keys[key]
            if key not in self.columns and is_one(described) and kind_of(described) in NUMBERS:
                shape = tuple(described.get("shape") or ())
                found = ColumnInFiles(key, shape, str(described.get("dtype_numpy", "<f8")), read)
                for announced in external.announced:
                    found.announce(*announced)
                self.columns[key], self._described[key] = found, described

    def _add(self, name: str, column: Column, described: Mapping[str, Any]) -> None:
        data = column.dataset
        if data is not None and data.dtype.kind in NUMBERS and prod(data.shape[1:]) == 1:
            self.columns[name] = ShownColumn(data)
            self._described[name] = described

    def description(self, name: str) -> Mapping[str, Any]:
        """Return what the descriptor says of a column."""
        return self._described[name]


def shown(streams: Iterable[Stream], read: ReadRows) -> dict[str, ShownStream]:
    """Return the streams by name; a second one of a name by the name of its group."""
    found: dict[str, ShownStream] = {}
    for stream in streams:
        if stream.descriptors:
            name = stream.node if stream.name in found else stream.name
            found[name] = ShownStream(stream, read)
    return found
