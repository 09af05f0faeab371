"""Where the sockets of a user's supervisors are, and who may make and remove them."""

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from p06bs.bus.locks import holder

log = logging.getLogger(__name__)

SAY_SECONDS = 2.0
"""After so long is said for whom is waited."""
LOOK_SECONDS = 0.05
LONGEST_SOCKET = 90
"""Bytes of a socket's path: the kernel's limit is 107, and supervisord binds a longer one first."""


def runtime_directory(name: str) -> Path:
    """Return a directory of this user by its name: in $XDG_RUNTIME_DIR, if a socket fits there."""
    ours = f"p06bs-{os.getuid()}"
    bases = [Path(tempfile.gettempdir()) / ours, Path("/tmp") / ours]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        bases.insert(0, Path(runtime) / "p06bs")
    fitting = [b for b in bases if len(os.fsencode(b / name / "socket")) <= LONGEST_SOCKET]
    return (fitting or bases[-1:])[0] / name


def make_base(base: Path) -> None:
    """Make the directory that they are in, for this user alone.

    Raises
    ------
    PermissionError
        If somebody else has one there.
    """
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = base.lstat()
    if base.is_symlink() or about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise PermissionError(f"{base} is not ours, or others may write there: remove it")


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep others from making or removing one of these directories meanwhile, on this host.

    Raises
    ------
    PermissionError
        If somebody else has the directory that they are in.
    """
    path = directory.with_suffix(".lock")
    lock = _locked(path)
    while not _is_still(lock, path):  # who had it has removed it
        os.close(lock)
        lock = _locked(path)
    try:
        yield
    finally:
        path.unlink()
        os.close(lock)
        with suppress(OSError):  # others' directories
            path.parent.rmdir()


def _locked(path: Path) -> int:
    while True:
        make_base(path.parent)
        with suppress(FileNotFoundError):  # it was removed right now
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _take(lock)
            return lock


def _take(lock: int) -> None:
    """Wait for a lock; say so if that takes long, for who has it may be stopped."""
    say_at = time.monotonic() + SAY_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > say_at:
                say_at = float("inf")
                log.warning("waiting for %s, which starts or stops these services", holder(lock))
            time.sleep(LOOK_SECONDS)
        else:
            return


def _is_still(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False
