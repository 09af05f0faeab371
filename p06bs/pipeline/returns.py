"""What workers send back: results, and batches that they could not begin."""

import logging
from functools import partial
from typing import Any

from p06bs.bus.reader import LogError
from p06bs.pipeline import lane
from p06bs.pipeline.briefing import Briefing
from p06bs.pipeline.late import Late
from p06bs.pipeline.leases import Leases
from p06bs.pipeline.load import BatchKey, Load

log = logging.getLogger(__name__)


class Returns:
    """Take what workers of a pool send back to the runs that it is of.

    Parameters
    ----------
    load : Load
        Has the runs.
    leases : Leases
    late : Late
    briefing : Briefing
    """

    def __init__(
        self,
        load: Load,
        leases: Leases[BatchKey],
        late: Late[BatchKey],
        briefing: Briefing,
    ) -> None:
        self._load = load
        self._leases = leases
        self._late = late
        self._briefing = briefing

    def result(
        self,
        worker: str,
        kind: str,
        key: str,
        number: int,
        attempt: int,
        *said: Any,
        more: list[bytes],
    ) -> None:
        """Take the result of a batch; one that came before is dropped.

        Raises
        ------
        Exception
            If it is none, whatever is wrong with it; the batch is computed again.
        """
        self._briefing.ready(key)
        run_key = key.rpartition("/")[0]
        batch = (run_key, number)
        self._leases.end(batch, worker, attempt)
        run = self._load.runs.get(run_key)
        work = None if run is None else run.going
        out = None if work is None else work.master.batch_out(number)
        if run is None or work is None or out is None:
            return  # it came before, from another worker
        try:
            if kind == lane.PAGE:
                count, invalid, seconds, parts = said
                work.composed(number, count, invalid, lane.packed_page(more), parts)
            else:
                reasons, columns, seconds, parts = said
                work.result(number, lane.decode_result(reasons, columns, parts, len(out.rows)))
            work.master.took(len(out.rows), float(seconds))
            self._load.tally(key).took(len(out.rows), float(seconds))
        except LogError as error:
            run.abandon(f"its derived run cannot be written: {error}")
        except Exception as error:  # a result that does not fit, whatever is wrong with it
            if work.master.batch_out(number) is None:
                run.abandon(f"{type(error).__name__}: {error}")
            else:
                self._load.tally(run_key).retries += 1
                work.lost(number)
                raise
        self._leases.forget(batch)
        self._late.done(batch)

    def returned(
        self,
        worker: str,
        now: float,
        kind: str,
        key: str,
        number: int,
        attempt: int,
        reason: str = "",
        progress: Any = None,
    ) -> None:
        """Take a batch back that a worker could not begin."""
        run_key = key.rpartition("/")[0]
        if not self._leases.end((run_key, number), worker, attempt):
            return  # it is no longer this worker's
        run = self._load.runs.get(run_key)
        work = None if run is None else run.going
        if run is None or work is None:
            return
        if kind == lane.REFUSED:
            refused = self._briefing.refuse(worker, key)
            everybody = refused.issuperset(self._leases.workers)
            run.attempt(partial(work.refused, number, reason, len(refused), everybody))
        elif kind == lane.READY:
            self._briefing.ready(key)
            work.master.again(number)
        elif kind == lane.LATE:
            self._briefing.ready(key)
            self._late.report((run_key, number), reason, progress, now)
        else:
            self._briefing.untold(worker, key)  # send what it needs with the next batch
            if kind == lane.UNREAD and self._briefing.blind(worker, run_key):
                log.warning("worker %s cannot read the log (%s); it gets columns", worker, reason)
            work.master.again(number)
