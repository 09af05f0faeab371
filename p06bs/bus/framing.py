"""Frames of the document log: their layout, checksums, and reading them by place.

A log is a sequence of frames: a header of 36 bytes (little endian), the envelope of
one document, the same bytes that travel on the wire, and the buffers that its large
arrays lie in, if there are any.

======  ========================================
bytes   field
======  ========================================
4       ``p6d2``
4       writer epoch (1 for the first writer)
8       index in the log (from 0, no gaps)
4       length of the envelope
4       length of the buffers
4       CRC-32 of the envelope
4       CRC-32 of the buffers
4       CRC-32 of the 32 bytes before
======  ========================================

The header has a checksum of its own, so that the end of a frame is known
before all of it is there; envelope and buffers have one each, so that who needs
no arrays need not read them.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isal.isal_zlib import crc32

from p06bs.bus.codec import Packed
from p06bs.bus.envelope import unpack_envelope
from p06bs.bus.errors import WireError

MAGIC = b"p6d2"
HEADER = struct.Struct("<4sIQIIIII")
SUFFIX = ".doclog"
MAX_DOCUMENT = 1 << 30
"""Largest document, bytes; larger data belong into a file that a stream resource names."""
BLOCK = 1 << 16  # fits a processor's cache; documents decode twice as fast as from 1 MiB


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


@dataclass(slots=True)
class Header:
    """What a frame's header says."""

    epoch: int
    index: int
    envelope: int
    buffers: int
    envelope_checksum: int
    buffers_checksum: int

    @property
    def nbytes(self) -> int:
        """Length of the frame."""
        return HEADER.size + self.envelope + self.buffers


def frame_header(epoch: int, index: int, envelope: bytes, packed: Packed) -> bytes:
    """Return the header of a frame.

    Raises
    ------
    LogError
        If envelope and buffers are larger than `MAX_DOCUMENT`.
    """
    nbytes = packed.nbytes if packed.buffers else 0
    if len(envelope) + nbytes > MAX_DOCUMENT:
        raise LogError(
            f"a document of {len(envelope) + nbytes} bytes is more than a log takes "
            f"({MAX_DOCUMENT}); write such data to a file and emit a stream resource"
        )
    checksum = 0
    for piece in packed.buffers:
        checksum = crc32(piece, checksum)
    lengths = (len(envelope), nbytes, crc32(envelope), checksum)
    fields = HEADER.pack(MAGIC, epoch, index, *lengths, 0)
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
    if not HEADER.size <= nbytes <= HEADER.size + MAX_DOCUMENT:
        raise LogCorruptError(f"a frame has no {nbytes} bytes")
    data = os.pread(source, nbytes, offset)
    if len(data) != nbytes:
        raise LogCorruptError(f"no frame of {nbytes} bytes at offset {offset}")
    return frame_of(data, offset)


def frame_of(data: bytes, offset: int = 0) -> Entry:
    """Return the entry of bytes that are one frame, which lies at `offset`.

    Raises
    ------
    LogCorruptError
        If they are no whole, intact frame.
    """
    header = parse_header(data, 0)
    if header is None or header.nbytes != len(data):
        raise LogCorruptError(f"no frame of {len(data)} bytes at offset {offset}")
    return whole_frame(header, data, offset)


def parse_header(data: bytes, at: int) -> Header | None:
    """Return what a header says, or None if no intact one is there."""
    if len(data) - at < HEADER.size:
        return None
    magic, *fields, checksum = HEADER.unpack_from(data, at)
    if magic != MAGIC or crc32(data[at : at + HEADER.size - 4]) != checksum:
        return None
    return Header(*fields)


def whole_frame(header: Header, data: bytes, offset: int) -> Entry:
    """Return the entry of a frame at `offset` of which all bytes are in `data`.

    Raises
    ------
    LogCorruptError
        As `parse_frame`.
    """
    middle = HEADER.size + header.envelope
    view = memoryview(data)
    buffers = view[middle:] if header.buffers else None
    return parse_frame(header, view[HEADER.size : middle], buffers, offset)


def parse_frame(
    header: Header, envelope: memoryview, buffers: memoryview | None, offset: int
) -> Entry:
    """Return the entry of a frame at `offset`.

    Without `buffers` its large arrays stay in the log (see `LoggedArray`).

    Raises
    ------
    LogCorruptError
        If checksums, envelope and header do not agree.
    """
    if crc32(envelope) != header.envelope_checksum:
        raise LogCorruptError(f"checksum of the frame at offset {offset} is wrong")
    if buffers is not None and crc32(buffers) != header.buffers_checksum:
        raise LogCorruptError(f"checksum of the arrays of the frame at offset {offset} is wrong")
    try:
        said = unpack_envelope(envelope, buffers)
    except WireError as error:
        raise LogCorruptError(f"the frame at offset {offset} holds no envelope: {error}") from error
    if (said.epoch, said.index, said.nbytes) != (header.epoch, header.index, header.buffers):
        raise LogCorruptError(
            f"the frame at offset {offset} is number {header.index} of epoch {header.epoch} "
            f"and says {said.index} of {said.epoch}"
        )
    return Entry(said.run, said.epoch, said.index, said.name, said.document, offset, header.nbytes)


def last_entry(path: str | Path) -> Entry | None:
    """Return the entry that a log ends with, without reading what is before it.

    None if the file ends in the middle of a frame, or with one longer than `BLOCK`.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        start = max(0, size - BLOCK)
        tail = os.pread(fd, BLOCK, start)
        at = len(tail)
        while (at := tail.rfind(MAGIC, 0, at)) >= 0:
            header = parse_header(tail, at)
            if header is not None and at + header.nbytes == len(tail):
                return whole_frame(header, tail[at:], start + at)
        return None
    finally:
        os.close(fd)


def intact_frames(fd: int, offset: int) -> Iterator[int]:
    """Yield offsets, from `offset` on, at which a whole frame with right checksums lies."""
    while len(block := os.pread(fd, BLOCK, offset)) >= HEADER.size:
        at = -1
        while (at := block.find(MAGIC, at + 1)) >= 0:
            head = parse_header(os.pread(fd, HEADER.size, offset + at), 0)
            if head is not None and _is_intact(fd, head, offset + at):
                yield offset + at
        offset += len(block) - len(MAGIC) + 1


def _is_intact(fd: int, header: Header, offset: int) -> bool:
    data = memoryview(os.pread(fd, header.nbytes, offset))
    middle = HEADER.size + header.envelope
    return (
        len(data) == header.nbytes
        and crc32(data[HEADER.size : middle]) == header.envelope_checksum
        and crc32(data[middle:]) == header.buffers_checksum
    )
