"""Which logs to ingest: those that are not in the archive as they are now."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from p06bs.server.archive.catalog import Log

PATIENCE = 60.0
"""Seconds without a new document after which an unfinished log counts as left by its writer."""


@dataclass(frozen=True, slots=True)
class LogFile:
    """A log in the directory of logs.

    Attributes
    ----------
    nbytes : int
    changed : int
        Time of the last write, ns.
    """

    run: str
    nbytes: int
    changed: int


class Intake:
    """Know what became of each log, and say which to look at.

    Parameters
    ----------
    logs : iterable of Log
        What is known from before.
    patience : float
        See `PATIENCE`.

    Attributes
    ----------
    counts : Counter
        Number of logs by state.
    open : set of str
        The runs that may still change: a complete one does not.
    """

    def __init__(self, logs: Iterable[Log], patience: float = PATIENCE) -> None:
        self._patience = patience
        self._logs: dict[str, Log] = {}
        self.counts: Counter[str] = Counter()
        self.open: set[str] = set()
        for log in logs:
            self.note(log)

    def log(self, run: str) -> Log | None:
        """Return what became of a log; None if it is new."""
        return self._logs.get(run)

    def note(self, log: Log) -> None:
        """Remember what became of a log."""
        before = self._logs.get(log.run)
        if before is not None:
            self.counts[before.state] -= 1
        self.counts[log.state] += 1
        self._logs[log.run] = log
        if log.state == "complete":
            self.open.discard(log.run)
        else:
            self.open.add(log.run)

    def generations(self) -> dict[str, int]:
        """Return the generation in which each run is shown; 0 where none is."""
        return {run: log.generation for run, log in self._logs.items()}

    def news(self, files: Iterable[LogFile]) -> list[LogFile]:
        """Return the logs that are not in the archive as they are now, oldest first."""
        news = [file for file in files if self._is_news(file)]
        return sorted(news, key=lambda file: (file.changed, file.run))

    def due(self, file: LogFile, now: float, *, finished: bool, locked: bool) -> bool:
        """Return whether to ingest a log that is news, or to wait for its writer.

        Parameters
        ----------
        now : float
            Unix time, s.
        finished : bool
            Whether it ends with a stop document.
        locked : bool
            Whether a writer on this host has it open.
        """
        if finished:
            return True
        return not locked and now - file.changed / 1e9 >= self._patience

    def _is_news(self, file: LogFile) -> bool:
        log = self._logs.get(file.run)
        if log is None or log.state == "retry":
            return True
        if log.state == "quarantined":  # it may have been restored from a copy
            return (log.nbytes, log.changed) != (file.nbytes, file.changed)
        return log.nbytes != file.nbytes
