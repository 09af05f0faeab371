"""A file of JSON lines that is only appended to, by whoever has its lock."""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from p06bs.bus.closing import Closing
from p06bs.bus.locks import holder

log = logging.getLogger(__name__)

LOCK_SECONDS = 5.0
"""A process has it for the time of a write."""


def journal_of(directory: Path, name: str) -> Path:
    """Return the file that keeps the settings of a pipeline, which may be called anything."""
    # No separators, and no leading dot.
    return directory / f"{quote(name, safe='').replace('.', '%2E')}.jsonl"


class Journal(Closing):
    """Append entries, each a line, and read what this and other processes have appended.

    Whatever was appended survives the death of the process. A torn last line, of a writer
    that died while it wrote, is cut off by the next; nobody was told that it was written.

    Parameters
    ----------
    path : Path
        Created if need be, with its directory.

    Raises
    ------
    OSError
        If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o664)
        self._at = 0  # bytes that were read
        directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)  # its name is to survive, too
        finally:
            os.close(directory)

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[bool]:
        """Keep other processes from appending: what `news` returned is all that there is.

        Without `wait` it yields False, and is not locked, if another process has it.

        Raises
        ------
        OSError
            If another process has it for longer than `LOCK_SECONDS`, as one does that is
            stopped; or if the file was shortened or replaced.
        """
        until = time.monotonic() + (LOCK_SECONDS if wait else 0.0)
        while not self._try_lock():
            if not wait:
                yield False
                return
            if time.monotonic() > until:
                raise OSError(f"{self.path} is locked by {holder(self._fd)}; is that stopped?")
            time.sleep(0.01)
        try:
            about = os.fstat(self._fd)
            if about.st_size < self._at or about.st_nlink == 0:
                raise OSError(
                    f"{self.path} was shortened or replaced while it is in use; start the "
                    "services anew that host this pipeline"
                )
            yield True
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @property
    def changed(self) -> bool:
        """Whether there is more than `news` has returned, be it unfinished, or something amiss."""
        about = os.fstat(self._fd)
        return about.st_size != self._at or about.st_nlink == 0

    def news(self) -> list[dict[str, Any]]:
        """Return the entries that were appended since the last call.

        Call it while `locked`: another process takes back what it cannot write to the end.
        """
        size = os.fstat(self._fd).st_size
        if size <= self._at:
            return []
        data = os.pread(self._fd, size - self._at, self._at)
        data = data[: data.rfind(b"\n") + 1]
        entries = []
        for line in data.splitlines():
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError("it is no object")
            except ValueError as error:
                log.error("%s: the line %r is left out: %s", self.path, line[:80], error)
            else:
                entries.append(entry)
        self._at += len(data)
        return entries

    def append(self, entry: dict[str, Any], *, sync: bool = True) -> None:
        """Append an entry; with `sync` it survives a power failure, too.

        Call it while `locked`, behind `news`.

        Raises
        ------
        OSError
            If it could not be written; the file is then as it was before.
        """
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        os.ftruncate(self._fd, self._at)  # what a writer that died has torn
        try:
            if os.write(self._fd, line) < len(line):
                raise OSError(f"{self.path}: no room for an entry")
            if sync:
                os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._at)
            raise
        self._at += len(line)

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
