"""The writer of one run's log.

A writer holds an exclusive lock (`flock`) on the file, numbers the documents
of the run from 0 and stamps them with its epoch, which is one more than the
last writer's.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p06bs.bus import locks
from p06bs.bus.codec import Buffer, Packed, pack_document
from p06bs.bus.envelope import pack_envelope
from p06bs.bus.framing import (
    BLOCK,
    HEADER,
    Entry,
    LogCorruptError,
    LogError,
    frame_header,
    read_frame,
)
from p06bs.bus.reader import RunReader
from p06bs.bus.unsynced import Unsynced, write_all

logger = logging.getLogger(__name__)

REFERRED_TO = ("start", "descriptor", "resource", "stream_resource")
"""Documents that others refer to by their uids; one without is logged all the same."""

MOST_PIECES = 512
"""Pieces that one system call writes; the kernel takes 1024 at most."""


class LogLockedError(LogError):
    """Another writer has the log of this run open."""


@dataclass(slots=True)
class Appended:
    """Where a document went: its number in the run, and its frame's place in bytes."""

    run: str
    epoch: int
    index: int
    path: Path
    offset: int
    nbytes: int
    envelope: bytes

    @property
    def has_buffers(self) -> bool:
        """Whether large arrays of the document are in the log only."""
        return self.nbytes > HEADER.size + len(self.envelope)


class RunLog:
    """Write one run's log; a log that exists is continued behind its last intact frame.

    Parameters
    ----------
    path : str or Path
        ``<run uid>.doclog``; created if need be.
    visit : callable, optional
        Called with ``(name, document)`` of what is there; large arrays of events are left out.

    Attributes
    ----------
    epoch : int
        Number of this writer, from 1.
    index : int
        Index that the next document gets.
    uids : set of str
        Uids of the run, its descriptors and its resources, to which other documents refer.
    complete : bool
        Whether the stop document is there.

    Raises
    ------
    LogLockedError
        If another writer has it open; names its process if the kernel tells.
    LogCorruptError
        If a frame is damaged and intact ones follow. (A torn last frame is cut off.)
    """

    def __init__(
        self, path: str | Path, visit: Callable[[str, dict[str, Any]], None] | None = None
    ) -> None:
        self.path = Path(path)
        self.run = self.path.stem
        self.uids: set[str] = set()
        self._failure: OSError | None = None  # of the last sync
        self._created = not self.path.exists()
        self._closing = threading.Lock()  # so that a sync never meets a closed descriptor
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
        try:
            self._lock()
            self._recover(visit)
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, name: str, document: Mapping[str, Any] | Packed) -> Appended:
        """Append a document; one that is encoded already only if others do not refer to it.

        Raises
        ------
        OSError
            If it could not be written, or what was appended before, or a stop document, could not
            be synced; the log is then as it was before.
        TypeError
            If the document holds what cannot travel (see `codec.pack`).
        LogError
            If the run is complete, or the document too large.
        """
        if self.complete:
            raise LogError(f"{self.path} has its stop document; nothing may follow")
        if self._failure is not None:
            self.sync()
            self._raise_failure()
        packed = document if isinstance(document, Packed) else pack_document(name, document)
        envelope = pack_envelope(self.run, self.epoch, self.index, name, packed)
        header = frame_header(self.epoch, self.index, envelope, packed)
        nbytes = self._write(header, envelope, *packed.buffers)
        appended = Appended(
            self.run, self.epoch, self.index, self.path, self._end, nbytes, envelope
        )
        self._end += nbytes
        if name == "stop":
            self._sync_or_take_back(appended)
        self.index += 1
        if not isinstance(document, Packed):
            self._note(name, document)
        return appended

    def sync(self) -> OSError | None:
        """Force what was appended to the disk; return what prevents it, if it has just begun to.

        After a failure nothing more is appended until another sync has written again, and
        synced, all that was appended since the last good one; see `Unsynced`.
        """
        with self._closing:
            end = self._end
            before = self._failure
            if self._fd < 0 or (end == self._unsynced.begin and before is None):
                return None
            try:
                if before is not None:
                    self._unsynced.write_again(self._fd, end)
                os.fdatasync(self._fd)
                if self._created:  # the name itself must survive, too
                    _sync_directory(self.path.parent)
                    self._created = False
            except OSError as error:
                self._failure = error
                if before is None:
                    logger.error("%s cannot be synced and is tried again: %s", self.path, error)
                    return error
                return None
            self._failure = None
            self._unsynced.synced(end)
        if before is not None:
            logger.warning("%s is synced again; nothing is lost", self.path)
        return None

    def close(self) -> None:
        """Sync, unlock and close; what fails is logged. May be called twice."""
        self.sync()
        with self._closing:
            fd, self._fd = self._fd, -1  # after an error, too, it may be another file's soon
            if fd < 0:
                return
            if self._failure is not None:
                logger.error(
                    "%s may lack what is behind offset %d: %s",
                    self.path,
                    self._unsynced.begin,
                    self._failure,
                )
            try:
                os.close(fd)
            except OSError as error:
                logger.error("%s was not closed properly: %s", self.path, error)

    def _sync_or_take_back(self, appended: Appended) -> None:
        self.sync()
        with self._closing:
            if self._failure is not None:
                self._end = appended.offset
                self._unsynced.taken_back(self._end)
                os.ftruncate(self._fd, self._end)
                self._raise_failure()

    def _raise_failure(self) -> None:
        if (failure := self._failure) is not None:
            raise OSError(failure.errno, failure.strerror, str(self.path)) from failure

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogLockedError(
                f"{self.path} is being written by {locks.holder(self._fd)}; "
                "a run has one writer: end that one first"
            ) from None

    def _recover(self, visit: Callable[[str, dict[str, Any]], None] | None) -> None:
        """Find the last intact frame, cut off what is behind it, take the next epoch."""
        # A damaged array in the middle is for its readers to find; the last frame is looked at.
        reader = RunReader(self.path, arrays=False)
        self.complete = False
        last: Entry | None = None

        def take(entry: Entry) -> None:
            self._note(entry.name, entry.document)
            if visit is not None:
                visit(entry.name, entry.document)

        while entries := reader.read(BLOCK):
            for entry in entries:
                if last is not None:
                    take(last)
                last = entry
        self.epoch = reader.sequence.epoch + 1
        self.index = reader.sequence.index
        self._end = reader.offset
        if last is not None and _is_whole(self._fd, last):
            take(last)
        elif last is not None:
            self.index, self._end = last.index, last.offset
        self._unsynced = Unsynced(self._end)
        torn = os.fstat(self._fd).st_size - self._end
        if torn:
            logger.warning("%s: cut off %d bytes of an unfinished document", self.path, torn)
            os.ftruncate(self._fd, self._end)

    def _note(self, name: str, document: Mapping[str, Any]) -> None:
        if name in REFERRED_TO and isinstance(uid := document.get("uid"), str):
            self.uids.add(uid)
        self.complete = self.complete or name == "stop"

    def _write(self, *pieces: Buffer) -> int:
        """Write pieces behind the last frame, all of them or none; return their length."""
        wanted = sum(memoryview(piece).nbytes for piece in pieces)
        try:
            if len(pieces) <= MOST_PIECES:
                written = os.pwritev(self._fd, pieces, self._end)
            else:
                pieces, written = (b"".join(pieces),), 0
            if written < wanted:  # trying again brings the reason as an exception
                rest = memoryview(b"".join(pieces))[written:]
                write_all(self._fd, rest, self._end + written)
        except OSError:
            os.ftruncate(self._fd, self._end)
            raise
        self._unsynced.appended(self._end, wanted, pieces)
        return wanted


def _is_whole(fd: int, entry: Entry) -> bool:
    """Return whether the arrays of a frame are there, too."""
    try:
        read_frame(fd, entry.offset, entry.nbytes)
    except LogCorruptError:
        return False
    return True


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
