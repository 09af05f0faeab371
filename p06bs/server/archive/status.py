"""What the ingestion, a process of its own, says of itself: for the metrics of the server."""

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from p06bs.bus.metrics import Measure

logger = logging.getLogger(__name__)

FILE = ".status.json"
SECONDS = 1.0
"""The file is written at most so often."""


class StatusFile:
    """The file in the archive's storage, as the ingestion writes it.

    Attributes
    ----------
    ingested : int
        Runs since the process began.
    left_out : int
        Documents of them that fit nowhere.
    seconds : float
        Spent with them.
    """

    def __init__(self, storage: Path) -> None:
        self.ingested = 0
        self.left_out = 0
        self.seconds = 0.0
        self._path = storage / FILE
        self._written = -math.inf

    def write(self, runs: Mapping[str, int], waiting: int, oldest: float | None) -> None:
        """Say how things are.

        Parameters
        ----------
        runs : mapping
            Numbers of runs by their state.
        waiting : int
            Logs that are to be ingested now.
        oldest : float, optional
            When the oldest of them was written last, Unix time, s.
        """
        if time.monotonic() - self._written < SECONDS:
            return
        self._written = time.monotonic()
        said = {
            "time": time.time(),
            "runs": dict(runs),
            "waiting": waiting,
            "oldest": oldest,
            "ingested": self.ingested,
            "left_out": self.left_out,
            "seconds": self.seconds,
        }
        new = self._path.with_suffix(".new")
        try:
            new.write_text(json.dumps(said))
            os.replace(new, self._path)
        except OSError as error:  # that nobody sees how things are is no reason to stop
            logger.warning("%s cannot be written: %s", self._path, error)


class IngestionFigures:
    """What the file said last.

    It is read in threads that the end of the process does not wait for: the storage may hang.

    Parameters
    ----------
    storage : Path
    """

    def __init__(self, storage: Path) -> None:
        self._path = storage / FILE
        self._said: dict[str, Any] = {}
        self._read_last: dict[str, Any] = {}
        self._reading = self._read_again()

    def measures(self) -> tuple[Measure, ...]:
        """Return what is shown; nothing of an archive into which nobody has ingested yet."""
        return (
            Measure("archive_runs", "Runs of the archive", self._runs, label="state"),
            Measure("archive_waiting_logs", "Logs to be ingested", self._get("waiting")),
            Measure("archive_lag_seconds", "Age of the oldest of them", self._lag),
            Measure("archive_ingested", "Runs ingested", self._get("ingested"), "counter"),
            Measure(
                "archive_left_out_documents",
                "Documents of them that fit nowhere",
                self._get("left_out"),
                "counter",
            ),
            Measure(
                "archive_ingest_seconds", "Time spent ingesting", self._get("seconds"), "counter"
            ),
            Measure(
                "archive_ingestion_timestamp_seconds",
                "When the ingestion said so, Unix time",
                self._get("time"),
            ),
        )

    def _read_again(self) -> threading.Thread:
        thread = threading.Thread(target=self._read, name="ingestion-figures", daemon=True)
        thread.start()
        return thread

    def _read(self) -> None:
        try:
            self._read_last = json.loads(self._path.read_text())
        except FileNotFoundError:
            self._read_last = {}
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read: %s", self._path, error)

    def _now(self) -> dict[str, Any]:
        """Return what was read last, and have it read for the next time."""
        if not self._reading.is_alive():
            self._said = self._read_last
            self._reading = self._read_again()
        return self._said

    def _runs(self) -> Mapping[str, float]:
        runs: Mapping[str, float] = self._now().get("runs", {})
        return runs

    def _get(self, name: str) -> Callable[[], float]:
        return lambda: float(self._said.get(name, math.nan))

    def _lag(self) -> float:
        if not self._said:
            return math.nan
        oldest = self._said["oldest"]
        return 0.0 if oldest is None else max(0.0, time.time() - oldest)
