"""Arrays that services write, in memory; checked before anything changes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily

from p06bs.server.sink.retention import NoRoomError
from p06bs.server.sink.values import NUMBERS, Array
from p06bs.server.tree.arrays import chunked
from p06bs.server.tree.written import Node, Room

OCTETS = "application/octet-stream"
MOST_AXES = 16
MOST_CHUNKS = 1 << 14
CHUNK_OVERHEAD, WRITTEN_OVERHEAD = 40, 200
"""What Python keeps about a chunk, and of one that has been written."""


class ArrayNode(Node):
    """An array. Its rows, along the first axis, are counted as they are written."""

    family = StructureFamily.array

    def __init__(self, *args: Any, structure: ArrayStructure) -> None:
        super().__init__(*args)
        self._structure, self.dtype = checked(structure, self.tree.sink.shares.held)
        self.values: Array | None = None  # with room for more rows
        self.rows = 0
        self._blocks: set[tuple[int, ...]] = set()
        self._in_row: Counter[int] = Counter()
        self._ahead: dict[int, int] = {}  # rows written behind others that are not: first, end

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(self._structure.shape)

    @property
    def dims(self) -> tuple[str, ...] | None:
        """Names of the axes."""
        dims = self._structure.dims
        return None if dims is None else tuple(dims)

    @property
    def data_bytes(self) -> int:
        values = 0 if self.values is None else self.values.nbytes
        chunks = sum(map(len, self._structure.chunks))
        return (
            values
            + CHUNK_OVERHEAD * chunks
            + WRITTEN_OVERHEAD * (len(self._blocks) + len(self._ahead))
        )

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
        with self.changing() as room:
            values = self.decoded(media_type, body, self.shape)
            self._reserve(self.shape, room)[...] = values
            self._count_rows(0, self.shape[0] if self.shape else 1)

    def write_block(self, block: tuple[Any, ...], media_type: str, body: bytes) -> None:
        """Take one chunk."""
        with self.changing() as room:
            chunks = self._structure.chunks
            if len(block) != len(chunks) or any(
                not isinstance(i, int) or not 0 <= i < len(sizes)
                for i, sizes in zip(block, chunks, strict=False)
            ):
                raise HTTPException(422, f"There is no block {tuple(block)}.")
            starts = [sum(sizes[:i]) for i, sizes in zip(block, chunks, strict=True)]
            shape = tuple(sizes[i] for i, sizes in zip(block, chunks, strict=True))
            values = self.decoded(media_type, body, shape)
            where = tuple(slice(a, a + n) for a, n in zip(starts, shape, strict=True))
            self._reserve(self.shape, room)[where] = values
            if block:
                self._count_block(block, starts[0])
            else:
                self._count_rows(0, 1)

    def patch(
        self,
        shape: tuple[int, ...],
        offset: tuple[int, ...],
        extend: bool,
        media_type: str,
        body: bytes,
    ) -> ArrayStructure:
        """Take a part, which may make the array longer; return what it is then."""
        with self.changing() as room:
            if len(shape) != len(self.shape) or len(offset) > len(shape):
                raise HTTPException(422, f"A part of {self.shape} has its axes, not {shape}.")
            at = checked_shape((*offset, *(0 for _ in shape[len(offset) :])))
            values = self.decoded(media_type, body, checked_shape(shape))
            ends = tuple(a + n for a, n in zip(at, shape, strict=True))
            whole = checked_shape(tuple(map(max, self.shape, ends)))
            if whole != self.shape and not extend:
                raise HTTPException(409, f"{ends} is outside of {self.shape}: say extend=true.")
            target = self._reserve(whole, room)
            target[tuple(slice(a, end) for a, end in zip(at, ends, strict=True))] = values
            if whole != self.shape:
                self._become(whole)
            self._count_rows(*((at[0], ends[0]) if at else (0, 1)))
            return self._structure

    def structure(self) -> ArrayStructure:
        """Return the structure as it is now."""
        return self._structure

    def array(self) -> Array:
        """Return the values; zero where none have been written."""
        structure, values = self._structure, self.values  # values have room for the structure
        if values is None:
            return np.broadcast_to(np.zeros((), self.dtype), structure.shape)
        return values[tuple(map(slice, structure.shape))]

    def _become(self, shape: tuple[int, ...]) -> None:
        """Take another shape, with chunks of the same rows, or more where they would be many."""
        rows = max(1, self._structure.chunks[0][0])
        while shape[0] > MOST_CHUNKS * rows:
            rows *= 2
        chunks = (chunked(shape[0], rows), *((n,) for n in shape[1:]))
        self._structure = replace(self._structure, shape=shape, chunks=chunks)
        self._blocks.clear()
        self._in_row.clear()

    def _reserve(self, shape: tuple[int, ...], room: Room) -> Array:
        """Return an array with room for a shape, in which the values are.

        It grows by half along the axes that grow, so that many small parts copy it seldom,
        as long as there is memory for that.
        """
        held = self.values
        there = shape if held is None else held.shape
        if held is not None and all(n <= m for n, m in zip(shape, there, strict=True)):
            return held
        wanted = tuple(
            m if n <= m else max(n, m + m // 2) for n, m in zip(shape, there, strict=True)
        )
        try:
            room(self.size(wanted))  # for a moment it is there twice
        except NoRoomError:
            wanted = tuple(map(max, shape, self.shape))
            room(self.size(wanted))
        values: Array = np.zeros(wanted, self.dtype)
        if held is not None:
            values[tuple(map(slice, self.shape))] = self.array()
        self.values = values
        return values

    def _count_block(self, block: tuple[int, ...], first: int) -> None:
        """Count the rows of a block, which begins at row `first`, when all beside it are there."""
        if block in self._blocks:
            return
        self._blocks.add(block)
        sizes, *across = self._structure.chunks
        self._in_row[block[0]] += 1
        if self._in_row[block[0]] == prod(map(len, across)):
            self._count_rows(first, first + sizes[block[0]])

    def _count_rows(self, first: int, end: int) -> None:
        """Count rows that are there, as far as none before them is missing."""
        if first > self.rows:
            self._ahead[first] = max(end, self._ahead.get(first, 0))
            return
        self.rows = max(self.rows, end)
        for start in sorted(self._ahead):
            if start > self.rows:
                break
            self.rows = max(self.rows, self._ahead.pop(start))


def checked(structure: ArrayStructure, most: int) -> tuple[ArrayStructure, np.dtype[Any]]:
    """Return the structure of an array that can be written, and its type.

    Parameters
    ----------
    most : int
        Bytes that it may have.

    Raises
    ------
    HTTPException
        422 if it is none, 413 if it is larger.
    """
    if not isinstance(structure.data_type, BuiltinDtype):
        raise HTTPException(422, "Arrays of records are not kept here: write a table.")
    shape = checked_shape(structure.shape)
    try:
        dtype = structure.data_type.to_numpy_dtype()
        if dtype.kind not in NUMBERS + "SU" or not dtype.itemsize:
            raise ValueError(f"elements of type {dtype}")
        if len(structure.chunks) != len(shape):
            raise ValueError(f"chunks along {len(structure.chunks)} axes, shape {shape}")
        chunks = tuple(checked_shape(sizes, MOST_CHUNKS) for sizes in structure.chunks)
        if tuple(map(sum, chunks)) != shape:
            raise ValueError(f"chunks that do not add up to {shape}")
        if prod(map(len, chunks)) > MOST_CHUNKS:
            raise ValueError(f"{prod(map(len, chunks))} chunks, at most {MOST_CHUNKS} are kept")
        dims = None if structure.dims is None else tuple(map(str, structure.dims))
        if dims is not None and len(dims) != len(shape):
            raise ValueError(f"{len(dims)} dims, shape {shape}")
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise HTTPException(422, f"This is no structure of an array: {error}") from error
    nbytes = prod(shape) * dtype.itemsize
    if nbytes > most:
        raise HTTPException(
            413, f"The server's memory is too small: {nbytes} bytes, runs may hold {most}."
        )
    return ArrayStructure(BuiltinDtype.from_numpy_dtype(dtype), chunks, shape, dims), dtype


def checked_shape(shape: Any, most: int = MOST_AXES) -> tuple[int, ...]:
    """Return the shape, of at most so many axes, if it is one.

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
