"""From the logs into the archive: the files of a run first, then one transaction shows it.

Whatever is killed in between leaves a directory that nothing names, which the next attempt
replaces. So nothing is lost, nothing comes twice, and a repetition changes nothing.
"""

import errno
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection

from p06bs.bus.framing import Entry
from p06bs.bus.reader import LogError, read_log
from p06bs.metadata import folder_of
from p06bs.server.archive.catalog import Log, RunRecord, logs, put_logs, put_runs, tidy
from p06bs.server.archive.database import Database, RefusedError, UnavailableError
from p06bs.server.archive.filling import maps_in
from p06bs.server.archive.intake import PATIENCE, Intake, LogFile
from p06bs.server.archive.location import Location
from p06bs.server.archive.logs import LogDirectory
from p06bs.server.archive.runfiles import sync_runs, write_run
from p06bs.server.archive.searchable import searchable
from p06bs.server.archive.status import StatusFile
from p06bs.server.archive.storage import Unfinished, keep_only
from p06bs.server.archive.survey import RunError, survey
from p06bs.server.files.incoming import sweep_incoming
from p06bs.server.files.roots import FileRoots, assets

logger = logging.getLogger(__name__)

TOGETHER = 200
"""So many runs are shown by one transaction at most."""
TOGETHER_SECONDS = 1.0
"""And no more than come within this time, so that nobody waits for longer."""

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


Ready = RunRecord | Log | None
"""A run whose files are written; what became of a log instead; None where it is gone."""


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
        self._database = database
        self._location = Location(storage)
        self._roots = roots
        self._has_maps = maps_in(self._location)
        self._stopping = stopping
        self._intake = Intake(database(logs), patience)
        self._logs = LogDirectory(directory, self._intake)
        self._added = 0
        self._status = StatusFile(storage)
        self._unfinished = Unfinished(self._location)
        self._unfinished.sweep(self._intake.generations())
        sweep_incoming(directory)

    def find(self) -> list[LogFile]:
        """Return the logs to ingest now, oldest first."""
        for log in self._database(logs, "retry"):
            self._intake.note(log)
        due = self._logs.due()
        self._tell(len(due), due[0] if due else None)
        return due

    def ingest(self, files: Sequence[LogFile]) -> Iterator[Log | None]:
        """Bring runs into the archive, or into quarantine; yield what became of each.

        None if a log is gone. Several runs that come within `TOGETHER_SECONDS` are shown
        by one transaction.

        Raises
        ------
        UnavailableError
            If database or storage fail, whatever the run.
        StoppedError
            If it is to end.
        """
        ready: list[Ready] = []
        since = 0.0
        for number, file in enumerate(files):
            self._tell(len(files) - number, file)
            since = since if ready else time.monotonic()
            try:
                if not ready:
                    self._unfinished.begin(one.run for one in files[number : number + TOGETHER])
                ready.append(self._prepare(file))
            except (StoppedError, UnavailableError):
                yield from self._show(ready)  # what is whole
                raise
            late = time.monotonic() - since >= TOGETHER_SECONDS
            if late or len(ready) == TOGETHER or file is files[-1]:
                yield from self._show(ready)
                self._unfinished.end()
                self._status.ingested += len(ready)
                self._status.left_out += sum(
                    one.left_out for one in ready if isinstance(one, RunRecord)
                )
                self._status.seconds += time.monotonic() - since
                ready = []

    def _prepare(self, file: LogFile) -> Ready:
        """Write the files of a run; return what is to be shown of it, None if its log is gone."""
        known = self._intake.log(file.run)
        generation = known.generation if known is not None else 0
        try:
            return self._write(file, generation + 1)
        except FileNotFoundError:
            if self._logs.path(file.run).exists():
                raise
            return None
        except (StoppedError, UnavailableError):
            raise
        except (LogError, RunError) as error:
            reason = str(error)
        except OSError as error:
            if error.errno in STORAGE_FAILS:
                raise UnavailableError(f"the storage fails: {error}") from error
            reason = str(error)
        except Exception as error:
            # Whatever one run holds, the others go on; `p06bs archive status` lists it.
            logger.warning("run %s failed unexpectedly", file.run, exc_info=True)
            reason = _unexpected(error)
        return Log(file.run, "quarantined", file.nbytes, file.changed, generation, reason)

    def _show(self, ready: Sequence[Ready]) -> Iterator[Log | None]:
        """Show runs whose files are written; yield what became of each."""
        try:
            sync_runs(one.directory for one in ready if isinstance(one, RunRecord))
            self._database(_put, ready)
        except UnavailableError:
            raise
        except OSError as error:
            raise UnavailableError(f"the storage fails: {error}") from error
        except Exception as error:
            if len(ready) > 1:  # one of them it is
                for one in ready:
                    yield from self._show([one])
                return
            (one,) = ready
            if not isinstance(one, RunRecord):
                # Nothing of a run is in it but its name; the others go on until a restart.
                logger.error("the archive takes no note of %s", one, exc_info=True)
                if one is not None:
                    self._intake.note(one)
                yield one
                return
            reason = str(error) if isinstance(error, RefusedError) else _unexpected(error)
            generation = one.log.generation - 1
            yield from self._show(
                [replace(one.log, state="quarantined", generation=generation, reason=reason)]
            )
            return
        for one in ready:
            found = one.log if isinstance(one, RunRecord) else one
            if found is not None:
                if found.state == "quarantined":
                    logger.warning("run %s is left out: %s", found.run, found.reason)
                elif found.reason:
                    logger.warning("run %s: %s", found.run, found.reason)
                self._intake.note(found)
                keep_only(self._location, found.run, found.generation)
            self._added += isinstance(one, RunRecord)
            yield found

    def settle(self) -> None:
        """Let the database look at what came, after much has: a tenth of all."""
        if 10 * self._added >= self._intake.counts.total() > 0:
            self._database.run(tidy)
            self._added = 0

    def _write(self, file: LogFile, generation: int) -> RunRecord:
        path = self._logs.path(file.run)
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
            str(run.left_out),
        )
        streams = list(run.streams)
        return RunRecord(
            log,
            metadata,
            streams,
            self._has_maps(file.run, generation, {"start": run.start}, streams),
            directory,
            assets(run.resources.values(), self._roots.of(folder_of(metadata["start"]))),
            run.left_out.count,
        )

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

    def _tell(self, waiting: int, oldest: LogFile | None) -> None:
        since = None if oldest is None else oldest.changed / 1e9
        self._status.write(self._intake.counts, waiting, since)


def _unexpected(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _put(connection: Connection, ready: Sequence[Ready]) -> None:
    put_runs(connection, [one for one in ready if isinstance(one, RunRecord)])
    put_logs(connection, [one for one in ready if isinstance(one, Log)])


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
    for number, log in enumerate(ingestion.ingest(files), 1):
        done(log, len(files) - number)
    if files:
        ingestion.settle()
    return len(files)
