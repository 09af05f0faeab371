"""What readers see of a stream and its columns: so many rows, whatever comes meanwhile."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from p06bs.server.sink.columns import View
from p06bs.server.sink.stream_log import Values
from p06bs.server.sink.values import Array

if TYPE_CHECKING:
    from p06bs.server.sink.stream import Stream


@dataclass(frozen=True, slots=True)
class EventColumn:
    """The first `rows` rows of a column; `shape` is one row's."""

    stream: "Stream"
    name: str
    rows: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows_per_chunk: int

    @property
    def is_text(self) -> bool:
        """Whether it holds text; as an array it is as wide as the longest so far."""
        return self.dtype.kind == "U"

    def read(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop - 1`, shape ``(stop - start, *shape)``.

        Raises
        ------
        RowsLostError
            If they are not in memory, and cannot be read from the log.
        """
        return np.asarray(self.values(start, stop), self.dtype)

    def values(self, start: int, stop: int) -> Values:
        """Return rows `start` to `stop - 1`; text as a list."""
        return self.stream.read({self.name: self}, start, min(stop, self.rows))[self.name]


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream at one moment: all its event columns have the same rows."""

    metadata: Mapping[str, Any]
    columns: Mapping[str, View]
    external: frozenset[str]
    stream: "Stream | None" = None

    def description(self, name: str) -> Mapping[str, Any]:
        """Return what the descriptor says of a column."""
        if self.stream is not None:
            return self.stream.described.description(name)
        keys = self.metadata["data_keys"]
        return keys.get(name) or keys.get(name.removesuffix("_")) or {}

    def read(self, names: Iterable[str], start: int, stop: int) -> dict[str, Values]:
        """Return rows `start` to `stop - 1` of several event columns; text may be lists.

        Where rows are not in memory this is much quicker than column by column.

        Raises
        ------
        RowsLostError
            If they are not in memory, and cannot be read from the log.
        """
        wanted = list(names)
        if self.stream is None:
            return {name: self.columns[name].read(start, stop) for name in wanted}
        return self.stream.read({name: self.columns[name] for name in wanted}, start, stop)
