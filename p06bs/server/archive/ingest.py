"""From the logs into the archive: the files of a run first, then one transaction shows it.

Whatever is killed in between leaves a directory that nothing names, which the next attempt
replaces. So nothing is lost, nothing comes twice, and a repetition changes nothing.
"""

import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DataError

from p06bs.bus.closing import Closing
from p06bs.bus.envelope import is_run_uid
from p06bs.bus.framing import SUFFIX, Entry, last_entry
from p06bs.bus.reader import LogError, read_log
from p06bs.metadata import folder_of
from p06bs.server.archive.catalog import Log, RunRecord, analyze, logs, put_logs, put_runs
from p06bs.server.archive.database import Database, UnavailableError
from p06bs.server.archive.intake import PATIENCE, Intake, LogFile
from p06bs.server.archive.location import Location
from p06bs.server.archive.pages import RunError
from p06bs.server.archive.runfiles import read_run, untouched, write_run
from p06bs.server.archive.schema import HasMaps
from p06bs.server.archive.searchable import searchable
from p06bs.server.archive.survey import survey
from p06bs.server.files.roots import FileRoots, assets
from p06bs.server.sink.names import node_name
from p06bs.server.sink.sink import RunView
from p06bs.server.tree.maps import Maps

logger = logging.getLogger(__name__)

RESCAN_SECONDS = 60.0
"""How often all logs are looked at, and not only the new and unfinished ones."""

STORAGE_FAILS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ESTALE,
}
"""What is the storage's fault, and not the run's."""


class StoppedError(Exception):
    """Somebody wanted the ingestion to end."""


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
        storage.mkdir(parents=True, exist_ok=True)
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


class Ingestion:
    """Bring the runs of a directory of logs into the archive.

    The caller has the `StorageLock`.

    Parameters
    ----------
    directory : Path
        Of the logs.
    database : Database
        Closed by the caller.
    storage : Path
        Directory of the runs' files.
    roots : FileRoots
        Detector files under them become assets.
    stopping : callable
        Asked often; when it says True what is running ends with StoppedError.
    patience : float
        See `p06bs.server.archive.intake.PATIENCE`.
    """

    def __init__(
        self,
        directory: Path,
        database: Database,
        storage: Path,
        roots: FileRoots,
        *,
        stopping: Callable[[], bool] = lambda: False,
        patience: float = PATIENCE,
    ) -> None:
        self._directory = directory
        self._database = database
        self._location = Location(storage)
        self._roots = roots
        self._has_maps = maps_in(self._location)
        self._stopping = stopping
        self._intake = Intake(database(logs), patience)
        self._all_at = 0.0
        self._added = 0

    def find(self) -> list[LogFile]:
        """Return the logs to ingest now, oldest first."""
        for log in self._database(logs, "retry"):
            self._intake.note(log)
        news = self._intake.news(self._look())
        locked = _locked_files() if news else set()
        return [file for file in news if self._due(file, locked)]

    def ingest(self, file: LogFile) -> Log | None:
        """Bring one run into the archive, or into quarantine; return what became of it.

        None if its log is gone.

        Raises
        ------
        UnavailableError
            If database or storage fail, whatever the run.
        StoppedError
            If it is to end.
        """
        known = self._intake.log(file.run)
        generation = known.generation if known is not None else 0
        try:
            log = self._ingest(file, generation + 1)
        except FileNotFoundError:
            if self._path(file.run).exists():
                raise
            return None
        except (StoppedError, UnavailableError):
            raise
        except (LogError, RunError, DataError) as error:
            log = self._quarantine(file, generation, str(error))
        except OSError as error:
            if error.errno in STORAGE_FAILS:
                raise UnavailableError(f"the storage fails: {error}") from error
            log = self._quarantine(file, generation, str(error))
        except Exception as error:
            # Whatever one run holds, the others go on; `p06bs archive status` lists it.
            logger.warning("run %s failed unexpectedly", file.run, exc_info=True)
            log = self._quarantine(file, generation, f"{type(error).__name__}: {error}")
        self._intake.note(log)
        return log

    def settle(self) -> None:
        """Let the database look at what came, after much has."""
        if self._added:
            self._database(analyze)
            self._added = 0

    def _ingest(self, file: LogFile, generation: int) -> Log:
        path = self._path(file.run)
        run = survey(self._read(path))
        directory = self._location.generation(file.run, generation)
        shutil.rmtree(directory, ignore_errors=True)
        write_run(path, run, directory, self._read)
        metadata = {"start": searchable(run.start)}
        if run.stop is not None:
            metadata["stop"] = searchable(run.stop)
        log = Log(
            file.run,
            "incomplete" if run.stop is None else "complete",
            file.nbytes,
            file.changed,
            generation,
            "" if run.stop is not None else "no stop document",
        )
        streams = list(map(node_name, run.streams))
        record = RunRecord(
            log,
            metadata,
            streams,
            self._has_maps(file.run, generation, {"start": run.start}, streams),
            directory,
            assets(run.resources.values(), self._roots.of(folder_of(metadata["start"]))),
        )
        self._database(put_runs, [record])
        self._added += 1
        self._remove_others(file.run, generation)
        return log

    def _quarantine(self, file: LogFile, generation: int, reason: str) -> Log:
        logger.warning("run %s is left out: %s", file.run, reason)
        log = Log(file.run, "quarantined", file.nbytes, file.changed, generation, reason)
        self._database(put_logs, [log])
        return log

    def _read(self, path: Path) -> Iterator[Entry]:
        try:
            for entry in read_log(path):
                if self._stopping():
                    raise StoppedError
                yield entry
        except FileNotFoundError:
            raise
        except OSError as error:  # the log's fault, and not the storage's: others go on
            raise LogError(f"the log cannot be read: {error}") from error

    def _remove_others(self, run: str, generation: int) -> None:
        for other in self._location.run(run).iterdir():
            if other.name != str(generation):
                shutil.rmtree(other, ignore_errors=True)

    def _path(self, run: str) -> Path:
        return self._directory / f"{run}{SUFFIX}"

    def _due(self, file: LogFile, locked: set[str]) -> bool:
        path = self._path(file.run)
        try:
            last = last_entry(path)
            place = _place(path.stat())
        except (OSError, LogError):
            last, place = None, ""
        finished = last is not None and last.name == "stop"
        return self._intake.due(file, time.time(), finished=finished, locked=place in locked)

    def _look(self) -> list[LogFile]:
        """Return the logs that can be news: all of them now and then, else new and open ones."""
        names = {
            run
            for item in os.listdir(self._directory)
            if item.endswith(SUFFIX) and is_run_uid(run := item.removesuffix(SUFFIX))
        }
        if time.monotonic() >= self._all_at:
            self._all_at = time.monotonic() + RESCAN_SECONDS
            wanted = names
        else:
            unknown = {run for run in names if self._intake.log(run) is None}
            wanted = unknown | (self._intake.open & names)
        found = []
        for run in wanted:
            with suppress(FileNotFoundError):
                about = self._path(run).stat()
                found.append(LogFile(run, about.st_size, about.st_mtime_ns))
        return found


def maps_in(location: Location) -> HasMaps:
    """Return what says whether a run has maps: its start document, or else its columns."""
    maps = Maps()

    def has_maps(
        uid: str, generation: int, metadata: Mapping[str, Any], names: Sequence[str]
    ) -> bool | None:
        def stream(name: str) -> Any:
            return read_run(location.generation(uid, generation), FileRoots()).streams[name]()

        view = RunView(metadata, {name: partial(stream, name) for name in names}, untouched)
        try:
            return maps.decide(view)
        except FileNotFoundError as error:
            logger.warning("run %s has no maps: %s", uid, error)
            return False

    return has_maps


def _place(about: os.stat_result) -> str:
    """Return how /proc/locks names a file."""
    return f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"


def _locked_files() -> set[str]:
    """Return the files that processes of this host have locked; none if Linux does not tell."""
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return set()
    return {fields[5] for line in lines if len(fields := line.split()) > 5 and "->" not in line}


def catch_up(
    ingestion: Ingestion, done: Callable[[Log | None, int], None] = lambda log, left: None
) -> int:
    """Ingest all that is due; return how many runs that were.

    Parameters
    ----------
    done : callable
        Called after each run with what became of it and how many are left.
    """
    files = ingestion.find()
    for number, file in enumerate(files, 1):
        done(ingestion.ingest(file), len(files) - number)
    if files:
        ingestion.settle()
    return len(files)
