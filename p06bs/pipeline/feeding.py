"""A raw run out of its log into a pipeline, no faster than it is computed."""

import time

from p06bs.bus.reader import Entry, RunReader
from p06bs.pipeline.run import RunPipeline

AT_ONCE = 1 << 18
"""Bytes of a raw run's log that are read in one turn."""
AHEAD = 65_536
"""Rows whose names wait in memory; while there are so many, the rest waits in the log."""
LOOK = 0.5
"""Seconds after which an end that was reached is looked at again."""


class Feeding:
    """Read a raw run's log as its pipeline has room for more.

    Parameters
    ----------
    reader : RunReader
        What it has read already is in the pipeline.
    """

    def __init__(self, reader: RunReader) -> None:
        self._reader = reader
        self._look_at = 0.0

    def wake(self) -> None:
        """Look at the log at once, because it has grown."""
        self._look_at = 0.0

    def entries(self, run: RunPipeline | None) -> list[Entry]:
        """Return what comes next; nothing if `run` stands by, or has enough to do.

        Raises
        ------
        OSError, LogError
            If the log cannot be read.
        """
        now = time.monotonic()
        if now < self._look_at or (run is not None and not _has_room(run)):
            return []
        entries = self._reader.read(AT_ONCE)
        if not entries:
            self._look_at = now + LOOK
        return entries


def _has_room(run: RunPipeline) -> bool:
    rows = run.raw.rows
    return not (run.over or run.stands_by or (rows is not None and rows.available >= AHEAD))
