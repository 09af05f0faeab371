"""Directories among the logs in which runs arrive, and what a killed server leaves there."""

import fcntl
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = ".incoming-"
SECONDS = 86400.0
"""Nobody takes so long to send a run."""


@contextmanager
def incoming(logs: Path) -> Iterator[Path]:
    """Make a directory for what arrives; it is gone afterwards.

    It is locked, so that a sweep on this host sees that somebody is there.
    """
    with tempfile.TemporaryDirectory(prefix=_ours(), dir=logs) as directory:
        fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(fd, fcntl.LOCK_SH)
            yield Path(directory)
        finally:
            os.close(fd)


def sweep_incoming(logs: Path) -> None:
    """Remove what a killed server had received; of another host's what is a day old."""
    for directory in logs.glob(f"{PREFIX}*"):
        with suppress(FileNotFoundError):
            if _is_left(directory):
                shutil.rmtree(directory, ignore_errors=True)


def _is_left(directory: Path) -> bool:
    old = time.time() - directory.stat().st_mtime > SECONDS
    if old or not directory.name.startswith(_ours()):
        return old
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody is there, or the file system has no locks
        return False
    finally:
        os.close(fd)
    return True


def _ours() -> str:
    return f"{PREFIX}{socket.gethostname()}-"
