"""Columns of text that grow at one end and are let go at the other; see `columns`."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from p06bs.server.sink.allocation import (
    BLOCK_BYTES,
    BLOCK_OVERHEAD,
    CHUNK_BYTES,
    FIRST_ROWS,
    block_of,
)
from p06bs.server.sink.values import Array, text_of, values_of

TEXT_ROWS = 4096
"""Rows of a chunk of text, and of a block of it, at most."""
_SMALLEST = 256


@dataclass(frozen=True, slots=True)
class Packed:
    """Texts as UTF-8, one behind the other."""

    texts: list[bytes]
    width: int
    """Characters of the longest."""

    def __len__(self) -> int:
        return len(self.texts)


class _TextBlock:
    """Consecutive texts: UTF-8 in `data`, text i ending at ``ends[i]``."""

    __slots__ = ("capacity", "count", "data", "ends", "first", "used")

    def __init__(self, first: int, capacity: int) -> None:
        self.first = first
        self.count = self.used = 0
        self.capacity = capacity
        self.data = block_of(capacity)
        self.ends: Array = np.empty(FIRST_ROWS, np.uint32)

    @property
    def nbytes(self) -> int:
        return self.capacity + self.ends.nbytes + 2 * BLOCK_OVERHEAD


class TextColumn:
    """Text of any length, held as UTF-8.

    As an array it is as wide as the longest text so far, rounded up to a power of two:
    it changes seldom, because a client that holds an older width must fetch the
    column's structure again. Wide text has fewer rows per chunk.
    """

    shape: tuple[int, ...] = ()

    def __init__(self, *, chunk: int = CHUNK_BYTES, block: int = BLOCK_BYTES) -> None:
        self.nbytes = 0
        self.first = 0
        self.rows = 0
        self._chunk, self._block = chunk, block
        self._blocks: list[_TextBlock] = []
        self._width = 16

    @property
    def dtype(self) -> np.dtype[Any]:
        """Fixed-width unicode."""
        return np.dtype(f"<U{self._width}")

    @property
    def rows_per_chunk(self) -> int:
        """Rows of a chunk as clients see it."""
        return max(1, min(TEXT_ROWS, self._chunk // (4 * self._width)))

    def fit(self, values: Any, count: int) -> Packed:
        """Return a page's values as `put` takes them: what is no text as JSON.

        Raises
        ------
        ValueError, TypeError
            If their number is wrong, or a value is neither text nor JSON.
        """
        if hasattr(values, "into"):
            values = values.whole()
        texts = [text_of(v) for v in values] if isinstance(values, list) else values_of(values)
        if not isinstance(texts, list):
            texts = [text_of(value) for value in texts.tolist()]
        if len(texts) != count:
            raise ValueError(f"{len(texts)} rows, the page has {count}")
        return Packed([text.encode() for text in texts], max(map(len, texts), default=0))

    def needs(self, values: Packed) -> int:
        """Return how many bytes `put` would allocate more, at most."""
        last = self._blocks[-1] if self._blocks else None
        used, filled = (last.used, last.count) if last is not None else (0, 0)
        used, filled = used + sum(map(len, values.texts)), filled + len(values)
        if last is not None and used <= last.capacity and filled <= len(last.ends):
            return 0
        first = last.first == 0 if last is not None else not self.rows
        if first and used <= self._block and filled <= TEXT_ROWS:  # it doubles
            return 2 * used + 8 * max(filled, FIRST_ROWS) + _SMALLEST + 2 * BLOCK_OVERHEAD
        blocks = 2 + 2 * used // self._block + filled // TEXT_ROWS
        return used + blocks * (self._block + 4 * TEXT_ROWS + 2 * BLOCK_OVERHEAD)

    def put(self, values: Packed) -> None:
        """Write texts behind those that are there.

        Raises
        ------
        OSError
            If there is no memory; `cut` what was written.
        """
        texts, done = values.texts, 0
        while done < len(texts):
            last = self._blocks[-1] if self._blocks else None
            if last is None or not self._fits(last, len(texts[done])):
                last = self._open(len(texts[done]))
            rest = texts[done : done + len(last.ends) - last.count]
            ends = list(accumulate(map(len, rest), initial=last.used))
            count = bisect_right(ends, last.capacity) - 1
            if ends[count] > last.used:
                joined = rest[0] if count == 1 else b"".join(rest[:count])
                last.data[last.used : ends[count]] = np.frombuffer(joined, np.uint8)
            last.ends[last.count : last.count + count] = ends[1 : count + 1]
            last.used = ends[count]
            last.count += count
            done += count
            self.rows += count
        self._widen(values.width)

    def cut(self, rows: int) -> None:
        """Take back what was written behind the first `rows` rows."""
        self.rows = rows
        while self._blocks and self._blocks[-1].first >= max(1, rows):
            self.nbytes -= self._blocks.pop().nbytes
        if self._blocks:
            last = self._blocks[-1]
            last.count = rows - last.first
            last.used = int(last.ends[last.count - 1]) if last.count else 0

    def _fits(self, block: _TextBlock, nbytes: int) -> bool:
        """Return whether a text can go into the last block, which grows if it is small."""
        if block.count == TEXT_ROWS:
            return False
        if block.used + nbytes > block.capacity:
            if block.used + nbytes > self._block:
                return False
            wanted = min(self._block, max(2 * block.capacity, block.used + nbytes))
            data = block_of(wanted)
            data[: block.used] = block.data[: block.used]
            self.nbytes += wanted - block.capacity
            block.data, block.capacity = data, wanted
        if block.count == len(block.ends):
            ends = np.empty(min(TEXT_ROWS, 2 * block.count), np.uint32)
            ends[: block.count] = block.ends
            self.nbytes += ends.nbytes - block.ends.nbytes
            block.ends = ends
        return True

    def _open(self, nbytes: int) -> _TextBlock:
        capacity = max(nbytes, _SMALLEST if not self.rows else self._block)
        block = _TextBlock(self.rows, capacity)
        self._blocks.append(block)
        self.nbytes += block.nbytes
        return block

    @property
    def oldest_end(self) -> int:
        """Row up to which to `forget` for the oldest block to go."""
        return self._blocks[0].first + self._blocks[0].count if self._blocks else self.rows

    def forget(self, row: int) -> None:
        """Let the blocks go that hold only rows before `row`."""
        gone = 0
        while gone < len(self._blocks):
            block = self._blocks[gone]
            if block.first + block.count > row:
                break
            self.nbytes -= block.nbytes
            gone += 1
        self._blocks = self._blocks[gone:]
        self.first = self._blocks[0].first if self._blocks else self.rows

    def skip(self, values: Packed) -> None:
        """Count texts that are not kept; nothing is in memory."""
        self.skip_rows(self.rows + len(values), values.width)

    def skip_rows(self, rows: int, width: int) -> None:
        """Have so many rows, none of which is kept, of at most `width` characters."""
        self.rows = rows
        self.forget(rows)
        self._widen(width)

    def _widen(self, width: int) -> None:
        while self._width < width:
            self._width *= 2

    def parts(self, start: int, stop: int) -> list[tuple[Array, Array, int, int]]:
        """Return where rows `start` to `stop - 1` lie: data, ends, first and last of them."""
        found = []
        firsts = [block.first for block in self._blocks]
        at = bisect_right(firsts, start) - 1
        while start < stop:
            block = self._blocks[at]
            low, high = start - block.first, min(stop - block.first, block.count)
            found.append((block.data, block.ends, low, high))
            start, at = block.first + high, at + 1
        return found


def texts_of(parts: Sequence[tuple[Array, Array, int, int]]) -> list[str]:
    """Return the texts that `TextColumn.parts` says the places of."""
    texts: list[str] = []
    for data, ends, low, high in parts:
        if low == high:
            continue
        bounds = [int(ends[low - 1]) if low else 0, *ends[low:high].tolist()]
        raw = data[bounds[0] : bounds[-1]].tobytes()
        shift = bounds[0]
        texts += [raw[a - shift : b - shift].decode() for a, b in pairwise(bounds)]
    return texts
