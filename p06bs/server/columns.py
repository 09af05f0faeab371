"""Columns that grow while they are read: numbers and text.

A column only ever gains rows, and rows that are there stay as they are, so a
view of the first n rows remains right however the column grows. The number of
rows per chunk is fixed when a column is made: chunk boundaries that a client has
seen stay valid.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

CHUNK_BYTES = 1 << 20
TEXT_ROWS = 4096
"""Rows of a chunk of text."""

Array = npt.NDArray[Any]


class View(Protocol):
    """The first `rows` rows of a column; `shape` is one row's."""

    @property
    def rows(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def rows_per_chunk(self) -> int: ...

    def read(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop - 1`, shape ``(stop - start, *shape)``."""


@dataclass(frozen=True, slots=True)
class NumberView:
    """Numbers in chunks of equal length, the last one excepted."""

    chunks: tuple[Array, ...]
    rows: int
    rows_per_chunk: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.chunks[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.chunks[0].shape[1:]

    def read(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop - 1`; a copy only where they span chunks."""
        size = self.rows_per_chunk
        parts = [
            self.chunks[i][max(start - i * size, 0) : stop - i * size]
            for i in range(start // size, -(-stop // size))
        ]
        if not parts:
            return self.chunks[0][:0]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class NumberColumn:
    """Numbers, booleans or times of one shape.

    The first chunk doubles until it holds about 1 MiB; the chunks that follow are
    allocated whole, so a large column is never copied to grow. Values of a type
    that does not fit (a float after integers) convert the whole column, once.
    """

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.dtype = dtype.newbyteorder("=")
        self.shape = shape
        self.rows_per_chunk = max(1, CHUNK_BYTES // max(1, self.dtype.itemsize * prod(shape)))
        self.nbytes = 0  # allocated, used or not
        self._chunks: list[Array] = [np.empty((0, *shape), self.dtype)]

    def put(self, row: int, values: Array) -> None:
        """Write `values`, shape ``(n, *shape)``, at `row`.

        Raises
        ------
        ValueError, TypeError
            If they have another shape, or a type that no common type covers.
        """
        if values.shape[1:] != self.shape:
            raise ValueError(f"rows of shape {values.shape[1:]} after rows of shape {self.shape}")
        if not np.can_cast(values.dtype, self.dtype, "safe"):
            self.dtype = np.result_type(values.dtype, self.dtype)
            self._chunks = [chunk.astype(self.dtype) for chunk in self._chunks]
            self.nbytes = sum(chunk.nbytes for chunk in self._chunks)
        self._reserve(row + len(values))
        size = self.rows_per_chunk
        done = 0
        while done < len(values):
            index, offset = divmod(row + done, size)
            part = values[done : done + size - offset]
            self._chunks[index][offset : offset + len(part)] = part
            done += len(part)

    def _reserve(self, rows: int) -> None:
        first, size = self._chunks[0], self.rows_per_chunk
        if rows <= len(first) + (len(self._chunks) - 1) * size:
            return
        if len(first) < min(rows, size):
            grown = np.empty((min(size, max(rows, 2 * len(first), 16)), *self.shape), self.dtype)
            grown[: len(first)] = first
            self._chunks[0] = grown
        while len(self._chunks) * size < rows:
            self._chunks.append(np.empty((size, *self.shape), self.dtype))
        self.nbytes = sum(chunk.nbytes for chunk in self._chunks)

    def view(self, rows: int) -> NumberView:
        """Return the first `rows` rows."""
        return NumberView(tuple(self._chunks), rows, self.rows_per_chunk)


@dataclass(frozen=True, slots=True)
class TextView:
    """Text; as an array it is as wide as the longest text so far, rounded up."""

    texts: list[str]
    rows: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    rows_per_chunk: int = TEXT_ROWS

    def read(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop - 1` as fixed-width unicode."""
        return np.array(self.texts[start : min(stop, self.rows)], self.dtype)


class TextColumn:
    """Text of any length.

    The width that clients see is a power of two and changes seldom, because a
    client that holds an older one must fetch the column's structure again.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._texts: list[str] = []
        self._width = 16

    def put(self, row: int, values: Sequence[str]) -> None:
        """Write `values` at `row`."""
        self._texts[row:] = values
        self.nbytes += sum(8 + (sys.getsizeof(text) if text else 0) for text in values)
        while self._width < max(map(len, values), default=0):
            self._width *= 2

    def view(self, rows: int) -> TextView:
        """Return the first `rows` rows."""
        return TextView(self._texts, rows, np.dtype(f"<U{self._width}"))


Column = NumberColumn | TextColumn


def values_of(values: Sequence[Any] | Array) -> Array | list[str]:
    """Return what a page holds of one column as an array, or as text.

    Text stays text; None among numbers is NaN; what is no rectangle of numbers
    (dicts, lists of unequal length) becomes JSON.
    """
    if isinstance(values, np.ndarray):
        array = values
    elif any(value is None for value in values) and all(
        value is None or isinstance(value, int | float) for value in values
    ):
        array = np.array(values, np.float64)
    else:
        try:
            array = np.asarray(values)
        except ValueError:  # lists of unequal length
            array = np.empty(0, object)
    if array.dtype.kind in "biufcmM":
        return array
    if array.dtype.kind in "SU" and array.ndim == 1:
        texts: list[str] = array.astype(str).tolist()
        return texts
    return [v if isinstance(v, str) else json.dumps(v, default=_plain) for v in values]


def column_for(values: Array | list[str], dtype: str | None) -> Column:
    """Return an empty column that takes `values`; `dtype` is event-model's."""
    if isinstance(values, list):
        return TextColumn()
    if dtype == "number" and values.dtype.kind in "iu":
        # Devices describe a number and send 0 until it moves: no conversion later.
        return NumberColumn(np.dtype(np.float64), values.shape[1:])
    return NumberColumn(values.dtype, values.shape[1:])


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
