"""Columns whose rows lie in files: announced by stream_datum, read when asked for."""

import time
from math import prod
from typing import Any

import numpy as np

from p06bs.model.documents import Document
from p06bs.server.files.announced import Announcements, rows_announced
from p06bs.server.files.detector import DetectorView
from p06bs.server.files.roots import FileRoots


class ExternalColumn:
    """The rows that stream_datum documents announced, in their order.

    Parameters
    ----------
    data_key : str
    shape, dtype
        One row's.
    roots : FileRoots
        Where the files may lie.
    chunk : int
        Bytes of a chunk.
    """

    SEGMENT_BYTES = 192
    """What Python keeps about a segment, or an announcement."""

    def __init__(
        self,
        data_key: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        roots: FileRoots,
        chunk: int,
    ) -> None:
        self.data_key = data_key
        self.shape = shape
        self.dtype = dtype
        self.rows = 0
        self._roots = roots
        self._segments: list[tuple[Document, int, int]] = []
        self._announcements = Announcements()
        row_bytes = max(1, self.dtype.itemsize * prod(self.shape))
        self.rows_per_chunk = max(1, chunk // row_bytes)

    @property
    def nbytes(self) -> int:
        """Bytes of the references; the rows themselves are in their files."""
        return self.SEGMENT_BYTES * (len(self._segments) + len(self._announcements.recent))

    def announce(self, resource: Document, start: int, stop: int) -> None:
        """Add indices `start` to `stop - 1` of `resource`.

        Raises
        ------
        ValueError
            If they are none, or too many.
        """
        rows = rows_announced(self.rows, start, stop, self.rows_per_chunk)
        if rows == self.rows:
            return
        last, first, end = self._segments[-1] if self._segments else (None, 0, 0)
        if last is resource and end == start:
            self._segments[-1] = resource, first, stop
        else:
            self._segments.append((resource, start, stop))
        self._announcements.note(self.rows, time.monotonic())
        self.rows = rows

    def view(self) -> DetectorView:
        """Return the rows announced so far."""
        return DetectorView(
            self.data_key,
            tuple(self._segments),
            self._roots,
            self.rows,
            self.rows_per_chunk,
            self.dtype,
            self.shape,
            self._announcements.recent,
        )
