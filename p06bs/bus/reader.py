"""Frames of the document log, and the reader of one run's log.

A log is a sequence of frames: a header of 28 bytes (little endian) and the
envelope of one document, the same bytes that travel on the wire.

======  ========================================
bytes   field
======  ========================================
4       ``p6d1``
4       writer epoch (1 for the first writer)
8       index in the log (from 0, no gaps)
4       length of the payload
4       CRC-32 of the payload
4       CRC-32 of the 24 bytes before
======  ========================================

The header has a checksum of its own, so that the end of a frame is known
before all of it is there. Files are read with `os.pread` and opened afresh for
every read: no mapping over a tail that a writer may cut off, and on network
file systems an open is what makes another host's writes visible.
"""

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from p06bs.bus import wire
from p06bs.bus.sequence import Sequence

MAGIC = b"p6d1"
HEADER = struct.Struct("<4sIQIII")
SUFFIX = ".doclog"
MAX_PAYLOAD = 1 << 30
"""Largest document, bytes; larger data belong into a file that a stream resource names."""
BLOCK = 1 << 18


class LogError(RuntimeError):
    """Base class of what goes wrong with a document log."""


class LogCorruptError(LogError):
    """Frames that were there are not readable any more; names file and offset."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A document of a run, and where its frame lies in the log."""

    run: str
    epoch: int
    index: int
    name: str
    document: dict[str, Any]
    offset: int
    nbytes: int


def frame_header(epoch: int, index: int, payload: bytes) -> bytes:
    """Return the header of a frame.

    Raises
    ------
    LogError
        If the payload is larger than `MAX_PAYLOAD`.
    """
    if len(payload) > MAX_PAYLOAD:
        raise LogError(
            f"a document of {len(payload)} bytes is more than a log takes ({MAX_PAYLOAD}); "
            "write such data to a file and emit a stream resource"
        )
    fields = HEADER.pack(MAGIC, epoch, index, len(payload), crc32(payload), 0)
    return fields[:-4] + crc32(fields[:-4]).to_bytes(4, "little")


def read_frame(source: str | Path | int, offset: int, nbytes: int) -> Entry:
    """Read one frame by its place, as an `Entry` or a batch names it.

    Parameters
    ----------
    source : str, Path or int
        The file, or a descriptor of it.
    offset, nbytes : int
        Place of the frame, header included, in bytes.

    Raises
    ------
    LogCorruptError
        If no whole, intact frame of this length lies there.
    """
    if not isinstance(source, int):
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return read_frame(fd, offset, nbytes)
        finally:
            os.close(fd)
    data = os.pread(source, nbytes, offset)
    header = _header(data, 0)
    if header is None or len(data) != nbytes or HEADER.size + header[2] != nbytes:
        raise LogCorruptError(f"no frame of {nbytes} bytes at offset {offset}")
    return _entry(header, memoryview(data)[HEADER.size :], offset)


class RunReader:
    """Read one run's log while it is being written.

    Parameters
    ----------
    path : str or Path
        The log; need not exist yet.
    patience : float
        Seconds for which unreadable bytes with frames behind them count as "not
        yet": a network file system may show a later block before an earlier one.

    Attributes
    ----------
    offset : int
        Where the next frame begins, bytes.
    sequence : Sequence
        Index of the next frame, epoch of the last one.
    """

    def __init__(self, path: str | Path, *, patience: float = 0.0) -> None:
        self.path = Path(path)
        self.run = self.path.stem
        self.patience = patience
        self.offset = 0
        self.sequence = Sequence()
        self._confirmed = 0  # up to here `offset` was found in the file, not told by `advance`
        self._doubtful_since: float | None = None

    @property
    def complete(self) -> bool:
        """Whether the stop document was read."""
        return self.sequence.complete

    def read(self, max_bytes: int | None = None) -> list[Entry]:
        """Return what is new since the last call; an absent or unfinished frame is not yet there.

        Parameters
        ----------
        max_bytes : int, optional
            Stop after about so many bytes (a block of 1 MiB, or one frame, more at most).

        Raises
        ------
        LogCorruptError
            If a frame is damaged and whole frames lie behind it, or if the
            file became shorter than what was read before.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        entries: list[Entry] = []
        start = self.offset
        try:
            if self._confirmed != self.offset:
                self._confirm(fd)
            while self._read_block(fd, entries):
                if max_bytes is not None and self.offset - start >= max_bytes:
                    break
        finally:
            os.close(fd)
        return entries

    def advance(self, entry: Entry) -> None:
        """Take a frame as read that came another way and lies at `offset`."""
        self.offset = entry.offset + entry.nbytes
        self.sequence.take(entry.epoch, entry.index, entry.name)
        self._doubtful_since = None

    def read_at(self, offset: int, nbytes: int) -> Entry:
        """Read the frame at `offset`; see `read_frame`."""
        return read_frame(self.path, offset, nbytes)

    def _read_block(self, fd: int, entries: list[Entry]) -> bool:
        """Append the entries of a block; return whether there were any.

        Damage is looked at only when nothing was read before it, so that
        whatever precedes it reaches the caller.
        """
        block = os.pread(fd, BLOCK, self.offset)
        base, at, before = self.offset, 0, len(entries)
        while (header := _header(block, at)) is not None:
            end = at + HEADER.size + header[2]
            if end > len(block):
                if at == 0 and len(block) == BLOCK:  # a frame longer than a block
                    block = os.pread(fd, end, self.offset)
                    if len(block) == end:
                        continue
                return len(entries) > before
            try:
                entry = _entry(header, memoryview(block)[at + HEADER.size : end], base + at)
                self._check(entry)
            except LogCorruptError as error:
                if not entries:
                    self._doubt(fd, str(error))
                return len(entries) > before
            self.advance(entry)
            self._confirmed = self.offset
            entries.append(entry)
            at = end
        if len(block) - at >= HEADER.size and not entries:
            self._doubt(fd, "no frame begins here")
        elif not block and os.fstat(fd).st_size < self.offset:
            raise LogCorruptError(
                f"{self.path} became shorter than the {self.offset} bytes read before"
            )
        return len(entries) > before

    def _confirm(self, fd: int) -> None:
        """Make sure that the next frame is where the messages said, else look for it."""
        header = _header(os.pread(fd, HEADER.size, self.offset), 0)
        if header is None or header[1] != self.sequence.index:
            self.offset = self._confirmed
            while (header := _header(os.pread(fd, HEADER.size, self.offset), 0)) is not None:
                if header[1] >= self.sequence.index:
                    break
                self.offset += HEADER.size + header[2]
        self._confirmed = self.offset

    def _check(self, entry: Entry) -> None:
        if entry.run != self.run or not self.sequence.may_follow(entry.epoch, entry.index):
            raise LogCorruptError(
                f"index {entry.index} of epoch {entry.epoch} of run {entry.run} cannot follow "
                f"{self.sequence} of run {self.run}"
            )

    def _doubt(self, fd: int, reason: str) -> None:
        """Raise if the bytes at `offset` will not become a frame any more."""
        following = next(_intact_frames(fd, self.offset + 1), None)
        if following is None:
            return  # a torn tail, which the next writer cuts off
        now = time.monotonic()
        if self._doubtful_since is None:
            self._doubtful_since = now
        if now - self._doubtful_since >= self.patience:
            raise LogCorruptError(
                f"{self.path}, offset {self.offset}: {reason}, but intact frames follow from "
                f"offset {following}; restore the file from a copy, or read it up to here"
            )


def read_log(path: str | Path) -> Iterator[Entry]:
    """Yield the entries of a log file, one block in memory at a time.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    LogCorruptError
        If a frame is damaged and whole frames lie behind it.
    """
    os.stat(path)
    reader = RunReader(path)
    while entries := reader.read(BLOCK):
        yield from entries


Header = tuple[int, int, int, int]


def _header(data: bytes, at: int) -> Header | None:
    """Return epoch, index, payload length and checksum, or None if there is no header."""
    if len(data) - at < HEADER.size:
        return None
    magic, epoch, index, length, payload_crc, header_crc = HEADER.unpack_from(data, at)
    if magic != MAGIC or crc32(data[at : at + HEADER.size - 4]) != header_crc:
        return None
    return epoch, index, length, payload_crc


def _entry(header: Header, payload: memoryview, offset: int) -> Entry:
    epoch, index, _, checksum = header
    if crc32(payload) != checksum:
        raise LogCorruptError(f"checksum of the frame at offset {offset} is wrong")
    try:
        run, *place, name, document = wire.unpack_envelope(payload)
    except wire.WireError as error:
        raise LogCorruptError(f"the frame at offset {offset} holds no envelope: {error}") from error
    if place != [epoch, index]:
        raise LogCorruptError(f"the frame at offset {offset} is {[epoch, index]} and says {place}")
    return Entry(run, epoch, index, name, document, offset, HEADER.size + len(payload))


def _intact_frames(fd: int, offset: int) -> Iterator[int]:
    """Yield offsets, from `offset` on, at which a whole frame with right checksums lies."""
    while len(block := os.pread(fd, BLOCK, offset)) >= HEADER.size:
        at = -1
        while (at := block.find(MAGIC, at + 1)) >= 0:
            head = _header(os.pread(fd, HEADER.size, offset + at), 0)
            if head is not None:
                payload = os.pread(fd, head[2], offset + at + HEADER.size)
                if len(payload) == head[2] and crc32(payload) == head[3]:
                    yield offset + at
        offset += len(block) - len(MAGIC) + 1
