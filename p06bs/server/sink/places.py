"""Where a stream's rows lie in the log of its run, and reading them back from there.

The index is sparse: a segment is a stretch of the log of about 64 KiB (or one large
frame) in which consecutive rows of the stream lie, among documents of other streams.
A page that was refused lies in no segment.
"""

import os
import time
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal.isal_zlib import crc32

from p06bs.bus.framing import HEADER, Entry, LogCorruptError, parse_frame, parse_header
from p06bs.model.documents import Document, LoggedArray
from p06bs.server.sink.values import Array

SEGMENT_BYTES = 1 << 16
READ_BYTES = 1 << 16
PIECE_BYTES = 1 << 20
LATE_SECONDS = 0.05
PLAIN = (int, float, str)
"""Where a list begins with one, its other items are no arrays."""


class RowsLostError(Exception):
    """Rows that are not in memory cannot be read from the log; says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """A frame of a document log: offset and length in bytes."""

    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows from `row` on lie in bytes `start` to `stop - 1` of the log."""

    row: int
    start: int
    stop: int


class Places:
    """The segments of a stream, in order of their rows."""

    def __init__(self) -> None:
        self._rows = array("q")
        self._starts = array("q")
        self._stops = array("q")
        self._broken = True

    @property
    def nbytes(self) -> int:
        """Bytes of the index; arrays grow by an eighth."""
        return 27 * len(self._rows)

    def note(self, row: int, offset: int, nbytes: int) -> None:
        """Note that the rows from `row` on lie in the frame at `offset`."""
        if self._broken or offset + nbytes - self._starts[-1] > SEGMENT_BYTES:
            self._rows.append(row)
            self._starts.append(offset)
            self._stops.append(offset + nbytes)
            self._broken = False
        else:
            self._stops[-1] = offset + nbytes

    def interrupt(self) -> None:
        """Note that a page was refused: what follows begins a segment."""
        self._broken = True

    def segments(self, start: int, stop: int) -> list[Segment]:
        """Return the segments in which rows `start` to `stop - 1` lie."""
        low = max(0, bisect_right(self._rows, start) - 1)
        high = bisect_right(self._rows, stop - 1)
        return [Segment(self._rows[i], self._starts[i], self._stops[i]) for i in range(low, high)]


class LoggedRows:
    """Rows of a large array in the log, read from its file when they are copied."""

    __slots__ = ("_at", "_path", "dtype", "shape")

    def __init__(self, path: Path, at: int, logged: LoggedArray) -> None:
        self._path = path
        self._at = at
        self.dtype = logged.dtype
        self.shape = logged.shape

    def __len__(self) -> int:
        return self.shape[0]

    def into(self, target: Array, start: int) -> None:
        """Copy rows from `start` on to all of `target`, which is contiguous."""
        row = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        swapped = not self.dtype.isnative
        if target.dtype != self.dtype and not swapped:
            raise TypeError(f"rows of {self.dtype} into {target.dtype}")
        _fill(self._path, target, self._at + start * row)
        if swapped:
            target.byteswap(inplace=True)

    def whole(self) -> Array:
        """Return all rows."""
        values = np.empty(self.shape, self.dtype)
        _fill(self._path, values, self._at)
        return values


def _fill(path: Path, target: Array, at: int) -> None:
    view = target.reshape(-1).view(np.uint8).data
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while view:
            got = os.preadv(fd, [view], at)
            if not got:
                raise LogCorruptError(f"{path} ends before offset {at}")
            view, at = view[got:], at + got
    finally:
        os.close(fd)


class LoggedPage:
    """A page, or an event as a page of one row, whose large arrays may be in the log still.

    Parameters
    ----------
    page : dict
    place : Place or None
        Where it lies; needed where it holds a `LoggedArray`.
    patience : float
        Seconds for which a wrong checksum means "not visible yet".
    """

    def __init__(self, page: Document, place: Place | None, patience: float = 0.0) -> None:
        self.page = page
        self.place = place
        self._patience = patience
        self._buffers: int | None = None

    def __len__(self) -> int:
        return len(self.page["seq_num"])

    def values(self, part: str, key: str) -> Any:
        """Return a column's values; `LoggedRows` for an array that is in the log.

        Raises
        ------
        KeyError
            If there are none.
        LogCorruptError
            If the arrays are not, or not yet, as their checksum says.
        OSError
            If the log cannot be read.
        """
        value = self.page[part][key] if part else self.page[key]
        return self._rows(value) if isinstance(value, LoggedArray) else self._read(value)

    def _rows(self, value: LoggedArray) -> "LoggedRows":
        if self.place is None:
            raise ValueError("an array is in a log that nobody named")
        if self._buffers is None:
            self._buffers = _checked_buffers(self.place, self._patience)
        return LoggedRows(self.place.path, self._buffers + value.place, value)

    def _read(self, value: Any) -> Any:
        """Return a value with the arrays that are in the log, as in a list of frames."""
        if isinstance(value, LoggedArray):
            return self._rows(value).whole()
        if isinstance(value, Mapping):
            return {key: self._read(item) for key, item in value.items()}
        if isinstance(value, list | tuple) and value and not isinstance(value[0], PLAIN):
            return [self._read(item) for item in value]
        return value


def _checked_buffers(place: Place, patience: float) -> int:
    """Return the offset of a frame's buffers, whose checksum is right."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return _buffers_of(place)
        except LogCorruptError:
            # A network file system may show a later block before an earlier one.
            if time.monotonic() >= deadline:
                raise
        time.sleep(LATE_SECONDS)


def _buffers_of(place: Place) -> int:
    """Return the offset of a frame's buffers, whose checksum is right."""
    fd = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = parse_header(os.pread(fd, HEADER.size, place.offset), 0)
        if header is None or header.nbytes != place.nbytes:
            raise LogCorruptError(f"{place.path}: no frame at offset {place.offset}")
        first = at = place.offset + HEADER.size + header.envelope
        checksum = 0
        while at < first + header.buffers:
            piece = os.pread(fd, min(PIECE_BYTES, first + header.buffers - at), at)
            if not piece:
                break
            checksum = crc32(piece, checksum)
            at += len(piece)
        if checksum != header.buffers_checksum:
            raise LogCorruptError(
                f"{place.path}: checksum of the arrays of the frame at {place.offset} is wrong"
            )
        return first
    finally:
        os.close(fd)


def pages_between(
    path: Path, segment: Segment, descriptors: Collection[str]
) -> Iterator[tuple[str, Document, Place]]:
    """Yield name, document and place of a stream's events in a segment; arrays are left out.

    Raises
    ------
    LogCorruptError, OSError
        If they cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        at = segment.start
        while at < segment.stop:
            block = os.pread(fd, min(READ_BYTES, segment.stop - at), at)
            if len(block) < HEADER.size:
                raise LogCorruptError(f"{path} ends before offset {segment.stop}")
            for entry in _entries(fd, block, at):
                at = entry.offset + entry.nbytes
                if (
                    entry.name in ("event", "event_page")
                    and entry.document["descriptor"] in descriptors
                ):
                    place = Place(path, entry.offset, entry.nbytes)
                    yield entry.name, entry.document, place
    finally:
        os.close(fd)


def _entries(fd: int, block: bytes, base: int) -> Iterator[Entry]:
    """Yield the entries that begin in a block, at least the first."""
    at = 0
    while at < len(block):
        header = parse_header(block, at)
        if header is None:
            if at:
                return  # it is cut off: the next block begins with it
            raise LogCorruptError(f"no frame begins at offset {base}")
        end = at + HEADER.size + header.envelope
        if end <= len(block):
            envelope = memoryview(block)[at + HEADER.size : end]
        elif at:
            return
        else:
            envelope = memoryview(os.pread(fd, header.envelope, base + HEADER.size))
        yield parse_frame(header, envelope, None, base + at)
        at += header.nbytes
