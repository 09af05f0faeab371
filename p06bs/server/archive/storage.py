"""The right to write the archive's storage, and what a killed writer leaves there."""

import fcntl
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from p06bs.bus.closing import Closing
from p06bs.bus.envelope import is_run_uid
from p06bs.server.archive.database import UnavailableError
from p06bs.server.archive.location import Location


class ArchiveLockedError(RuntimeError):
    """Another process ingests into this archive."""


class StorageLock(Closing):
    """The right to write an archive: one process has it.

    Raises
    ------
    ArchiveLockedError
        If another process has it.
    """

    def __init__(self, storage: Path) -> None:
        storage.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = storage / ".lock"
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise ArchiveLockedError(
                f"another process ingests into {storage} already: an archive has one"
            ) from None

    def close(self) -> None:
        """Give the right back; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Unfinished:
    """The runs whose directories are being written, noted for whoever comes after a kill.

    Parameters
    ----------
    location : Location
        Its `StorageLock` is the caller's.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self._file = location.storage / ".writing"

    def begin(self, runs: Iterable[str]) -> None:
        """Note that directories of these runs are going to be written, or removed.

        Raises
        ------
        UnavailableError
            If the storage takes no note.
        """
        try:
            self._file.write_text("\n".join(runs))
        except OSError as error:
            raise UnavailableError(f"the storage fails: {error}") from error

    def end(self) -> None:
        """Note that all of them are as the database says."""
        self._file.unlink(missing_ok=True)

    def sweep(self, shown: Mapping[str, int]) -> None:
        """Remove what a killed writer left: generations that are not those shown.

        Nobody finds them any more. Who found one before it was replaced comes again, as
        when it is replaced by a writer that lives.
        """
        try:
            noted = self._file.read_text().split("\n")
        except FileNotFoundError:
            return
        for run in filter(is_run_uid, noted):
            keep_only(self._location, run, shown.get(run, 0))
        self.end()


def keep_only(location: Location, run: str, generation: int) -> None:
    """Remove all directories of a run but that of one generation; 0 is none."""
    directory = location.run(run)
    with suppress(FileNotFoundError):
        for other in directory.iterdir():
            if other.name != str(generation):
                shutil.rmtree(other, ignore_errors=True)
        if not generation:
            directory.rmdir()
