"""Runs out of their logs into a pipeline, no faster than it computes them.

A raw run whose names need not wait in memory, and the derived runs of it that feed inputs. Of a
pipeline that others feed, all comes this way: the raw run must not fill the memory that is for
names while it waits for a derived run, which would then be read no more.
"""

import time
from collections.abc import Callable, Mapping

from p06bs.bus.log import DocumentLog
from p06bs.bus.reader import Entry, RunReader
from p06bs.model.run import HELD_DOCUMENTS
from p06bs.pipeline.run import RunPipeline

AT_ONCE = 1 << 18
"""Bytes of a log that are read in one turn."""
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
        return self.read() if run is None or _has_room(run) else []

    def read(self) -> list[Entry]:
        """Return what comes next; nothing for a while where there was nothing.

        Raises
        ------
        OSError, LogError
            If the log cannot be read.
        """
        now = time.monotonic()
        if now < self._look_at:
            return []
        entries = self._reader.read(AT_ONCE)
        if not entries:
            self._look_at = now + LOOK
        return entries


def _has_room(run: RunPipeline) -> bool:
    raw = run.raw
    if run.over or run.stands_by or (raw.lacks and raw.held >= HELD_DOCUMENTS // 2):
        return False
    return raw.rows is None or raw.rows.available + raw.rows.waiting < AHEAD


class UpstreamFeeding:
    """Feed one run from the logs of derived runs, and wait until they begin, not for ever.

    Parameters
    ----------
    documents : DocumentLog
    wait : float
        Seconds for which those that have not begun are waited for.
    begun : callable
        Returns the uids of those that have, by the names of their pipelines.
    left : callable
        Returns why the pipeline of that name makes no derived run of the raw run; "" if it may.
    """

    def __init__(
        self,
        documents: DocumentLog,
        wait: float,
        begun: Callable[[], Mapping[str, str]],
        left: Callable[[str], str] = lambda name: "",
    ) -> None:
        self._documents = documents
        self._wait = wait
        self._begun = begun
        self._left = left
        self._feedings: dict[str, Feeding] = {}  # by the uid of the derived run
        self._since: float | None = None  # when the first event was there

    def wake(self, uid: str) -> None:
        """Look at the log of a derived run at once, because it has grown."""
        if uid in self._feedings:
            self._feedings[uid].wake()

    def feed(self, run: RunPipeline) -> list[tuple[str, Entry]]:
        """Return what comes next of the derived runs, by their uids, if `run` has need of it.

        Raises
        ------
        OSError, LogError
            If a log cannot be read.
        """
        if run.over or run.stands_by:
            return []
        for name in run.raw.after:
            uid = self._begun().get(name)
            if uid is not None and uid not in self._feedings:
                self._feedings[uid] = Feeding(self._documents.reader(uid, arrays=False))
        found: list[tuple[str, Entry]] = []
        for uid, feeding in self._feedings.items():
            known = run.raw.upstream.get(uid)
            if known is None or known.unused < AHEAD:
                found += ((uid, entry) for entry in feeding.read())
        return found

    def give_up(self, run: RunPipeline) -> None:
        """Have a run go on without what has not begun, if it has waited long enough."""
        unbegun = [name for name in run.raw.unbegun if name not in self._begun()]
        if run.over or run.stands_by or not unbegun:
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        left = {name: self._left(name) for name in unbegun}
        if now - self._since < self._wait and not all(left.values()):
            return
        why = [
            f"{name} makes no derived run of it: {reason}"
            if reason
            else f"{name} has begun no derived run of it within {self._wait:g} s"
            for name, reason in left.items()
        ]
        run.go_without("; ".join(why))
