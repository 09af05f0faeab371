"""Where recorded runs are kept: a directory of logs here, or a server (`p06bs.remote`)."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from p06bs.bus.log import DocumentLog
from p06bs.bus.reader import LogError
from p06bs.model.documents import NamedDocument, is_derived
from p06bs.pipeline.decisions import named


class RunError(ValueError):
    """A run that is not there, or cannot be kept; says what and where."""


class StoredError(RunError):
    """A derived run that is kept already."""


class Runs(Protocol):
    """Recorded runs, wherever they are."""

    def find(self, beginning: str) -> str:
        """Return the one uid that begins like this; else raise RunError."""

    def documents(self, uid: str) -> Iterator[NamedDocument]:
        """Yield a run's documents in the order of its log."""

    def derived(self, uid: str) -> list[str]:
        """Return the uids of the derived runs whose root is the raw run `uid`."""

    def store(self, file: Path) -> str:
        """Keep a derived run's log file; return where it is now."""

    def close(self) -> None:
        """Give up what is open."""


class LogDirectory:
    """The runs of a directory of logs.

    Parameters
    ----------
    directory : Path
        Must exist.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._log = DocumentLog(directory)
        self._derived: defaultdict[str, list[str]] | None = None  # by raw run, as they were found

    def find(self, beginning: str) -> str:
        """Return the uid of the run that has this uid, or else of the one whose uid begins so.

        Raises
        ------
        RunError
            If there is none, or more than one.
        """
        found = named(beginning, self._log.runs())
        if len(found) != 1:
            raise RunError(f"{len(found)} runs in {self.directory} begin with {beginning!r}")
        return found[0]

    def documents(self, uid: str) -> Iterator[NamedDocument]:
        """Yield the documents in a run's log; see `DocumentLog.read`."""
        return self._log.read(uid)

    def derived(self, uid: str) -> list[str]:
        """Return the uids of the derived runs of a raw run; logs that are damaged are left out."""
        if self._derived is None:
            self._derived = defaultdict(list)
            for run in self._log.runs():
                try:
                    first = next(self._log.entries(run), None)
                except (OSError, LogError):
                    continue
                if first is not None and is_derived(first.document):
                    self._derived[first.document["original_run_uid"]].append(run)
        return list(self._derived[uid])

    def store(self, file: Path) -> str:
        """Put a derived run's log file beside the others, whole or not at all.

        Parameters
        ----------
        file : Path
            On the same file system.

        Raises
        ------
        StoredError
            If the run is there already.
        """
        path = self._log.path(file.stem)
        try:
            os.link(file, path)
        except FileExistsError:
            raise StoredError(f"{path} is there already; the run has been stored before") from None
        return str(path)

    def close(self) -> None:
        """Give up what is open."""
        self._log.close()
