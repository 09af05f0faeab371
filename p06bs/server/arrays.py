"""Tiled adapters of columns: an array each, and one table per stream."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas
import pyarrow
from fastapi import HTTPException
from tiled.adapters.core import Adapter
from tiled.adapters.utils import DataNotReadyError
from tiled.ndslice import NDBlock, NDSlice
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily
from tiled.structures.table import TableStructure

from p06bs.bus.frames import FramesMissingError
from p06bs.server.columns import Array, TextView, View
from p06bs.server.live import Watched

RESPONSE_LIMIT = 300_000_000
"""Bytes of one response; more is refused before it is read, not after."""

Touch = Callable[[], None]

Every = slice
"""The builtin, which a parameter that Tiled calls `slice` hides."""

EVERYTHING = NDSlice()


class ColumnAdapter(Watched, Adapter[ArrayStructure]):
    """Serve a column as an array; the leading axis is the rows."""

    structure_family = StructureFamily.array

    def __init__(self, view: View, touch: Touch, metadata: Mapping[str, Any]) -> None:
        self._view = view
        self._touch = touch
        dims = tuple(metadata.get("dims") or ())
        super().__init__(
            ArrayStructure(
                data_type=BuiltinDtype.from_numpy_dtype(view.dtype),
                chunks=(_chunks(view.rows, view.rows_per_chunk), *((n,) for n in view.shape)),
                shape=(view.rows, *view.shape),
                dims=("time", *dims) if dims and len(dims) == len(view.shape) else None,
            ),
            metadata=dict(metadata),
        )

    @property
    def dims(self) -> tuple[str, ...] | None:
        dims: tuple[str, ...] | None = self._structure.dims
        return dims

    def read(self, slice: NDSlice = EVERYTHING) -> Array:
        """Return a slice of the column."""
        return self._read(0, self._view.rows, slice)

    def read_block(self, block: NDBlock, slice: NDSlice = EVERYTHING) -> Array:
        """Return a slice of one chunk of the column."""
        rows = block.slice_from_chunks(self._structure.chunks)[0]
        return self._read(rows.start, rows.stop, slice)

    def _read(self, first: int, last: int, slice: NDSlice) -> Array:
        """Read no more rows than the slice needs."""
        self._touch()
        rows, *rest = NDSlice(*slice).expand_for_shape((last - first, *self._view.shape))
        picked = range(last - first)[rows]
        if isinstance(picked, int):
            low, high = picked, picked + 1
            within: int | Every = 0
        elif not len(picked):
            low, high, within = 0, 0, rows
        else:
            low, high = min(picked), max(picked) + 1
            within = Every(None, None, picked.step)
        self._check_size(high - low)
        try:
            values = self._view.read(first + low, first + high)
        except FramesMissingError as missing:
            raise DataNotReadyError(str(missing)) from missing
        picks: Array = values[(within, *rest)]
        return picks

    def _check_size(self, rows: int) -> None:
        nbytes = rows * self._view.dtype.itemsize
        for n in self._view.shape:
            nbytes *= n
        if nbytes > RESPONSE_LIMIT:
            raise HTTPException(
                400,
                f"This needs {nbytes} bytes at once, the limit is {RESPONSE_LIMIT}: "
                "ask for fewer rows with ?slice=start:stop.",
            )


class TableAdapter(Watched, Adapter[TableStructure]):
    """Serve a stream's one-dimensional columns as a table of one partition."""

    structure_family = StructureFamily.table

    def __init__(
        self, columns: Mapping[str, View], arrays: Callable[[str], ColumnAdapter], touch: Touch
    ) -> None:
        self._columns = columns
        self._arrays = arrays
        self._touch = touch
        schema = pyarrow.schema((name, _arrow_type(view)) for name, view in columns.items())
        super().__init__(TableStructure.from_schema(schema))

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self._columns)

    def __getitem__(self, column: str) -> ColumnAdapter:
        if column not in self._columns:
            raise KeyError(column)
        return self._arrays(column)

    def read(self, fields: list[str] | None = None) -> pandas.DataFrame:
        """Return the columns `fields`, all by default."""
        self._touch()
        return pandas.DataFrame(
            {name: _series(self._columns[name]) for name in fields or self._columns}
        )

    def read_partition(self, partition: int, fields: list[str] | None = None) -> pandas.DataFrame:
        """Return the columns `fields` of the only partition."""
        if partition != 0:
            raise IndexError(partition)
        return self.read(fields)


def _arrow_type(view: View) -> pyarrow.DataType:
    if view.dtype.kind == "U":
        return pyarrow.string()
    return pyarrow.from_numpy_dtype(view.dtype)


def _series(view: View) -> Any:
    if isinstance(view, TextView):
        return view.texts[: view.rows]
    return view.read(0, view.rows)


def _chunks(rows: int, size: int) -> tuple[int, ...]:
    whole, rest = divmod(rows, size)
    return (size,) * whole + ((rest,) if rest or not whole else ())
