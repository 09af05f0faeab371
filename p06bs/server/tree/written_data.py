"""Arrays and tables that services write, in memory; checked before anything changes."""

import io
import itertools
import re
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import pyarrow
from starlette.exceptions import HTTPException
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily
from tiled.structures.table import TableStructure
from tiled.utils import APACHE_ARROW_FILE_MIME_TYPE

from p06bs.server.sink.values import Array
from p06bs.server.tree.arrays import chunked
from p06bs.server.tree.written import Node

_INDEX = re.compile(r"__index_level_\d+__")

OCTETS = "application/octet-stream"
MOST_AXES = 16
MOST_PARTS = 64
"""Parts of a table that are kept apart: appending does not copy, reading many is slow."""


class ArrayNode(Node):
    """An array. Its rows, along the first axis, are counted as they are written."""

    family = StructureFamily.array

    def __init__(self, *args: Any, structure: ArrayStructure) -> None:
        super().__init__(*args)
        if not isinstance(structure.data_type, BuiltinDtype):
            raise HTTPException(422, "Arrays of records are not kept here: write a table.")
        self.shape = checked_shape(structure.shape)
        try:
            self.dtype: np.dtype[Any] = structure.data_type.to_numpy_dtype()
            self.chunks = tuple(checked_shape(sizes, 1 << 20) for sizes in structure.chunks)
            if tuple(map(sum, self.chunks)) != self.shape:
                raise ValueError(f"chunks {self.chunks} of {self.shape}")
            self.dims = None if structure.dims is None else tuple(map(str, structure.dims))
            if self.dims is not None and len(self.dims) != len(self.shape):
                raise ValueError(f"dims {self.dims} of {self.shape}")
        except (KeyError, TypeError, ValueError) as error:
            raise HTTPException(422, f"This is no structure of an array: {error}") from error
        self.values: Array | None = None  # with room for more rows
        self.rows = 0
        self._blocks: set[tuple[int, ...]] = set()

    @property
    def data_bytes(self) -> int:
        return 0 if self.values is None else self.values.nbytes

    def size(self, shape: Sequence[int]) -> int:
        """Return the bytes of an array of that shape."""
        return prod(shape) * self.dtype.itemsize

    def decoded(self, media_type: str, body: bytes, shape: tuple[int, ...]) -> Array:
        """Return an array from its bytes."""
        if media_type != OCTETS:
            raise HTTPException(415, f"Arrays are written as {OCTETS}, not as {media_type}.")
        if len(body) != self.size(shape):
            raise HTTPException(
                422,
                f"{shape} of {self.dtype} has {self.size(shape)} bytes, {len(body)} have come.",
            )
        return np.frombuffer(body, self.dtype).reshape(shape)

    def write(self, media_type: str, body: bytes) -> None:
        """Take the whole array."""
        values = self.decoded(media_type, body, self.shape)
        with self.changing(self._needs(self.shape)):
            self._reserve(self.shape)[...] = values
            self.rows = self.shape[0] if self.shape else 1

    def write_block(self, block: tuple[Any, ...], media_type: str, body: bytes) -> None:
        """Take one chunk."""
        if len(block) != len(self.shape) or any(
            not isinstance(i, int) or not 0 <= i < len(sizes)
            for i, sizes in zip(block, self.chunks, strict=False)
        ):
            raise HTTPException(422, f"There is no block {tuple(block)}.")
        starts = [sum(sizes[:i]) for i, sizes in zip(block, self.chunks, strict=True)]
        shape = tuple(sizes[i] for i, sizes in zip(block, self.chunks, strict=True))
        values = self.decoded(media_type, body, shape)
        with self.changing(self._needs(self.shape)):
            where = tuple(slice(a, a + n) for a, n in zip(starts, shape, strict=True))
            self._reserve(self.shape)[where] = values
            self._blocks.add(tuple(block))
            self._count_blocks()

    def patch(
        self,
        shape: tuple[int, ...],
        offset: tuple[int, ...],
        extend: bool,
        media_type: str,
        body: bytes,
    ) -> None:
        """Take a part, which may make the array longer."""
        if len(shape) != len(self.shape) or len(offset) > len(shape):
            raise HTTPException(422, f"A part of {self.shape} has its axes, not {shape}.")
        at = (*offset, *(0 for _ in shape[len(offset) :]))
        checked_shape(shape)
        values = self.decoded(media_type, body, shape)
        ends = tuple(a + n for a, n in zip(at, shape, strict=True))
        whole = tuple(max(n, end) for n, end in zip(self.shape, ends, strict=True))
        checked_shape(whole)
        if whole != self.shape and not extend:
            raise HTTPException(409, f"{ends} is outside of {self.shape}: say extend=true.")
        with self.changing(self._needs(whole)):
            room = self._reserve(whole)
            room[tuple(slice(a, end) for a, end in zip(at, ends, strict=True))] = values
            if whole != self.shape:
                self.shape = whole
                size = self.chunks[0][0] if whole and self.chunks[0] else 1
                self.chunks = (chunked(whole[0], size or 1), *((n,) for n in whole[1:]))
                self._blocks.clear()
            if at and at[0] <= self.rows:
                self.rows = max(self.rows, ends[0])

    def structure(self) -> ArrayStructure:
        """Return the structure as it is now."""
        return ArrayStructure(
            data_type=BuiltinDtype.from_numpy_dtype(self.dtype),
            chunks=self.chunks,
            shape=self.shape,
            dims=self.dims,
        )

    def array(self) -> Array:
        """Return the values; zero where none have been written."""
        values = self.values
        if values is None:
            return np.broadcast_to(np.zeros((), self.dtype), self.shape)
        return values[: self.shape[0]] if self.shape else values

    def _needs(self, shape: tuple[int, ...]) -> int:
        return self.size(self._room(shape))

    def _room(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return what to allocate for a shape; the old one is kept where it is enough."""
        if self.values is None:
            return shape
        held = self.values.shape
        if held[1:] == shape[1:] and (not shape or shape[0] <= held[0]):
            return (0,) * max(1, len(shape))
        return (max(shape[0], held[0] + held[0] // 2), *shape[1:])

    def _reserve(self, shape: tuple[int, ...]) -> Array:
        room = self._room(shape)
        if self.values is None:
            self.values = np.zeros(room, self.dtype)
        elif prod(room):
            grown = np.zeros(room, self.dtype)
            grown[tuple(slice(n) for n in self.shape)] = self.array()
            self.values = grown
        return self.values

    def _count_blocks(self) -> None:
        """Count the rows of which all blocks have been written, from the first on."""
        across = [range(len(sizes)) for sizes in self.chunks[1:]]
        done = 0
        for i, size in enumerate(self.chunks[0] if self.chunks else ()):
            if not all((i, *rest) in self._blocks for rest in itertools.product(*across)):
                break
            done += size
        self.rows = max(self.rows, done)


class TableNode(Node):
    """A table of one partition, to which rows are appended."""

    family = StructureFamily.table

    def __init__(self, *args: Any, structure: TableStructure) -> None:
        super().__init__(*args)
        try:
            self.schema: pyarrow.Schema = structure.arrow_schema_decoded
        except (AttributeError, TypeError, ValueError, OSError, pyarrow.ArrowException) as error:
            raise HTTPException(422, f"This is no Arrow schema: {error}") from error
        if len(set(self.schema.names)) != len(self.schema.names):
            raise HTTPException(422, "Columns of a table have different names.")
        if structure.npartitions != 1:
            raise HTTPException(422, "Tables are kept in one partition: append to it.")
        self.arrow_schema = structure.arrow_schema
        self.columns = list(structure.columns)
        self._parts: list[pyarrow.Table] = []
        self.rows = 0
        self._data_bytes = 0

    @property
    def data_bytes(self) -> int:
        return self._data_bytes

    def write(self, media_type: str, body: bytes) -> None:
        """Take all rows."""
        table = self.decoded(media_type, body)
        with self.changing(table.nbytes):
            self._parts, self.rows, self._data_bytes = [table], len(table), table.nbytes

    def append(self, partition: int, media_type: str, body: bytes) -> None:
        """Take more rows."""
        if partition != 0:
            raise HTTPException(422, f"There is no partition {partition}, only 0.")
        table = self.decoded(media_type, body)
        joining = len(self._parts) >= MOST_PARTS
        with self.changing(table.nbytes + joining * self._data_bytes):
            parts = [*self._parts, table]
            if joining:
                parts = [pyarrow.concat_tables(parts).combine_chunks()]
            self._parts, self.rows = parts, self.rows + len(table)
            self._data_bytes = sum(part.nbytes for part in parts)

    def decoded(self, media_type: str, body: bytes) -> pyarrow.Table:
        """Return rows from an Arrow file, in the columns and types of the table."""
        if media_type != APACHE_ARROW_FILE_MIME_TYPE:
            raise HTTPException(
                415, f"Rows are written as {APACHE_ARROW_FILE_MIME_TYPE}, not as {media_type}."
            )
        try:
            table = pyarrow.ipc.open_file(io.BytesIO(body)).read_all()
            table.validate(full=True)
            # Clients send the index of a data frame, too, where the table has none.
            sent = {name for name in table.column_names if not _INDEX.fullmatch(name)}
            odd = sent ^ {name for name in self.schema.names if not _INDEX.fullmatch(name)}
            if odd:
                raise HTTPException(422, f"The columns are other ones: {', '.join(sorted(odd))}.")
            return table.select(self.schema.names).cast(self.schema)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise HTTPException(422, f"These rows do not fit the table: {error}") from error

    def structure(self) -> TableStructure:
        """Return the structure."""
        return TableStructure(arrow_schema=self.arrow_schema, npartitions=1, columns=self.columns)

    def table(self) -> pyarrow.Table:
        """Return the rows."""
        return pyarrow.concat_tables(self._parts) if self._parts else self.schema.empty_table()


def checked_shape(shape: Any, most: int = MOST_AXES) -> tuple[int, ...]:
    """Return the shape if it is one.

    Raises
    ------
    HTTPException
        422 if it is none.
    """
    if not isinstance(shape, list | tuple) or len(shape) > most or not all(map(_is_length, shape)):
        raise HTTPException(422, f"{str(shape)[:80]} is no shape of an array.")
    return tuple(shape)


def _is_length(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 40
