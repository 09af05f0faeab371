"""The numbers of runs in memory, column by column, from their documents: what maps are made of."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from math import prod
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from p06bs.model.documents import Document
from p06bs.model.map_columns import Typed
from p06bs.model.modality import BoundInput

Array = npt.NDArray[Any]
ReadRows = Callable[[Document, int, int, BoundInput], Array]
"""Reads rows of a stream resource: `p06bs.bus.frames.Frames`."""

OWN = {"seq_num": np.dtype(np.int64), "time": np.dtype(np.float64)}
"""Columns that every stream has."""
NUMBERED = "raw_seq_num"
NUMBERS = "biuf"
KINDS = {"number": "f", "integer": "i", "boolean": "b"}


class CollectedColumn:
    """One number per row, in memory."""

    shape: tuple[int, ...] = ()

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.rows = 0
        self._values = np.empty(0, dtype)

    def extend(self, values: Any, before: int) -> None:
        """Add the values of rows, of which there were `before`: NaN, or 0, in those it lacks."""
        stop = before + len(values)
        if len(self._values) < stop:
            grown = np.empty(max(stop, 2 * len(self._values)), self.dtype)
            grown[: self.rows] = self._values[: self.rows]
            self._values = grown
        if before > self.rows:
            self._values[self.rows : before] = np.nan if self.dtype.kind == "f" else 0
        self._values[before:stop] = _numbers(values, self.dtype)
        self.rows = stop

    def read(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop - 1`."""
        return self._values[start : min(stop, self.rows)]


class ColumnInFiles:
    """One number per row, in the files that stream_datum documents announce."""

    def __init__(self, key: str, shape: tuple[int, ...], dtype: str, read: ReadRows) -> None:
        self.dtype = np.dtype(dtype)
        self.shape = shape
        self.rows = 0
        self._bound = BoundInput("", key, True, shape, shape, self.dtype.str)
        self._read = read
        self._segments: list[tuple[Document, int, int]] = []  # resource, first index, first row

    def announce(self, resource: Document, start: int, stop: int) -> None:
        """Add indices `start` to `stop - 1` of a stream resource."""
        if stop <= start:
            return
        last, index, first = self._segments[-1] if self._segments else ({}, 0, 0)
        # Step scans announce row by row.
        if last.get("uid") != resource["uid"] or start != index + self.rows - first:
            self._segments.append((resource, start, self.rows))
        self.rows += stop - start

    def read(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop - 1`.

        Raises
        ------
        OSError
            If they are not there (yet), or cannot be read.
        """
        parts = [np.empty((0, *self.shape), self.dtype)]
        stop = min(stop, self.rows)
        following = bisect_right(self._segments, start, key=itemgetter(2))
        while start < stop:
            resource, index, first = self._segments[following - 1]
            at_end = following == len(self._segments)
            high = stop if at_end else min(stop, self._segments[following][2])
            try:
                rows = self._read(resource, index + start - first, high - start, self._bound)
            except (LookupError, ValueError) as error:
                raise OSError(f"{self._bound.data_key} cannot be read: {error}") from error
            parts.append(rows.reshape(high - start, *self.shape))
            start, following = high, following + 1
        return np.concatenate(parts)


class CollectedStream:
    """The columns of a stream that hold one number a row.

    Parameters
    ----------
    descriptor : mapping
    read : callable, optional
        Without one there are no columns whose rows lie in files.
    """

    def __init__(self, descriptor: Document, read: ReadRows | None = None) -> None:
        self.metadata: Document = descriptor
        self.columns: dict[str, Typed] = {}
        self._described: dict[str, Mapping[str, Any]] = {}
        self._events: dict[str, CollectedColumn] = {}  # by data key
        self._own = {name: CollectedColumn(dtype) for name, dtype in OWN.items()}
        self._files: dict[str, ColumnInFiles] = {}
        self._rows = 0
        self._read = read
        self.columns.update(self._own)
        self.describe(descriptor)

    def describe(self, descriptor: Document) -> None:
        """Take a further descriptor."""
        self.metadata = descriptor
        for key, said in descriptor["data_keys"].items():
            name = f"{key}_" if key in self._own else key
            if name in self._described:
                continue
            self._described[name] = {**said, "data_key": key} if name != key else said
            if not str(said.get("external") or "").startswith("STREAM:"):
                if kind_of(said) in NUMBERS and is_one(said):
                    self._add(key, name)
            elif self._read is not None and is_one(said) and kind_of(said) in NUMBERS:
                shape, dtype = tuple(said.get("shape") or ()), str(said.get("dtype_numpy", "<f8"))
                self._files[key] = ColumnInFiles(key, shape, dtype, self._read)
                self.columns[name] = self._files[key]

    def _add(self, key: str, name: str) -> CollectedColumn:
        dtype = np.dtype(np.int64 if key == NUMBERED else np.float64)
        column = self._events[key] = CollectedColumn(dtype)
        self.columns[name] = column
        return column

    def description(self, name: str) -> Mapping[str, Any]:
        """Return what the descriptor says of a column; nothing of those that it does not name."""
        return {} if name in self._own else self._described[name]

    def add(self, page: Document) -> None:
        """Take an event page."""
        for name, column in self._own.items():
            column.extend(page[name], self._rows)
        for key, values in page["data"].items():
            found = self._events.get(key)
            if found is None or not len(values):
                continue
            if np.size(values[0]) != 1:  # the descriptor is wrong
                name = next(n for n, column in self.columns.items() if column is found)
                del self.columns[name], self._events[key]
                continue
            found.extend(values, self._rows)
        self._rows += len(page["seq_num"])

    def announce(self, resource: Document, datum: Document) -> None:
        """Take a stream_datum, and the stream resource that it names."""
        found = self._files.get(resource["data_key"])
        if found is not None:
            found.announce(resource, datum["indices"]["start"], datum["indices"]["stop"])


def kind_of(described: Mapping[str, Any]) -> str:
    """Return numpy's letter for the kind of a data key's values; "O" if it is none of numbers."""
    said = described.get("dtype_numpy")
    try:
        return np.dtype(said).kind if isinstance(said, str) else KINDS.get(described["dtype"], "O")
    except (TypeError, KeyError):
        return "O"


def is_one(described: Mapping[str, Any]) -> bool:
    """Return whether a row is one value (ophyd-async describes some as of shape [1])."""
    shape = described.get("shape") or ()
    return all(isinstance(n, int) for n in shape) and prod(shape) == 1


def page_of(event: Document) -> Document:
    """Return an event as a page of one row."""
    page: dict[str, Any] = {key: [event[key]] for key in ("seq_num", "time", "uid")}
    page["descriptor"] = event["descriptor"]
    for part in ("data", "timestamps", "filled"):
        page[part] = {key: [value] for key, value in (event.get(part) or {}).items()}
    return page


def _numbers(values: Sequence[Any], dtype: np.dtype[Any]) -> Array:
    """Return values as numbers, those that are none as NaN."""
    try:
        return np.asarray(values, dtype).reshape(len(values))
    except (TypeError, ValueError):
        if dtype.kind != "f":
            raise
        return np.array([_number(value) for value in values])


def _number(value: Any) -> float:
    try:
        return float(np.asarray(value, float).reshape(()))
    except (TypeError, ValueError):
        return np.nan
