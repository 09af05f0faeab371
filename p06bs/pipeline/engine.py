"""Let Dask decide where workers run: place worker loops on the workers of a cluster.

A worker loop is one long-running Dask task, pinned to one Dask worker. Dask does
not keep such tasks alive: a task pinned to a worker that died stays pending, and
one that was killed often enough is given up. So the engine itself gives every
Dask worker that joins a loop of its own.
"""

import logging
import queue
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from p06bs.pipeline.cluster import Cluster
from p06bs.pipeline.started import AGAIN
from p06bs.pipeline.worker import own_process

log = logging.getLogger(__name__)

INTERVAL = 0.25

TOLERATED = 60.0
"""Seconds for which nothing may be placed, for example while a scheduler is away."""

CLOSE_SECONDS = 10.0
"""Time for what is under way to end."""


@dataclass
class _Place:
    """A Dask worker with the loop that runs on it."""

    loop: str
    future: Any
    failures: int = 0
    waits: int = field(default=0)


class Engine:
    """Place worker loops on a cluster, replace loops that end, and have workers drained.

    A worker that is not wanted any more, or will end by itself, is drained: its loop is
    told to stop by `drain`, returns what it has, and only then is the worker's unit retired.

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
    drain : callable
        Called with a loop's name when it is to return what it has, and end. Any thread.
    keys : str, optional
        Directory of the workers' keys, on their hosts. Secrets do not pass through Dask.
    """

    def __init__(
        self,
        address: str,
        epoch: str,
        cluster: Cluster,
        *,
        modalities: Sequence[str] = (),
        gone: Callable[[str], None] = lambda loop: None,
        drain: Callable[[str], None] = lambda loop: None,
        keys: str | None = None,
    ) -> None:
        self.address = address
        self.epoch = epoch
        self.cluster = cluster
        self.modalities = tuple(modalities)
        self.keys = keys
        self.gone = gone
        self.drain = drain
        self._client: Any = None
        self._places: dict[str, _Place] = {}  # by address of the Dask worker
        self._wish: tuple[int, Sequence[str]] | None = None  # how many, and who goes first
        self._leaving: dict[str, float | None] = {}  # unit -> when it was retired
        self._hung: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start in the background: a pipeline follows its runs while workers come up."""
        self._thread.start()

    @property
    def opened(self) -> bool:
        """Whether the cluster is there, with or without workers."""
        return self._client is not None

    @property
    def workers(self) -> int:
        """How many Dask workers have a loop, those that are drained included."""
        return len(self._places)

    def scale(self, workers: int, order: Sequence[str] = ()) -> None:
        """Have `workers` Dask workers. Any thread.

        Parameters
        ----------
        workers : int
        order : sequence of str
            Names of loops, in the order in which they are drained if there are too many.
            Those that it does not name have not joined yet, and go before.
        """
        self._wish = (workers, order)
        self.cluster.scale(workers)

    def restart(self, loop: str) -> None:
        """Have the process of a loop that hangs replaced. Any thread."""
        self._hung.put(loop)

    def _run(self) -> None:
        failing_since: float | None = None
        try:
            self._client = self.cluster.open()
            while not self._stop.wait(INTERVAL):
                try:
                    self._place()
                    failing_since = None
                except Exception:
                    if failing_since is None:
                        failing_since = time.monotonic()
                        log.exception("workers cannot be placed now")
                    if time.monotonic() - failing_since >= TOLERATED:
                        raise
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
        self._drain(there)
        self._retire(there)
        for address in there:
            if there[address] in self._leaving:
                continue
            if address not in self._places:
                self._places[address] = self._submit(address, 0)
            elif self._places[address].future.done():
                self._replace(address, self._places[address])

    def _drain(self, there: Mapping[str, str]) -> None:
        """Have those drained that end soon by themselves, or are too many."""
        units: defaultdict[str, list[str]] = defaultdict(list)  # of those who stay: addresses
        for address, unit in there.items():
            if unit not in self._leaving:
                units[unit].append(address)
        going = [unit for unit in self.cluster.due() if unit in units]
        if self.cluster.scales and self._wish is not None:
            wanted, order = self._wish
            rank = {loop: at for at, loop in enumerate(order)}

            def turn(unit: str) -> int:
                placed = [self._places[a].loop for a in units[unit] if a in self._places]
                return max((rank.get(loop, -1) for loop in placed), default=-1)

            staying = units.keys() - set(going)
            excess = sum(len(units[unit]) for unit in staying) - wanted
            for unit in sorted(staying, key=turn):
                excess -= len(units[unit])
                if excess < 0:
                    break
                going.append(unit)
        for unit in going:
            self._leaving[unit] = None
            for address in units[unit]:
                if address in self._places:
                    self.drain(self._places[address].loop)

    def _retire(self, there: Mapping[str, str]) -> None:
        """Retire the units whose loops have ended, and forget those that are gone."""
        for unit, retired in list(self._leaving.items()):
            addresses = [a for a in there if there[a] == unit]
            if retired is not None and not addresses:
                del self._leaving[unit]
            elif retired is None or time.monotonic() - retired > AGAIN:
                places = [self._places[a] for a in addresses if a in self._places]
                if all(place.future.done() for place in places):
                    for place in places:
                        place.future.release()  # or Dask saves what it returned elsewhere
                    self._leaving[unit] = time.monotonic()
                    self.cluster.retire(unit)

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
        loop = f"{address.partition('://')[2]}-{uuid.uuid4().hex[:8]}"
        future = self._client.submit(
            own_process,
            self.address,
            loop,
            self.epoch,
            self.modalities,
            self.keys,
            workers=[address],
            allow_other_workers=False,
            pure=False,
            retries=0,
            key=f"work-{loop}",
        )
        return _Place(loop, future, failures)

    def close(self) -> None:
        """Stop placing loops and close what was started. Tell the loops to stop before.

        What cannot be closed is told of: whoever ends has more to close.
        """
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            log.error("workers were still being placed after %.0f s", CLOSE_SECONDS)
        try:
            self.cluster.close()
        except Exception:
            log.exception("the workers could not be ended")
