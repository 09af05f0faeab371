"""Queue the batches of one raw run: cut them, hand them out, take them back.

Decisions only. What lies in the queue are names (`Batch`), never columns, so a
backlog costs a few bytes per event.
"""

import heapq
import math
from collections.abc import Mapping
from dataclasses import replace

from p06bs.bus.reader import LogError
from p06bs.model.revisions import Revision
from p06bs.model.run import RawRun
from p06bs.model.taken import Taken
from p06bs.pipeline.batch import LARGEST, WORTH, Batch, batch_size, halves

AHEAD = 32
"""Largest batches that may be handed out beyond the first row that is still missing."""
DEATHS = 4
"""Workers that a batch may cost before it is halved."""
SILENCES = 2
"""Workers that may fall silent over a batch before it is to blame."""


class Master:
    """Cut one raw run's rows into batches and see that each comes back once.

    Parameters
    ----------
    raw : RawRun
        The run, fed elsewhere.
    initial : Revision
        Settings in force before the first row.
    known : mapping of int to Revision
        Settings by their first row, as an earlier writer has recorded them.
    skip : int
        Rows that an earlier writer has delivered, and `last`, the identity of the last of them.
    published : int
        Rows that an earlier writer has published; new settings begin behind them.
    size : int, optional
        Fixed batch size; by default it follows the backlog.
    largest : int
        Most events of a batch, whatever `size` says.
    window : int
        How many batches may be out at once. Beside it, no more than `AHEAD` of the
        largest batches may lie beyond the first row that the sorter still misses,
        so that its memory is bounded.
    brief : bool
        No batch is to be longer than is worth it, whatever the backlog: other runs go first.
    """

    def __init__(
        self,
        raw: RawRun,
        initial: Revision,
        *,
        known: Mapping[int, Revision] | None = None,
        skip: int = 0,
        published: int = 0,
        last: str | None = None,
        size: int | None = None,
        largest: int = LARGEST,
        window: int = 256,
        brief: bool = False,
    ) -> None:
        self.raw = raw
        self.size = size
        self.brief = brief
        self.largest = largest
        self.window = window
        self.revision = initial
        self._recorded = False
        self._pending: Revision | None = None
        self._known = dict(sorted((known or {}).items()))
        self._skip = skip
        self.published = published
        self._last = last
        self._made = 0
        self._out: dict[int, Batch] = {}
        self._again: list[tuple[int, int]] = []  # (first row, batch number)
        self._deaths: dict[int, int] = {}
        self._silences: dict[int, int] = {}
        self.halved: dict[int, tuple[int, int]] = {}  # batch -> the numbers of its halves
        self._row_seconds = WORTH  # how long one row takes, averaged over batches
        self.delivered = 0  # rows that the sorter has delivered; it holds what is beyond

    @property
    def done(self) -> bool:
        """Whether the run has ended and every batch came back."""
        self._skip_delivered()
        rows = self.raw.rows
        return (
            self.raw.ending is not None
            and rows is not None
            and not rows.available
            and not self._out
            and rows.taken >= self._skip
        )

    def revise(self, revision: Revision) -> None:
        """Put settings in force from the next row on that is not in a batch yet.

        Their number follows that of the settings before them.
        """
        self._pending = revision

    @property
    def pending_change(self) -> int:
        """Number of the change that begins with the next row; -1 if none does."""
        return -1 if self._pending is None else self._pending.change

    def boundary(self) -> tuple[Revision, int, str] | None:
        """Return ``(revision, first row, its identity)`` if new settings begin with the next row.

        They are in force from then on; the caller records them before it asks
        for a batch. Settings that an earlier writer has recorded are taken
        silently.
        """
        rows = self.raw.rows
        self._skip_delivered()
        if rows is None or not rows.available or not self.batches_allowed:
            return None
        known = self._known.pop(rows.taken, None)
        if known is not None:
            self.revision = known
            self._recorded = True
        if self._pending is not None and not self._known and rows.taken >= self.published:
            number = self.revision.number + 1
            self.revision, self._pending = replace(self._pending, number=number), None
        elif self._recorded:
            return None
        self._recorded = True
        return self.revision, rows.taken, next(rows.next_uids(1))

    def _skip_delivered(self) -> None:
        """Pass over the rows that an earlier writer has delivered."""
        rows = self.raw.rows
        while rows is not None and rows.taken < self._skip and rows.available:
            taken = rows.take(self._skip - rows.taken)
            assert taken is not None
            for row in [row for row in self._known if row < rows.taken]:
                self.revision = self._known.pop(row)
                self._recorded = True
            if rows.taken == self._skip and taken.uids[-1] != self._last:
                raise LogError(
                    f"row {self._skip} of the derived run was event {self._last}, "
                    f"but the raw log has {taken.uids[-1]} there"
                )

    @property
    def batches_allowed(self) -> bool:
        """Whether another batch may go out; the window bounds the sorter's memory."""
        rows = self.raw.rows
        ahead = 0 if rows is None else rows.taken - max(self.delivered, self._skip)
        return len(self._out) < self.window and ahead < AHEAD * self.largest

    def batch(self, workers: int) -> Batch | None:
        """Return the next batch for one of `workers` workers: one to do again, else a new one.

        Call `boundary` before.
        """
        again = self._repeated()
        if again is not None:
            return again
        rows = self.raw.rows
        if rows is None or not self.batches_allowed or rows.taken < self._skip:
            return None
        backlog = 0 if self.brief else rows.available
        adapted = batch_size(backlog, workers, self.largest, self._row_seconds)
        size = min(self.size or adapted, self.largest)
        ahead = [row - rows.taken for row in (*self._known, self.published) if row > rows.taken]
        taken = rows.take(min([size, *ahead]))
        if taken is None:
            return None
        return self._put(self.revision.number, taken)

    def _repeated(self) -> Batch | None:
        """Return a batch that is to be done again."""
        while self._again:
            _, number = heapq.heappop(self._again)
            if number in self._out:
                return self._out[number]
        return None

    def _put(self, revision: int, rows: Taken) -> Batch:
        batch = Batch(self._made, revision, rows)
        self._made += 1
        self._out[batch.number] = batch
        return batch

    def extra(self, revision: int, rows: Taken) -> int:
        """Queue rows that were computed before once more; return the number of their batch."""
        batch = self._put(revision, rows)
        self.again(batch.number)
        return batch.number

    def batch_out(self, number: int) -> Batch | None:
        """Return a batch that is out; None if its result came."""
        return self._out.get(number)

    @property
    def out(self) -> tuple[int, ...]:
        """Numbers of the batches that are out."""
        return tuple(self._out)

    def returned(self, number: int) -> Batch | None:
        """Take a batch as done, because its result is here; None if it was done before."""
        self._deaths.pop(number, None)
        self._silences.pop(number, None)
        return self._out.pop(number, None)

    def took(self, rows: int, seconds: float) -> None:
        """Note how long a worker computed a batch of so many rows."""
        if rows > 0 and 0 <= seconds < math.inf:
            self._row_seconds += (seconds / rows - self._row_seconds) / 4

    def suspect(self, number: int) -> bool:
        """Return whether a worker has died over a batch; the next one is to have it alone."""
        return number in self._deaths

    def silenced(self, number: int) -> bool:
        """Note that a worker fell silent over a batch; return whether the batch is to blame."""
        self._silences[number] = self._silences.get(number, 0) + 1
        return self._silences[number] >= SILENCES

    def again(self, number: int) -> None:
        """Hand a batch out again, through no fault of its own."""
        if number in self._out:
            heapq.heappush(self._again, (self._out[number].rows.first, number))

    def lost(self, number: int) -> str:
        """Take a batch back whose worker died; return why its event is invalid, or "".

        A batch that has cost `DEATHS` workers is halved. A single event that has is
        invalid: it stays out until `returned`.
        """
        batch = self._out.get(number)
        if batch is None:
            return ""
        self._deaths[number] = self._deaths.get(number, 0) + 1
        if self._deaths[number] < DEATHS:
            self.again(number)
            return ""
        if len(batch.rows) == 1:
            return f"{DEATHS} workers died or fell silent while they computed this event"
        del self._out[number], self._deaths[number]
        parts = [self._put(batch.revision, half) for half in halves(batch.rows)]
        self.halved[number] = (parts[0].number, parts[1].number)
        for part in parts:
            # One more death halves again: it is known that somewhere here is a killer.
            self._deaths[part.number] = DEATHS - 1
            self.again(part.number)
        return ""

    @property
    def computable(self) -> int:
        """Rows that workers could be at now: those of batches, and those that may become some."""
        rows = self.raw.rows
        cut = sum(len(batch.rows) for batch in self._out.values())
        return cut + (rows.available if rows is not None and self.batches_allowed else 0)

    @property
    def queued(self) -> int:
        """Rows that wait for a worker or are with one."""
        rows = self.raw.rows
        return (rows.available if rows else 0) + sum(len(b.rows) for b in self._out.values())
