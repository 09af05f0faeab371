"""Tiled adapters of arrays and tables that services write: what its routers call."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas
from starlette.exceptions import HTTPException
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.core import Adapter
from tiled.ndslice import NDBlock, NDSlice
from tiled.structures.array import ArrayStructure
from tiled.structures.core import StructureFamily
from tiled.structures.table import TableStructure

from p06bs.server.sink.values import Array
from p06bs.server.tree.arrays import EVERYTHING, check_size, parts_of
from p06bs.server.tree.live import Unwatched
from p06bs.server.tree.subscriptions import Look
from p06bs.server.tree.writable import Writable
from p06bs.server.tree.written_arrays import ArrayNode
from p06bs.server.tree.written_tables import TableNode


class WrittenArray(Writable, Adapter[ArrayStructure]):
    """A written array."""

    structure_family = StructureFamily.array

    def __init__(self, node: ArrayNode) -> None:
        self._node: ArrayNode = node
        self.finished = node.finished
        super().__init__(node.structure(), metadata=dict(node.metadata), specs=list(node.specs))

    @property
    def dims(self) -> tuple[str, ...] | None:
        """Names of the axes."""
        return None if self._node.dims is None else tuple(self._node.dims)

    def read(self, slice: NDSlice = EVERYTHING) -> Array:
        """Return a slice of the array."""
        picked = self._picked(slice)
        check_size(picked.nbytes, self._node.tree.sizes.whole)
        return np.array(picked)

    def pieces(self, slice: NDSlice) -> Iterator[Array]:
        """Yield a slice of the array in consecutive parts along its first axis."""
        return parts_of(self._picked(slice), self._node.tree.sizes.piece)

    def _picked(self, slice: NDSlice) -> Array:
        self.touch()
        values = self._node.array()
        picked: Array = np.asarray(values[tuple(NDSlice(*slice).expand_for_shape(values.shape))])
        return picked

    def read_block(self, block: NDBlock, slice: NDSlice = EVERYTHING) -> Array:
        """Return a slice of one chunk of the array."""
        within = block.slice_from_chunks(self._structure.chunks)
        part = self._node.array()[tuple(within)]
        self.touch()
        picked = part[tuple(NDSlice(*slice).expand_for_shape(part.shape))]
        check_size(picked.nbytes, self._node.tree.sizes.limit)
        return np.array(picked)

    def write(
        self, media_type: str, deserializer: Any, entry: Any, body: bytes, persist: bool = True
    ) -> None:
        """Take the whole array."""
        self._node.write(media_type, body)

    def write_block(
        self,
        block: NDBlock,
        media_type: str,
        deserializer: Any,
        entry: Any,
        body: bytes,
        persist: bool = True,
    ) -> None:
        """Take one chunk."""
        self._node.write_block(tuple(block), media_type, body)

    def patch(
        self,
        shape: tuple[int, ...],
        offset: tuple[int, ...],
        extend: bool,
        media_type: str,
        deserializer: Any,
        entry: Any,
        body: bytes,
        persist: bool = True,
    ) -> dict[str, Any]:
        """Take a part, which may make the array longer; return the structure."""
        return asdict(self._node.patch(shape, offset, extend, media_type, body))

    def look(self) -> Look:
        """Return the rows that are written."""
        node = self._node
        self.again()
        if not node.shape:
            raise HTTPException(404, "There are no subscriptions to a single value.")
        view = _ArrayView(node.rows, node.dtype, node.shape[1:], node.array)
        return Look({"": view}, lambda names, start, stop: {}, node.finished)


class _Column(Unwatched, ArrayAdapter):
    """A column of a written table: subscribe to the table."""


class WrittenTable(Writable, Adapter[TableStructure]):
    """A written table."""

    structure_family = StructureFamily.table

    def __init__(self, node: TableNode) -> None:
        self._node: TableNode = node
        self.finished = node.finished
        super().__init__(node.structure(), metadata=dict(node.metadata), specs=list(node.specs))

    def __getitem__(self, column: str) -> ArrayAdapter:
        if column not in self._node.schema.names:
            raise KeyError(column)
        self.touch()
        return _Column.from_array(_plain(self._node.table()[column].to_pandas().to_numpy()))

    def read(self, fields: Sequence[str] | None = None) -> pandas.DataFrame:
        """Return columns, all by default."""
        self.touch()
        table = self._node.table()
        limit = self._node.tree.sizes.whole
        if fields:
            table = table.select(list(dict.fromkeys(fields)))
        if table.nbytes > limit:
            raise HTTPException(
                400,
                f"Response would exceed {limit}: this reads {table.nbytes} bytes. "
                "Select a subset of the columns ('?field=...').",
            )
        return table.to_pandas()

    def read_partition(self, partition: int, fields: Sequence[str] | None = None) -> Any:
        """Return columns of the only partition."""
        if partition != 0:
            raise IndexError(partition)
        return self.read(fields)

    def write(self, media_type: str, deserializer: Any, entry: Any, body: bytes) -> None:
        """Take all rows."""
        self._node.write(media_type, body)

    def write_partition(
        self, media_type: str, deserializer: Any, entry: Any, body: bytes, partition: int
    ) -> None:
        """Take all rows of the only partition."""
        if partition != 0:
            raise HTTPException(422, f"There is no partition {partition}, only 0.")
        self._node.write(media_type, body)

    def append_partition(
        self, media_type: str, deserializer: Any, entry: Any, body: bytes, partition: int
    ) -> None:
        """Take more rows."""
        self._node.append(partition, media_type, body)

    def look(self) -> Look:
        """Return the rows that are written."""
        self.again()
        node = self._node
        table = node.table()
        rows = len(table)
        width = 1 + 2 * table.nbytes // max(1, rows)
        view = _ArrayView(rows, np.dtype(f"V{width}"), (), lambda: np.empty(0))
        return Look(
            dict.fromkeys(table.column_names[:1], view),
            lambda names, start, stop: table[start:stop],
            node.finished,
        )


@dataclass(frozen=True, slots=True)
class _ArrayView:
    """The first `rows` rows of a written array."""

    rows: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    values: Callable[[], Array]
    rows_per_chunk: int = 1

    def read(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop - 1`."""
        return self.values()[start:stop]


def _plain(values: Array) -> Array:
    """Return text as text of a width: Tiled serves no objects."""
    return values.astype(str) if values.dtype.kind == "O" else values
