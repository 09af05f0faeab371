"""A file of JSON lines that is only appended to, by one process at a time."""

import fcntl
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from p06bs.bus.closing import Closing

log = logging.getLogger(__name__)

LOCK_SECONDS = 5.0
"""How long an earlier writer that is about to end is waited for."""


class Journal(Closing):
    """Append entries, each a line, and read what earlier processes have appended.

    Whatever was appended survives the death of the process. A torn last line, of a writer
    that died while it wrote, is cut off; nobody was told that it was written.

    Parameters
    ----------
    path : Path
        Created if need be, with its directory.

    Attributes
    ----------
    entries : list of dict
        What was there when it was opened.

    Raises
    ------
    OSError
        If it cannot be written, or another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o664)
        try:
            self._lock()
            self.entries = self._read()
            # Its name is to survive, too.
            directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
            os.fsync(directory)
            os.close(directory)
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, entry: dict[str, Any], *, sync: bool = True) -> None:
        """Append an entry; with `sync` it survives a power failure, too.

        Raises
        ------
        OSError
            If it could not be written; the file is then as it was before.
        """
        before = os.fstat(self._fd).st_size
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        try:
            if os.write(self._fd, line) < len(line):
                raise OSError(f"{self.path}: no room for an entry")
            if sync:
                os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, before)
            raise

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lock(self) -> None:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise BlockingIOError(
                        f"{self.path} is in use: another process hosts this pipeline with the "
                        "same directory of logs; stop it, or give one of them another name"
                    ) from None
                time.sleep(0.05)
            else:
                return

    def _read(self) -> list[dict[str, Any]]:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(self._fd, whole)
        entries = []
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError("no object")
            except ValueError as error:
                log.error("%s, line %d is left out: %s", self.path, number, error)
            else:
                entries.append(entry)
        return entries
