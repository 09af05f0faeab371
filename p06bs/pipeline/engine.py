"""Let Dask decide where workers run. This is the one module that knows Dask.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from p06bs.pipeline.worker import own_process

log = logging.getLogger(__name__)

INTERVAL = 0.25
MISSING = 8.0
"""Seconds after which workers that are missing are not waited for any more."""


@dataclass
class _Place:
    """A Dask worker with the loop that runs on it."""

    loop: str
    future: Any
    failures: int = 0
    waits: int = field(default=0)


class Engine:
    """Place worker loops on a Dask cluster, scale it, and replace loops that end.

    Parameters
    ----------
    address : str
        0MQ address of the pipeline process's lane.
    epoch : str
        Identity of the pipeline process.
    on : str
        ``"local"`` for a LocalCluster of processes, or a scheduler's address.
    workers : int
        How many Dask workers a local cluster has at first.
    modalities : sequence of str
        ``module:Class`` of what workers warm up before they join.
    gone : callable
        Called with a loop's name when its Dask worker has left. Any thread.
    """

    def __init__(
        self,
        address: str,
        epoch: str,
        *,
        on: Literal["local"] | str = "local",
        workers: int = 2,
        modalities: Sequence[str] = (),
        gone: Callable[[str], None] = lambda loop: None,
    ) -> None:
        self.address = address
        self.epoch = epoch
        self.on = on
        self.size = workers
        self.modalities = tuple(modalities)
        self.gone = gone
        self._cluster: Any = None
        self._client: Any = None
        self._places: dict[str, _Place] = {}
        self._hung: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._short_since: float | None = None  # when workers began to be missing
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start in the background: a pipeline follows its runs while workers come up."""
        self._thread.start()

    def scale(self, workers: int) -> None:
        """Have `workers` Dask workers (a local cluster only)."""
        self.size = workers

    def restart(self, loop: str) -> None:
        """Have the process of a loop that hangs replaced. Any thread."""
        self._hung.put(loop)

    def _run(self) -> None:
        try:
            self._connect()
            while not self._stop.wait(INTERVAL):
                self._place()
        except Exception as error:
            self.failure = error

    def _connect(self) -> None:
        import dask
        import distributed

        make: Any = distributed  # its constructors are not annotated

        dask.config.set(
            {
                "distributed.worker.profile.enabled": False,
                # Dask also sets MALLOC_TRIM_THRESHOLD_, which makes glibc map and fault every
                # larger numpy temporary anew: a kernel on frames is four times slower with it.
                "distributed.nanny.pre-spawn-environ": {
                    "OMP_NUM_THREADS": 1,
                    "MKL_NUM_THREADS": 1,
                    "OPENBLAS_NUM_THREADS": 1,
                },
                "distributed.scheduler.worker-ttl": "30s",
                "distributed.worker.memory.terminate": False,
                "distributed.comm.timeouts.connect": "10s",
            }
        )
        # Dask tells about every connection; what fails is seen here as workers that left.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        if self.on == "local":
            self._cluster = make.LocalCluster(
                n_workers=self.size,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # a port of its own: 8787 may be taken
                scheduler_kwargs={"dashboard": False},
                silence_logs=logging.CRITICAL,
            )
            self._client = make.Client(self._cluster)
        else:
            self._client = make.Client(self.on)

    def _place(self) -> None:
        """Give each joined worker a loop; forget those that left."""
        if self._cluster is not None and len(self._cluster.worker_spec) != self.size:
            self._cluster.scale(self.size)
        loops = set()
        while not self._hung.empty():
            loops.add(self._hung.get())
        hung = [address for address, place in self._places.items() if place.loop in loops]
        if hung:
            try:
                self._client.restart_workers(hung, timeout=30, raise_for_error=False)
            except Exception as error:  # a worker without a nanny, whom Dask cannot replace
                log.error("workers %s cannot be replaced: %s", ", ".join(hung), error)
        there = set(self._client.scheduler_info(n_workers=-1)["workers"])
        for address in [a for a in self._places if a not in there]:
            place = self._places.pop(address)
            place.future.cancel(force=True)
            self.gone(place.loop)
        self._mend(there)
        for address in there:
            if address not in self._places:
                self._places[address] = self._submit(address, 0)
            elif self._places[address].future.done():
                self._replace(address, self._places[address])

    def _mend(self, there: set[str]) -> None:
        """Replace workers of a local cluster that do not come back.

        A nanny that was told to stop, or could not start its worker again, is done,
        and the cluster goes on counting it.
        """
        if self._cluster is None or len(there) >= self.size:
            self._short_since = None
            return
        now = time.monotonic()
        if self._short_since is None:
            self._short_since = now
        if now - self._short_since < MISSING:
            return
        self._short_since = None
        lost = [
            name
            for name, nanny in dict(self._cluster.workers).items()
            if nanny.worker_address not in there
        ]
        log.error("%d of %d workers are missing; they are replaced", len(lost), self.size)
        self._cluster.sync(self._forget, lost)
        self._cluster.scale(self.size)

    async def _forget(self, names: Sequence[Any]) -> None:
        """Take workers out of the cluster's wishes; in its own event loop."""
        for name in names:
            self._cluster.worker_spec.pop(name, None)

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
        if self._client is not None:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()
