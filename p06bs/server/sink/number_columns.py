"""Columns of numbers that grow at one end and are let go at the other; see `columns`."""

from math import prod
from typing import Any

import numpy as np

from p06bs.server.sink.absent import AbsentRows
from p06bs.server.sink.allocation import (
    BLOCK_BYTES,
    BLOCK_OVERHEAD,
    CHUNK_BYTES,
    FIRST_ROWS,
    block_of,
)
from p06bs.server.sink.values import (
    NUMBERS,
    Array,
    Rows,
    ShapeError,
    are_gaps,
    exactly,
    gaps,
    is_ragged,
    values_of,
)


class NumberColumn:
    """Numbers, booleans or times of one shape.

    Values of a type that does not fit (a float after integers) change the type of the
    whole column, once, where no value changes by that; else they are refused.

    Parameters
    ----------
    dtype : numpy.dtype
    shape : tuple of int
        One row's.
    chunk, block : int
        Bytes of a chunk as clients see it, and of a block of memory.

    Attributes
    ----------
    first : int
        The first row that is in memory.
    nbytes : int
        Bytes that are allocated, used or not.
    """

    def __init__(
        self,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        *,
        chunk: int = CHUNK_BYTES,
        block: int = BLOCK_BYTES,
    ) -> None:
        self.shape = shape
        self.first = 0
        self.nbytes = 0
        self._absent = AbsentRows()
        self._chunk, self._block = chunk, block
        self._blocks: list[Array] = []
        self._base = 0  # row at which the first block begins
        self._end = 0  # row behind the last block
        self._become(dtype.newbyteorder("="))
        self._size = max(1, block // self._row)  # rows of a block
        self.rows_per_chunk = max(1, chunk // self._row)

    def _become(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._row = max(1, dtype.itemsize * prod(self.shape))

    @property
    def json_width(self) -> int:
        """Characters that a row has as JSON, at most."""
        brackets = 2 * sum(prod(self.shape[:axis]) for axis in range(len(self.shape)))
        return brackets + prod(self.shape) * (26 if self.dtype.kind in "biuf" else 80)

    def fit(self, values: Any, count: int) -> Array | Rows:
        """Return a page's values as `put` takes them; the column does not change.

        Raises
        ------
        ShapeError
            If they are numbers of another shape.
        ValueError, TypeError
            If they are no numbers, or of a type by which a value, here or in the column,
            would change.
        """
        if hasattr(values, "into"):
            return self._fit_rows(values, count)
        if are_gaps(values):
            array: Array | list[str] = gaps((len(values), *self.shape), self.dtype)
        else:
            array = values_of(values)
        if isinstance(array, list):
            if is_ragged(values):
                raise ShapeError(f"rows of several shapes, those before are {self.shape}")
            raise ValueError(f"not numbers: {array[0][:80] if array else array!r}")
        if len(array) != count:
            raise ValueError(f"{len(array)} rows, the page has {count}")
        if array.shape[1:] != self.shape:
            raise ShapeError(f"rows of shape {array.shape[1:]}, those before are {self.shape}")
        if array.dtype == self.dtype:
            return array
        return self._of_other_type(array)

    def _fit_rows(self, rows: Rows, count: int) -> Array | Rows:
        if rows.dtype.kind not in NUMBERS:
            return self.fit(rows.whole(), count)
        if len(rows) != count:
            raise ValueError(f"{len(rows)} rows, the page has {count}")
        if rows.shape[1:] != self.shape:
            raise ShapeError(f"rows of shape {rows.shape[1:]}, those before are {self.shape}")
        if rows.dtype.newbyteorder("=") == self.dtype:
            return rows
        return self.fit(rows.whole(), count)

    def _of_other_type(self, array: Array) -> Array:
        dtype = array.dtype.newbyteorder("=")
        cast = exactly(array, self.dtype)
        if cast is not None:
            return cast
        for wider in (np.result_type(dtype, self.dtype), *map(np.dtype, (np.int64, np.uint64))):
            cast = exactly(array, wider)
            if cast is not None and self._may_become(wider):
                return cast
        raise ValueError(f"values of type {dtype} would change in a column of {self.dtype}")

    def _may_become(self, dtype: np.dtype[Any]) -> bool:
        """Return whether no value in the column changes if it becomes `dtype`."""
        if np.can_cast(self.dtype, dtype, "safe") and self.dtype.itemsize < 8:
            return True
        if self.first and not self._absent.allow(self.dtype, dtype):
            return False
        used = (self._used(i) for i in range(len(self._blocks)))
        return all(exactly(rows, dtype) is not None for rows in used)

    def _used(self, index: int) -> Array:
        """Return the rows of a block that `put` wrote."""
        block = self._blocks[index]
        start = self._base + index * self._size
        return block[max(0, self.first - start) : max(0, self.rows - start)]

    rows = 0
    """Rows that `put` wrote, those of `first` and before included."""

    def needs(self, values: Array | Rows) -> int:
        """Return how many bytes `put` of what `fit` returned would allocate more."""
        stop = self.rows + len(values)
        dtype = values.dtype.newbyteorder("=")
        if dtype == self.dtype:
            return 0 if stop <= self._end else self._plan(stop)[1]
        # While it is converted the column is there twice.
        factor = -(-dtype.itemsize // self.dtype.itemsize)
        return factor * (self.nbytes + self._plan(stop)[1] + self._block)

    def _plan(self, stop: int) -> tuple[list[int], int]:
        """Return the rows of each block that holds rows up to `stop`, and its bytes.

        The first number replaces the last block if that is not a whole one.
        """
        if stop <= self._end:
            return [], 0
        size = self._size
        base = self._base if self._blocks else self.rows // size * size
        rows: list[int] = []
        nbytes = 0
        start = base + max(0, len(self._blocks)) * size
        if self._blocks and len(self._blocks[-1]) < size:
            start -= size
            nbytes -= self._bytes(len(self._blocks[-1]))
        while start < stop:
            wanted = size
            if start == 0:  # short runs are many
                held = len(self._blocks[-1]) if self._blocks else 0
                wanted = min(size, max(stop, 2 * held, FIRST_ROWS))
            rows.append(wanted)
            nbytes += self._bytes(wanted)
            start += size
        return rows, nbytes

    def _bytes(self, rows: int) -> int:
        return rows * self._row + BLOCK_OVERHEAD

    def put(self, values: Array | Rows) -> None:
        """Write rows behind those that are there.

        Raises
        ------
        LogError, OSError
            If `Rows` cannot be read, or there is no memory; `cut` what was written.
        """
        dtype = values.dtype.newbyteorder("=")
        if dtype != self.dtype:
            self._convert(dtype)
        count, row = len(values), self.rows
        self._reserve(row + count)
        done = 0
        while done < count:
            index, offset = divmod(row + done - self._base, self._size)
            target = self._blocks[index][offset : offset + count - done]
            if isinstance(values, np.ndarray):
                target[...] = values[done : done + len(target)]
            else:
                values.into(target, done)
            done += len(target)
        self.rows = row + count

    def cut(self, rows: int) -> None:
        """Take back what was written behind the first `rows` rows."""
        self.rows = rows

    def _note_leaving(self, blocks: int) -> None:
        for index in range(min(blocks, len(self._blocks))):
            self._absent.note(self._used(index))

    def _convert(self, dtype: np.dtype[Any]) -> None:
        if not self.rows:
            self._blocks, self.nbytes, self._end = [], 0, 0
            self._become(dtype)
            self._size = max(1, self._block // self._row)
            self.rows_per_chunk = max(1, self._chunk // self._row)
            return
        converted = []
        for i, block in enumerate(self._blocks):
            converted.append(self._new(len(block), dtype))
            used = self._used(i)
            at = max(0, self.first - self._base - i * self._size)
            converted[i][at : at + len(used)] = used
        # At once: readers see the column in one type or the other.
        self._blocks = converted
        self._become(dtype)
        self.nbytes = sum(self._bytes(len(block)) for block in converted)

    def _new(self, rows: int, dtype: np.dtype[Any]) -> Array:
        raw = block_of(rows * dtype.itemsize * prod(self.shape))
        array: Array = raw.view(dtype).reshape((rows, *self.shape))
        return array

    def _reserve(self, stop: int) -> None:
        if stop <= self._end:
            return
        rows, nbytes = self._plan(stop)
        blocks = [self._new(n, self.dtype) for n in rows]
        if not self._blocks:
            self._base = self.rows // self._size * self._size
        elif len(self._blocks[-1]) < self._size:
            old = self._blocks[-1]
            blocks[0][: len(old)] = old
            self._blocks[-1] = blocks.pop(0)
        self._blocks += blocks
        self.nbytes += nbytes
        whole = (len(self._blocks) - 1) * self._size
        self._end = self._base + whole + len(self._blocks[-1])

    @property
    def oldest_end(self) -> int:
        """Row up to which to `forget` for the oldest block to go."""
        return min(self.rows, self._base + self._size)

    def forget(self, row: int) -> None:
        """Let the blocks go that hold only rows before `row`."""
        if row >= self.rows:
            self._note_leaving(len(self._blocks))
            self._blocks, self.nbytes = [], 0
            self.first = self._end = self.rows
            return
        gone = (row - self._base) // self._size
        if gone > 0:
            self._note_leaving(gone)
            self.nbytes -= sum(self._bytes(len(block)) for block in self._blocks[:gone])
            self._blocks = self._blocks[gone:]
            self._base += gone * self._size
            self.first = max(self.first, self._base)

    def skip(self, values: Array | Rows) -> None:
        """Count rows that are not kept; nothing is in memory."""
        rows = self.rows + len(values)
        self.forget(self.rows)
        self.rows = self.first = self._end = rows
        self._become(values.dtype.newbyteorder("="))
        if isinstance(values, np.ndarray):
            self._absent.note(values)
        else:
            self._absent.note_unseen()

    def skip_gaps(self, rows: int) -> None:
        """Have so many rows before the first one: they have no values."""
        self.rows = self.first = self._end = rows
        self._absent.note_gaps()

    def parts(self, start: int, stop: int) -> list[Array]:
        """Return rows `start` to `stop - 1`, which are in memory, in pieces; no copies."""
        found: list[Array] = []
        blocks = self._blocks
        while start < stop:
            index, offset = divmod(start - self._base, self._size)
            part = blocks[index][offset : offset + stop - start]
            found.append(part)
            start += len(part)
        return found
