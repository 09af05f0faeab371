"""Write one NeXus file of each run that ends, raw or derived: ``DIRECTORY/UID.nxs``.

A file is there complete or not at all, so the directory says what is done: a service that was
killed, or comes later, goes on with the runs whose files are missing.
"""

import fcntl
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from p06bs import config
from p06bs.bus.framing import LogError
from p06bs.bus.log import DocumentLog
from p06bs.bus.metrics import Measure
from p06bs.bus.newest import Found
from p06bs.bus.service import Service, Surroundings
from p06bs.model.documents import Document, NamedDocument, is_derived
from p06bs.services._corrections import Corrections

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Interval at which the directory of the logs is looked at."""
LONGEST_PAUSE = 60.0
"""Seconds between two attempts while the disk refuses, at most."""


class NexusDefinition(config.Definition):
    """The table of a NeXus writer."""

    directory: Path = Field(Path("var/nexus"), description="where the files go; one writer has it")
    runs: Literal["all", "raw", "derived"] = Field("all", description="of which runs")
    patience: float = Field(
        60.0,
        ge=0,
        description="seconds for which the file of a run that has ended waits for the corrected "
        "positions of its scan, if these are being computed",
    )


class StoppedError(Exception):
    """The service was told to stop while it wrote."""


class NexusService(Service[NexusDefinition]):
    """A writer of NeXus files, in the order in which runs end."""

    Definition = NexusDefinition

    def __init__(self, name: str, definition: NexusDefinition, here: Surroundings) -> None:
        super().__init__(name, definition, here)
        self._documents = DocumentLog(here.log)
        self._directory = definition.directory.absolute()
        self._stop = threading.Event()
        self._done: set[str] = set()
        self._seen: dict[str, Found] = {}  # logs without a stop document, as they were
        self._counts: Counter[str] = Counter(written=0, refused=0)
        self._late: set[str] = set()  # runs that the disk refused: others go first
        self._unreadable: set[str] = set()
        self._waiting = 0
        self._corrections = Corrections(self._documents)
        self._since: dict[str, float] = {}  # runs that wait for positions, and since when

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Files written, runs of which none can be written, and runs that wait."""
        return (
            Measure("nexus_runs", "Runs by outcome", lambda: dict(self._counts), "counter", "what"),
            Measure("nexus_waiting", "Ended runs whose file is due", lambda: self._waiting),
        )

    def run(self, ready: Callable[[], None]) -> None:
        """Write files until it is told to stop.

        Raises
        ------
        OSError
            If the directory cannot be used, or another writer has it.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for part in self._directory.glob(".*.nxs.*.part"):  # of one that was killed
                part.unlink(missing_ok=True)
            self._done = {path.stem for path in self._directory.glob("*.nxs")}
            ready()
            self._follow()
        except BlockingIOError:
            raise OSError(f"another process writes NeXus files into {self._directory}") from None
        finally:
            os.close(lock)
            self._documents.close()

    def stop(self) -> None:
        """End `run`; a file that is not complete is written the next time."""
        self._stop.set()

    def _follow(self) -> None:
        pause = LOOK_SECONDS
        while not self._stop.wait(pause):
            try:
                ended = self._ended()
                if ended:
                    self._corrections.look(min(_begun(start) for _, start in ended))
                for number, (found, start) in enumerate(ended):
                    self._waiting = len(ended) - number
                    self._write(found, start)
                self._waiting = len(self._since)
                pause = LOOK_SECONDS
            except StoppedError:
                return
            except OSError as error:
                pause = min(2 * pause, LONGEST_PAUSE)
                log.warning("%s; trying again in %g s", error, pause)

    def _ended(self) -> list[tuple[Found, Document]]:
        """Return logs and start documents of runs whose files are due, in the order in which these
        ended.
        """
        due: list[tuple[Found, Document]] = []
        logs = self._documents.found(self._done)
        for found in sorted(logs, key=lambda log: (log.run in self._late, log)):
            if self._seen.get(found.run) == found:
                continue
            try:
                first, last = self._documents.ends(found.run)
            except (LogError, ValueError) as error:
                self._refuse(found, error)
                continue
            except OSError as error:  # others are written meanwhile
                if found.run not in self._unreadable:
                    log.warning("the log of run %s cannot be read yet: %s", found.run, error)
                self._unreadable.add(found.run)
                continue
            self._unreadable.discard(found.run)
            if first is None or last is None or last.name != "stop":
                self._seen[found.run] = found
            elif self.definition.runs in ("all", _kind(first.document)):
                due.append((found, first.document))
            else:
                self._done.add(found.run)
        return due

    def _write(self, found: Found, start: Document) -> None:
        from p06bs.writers import nexus

        run = found.run
        try:
            correction, complete = self._corrections.of(start)
            now = time.monotonic()
            if not complete and now < self._since.setdefault(run, now) + self.definition.patience:
                return
            documents = self._until_stopped(self._documents.read(run))
            beside = self._until_stopped(self._corrections.beside(start, correction))
            nexus.export(documents, self._directory, run, beside=beside)
        except FileExistsError:
            pass
        except StoppedError:
            raise
        except OSError:
            self._late.add(run)
            raise
        except Exception as error:  # whatever one run holds, the others go on
            unforeseen = not isinstance(error, LogError | ValueError)
            self._refuse(found, error, unforeseen=unforeseen)
            return
        else:
            self._counts["written"] += 1
            log.info("wrote %s.nxs", self._directory / run)
        self._done.add(run)
        self._seen.pop(run, None)
        self._since.pop(run, None)
        self._late.discard(run)

    def _refuse(self, found: Found, error: Exception, *, unforeseen: bool = False) -> None:
        """Leave a run out until its log changes."""
        said = f"{type(error).__name__}: {error}" if unforeseen else error
        log.warning("run %s has no NeXus file: %s", found.run, said, exc_info=unforeseen)
        self._counts["refused"] += 1
        self._since.pop(found.run, None)
        self._seen[found.run] = found

    def _until_stopped(self, documents: Iterator[NamedDocument]) -> Iterator[NamedDocument]:
        for named in documents:
            if self._stop.is_set():
                raise StoppedError
            yield named


def _begun(start: Document) -> float:
    """Return when a run began; now, if it does not say so with a number."""
    begun = start.get("time")
    return float(begun) if isinstance(begun, int | float) else time.time()


def _kind(start: Document) -> str:
    return "derived" if is_derived(start) else "raw"
