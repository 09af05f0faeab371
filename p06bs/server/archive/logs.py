"""The directory of logs, as the ingestion looks at it: which logs are there, and which are due."""

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

from p06bs.bus import locks
from p06bs.bus.envelope import is_run_uid
from p06bs.bus.framing import SUFFIX, LogError, last_entry
from p06bs.server.archive.intake import Intake, LogFile

logger = logging.getLogger(__name__)

RESCAN_SECONDS = 60.0
"""How often all logs are looked at, and not only the new and unfinished ones."""

TICK_SECONDS = 2.0
"""Within which a directory may change twice and show one time of change."""


class LogDirectory:
    """Find the logs that are to be ingested.

    Parameters
    ----------
    directory : Path
    intake : Intake
        Knows what became of each log.
    """

    def __init__(self, directory: Path, intake: Intake) -> None:
        self._directory = directory
        self._intake = intake
        self._all_at = 0.0
        self._changed = 0
        self._names: set[str] = set()
        self._unknown: set[str] = set()
        self._complained: set[str] = set()

    def path(self, run: str) -> Path:
        """Return the log of a run."""
        return self._directory / f"{run}{SUFFIX}"

    def due(self) -> list[LogFile]:
        """Return the logs to ingest now, oldest first."""
        news = self._intake.news(self._look())
        locked = _locked_files() if news else set()
        return [file for file in news if self._is_due(file, locked)]

    def _is_due(self, file: LogFile, locked: set[str]) -> bool:
        path = self.path(file.run)
        try:
            last = last_entry(path)
            place = locks.place_of(path.stat())
        except (OSError, LogError):
            last, place = None, ""
        finished = last is not None and last.name == "stop"
        return self._intake.due(file, time.time(), finished=finished, locked=place in locked)

    def _look(self) -> list[LogFile]:
        """Return the logs that can be news: all of them now and then, else new and open ones."""
        self._list()
        if time.monotonic() >= self._all_at:
            self._all_at = time.monotonic() + RESCAN_SECONDS
            wanted = _runs(self._names)
        else:
            self._unknown = {run for run in self._unknown if self._intake.log(run) is None}
            wanted = self._unknown | self._intake.open
        found = []
        for run in wanted:
            try:
                about = self.path(run).stat()
            except FileNotFoundError:
                continue
            except OSError as error:  # of this log: the others go on, and it is looked at again
                if run not in self._complained:
                    self._complained.add(run)
                    logger.warning("the log of run %s cannot be looked at: %s", run, error)
                continue
            found.append(LogFile(run, about.st_size, about.st_mtime_ns))
        return found

    def _list(self) -> None:
        """Note which logs have come, if the directory has changed at all: it may be large."""
        changed = self._directory.stat().st_mtime_ns
        if changed == self._changed:
            return
        names = set(os.listdir(self._directory))
        self._unknown |= _runs(names - self._names)
        self._names = names
        settled = time.time_ns() - changed > TICK_SECONDS * 1e9
        self._changed = changed if settled else 0


def _runs(names: Iterable[str]) -> set[str]:
    """Return the runs among names of files."""
    return {
        run
        for name in names
        if name.endswith(SUFFIX) and is_run_uid(run := name.removesuffix(SUFFIX))
    }


def _locked_files() -> set[str]:
    """Return the files that processes of this host have locked; none if Linux does not tell."""
    try:
        return {lock.place for lock in locks.locks() if not lock.waits}
    except OSError:
        return set()
