"""Dask workers that this process starts, and replaces where they are lost."""

import asyncio
import concurrent.futures
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any

from p06bs.pipeline.client import configure, connect, names, restart

log = logging.getLogger(__name__)

PAUSE = 60.0
"""Longest pause, seconds, after workers that could not be started."""

LONGEST = 180.0
"""Seconds for one change; what has not started then is given up."""

CLOSE_SECONDS = 15.0
"""Time for all workers to end; supervisors kill soon after."""

AGAIN = 30.0
"""Seconds after which a unit that was to end, and is there yet, is told again."""


class Started(ABC):
    """Workers that this process starts through a Dask `SpecCluster`.

    Parameters
    ----------
    workers : int
        How many are wished at first.
    """

    scales = True
    prompt = True
    per_unit = 1
    """Workers of a unit."""
    output = ""
    """Where to look for what units said that did not join."""

    def __init__(self, workers: int) -> None:
        self._wish = workers
        self._cluster: Any = None
        self._client: Any = None
        self._change: concurrent.futures.Future[None] | None = None
        self._ending: dict[str, float] = {}  # unit that is to end -> when it was told
        self._joined: set[str] = set()  # units that have joined, as long as they are wished
        self._failures = 0  # changes and units in a row that came to nothing
        self._not_before = 0.0

    @abstractmethod
    def make(self) -> Any:
        """Return the cluster."""

    @abstractmethod
    def lost(self, units: Collection[str], joined: Collection[str]) -> Collection[str]:
        """Return those of the started `units` that will not join (again); `joined` are there."""

    def unit(self, worker: str) -> str:
        """Return the unit of a worker by its name."""
        return worker

    def open(self) -> Any:
        configure()
        self._cluster = self.make()
        self._client = connect(self._cluster)
        return self._client

    def scale(self, workers: int) -> None:
        self._wish = workers

    def tend(self) -> Mapping[str, str]:
        settled = self._settled()
        there = {address: self.unit(name) for address, name in names(self._client).items()}
        joined = set(there.values())
        if settled:
            self._ending = {unit: told for unit, told in self._ending.items() if unit in joined}
        if settled and time.monotonic() >= self._not_before:
            self._mend(joined)
        # No loop is to begin on a worker that joins in the moment in which it is given up.
        return {address: unit for address, unit in there.items() if unit not in self._ending}

    def due(self) -> Collection[str]:
        return ()

    def retire(self, unit: str) -> None:
        self._begin({unit})

    def restart(self, workers: Collection[str]) -> None:
        restart(self._client, workers)

    def close(self) -> None:
        client, self._client = self._client, None
        cluster, self._cluster = self._cluster, None
        try:
            if client is not None:
                client.close()
        finally:
            if cluster is not None:
                cluster.close(CLOSE_SECONDS)

    def _mend(self, joined: set[str]) -> None:
        """Replace units that are lost, start those that are missing, take back surplus ones."""
        units = [str(name) for name in self._cluster.worker_spec]
        if joined.intersection(units) - self._joined:
            self._failures = 0
        self._joined = (self._joined | joined).intersection(units)
        lost = set(self.lost(units, joined.intersection(units)))
        if lost:
            told = ", ".join(sorted(lost))
            log.error("workers are missing: %s; others replace them%s", told, self.output)
        if lost - self._joined:
            self._failed()
        wished = -(-self._wish // self.per_unit)
        left = [unit for unit in units if unit not in lost]
        late = {u for u, told in self._ending.items() if time.monotonic() - told > AGAIN}
        given_up = lost | late | surplus(left, joined, wished)
        if given_up or len(left) < wished:
            self._begin(given_up)

    def _begin(self, units: Set[str]) -> None:
        """Change what there is, in the cluster's event loop and one after the other."""
        self._ending.update(dict.fromkeys(units, time.monotonic()))
        before = self._change

        async def change() -> None:
            if before is not None:
                await asyncio.gather(asyncio.wrap_future(before), return_exceptions=True)
            await asyncio.wait_for(self._correct(units), LONGEST)

        loop = self._cluster.loop.asyncio_loop
        self._change = asyncio.run_coroutine_threadsafe(change(), loop)

    async def _correct(self, units: Set[str]) -> None:
        """End units, and start what is missing."""
        cluster = self._cluster
        # Those that were given up and are there yet. The others are not retired by the scheduler,
        # too: a worker that is told twice to close may hang.
        strangers = units - {str(name) for name in cluster.worker_spec}
        workers = cluster.scheduler.workers.values()
        if going := [w.address for w in workers if self.unit(str(w.name)) in strangers]:
            await cluster.scheduler.retire_workers(workers=going, close_workers=True)
        for name in [n for n in cluster.worker_spec if str(n) in units]:
            del cluster.worker_spec[name]
        if time.monotonic() >= self._not_before:
            while len(cluster.worker_spec) * self.per_unit < self._wish:
                cluster.worker_spec.update(cluster.new_worker_spec())
        await cluster._correct_state()

    def _settled(self) -> bool:
        """Whether the last change is over; what it could not start is lost, and comes again."""
        if self._change is None:
            return True
        if not self._change.done():
            return False
        change, self._change = self._change, None
        error = change.exception()
        if error is not None:
            log.warning("workers cannot be started or ended: %s", last_line(error))
            self._failed()
        return True

    def _failed(self) -> None:
        self._failures += 1
        self._not_before = time.monotonic() + min(2.0**self._failures, PAUSE)


def surplus(units: Sequence[str], joined: Set[str], wished: int) -> set[str]:
    """Return the units to take back: those that have not joined, the last ones, if too many.

    Parameters
    ----------
    units : sequence of str
        In the order in which they were started.
    joined : set of str
        Those that are there; they are never taken back.
    wished : int
        How many units there should be.
    """
    waiting = [unit for unit in units if unit not in joined]
    excess = max(0, len(units) - wished)
    return set(waiting[max(0, len(waiting) - excess) :])


def last_line(error: BaseException) -> str:
    """Return the last line that an error says; of a command that failed it is the reason."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
