"""A file of JSON lines that is only appended to, by whoever has its lock."""

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from p06bs.bus.closing import Closing

log = logging.getLogger(__name__)


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
        """
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    @property
    def grew(self) -> bool:
        """Whether there is more than `news` has returned, be it unfinished."""
        return os.fstat(self._fd).st_size > self._at

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
