"""The reader of one run's log, complete or still being written.

Files are read with `os.pread` and opened afresh for every read: no mapping
over a tail that a writer may cut off, and on network file systems an open is
what makes another host's writes visible.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from p06bs.bus.framing import (
    BLOCK,
    HEADER,
    SUFFIX,
    Entry,
    Header,
    LogCorruptError,
    LogError,
    intact_frames,
    parse_frame,
    parse_header,
    read_frame,
    whole_frame,
)
from p06bs.bus.sequence import Sequence

__all__ = [
    "HEADER",
    "SUFFIX",
    "Entry",
    "LogCorruptError",
    "LogError",
    "RunReader",
    "read_frame",
    "read_log",
]

NO_FRAME = "no frame begins here"


class RunReader:
    """Read one run's log while it is being written.

    Parameters
    ----------
    path : str or Path
        The log; need not exist yet.
    patience : float
        Seconds for which unreadable bytes with frames behind them count as "not
        yet": a network file system may show a later block before an earlier one.
    arrays : bool
        False leaves the large arrays of events in the log: a `LoggedArray` stands for
        each. They are not read then, nor is their checksum looked at.

    Attributes
    ----------
    offset : int
        Where the next frame begins, bytes.
    sequence : Sequence
        Index of the next frame, epoch of the last one.
    """

    def __init__(self, path: str | Path, *, patience: float = 0.0, arrays: bool = True) -> None:
        self.path = Path(path)
        self.run = self.path.stem
        self.patience = patience
        self.arrays = arrays
        self.offset = 0
        self.sequence = Sequence()
        # Where a frame was seen to begin or end in the file. `advance` may be ahead of it, and
        # of what can be seen.
        self._confirmed = 0
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
            Stop after about so many bytes (a block of 64 KiB, or one frame, more at most).

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
            if self._confirmed != self.offset and not self._find(fd):
                return entries
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

    def _read_block(self, fd: int, entries: list[Entry]) -> bool:
        """Append the entries of a block; return whether there were any.

        Damage is looked at only when nothing was read before it, so that
        whatever precedes it reaches the caller.
        """
        block = os.pread(fd, BLOCK, self.offset)
        base, at, before = self.offset, 0, len(entries)
        while (header := parse_header(block, at)) is not None:
            end = at + header.nbytes
            if at and (header.buffers or end > len(block)):
                return True  # it has a read of its own, and begins it
            try:
                entry = (
                    parse_frame(header, memoryview(block)[at + HEADER.size : end], None, base + at)
                    if end <= len(block) and not header.buffers
                    else self._read_alone(fd, header)
                )
                if entry is None:
                    return False
                self._check(entry)
            except LogCorruptError as error:
                if not entries:
                    self._doubt(fd, self.offset, str(error))
                return len(entries) > before
            self.advance(entry)
            self._confirmed = self.offset
            entries.append(entry)
            at = end
        if len(block) - at >= HEADER.size and not entries:
            self._doubt(fd, self.offset, NO_FRAME)
        elif not block:
            self._check_size(fd)
        return len(entries) > before

    def _read_alone(self, fd: int, header: Header) -> Entry | None:
        """Return the entry of the frame at `offset`; None if not all of it is there yet."""
        if header.buffers and not self.arrays:
            if os.fstat(fd).st_size < self.offset + header.nbytes:
                return None
            envelope = os.pread(fd, header.envelope, self.offset + HEADER.size)
            entry = parse_frame(header, memoryview(envelope), None, self.offset)
            if entry.name in ("event", "event_page"):
                return entry
        data = os.pread(fd, header.nbytes, self.offset)
        return whole_frame(header, data, self.offset) if len(data) == header.nbytes else None

    def _find(self, fd: int) -> bool:
        """Find the next frame, where the messages said or elsewhere; return whether it is there.

        Messages may be ahead of what a network file system shows. `offset` changes only when
        the frame was seen: the next message's place is made of it, too.
        """
        at = self.offset
        header = _header(fd, at)
        if header is None or header.index != self.sequence.index:
            at = self._confirmed
            while (header := _header(fd, at)) is not None and header.index < self.sequence.index:
                self._confirmed = at
                at += header.nbytes
        if header is not None:
            self.offset = self._confirmed = at
            return True
        size = self._check_size(fd)
        if size - at >= HEADER.size:
            self._doubt(fd, at, NO_FRAME)
        return False

    def _check_size(self, fd: int) -> int:
        """Return the length of the file, which what was seen of it must not exceed."""
        size = os.fstat(fd).st_size
        if size < self._confirmed:
            raise LogCorruptError(
                f"{self.path} became shorter than the {self._confirmed} bytes read before"
            )
        return size

    def _check(self, entry: Entry) -> None:
        if entry.run != self.run or not self.sequence.may_follow(entry.epoch, entry.index):
            raise LogCorruptError(
                f"index {entry.index} of epoch {entry.epoch} of run {entry.run} cannot follow "
                f"{self.sequence} of run {self.run}"
            )

    def _doubt(self, fd: int, at: int, reason: str) -> None:
        """Raise if the bytes at an offset will not become a frame any more."""
        following = next(intact_frames(fd, at + 1), None)
        if following is None:
            return  # a torn tail, which the next writer cuts off
        now = time.monotonic()
        if self._doubtful_since is None:
            self._doubtful_since = now
        if now - self._doubtful_since >= self.patience:
            raise LogCorruptError(
                f"{self.path}, offset {at}: {reason}, but intact frames follow from "
                f"offset {following}; restore the file from a copy, or read it up to here"
            )


def _header(fd: int, offset: int) -> Header | None:
    return parse_header(os.pread(fd, HEADER.size, offset), 0)


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
