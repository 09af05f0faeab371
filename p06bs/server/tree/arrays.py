"""Tiled adapter of a column: an array, read in pieces."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from typing import Any

import anyio
import numpy as np
from fastapi import HTTPException
from tiled.adapters.core import Adapter
from tiled.adapters.utils import DataNotReadyError
from tiled.ndslice import NDBlock, NDSlice
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily

from p06bs.bus.frames import FramesMissingError
from p06bs.server.files.detector import DetectorView
from p06bs.server.sink.columns import Array, View
from p06bs.server.sink.places import RowsLostError
from p06bs.server.sink.shares import MIB, Shares
from p06bs.server.tree.live import Watched

RESPONSE_LIMIT = 300_000_000
"""Bytes that one request may read where nobody says how many; Tiled's own number."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is read of a run, bytes.

    Attributes
    ----------
    piece : int
        In which arrays are read. The archive's column files are compressed in batches
        of about so much.
    partition : int
        Of a table.
    limit : int
        What one request may read, in whatever format; more is refused before it is read.
    whole : int
        What one request may read where the response is made as a whole: anything but octets
        of arrays and partitions of tables.
    """

    piece: int = 4 * MIB
    partition: int = 16 * MIB
    limit: int = RESPONSE_LIMIT
    whole: int = RESPONSE_LIMIT

    def of(self, shares: Shares) -> "Sizes":
        """Return the sizes for what lies in the sink: pieces are small where its budget is."""
        return replace(self, piece=shares.piece, partition=shares.partition)


SIZES = Sizes()

Touch = Callable[[], None]

Every = slice
"""The builtin, which a parameter that Tiled calls `slice` hides."""

EVERYTHING = NDSlice()


class ColumnAdapter(Watched, Adapter[ArrayStructure]):
    """Serve a column as an array; the leading axis is the rows."""

    structure_family = StructureFamily.array

    def __init__(
        self,
        view: View,
        touch: Touch,
        metadata: Mapping[str, Any],
        sizes: Sizes = SIZES,
    ) -> None:
        self._sizes = sizes
        self._view = view
        self._touch = touch
        dims = tuple(metadata.get("dims") or ())
        super().__init__(
            ArrayStructure(
                data_type=BuiltinDtype.from_numpy_dtype(view.dtype),
                chunks=(chunked(view.rows, view.rows_per_chunk), *((n,) for n in view.shape)),
                shape=(view.rows, *view.shape),
                dims=("time", *dims) if dims and len(dims) == len(view.shape) else None,
            ),
            metadata=dict(metadata),
        )

    @property
    def dims(self) -> tuple[str, ...] | None:
        dims: tuple[str, ...] | None = self._structure.dims
        return dims

    async def data_sources(self, include_assets: bool = True) -> list[Any]:
        """Return in which files the rows are, as bluesky's TiledWriter says it; none in memory."""
        describe = getattr(self._view, "data_sources", None)
        if describe is None:
            return []
        # A file system is asked, which may be slow.
        return list(await anyio.to_thread.run_sync(describe, self._structure))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return max(1, self._view.dtype.itemsize * prod(self._view.shape))

    def read(self, slice: NDSlice = EVERYTHING) -> Array:
        """Return a slice of the column.

        Raises
        ------
        HTTPException
            400 if this is more than one request may read as a whole.
        """
        shape = NDSlice(*slice).shape_after_slice(self._structure.shape)
        check_size(prod(shape) * self._view.dtype.itemsize, self._sizes.whole)
        return self._read(0, self._view.rows, slice)

    def read_block(self, block: NDBlock, slice: NDSlice = EVERYTHING) -> Array:
        """Return a slice of one chunk of the column."""
        rows = block.slice_from_chunks(self._structure.chunks)[0]
        return self._read(rows.start, rows.stop, slice)

    def pieces(self, slice: NDSlice) -> Iterator[Array]:
        """Yield a slice of the column in consecutive parts along its first axis."""
        self._touch()
        return self._pieces(0, self._view.rows, slice)

    def _read(self, first: int, last: int, slice: NDSlice) -> Array:
        self._touch()
        pieces = self._pieces(first, last, slice)
        one = next(pieces)
        shape = NDSlice(*slice).shape_after_slice((last - first, *self._view.shape))
        if one.shape == shape:
            return one
        whole = np.empty(shape, self._view.dtype)
        row = 0
        for piece in chain([one], pieces):
            whole[row : row + len(piece)] = piece
            row += len(piece)
        return whole

    def _pieces(self, first: int, last: int, slice: NDSlice) -> Iterator[Array]:
        """Yield the parts of a slice of rows `first` to `last - 1`; at least one."""
        rows, *rest = NDSlice(*slice).expand_for_shape((last - first, *self._view.shape))
        picked = range(last - first)[rows]
        if isinstance(picked, int):
            self._check_size(1)
            row = self._rows(first + picked, first + picked + 1)[(0, *rest)]
            yield np.asarray(row, self._view.dtype)  # a single text would lose its width
            return
        # Rows between those that are picked are read, too, where they are close together.
        step = abs(picked.step)
        together = max(1, self._sizes.piece // self.row_bytes // step)
        self._check_size(len(picked) if together == 1 else len(picked) * step)
        if len(picked) > together and isinstance(self._view, DetectorView):
            # What is announced last may not be there; no response begins that could not end.
            last = first + max(picked[0], picked[-1])
            self._rows(last, last + 1)
        for i in range(0, len(picked), together):
            part = picked[i : i + together]
            low, high = min(part[0], part[-1]), max(part[0], part[-1]) + 1
            yield self._rows(first + low, first + high)[(Every(None, None, part.step), *rest)]
        if not picked:
            yield self._rows(first, first)[(Every(None), *rest)]

    def _rows(self, start: int, stop: int) -> Array:
        try:
            return self._view.read(start, stop)
        except (FramesMissingError, RowsLostError) as missing:
            raise DataNotReadyError(str(missing)) from missing

    def _check_size(self, rows: int) -> None:
        """Complain before too much is read: rows are read as a whole."""
        check_size(rows * self.row_bytes, self._sizes.limit)


def check_size(nbytes: int, limit: int) -> None:
    """Refuse to read more of an array than one request may, as Tiled does.

    Raises
    ------
    HTTPException
        400.
    """
    if nbytes > limit:
        raise HTTPException(
            400,
            f"Response would exceed {limit}: this reads {nbytes} bytes. "
            "Use slicing ('?slice=...') to request smaller chunks.",
        )


def parts_of(values: Array, nbytes: int) -> Iterator[Array]:
    """Yield an array in consecutive parts of about so many bytes; at least one."""
    if values.ndim == 0 or values.nbytes <= nbytes:
        yield values
        return
    rows = max(1, nbytes * len(values) // values.nbytes)
    for first in range(0, len(values), rows):
        yield values[first : first + rows]


def chunked(rows: int, size: int) -> tuple[int, ...]:
    """Return the chunks of so many rows, all but the last of one size."""
    whole, rest = divmod(rows, size)
    return (size,) * whole + ((rest,) if rest or not whole else ())
