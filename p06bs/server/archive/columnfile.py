"""Column files: the rows of a stream's columns in an Arrow file, read in part.

Arrow IPC ("Feather") with record batches of equal numbers of rows, compressed: rows and
columns are read without the rest, a file of any length is written in bounded memory, and
pandas, R or Julia read it without us. How a column's values lie in it:

=========  ===================  ===================================================
kind       Arrow type           values
=========  ===================  ===================================================
numbers    the same type        numbers and booleans, one per row
numbers    FixedSizeList of it  arrays of one shape, flattened
numbers    int64, or lists      times (their count of units), complex (pairs)
text       string               text
json       string               everything else, as JSON
=========  ===================  ===================================================

Shape and numpy's dtype are in `Layout`, which is kept beside the files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow

from p06bs.bus.closing import Closing
from p06bs.server.archive.location import missing

Array = npt.NDArray[Any]

BATCH_BYTES = 1 << 22
"""Aim of the size of a record batch, bytes before compression."""
BATCH_ROWS = 1 << 16
"""Rows of a record batch at most."""

Kind = Literal["numbers", "text", "json"]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a column holds.

    Attributes
    ----------
    dtype : str
        numpy's name of the type of an element; of text, as wide as the longest one.
    shape : tuple of int
        Of one row.
    """

    kind: Kind
    dtype: str
    shape: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in memory, about."""
        return max(1, np.dtype(self.dtype).itemsize * prod(self.shape))


def batch_rows(layouts: Mapping[str, Layout], row_bytes: int = 0) -> int:
    """Return how many rows of these columns make a record batch.

    `row_bytes` says how long a row of theirs is on average where that is more than the
    layouts tell, because of text.
    """
    row = max(row_bytes, sum(layout.row_bytes for layout in layouts.values()))
    return int(min(BATCH_ROWS, max(1, BATCH_BYTES // max(1, row))))


class ColumnFileWriter(Closing):
    """Write columns that get their rows together.

    Parameters
    ----------
    path : Path
        Of the file, which is new.
    layouts : mapping
        What the columns hold, by name; how wide text is need not be known.
    rows_per_batch : int
        Rows of each record batch, the last one excepted.

    Attributes
    ----------
    widths : dict of str to int
        Length of the longest text of each column of text so far.
    """

    def __init__(self, path: Path, layouts: Mapping[str, Layout], rows_per_batch: int) -> None:
        self.widths = {name: 1 for name, one in layouts.items() if one.kind != "numbers"}
        self._layouts = layouts
        self._rows_per_batch = rows_per_batch
        self._waiting: dict[str, list[pyarrow.Array]] = {name: [] for name in layouts}
        self._count = 0
        self._schema = pyarrow.schema((n, _arrow_type(one)) for n, one in layouts.items())
        self._file = pyarrow.OSFile(str(path), "wb")
        # Threads cost a small run more than its compression, and bring a large one nothing.
        options = pyarrow.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
        self._writer = pyarrow.ipc.new_file(self._file, self._schema, options=options)

    def append(self, columns: Mapping[str, Array | Sequence[str]]) -> None:
        """Append rows: an array of shape ``(n, *shape)``, or `n` texts, for each column."""
        rows = 0
        for name, layout in self._layouts.items():
            values = _arrow_array(columns[name], layout)
            rows = len(values)
            if name in self.widths:
                self.widths[name] = max([self.widths[name], *map(len, columns[name])])
            self._waiting[name].append(values)
        self._count += rows
        if self._count >= self._rows_per_batch:
            self._flush(self._rows_per_batch)

    def close(self) -> None:
        """Write the rest and close the file; the caller syncs it."""
        if self._count:
            self._flush(1)
        self._writer.close()
        self._file.close()

    def _flush(self, least: int) -> None:
        """Write whole batches while there are `least` rows."""
        chunks = [pyarrow.chunked_array(waiting) for waiting in self._waiting.values()]
        table = pyarrow.Table.from_arrays(chunks, schema=self._schema)
        start = 0
        while self._count - start >= max(1, least):
            batch = table.slice(start, self._rows_per_batch).combine_chunks()
            self._writer.write_table(batch, max_chunksize=self._rows_per_batch)
            start += len(batch)
        self._count -= start
        rest = table.slice(start)
        for name, waiting in self._waiting.items():
            # A copy, so that the rest does not keep what was written in memory.
            waiting[:] = [pyarrow.concat_arrays(rest[name].chunks)] if self._count else []


@dataclass(frozen=True, slots=True)
class ColumnView:
    """A column in a column file."""

    path: Path
    name: str
    layout: Layout
    rows: int
    rows_per_chunk: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.layout.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @property
    def is_text(self) -> bool:
        """Whether it holds text; as an array it is as wide as the longest."""
        return self.layout.kind != "numbers"

    def read(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop - 1`; text as fixed-width unicode."""
        return np.asarray(self.values(start, stop), self.dtype)

    def values(self, start: int, stop: int) -> Array | list[str]:
        """Return rows `start` to `stop - 1`; text as a list."""
        return read_columns({self.name: self}, start, stop)[self.name]


def read_columns(
    views: Mapping[str, ColumnView], start: int, stop: int
) -> dict[str, Array | list[str]]:
    """Return rows `start` to `stop - 1` of columns of one stream; text as lists."""
    found: dict[str, Array | list[str]] = {}
    for path in {view.path for view in views.values()}:
        same = {name: view for name, view in views.items() if view.path == path}
        parts = list(_read_batches(list(same.values()), start, stop))
        for name, view in same.items():
            arrays = [part.column(view.name) for part in parts]
            if view.is_text:
                found[name] = [text for array in arrays for text in array.to_pylist()]
            else:
                numbers = [_numpy_array(array, view.layout) for array in arrays]
                none = np.empty((0, *view.shape), view.dtype)
                found[name] = numbers[0] if len(numbers) == 1 else np.concatenate([none, *numbers])
    return found


def _read_batches(
    views: Sequence[ColumnView], start: int, stop: int
) -> Iterator[pyarrow.RecordBatch]:
    """Yield rows `start` to `stop - 1` of columns of one file.

    Only the batches that hold them are read, and of these only the columns.

    Raises
    ------
    HTTPException
        If the file is missing, see `missing`.
    """
    like = views[0]
    stop = min(stop, like.rows)
    if start >= stop:
        return
    names = [view.name for view in views]
    try:
        opened = pyarrow.OSFile(str(like.path))
    except FileNotFoundError:
        raise missing(like.path.parent) from None
    with opened as file:
        schema = pyarrow.ipc.open_file(file).schema
        fields = sorted(schema.get_field_index(name) for name in names)
        reader = pyarrow.ipc.open_file(
            file, options=pyarrow.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        )
        size = like.rows_per_chunk
        for index in range(start // size, -(-stop // size)):
            first = index * size
            batch = reader.get_batch(index)
            low, high = max(start - first, 0), min(stop - first, len(batch))
            yield batch.slice(low, high - low)


def _arrow_type(layout: Layout) -> pyarrow.DataType:
    if layout.kind != "numbers":
        return pyarrow.string()
    dtype = np.dtype(layout.dtype)
    if dtype.kind == "c":
        return pyarrow.list_(_element(dtype), 2 * prod(layout.shape))
    return pyarrow.list_(_element(dtype), prod(layout.shape)) if layout.shape else _element(dtype)


def _element(dtype: np.dtype[Any]) -> pyarrow.DataType:
    if dtype.kind in "mM":
        return pyarrow.int64()
    if dtype.kind == "c":
        dtype = np.dtype(f"f{dtype.itemsize // 2}")
    return pyarrow.from_numpy_dtype(dtype)


def _arrow_array(values: Array | Sequence[str], layout: Layout) -> pyarrow.Array:
    kind = _arrow_type(layout)
    if layout.kind != "numbers":
        return pyarrow.array(values, kind)
    dtype = np.dtype(layout.dtype)
    rows = np.ascontiguousarray(values, dtype)
    flat = rows.reshape(-1)
    if dtype.kind in "mM":
        flat = flat.view(np.int64)
    elif dtype.kind == "c":
        flat = flat.view(f"f{dtype.itemsize // 2}")
    elements = pyarrow.array(flat)
    if not pyarrow.types.is_fixed_size_list(kind):
        return elements
    if not kind.list_size:
        return pyarrow.array([[]] * len(rows), kind)
    return pyarrow.FixedSizeListArray.from_arrays(elements, type=kind)


def _numpy_array(values: pyarrow.Array, layout: Layout) -> Array:
    dtype = np.dtype(layout.dtype)
    count = len(values)
    if pyarrow.types.is_fixed_size_list(values.type):
        values = values.flatten()
    flat = values.to_numpy(zero_copy_only=False)
    if dtype.kind in "mMc":
        flat = flat.view(dtype)
    shaped: Array = flat.astype(dtype, copy=False).reshape((count, *layout.shape))
    return shaped
