"""Tiled adapter of a stream's one-dimensional columns: a table in partitions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas
import pyarrow
from fastapi import HTTPException
from tiled.adapters.core import Adapter
from tiled.adapters.utils import DataNotReadyError
from tiled.structures.core import StructureFamily
from tiled.structures.table import TableStructure

from p06bs.server.sink.columns import View
from p06bs.server.sink.places import RowsLostError
from p06bs.server.sink.views import StreamView
from p06bs.server.tree.arrays import SIZES, ColumnAdapter, Sizes, Touch
from p06bs.server.tree.live import Watched

TEXT_BYTES = 160
"""About what a short text takes as a Python object in a table."""

PARTITION_ROWS = 1 << 16

Read = Callable[[Sequence[str], int, int], Mapping[str, Any]]
"""Returns columns by name, rows `start` to `stop - 1`; text may be lists."""


class TableAdapter(Watched, Adapter[TableStructure]):
    """Serve a stream's one-dimensional columns as a table.

    All partitions but the last have the same number of rows, which depends on the
    columns alone: a partition that a client has seen stays what it was.
    """

    structure_family = StructureFamily.table

    def __init__(
        self,
        columns: Mapping[str, View],
        read: Read,
        arrays: Callable[[str], ColumnAdapter],
        touch: Touch,
        sizes: Sizes = SIZES,
    ) -> None:
        self._columns = columns
        self._read = read
        self._arrays = arrays
        self._touch = touch
        self._sizes = sizes
        self._rows = min((view.rows for view in columns.values()), default=0)
        width = sum(map(_bytes_of, columns.values()))
        self._size = max(1, min(PARTITION_ROWS, sizes.partition // width))
        schema = pyarrow.schema((name, _arrow_type(view)) for name, view in columns.items())
        partitions = max(1, -(-self._rows // self._size))
        super().__init__(TableStructure.from_schema(schema, partitions))

    def columns_of(self, stream: StreamView) -> Mapping[str, View]:
        """Return the columns of a stream that are in its table now."""
        return table_of(stream)

    def __getitem__(self, column: str) -> Any:
        if column not in self._columns:
            raise KeyError(column)
        return self.handing(column, self._arrays(column))

    def read(self, fields: list[str] | None = None) -> pandas.DataFrame:
        """Return the columns `fields`, all by default."""
        return self._frame(0, self._rows, fields, self._sizes.whole)

    def read_partition(self, partition: int, fields: list[str] | None = None) -> pandas.DataFrame:
        """Return the columns `fields` of a partition.

        Raises
        ------
        IndexError
            If there is no such partition.
        """
        if not 0 <= partition < max(1, -(-self._rows // self._size)):
            raise IndexError(partition)
        start = partition * self._size
        stop = min(self._rows, start + self._size)
        return self._frame(start, stop, fields, self._sizes.limit)

    def _frame(
        self, start: int, stop: int, fields: list[str] | None, limit: int
    ) -> pandas.DataFrame:
        self._touch()
        names = list(dict.fromkeys(fields or self._columns))
        nbytes = (stop - start) * sum(_bytes_of(self._columns[name]) for name in names)
        _check(nbytes, limit)
        try:
            found = self._read(names, start, stop)
        except RowsLostError as lost:
            raise DataNotReadyError(str(lost)) from lost
        texts = (column for column in found.values() if isinstance(column, list))
        _check(nbytes + sum(len(text) for column in texts for text in column), limit)
        return pandas.DataFrame({name: _plain(found[name]) for name in names})


def table_of(stream: StreamView) -> dict[str, View]:
    """Return the columns of a stream that its table has.

    Tiled reserves leading underscores; Arrow has no complex numbers.
    """
    return {
        name: view
        for name, view in stream.columns.items()
        if name not in stream.external
        and not (view.shape or name.startswith("_"))
        and view.dtype.kind in "biufmMU"
    }


def _check(nbytes: int, limit: int) -> None:
    if nbytes > limit:
        raise HTTPException(
            400,
            f"Response would exceed {limit}: this reads about {nbytes} bytes. "
            "Select a subset of the columns ('?field=...') or read partition by partition.",
        )


def _bytes_of(view: View) -> int:
    return TEXT_BYTES if view.dtype.kind == "U" else int(view.dtype.itemsize)


def _plain(values: Any) -> Any:
    """Return fixed-width text as a list: pandas makes objects of it, and Arrow text."""
    return (
        values.tolist() if isinstance(values, np.ndarray) and values.dtype.kind == "U" else values
    )


def _arrow_type(view: View) -> pyarrow.DataType:
    if view.dtype.kind == "U":
        return pyarrow.string()
    return pyarrow.from_numpy_dtype(view.dtype)
