"""Columns whose rows lie in HDF5 files: announced by stream_datum, read when asked for."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from p06bs.bus.frames import FrameReader
from p06bs.model.documents import Document
from p06bs.model.modality import BoundInput
from p06bs.server.sink.values import Array

CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive rows of one stream resource: indices `start` to `stop - 1`."""

    resource: Document
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class ExternalView:
    """Rows that lie in HDF5 files and are read when asked for."""

    segments: tuple[Segment, ...]
    rows: int
    rows_per_chunk: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    data_key: str

    def read(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop - 1`.

        Raises
        ------
        FramesMissingError
            If they are announced and not in the file yet.
        OSError, ValueError
            If the file cannot be read or does not hold what the descriptor says.
        """
        bound = BoundInput("", self.data_key, True, self.shape, self.shape, self.dtype.str)
        parts = []
        first = 0
        with FrameReader(deadline=0.0) as reader:
            for segment in self.segments:
                low, high = max(start, first), min(stop, first + segment.stop - segment.start)
                if low < high:
                    at = segment.start + low - first
                    rows = reader(segment.resource, at, high - low, bound)
                    parts.append(rows.reshape((high - low, *self.shape)))
                first += segment.stop - segment.start
        if not parts:
            return np.empty((0, *self.shape), self.dtype)
        return np.concatenate(parts).astype(self.dtype, copy=False)


class ExternalColumn:
    """The rows that stream_datum documents announced, in their order."""

    SEGMENT_BYTES = 192
    """What Python keeps about a segment."""

    def __init__(self, data_key: str, description: Document, chunk: int = CHUNK_BYTES) -> None:
        self.data_key = data_key
        self.shape = tuple(int(n) for n in description["shape"])
        self.dtype = np.dtype(description.get("dtype_numpy") or "float64")
        self.rows = 0
        self._segments: list[Segment] = []
        row_bytes = max(1, self.dtype.itemsize * prod(self.shape))
        self.rows_per_chunk = max(1, chunk // row_bytes)

    @property
    def nbytes(self) -> int:
        """Bytes of the references; the rows themselves are in their files."""
        return self.SEGMENT_BYTES * len(self._segments)

    def announce(self, resource: Document, start: int, stop: int) -> None:
        """Add indices `start` to `stop - 1` of `resource`."""
        if stop <= start:
            return
        last = self._segments[-1] if self._segments else None
        if last and last.resource is resource and last.stop == start:
            self._segments[-1] = Segment(resource, last.start, stop)
        else:
            self._segments.append(Segment(resource, start, stop))
        self.rows += stop - start

    def view(self) -> ExternalView:
        """Return the rows announced so far."""
        return ExternalView(
            tuple(self._segments),
            self.rows,
            self.rows_per_chunk,
            self.dtype,
            self.shape,
            self.data_key,
        )
