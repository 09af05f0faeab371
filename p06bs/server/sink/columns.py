"""Columns that grow at one end and are let go at the other, and what readers see of them.

Rows that are there stay as they are, so what was read stays right however the column
grows. Its memory is in blocks: a large column is never copied to grow, and its oldest
rows go block by block. The number of rows per chunk, as clients see them, is fixed when
a column of numbers is made: chunk boundaries that a client has seen stay valid.

A column is written by one thread. `forget` is called under the lock under which readers
take `parts`.
"""

from typing import Any, Protocol

import numpy as np

from p06bs.server.sink.number_columns import NumberColumn
from p06bs.server.sink.text_columns import Packed, TextColumn, texts_of
from p06bs.server.sink.values import Array, Rows

__all__ = [
    "Array",
    "Column",
    "NumberColumn",
    "Packed",
    "Rows",
    "TextColumn",
    "View",
    "texts_of",
]

Column = NumberColumn | TextColumn


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
