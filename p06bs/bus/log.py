"""The document log: one append-only file per run, written before documents are published.

Every appended document survives the death of the process. Power loss costs at
most what was appended within the last `SYNC_SECONDS`, and nothing of a run
whose stop document was appended or whose log was closed.
"""

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from p06bs.bus.bulk import pages_of
from p06bs.bus.closing import Closing
from p06bs.bus.codec import Packed
from p06bs.bus.envelope import is_name, is_run_uid
from p06bs.bus.framing import last_entry
from p06bs.bus.newest import Found
from p06bs.bus.reader import SUFFIX, Entry, LogError, RunReader, read_log
from p06bs.bus.run_log import REFERRED_TO, Appended, RunLog

logger = logging.getLogger(__name__)

SYNC_SECONDS = 2.0
"""Interval at which appended documents are forced to the disk, s."""

_REFERENCE = {
    "event": "descriptor",
    "event_page": "descriptor",
    "stream_datum": "descriptor",
    "datum": "resource",
    "datum_page": "resource",
}


class DocumentLog(Closing):
    """A directory of logs, one per run; writes several runs at a time and reads them.

    Parameters
    ----------
    directory : str or Path
        Created if need be. All hosts that write or follow runs must see it.

    Attributes
    ----------
    on_sync_failure : callable, optional
        Called with the OSError, in a thread of the log, when a log begins not to reach the disk:
        nothing more is appended to it until it does.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, RunLog] = {}
        self._runs: dict[str, str] = {}  # uid of a descriptor or resource -> run uid
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._syncing: threading.Thread | None = None
        self.on_sync_failure: Callable[[OSError], None] | None = None

    def append(self, name: str, document: Mapping[str, Any] | Packed) -> Appended:
        """Append a document to the log of its run; a stop document closes the log.

        One that is encoded already must say its run, and is an event page. Bulk documents
        become pages, of which the last one's place is returned.

        Raises
        ------
        OSError
            If it could not be written, or what was appended before, or a stop document, could not
            be synced; the log is then as it was before.
        TypeError
            If the document holds what cannot travel (see `codec.pack`).
        LogError
            If the document refers to no run that is being written here, or the
            run has a log already, or has stopped, or event-model has no such document.
        """
        with self._lock:
            if isinstance(document, Packed):
                return (self._open.get(document.run) or self.reopen(document.run)).append(
                    name, document
                )
            *before, (name, document) = pages_of(name, document)
            for page in before:
                self.append(*page)
            if not is_name(name):
                raise LogError(f"event-model has no {name!r} documents")
            log = self._run_log(name, document)
            appended = log.append(name, document)
            if name in REFERRED_TO and isinstance(uid := document.get("uid"), str):
                self._runs[uid] = log.run
            elif log.complete:
                self._drop(log)
            return appended

    def claim(self, run: str, visit: Callable[[str, dict[str, Any]], None]) -> None:
        """Be the writer of a run, before its first document or where another one left it.

        `visit` is called with each document that is there. One that has stopped is not written
        any further.

        Raises
        ------
        LogLockedError
            If another writer has it.
        LogCorruptError
            If it is damaged.
        """
        with self._lock:
            log = self._open.get(run) or self._open_log(run, visit)
            if log.complete:
                self._drop(log)

    def reopen(self, run: str) -> RunLog:
        """Continue the log of a run that another writer left unfinished.

        Raises
        ------
        LogError
            If the run has no log, has stopped, is locked or damaged.
        """
        with self._lock:
            if not self.path(run).exists():
                raise LogError(f"run {run} has no log in {self.directory}")
            log = self._open.get(run) or self._open_log(run)
            if log.complete:
                self._drop(log)
                raise LogError(f"{log.path} has its stop document; nothing may follow")
            return log

    def release(self, run: str) -> None:
        """Close the log of a run that is not written any further here, finished or not."""
        with self._lock:
            if run in self._open:
                self._drop(self._open[run])

    def path(self, run: str) -> Path:
        """Return the path of a run's log, whether it exists or not.

        Raises
        ------
        LogError
            If the uid holds characters that a file name had better not.
        """
        if not is_run_uid(run):
            raise LogError(
                f"run uid {str(run)[:200]!r} cannot name a log: "
                "letters, digits, '-' and '_' only, at most 128"
            )
        return self.directory / f"{run}{SUFFIX}"

    def runs(self, skip: Collection[str] = (), *, since: float = 0.0) -> list[str]:
        """Return the uids of the runs that have a log, oldest (by last write) first.

        Those in `skip` are left out, and those last written before `since` (Unix time, s).
        """
        found = sorted((log.written, log.run) for log in self.found(skip))
        return [run for written, run in found if written >= since * 1e9]

    def found(self, skip: Collection[str] = ()) -> list[Found]:
        """Return the logs that are there, in no order, but for those of the runs in `skip`.

        One that cannot be looked at is the oldest and empty: who reads it finds out why.
        """
        found = []
        with os.scandir(self.directory) as listing:
            for item in listing:
                run = item.name.removesuffix(SUFFIX)
                if run != item.name and run not in skip and is_run_uid(run):
                    try:
                        about = item.stat()
                    except FileNotFoundError:
                        continue  # removed since it was listed
                    except OSError:
                        found.append(Found(0, 0, run))
                    else:
                        found.append(Found(about.st_mtime_ns, about.st_size, run))
        return found

    def reader(self, run: str, *, patience: float = 0.0, arrays: bool = True) -> RunReader:
        """Return a reader of a run's log, which need not exist yet; see `RunReader`."""
        return RunReader(self.path(run), patience=patience, arrays=arrays)

    def entries(self, run: str) -> Iterator[Entry]:
        """Yield what is in a run's log now; see `read_log`."""
        return read_log(self.path(run))

    def read(self, run: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ``(name, document)`` for what is in a run's log now."""
        return ((entry.name, entry.document) for entry in self.entries(run))

    def ends(self, run: str) -> tuple[Entry | None, Entry | None]:
        """Return the first and the last entry of a run's log, None where there is none.

        Quick: what lies between is not read. The last entry is None, too, while
        it is being written.
        """
        first = next(self.entries(run), None)
        return first, None if first is None else last_entry(self.path(run))

    def close(self) -> None:
        """Sync and close all logs; may be called twice."""
        self._closing.set()
        if self._syncing is not None:
            self._syncing.join()
            self._syncing = None
        with self._lock:
            for log in list(self._open.values()):
                self._drop(log)

    def _run_log(self, name: str, document: Mapping[str, Any]) -> RunLog:
        """Return the log that a document belongs to; a start document opens one."""
        if name == "start":
            log = self._open.get(document["uid"]) or self._open_log(document["uid"])
            if log.index == 0:
                return log
            if log.complete:
                self._drop(log)
            raise LogError(f"run {log.run} has a log already: {log.path}")
        if name in _REFERENCE:
            uid = document.get(_REFERENCE[name])
            run = self._runs.get(uid) if isinstance(uid, str) else None
            if run is None:
                raise LogError(
                    f"{name} refers to {_REFERENCE[name]} {uid}, which is in no log that is "
                    f"being written in {self.directory}; a run must begin with its start "
                    "document (or its log be reopened)"
                )
        elif "run_start" in document:
            run = document["run_start"]
        elif len(self._open) == 1:  # the schema of resources lets run_start be absent
            (run,) = self._open
        else:
            raise LogError(f"{name} {document.get('uid')} does not say which run it belongs to")
        return self._open.get(run) or self.reopen(run)

    def _open_log(
        self, run: str, visit: Callable[[str, dict[str, Any]], None] | None = None
    ) -> RunLog:
        log = RunLog(self.path(run), visit)
        self._open[run] = log
        self._runs.update(dict.fromkeys(log.uids, run))
        if self._syncing is None:
            self._closing.clear()
            self._syncing = threading.Thread(
                target=self._sync, name=f"sync {self.directory}", daemon=True
            )
            self._syncing.start()
        return log

    def _drop(self, log: RunLog) -> None:
        del self._open[log.run]
        for uid in log.uids:
            self._runs.pop(uid, None)
        log.close()

    def _sync(self) -> None:
        while not self._closing.wait(SYNC_SECONDS):
            for log in list(self._open.values()):
                error = log.sync()
                if error is not None and self.on_sync_failure is not None:
                    try:
                        self.on_sync_failure(error)
                    except Exception:  # whatever it does, syncing goes on
                        logger.exception("%s: on_sync_failure failed", log.path)
