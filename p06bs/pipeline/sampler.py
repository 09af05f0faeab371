"""Queue every n-th batch of a run, for a preview of what cannot be computed at once.

Decisions only. The rows in between are passed over; those of the preview are counted
without them, so that they make a derived run like any other.
"""

import math
from typing import Any

from p06bs.model.revisions import Revision
from p06bs.pipeline.batch import Batch
from p06bs.pipeline.master import Master

SHOWN_WITHIN = 1.0
"""Seconds of computing that are spread over what waits."""


class Sampler(Master):
    """Cut a part of one raw run's rows into batches: what workers can do now.

    When a batch is asked for, so many are passed over that what waits now would be through
    within `SHOWN_WITHIN`: n follows the load.

    Attributes
    ----------
    active : bool
        Whether there is a preview now.
    seen : int
        Rows of the raw run that were taken or passed over.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.active = False
        self.seen = 0
        self._owed = 0  # rows that are yet to be passed over
        self._placed = self._skip == 0

    @property
    def done(self) -> bool:
        """Whether the run has ended and every batch came back: then the whole run is computed."""
        return self.raw.ending is not None and not self._out

    def follow(self, rows: int) -> None:
        """Pass over the first so many rows of the run: they need no preview any more."""
        self._owed = max(self._owed, rows - self.seen)
        self._pass_over()

    def boundary(self) -> tuple[Revision, int, str] | None:
        """Return the settings that begin with the next batch; see `Master`."""
        return super().boundary() if self._due() else None

    def batch(self, workers: int) -> Batch | None:
        """Return the next batch, and pass over the rows behind it."""
        rows = self.raw.rows
        if rows is None or not self._due():
            return self._repeated()
        waiting, made = rows.available, self._made
        batch = super().batch(workers)
        if batch is not None and self._made > made:
            self.seen += len(batch.rows)
            work = waiting * self._row_seconds / max(1, workers)
            every = math.ceil(work / SHOWN_WITHIN)
            self._owed = max(0, every - 1) * len(batch.rows)
        return batch

    def _due(self) -> bool:
        """Whether the next row is the first of a batch."""
        self._skip_delivered()
        self._pass_over()
        rows = self.raw.rows
        return (
            self.active
            and self._placed
            and not self._owed
            and self.raw.stop is None
            and rows is not None
            and rows.available > 0
        )

    def _pass_over(self) -> None:
        rows = self.raw.rows
        if rows is None or not self._placed or not self._owed:
            return
        passed = rows.skip(self._owed)
        self.seen += passed
        self._owed -= passed

    def _skip_delivered(self) -> None:
        """Pass over all up to the last row that an earlier writer has delivered."""
        rows = self.raw.rows
        while rows is not None and not self._placed and rows.available:
            self._placed = next(rows.next_uids(1)) == self._last
            self.seen += rows.skip(1)
            if self._placed:
                rows.taken = self._skip
                for row in [row for row in self._known if row < rows.taken]:
                    self.revision = self._known.pop(row)
                    self._recorded = True
