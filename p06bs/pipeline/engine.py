"""Let Dask decide where workers run: place worker loops on the workers of a cluster.

A worker loop is one long-running Dask task, pinned to one Dask worker. Dask does
not keep such tasks alive: a task pinned to a worker that died stays pending, and
one that was killed often enough is given up. So the engine itself gives every
Dask worker that joins a loop of its own.
"""

import logging
import queue
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from p06bs.pipeline.cluster import Cluster
from p06bs.pipeline.worker import own_process

log = logging.getLogger(__name__)

INTERVAL = 0.25


@dataclass
class _Place:
    """A Dask worker with the loop that runs on it."""

    loop: str
    future: Any
    failures: int = 0
    waits: int = field(default=0)


class Engine:
    """Place worker loops on a cluster, and replace loops that end.

    Parameters
    ----------
    address : str
        0MQ address of the pipeline process's lane.
    epoch : str
        Identity of the pipeline process.
    cluster : Cluster
        The Dask workers; opened and closed by the engine.
    modalities : sequence of str
        ``module:Class`` of what workers warm up before they join.
    gone : callable
        Called with a loop's name when its Dask worker has left. Any thread.
    """

    def __init__(
        self,
        address: str,
        epoch: str,
        cluster: Cluster,
        *,
        modalities: Sequence[str] = (),
        gone: Callable[[str], None] = lambda loop: None,
    ) -> None:
        self.address = address
        self.epoch = epoch
        self.cluster = cluster
        self.modalities = tuple(modalities)
        self.gone = gone
        self._client: Any = None
        self._places: dict[str, _Place] = {}
        self._hung: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start in the background: a pipeline follows its runs while workers come up."""
        self._thread.start()

    def scale(self, workers: int) -> None:
        """Have `workers` Dask workers. Any thread."""
        self.cluster.scale(workers)

    def restart(self, loop: str) -> None:
        """Have the process of a loop that hangs replaced. Any thread."""
        self._hung.put(loop)

    def _run(self) -> None:
        try:
            self._client = self.cluster.open()
            while not self._stop.wait(INTERVAL):
                self._place()
        except Exception as error:
            self.failure = error

    def _place(self) -> None:
        """Give each joined worker a loop; forget those that left."""
        loops = set()
        while not self._hung.empty():
            loops.add(self._hung.get())
        hung = [address for address, place in self._places.items() if place.loop in loops]
        if hung:
            self.cluster.restart(hung)
        there = self.cluster.tend()
        for address in [a for a in self._places if a not in there]:
            place = self._places.pop(address)
            place.future.cancel(force=True)
            self.gone(place.loop)
        for address in there:
            if address not in self._places:
                self._places[address] = self._submit(address, 0)
            elif self._places[address].future.done():
                self._replace(address, self._places[address])

    def _replace(self, address: str, place: _Place) -> None:
        """Submit a loop again that ended, later and later if it fails."""
        if place.waits == 0:
            failed = place.future.status != "finished"
            if failed:
                log.warning("worker loop %s failed: %s", place.loop, place.future.exception())
            place.failures = place.failures + 1 if failed else 0
            place.waits = 1 + min(2**place.failures, 120)
            self.gone(place.loop)
        place.waits -= 1
        if place.waits == 0:
            self._places[address] = self._submit(address, place.failures)

    def _submit(self, address: str, failures: int) -> _Place:
        loop = f"{address.removeprefix('tcp://')}-{uuid.uuid4().hex[:8]}"
        future = self._client.submit(
            own_process,
            self.address,
            loop,
            self.epoch,
            self.modalities,
            workers=[address],
            allow_other_workers=False,
            pure=False,
            retries=0,
            key=f"work-{loop}",
        )
        return _Place(loop, future, failures)

    def close(self) -> None:
        """Stop placing loops and close what was started. Tell the loops to stop before."""
        self._stop.set()
        self._thread.join()
        self.cluster.close()
