"""Frames of the document log: their layout, checksums, and reading them by place.

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
before all of it is there.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from p06bs.bus import wire

MAGIC = b"p6d1"
HEADER = struct.Struct("<4sIQIII")
SUFFIX = ".doclog"
MAX_PAYLOAD = 1 << 30
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
    if not HEADER.size <= nbytes <= HEADER.size + MAX_PAYLOAD:
        raise LogCorruptError(f"a frame has no {nbytes} bytes")
    data = os.pread(source, nbytes, offset)
    header = parse_header(data, 0)
    if header is None or len(data) != nbytes or HEADER.size + header[2] != nbytes:
        raise LogCorruptError(f"no frame of {nbytes} bytes at offset {offset}")
    return parse_frame(header, memoryview(data)[HEADER.size :], offset)


Header = tuple[int, int, int, int]


def parse_header(data: bytes, at: int) -> Header | None:
    """Return epoch, index, payload length and checksum, or None if no intact header is there."""
    if len(data) - at < HEADER.size:
        return None
    magic, epoch, index, length, payload_crc, header_crc = HEADER.unpack_from(data, at)
    if magic != MAGIC or crc32(data[at : at + HEADER.size - 4]) != header_crc:
        return None
    return epoch, index, length, payload_crc


def parse_frame(header: Header, payload: memoryview, offset: int) -> Entry:
    """Return the entry of a frame at `offset`.

    Raises
    ------
    LogCorruptError
        If checksum, envelope and header do not agree.
    """
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
            if header is not None and at + HEADER.size + header[2] == len(tail):
                return parse_frame(header, memoryview(tail)[at + HEADER.size :], start + at)
        return None
    finally:
        os.close(fd)


def intact_frames(fd: int, offset: int) -> Iterator[int]:
    """Yield offsets, from `offset` on, at which a whole frame with right checksums lies."""
    while len(block := os.pread(fd, BLOCK, offset)) >= HEADER.size:
        at = -1
        while (at := block.find(MAGIC, at + 1)) >= 0:
            head = parse_header(os.pread(fd, HEADER.size, offset + at), 0)
            if head is not None:
                payload = os.pread(fd, head[2], offset + at + HEADER.size)
                if len(payload) == head[2] and crc32(payload) == head[3]:
                    yield offset + at
        offset += len(block) - len(MAGIC) + 1
