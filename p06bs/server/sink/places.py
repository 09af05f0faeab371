"""Where a stream's rows lie in the log of its run, and finding its pages there.

The index is sparse: a segment is a stretch of the log of about 64 KiB (or one large
frame) in which consecutive rows of the stream lie, among documents of other streams.
A page that was refused lies in no segment.
"""

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from p06bs.bus.framing import HEADER, SUFFIX, Entry, LogCorruptError, parse_frame, parse_header
from p06bs.model.documents import Document

SEGMENT_BYTES = 1 << 16
READ_BYTES = 1 << 16


class RowsLostError(Exception):
    """Rows that are not in memory cannot be read from the log; says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """A frame of a document log: offset and length in bytes."""

    path: Path
    offset: int
    nbytes: int

    @property
    def run(self) -> str:
        """Uid of the run whose log it is."""
        return self.path.name.removesuffix(SUFFIX)


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


def pages_between(
    path: Path, segment: Segment, descriptors: Mapping[str, int]
) -> Iterator[tuple[str, Document, Place]]:
    """Yield name, document and place of a stream's events in a segment; arrays are left out.

    Parameters
    ----------
    descriptors : dict
        Uids of the stream's descriptors -> their offsets: an event before its descriptor
        was refused, as one that names no descriptor was.

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
                if entry.name not in ("event", "event_page"):
                    continue
                descriptor = entry.document.get("descriptor")
                if not isinstance(descriptor, str):
                    continue
                if descriptors.get(descriptor, segment.stop) < entry.offset:
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
