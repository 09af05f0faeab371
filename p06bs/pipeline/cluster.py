"""Sets of Dask workers: what makes, scales, mends and closes them.

The engine places worker loops on a `Cluster` and knows no more of it. Adapters give
others, for example jobs of SLURM.
"""

import asyncio
import concurrent.futures
import itertools
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any, Protocol

from p06bs.pipeline.needs import Needs, choose, gpus, offer_of

log = logging.getLogger(__name__)

ANYTHING = Needs()

ENVIRON = "distributed.nanny.pre-spawn-environ"
SETTINGS: Mapping[str, Any] = {
    "distributed.worker.profile.enabled": False,
    # Dask also sets MALLOC_TRIM_THRESHOLD_, which makes glibc map and fault every
    # larger numpy temporary anew: a kernel on frames is four times slower with it.
    ENVIRON: {
        "OMP_NUM_THREADS": 1,
        "MKL_NUM_THREADS": 1,
        "OPENBLAS_NUM_THREADS": 1,
    },
    "distributed.scheduler.worker-ttl": "30s",
    "distributed.worker.memory.terminate": False,
    "distributed.comm.timeouts.connect": "10s",
}
"""What Dask has no arguments for."""

PAUSE = 60.0
"""Longest pause, seconds, after workers that could not be started."""

AGAIN = 30.0
"""Seconds after which a unit that was to end, and is there yet, is told again."""

MISSING = 8.0
"""Seconds after which local workers that are missing are not waited for any more."""


class Cluster(Protocol):
    """A set of Dask workers. All but `scale` is called from one thread, the engine's.

    Workers come and go in units: a unit is what is started and ended as one, a process
    of this host or a job of a batch system with one or several workers.
    """

    scales: bool
    """False if the workers are somebody else's; then `scale` and `retire` do nothing."""
    prompt: bool
    """False if workers may wait for long before they join, in a queue of a batch system."""

    def open(self) -> Any:
        """Start, and return a Dask client; workers may join later."""

    def scale(self, workers: int) -> None:
        """Wish for so many workers. Any thread.

        Missing ones are started, and units that have not joined yet are taken back. Those
        that have joined are ended by `retire` only, so that they can be drained before.
        """

    def tend(self) -> Mapping[str, str]:
        """Mend what is missing; return the workers that are there, address -> unit.

        Called several times a second; does not wait for workers.
        """

    def due(self) -> Collection[str]:
        """Return the units that end by themselves soon, and should be retired before."""

    def retire(self, unit: str) -> None:
        """End a unit, whose loops have ended; another replaces it if it is missing then."""

    def restart(self, workers: Collection[str]) -> None:
        """Have the processes of workers that hang replaced."""

    def close(self) -> None:
        """End what was started. Idempotent."""


class Existing:
    """The workers of a Dask scheduler that others have started.

    Parameters
    ----------
    address : str
        The scheduler's.
    needs : Needs
        What they must have; others are left alone.
    among : collection of Needs
        Of all pools on this scheduler: a worker is for the greatest that it meets.
    """

    scales = False
    prompt = True

    def __init__(
        self, address: str, needs: Needs = ANYTHING, among: Collection[Needs] = (ANYTHING,)
    ) -> None:
        self.address = address
        self.needs = needs
        self.among = among
        self._client: Any = None

    def open(self) -> Any:
        configure()
        self._client = connect(self.address)
        return self._client

    def scale(self, workers: int) -> None:
        """Do nothing: whoever started the workers decides how many there are."""

    def tend(self) -> Mapping[str, str]:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return {
            address: address
            for address, worker in workers.items()
            if choose(offer_of(worker), self.among) == self.needs
        }

    def due(self) -> Collection[str]:
        return ()

    def retire(self, unit: str) -> None:
        """Do nothing, as `scale`."""

    def restart(self, workers: Collection[str]) -> None:
        restart(self._client, workers)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


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
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

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
            await self._correct(units)

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


class Local(Started):
    """Worker processes of this host.

    A nanny restarts a worker that dies. One that was told to stop, or could not start its
    worker again, is done, and the cluster goes on counting it.
    """

    def __init__(self, workers: int, needs: Needs = ANYTHING) -> None:
        super().__init__(workers)
        self.needs = needs
        self._short_since: float | None = None  # when workers began to be missing

    def make(self) -> Any:
        import distributed

        base: Any = distributed.LocalCluster  # not annotated
        each = self.needs.gpus

        numbers = itertools.count()

        class Cluster(base):  # type: ignore[misc]
            """Workers that see GPUs of their own; no name is given twice."""

            def _new_worker_name(self, worker_number: int) -> int:
                return next(numbers)

            def new_worker_spec(self) -> dict[Any, Any]:
                ((name, spec),) = super().new_worker_spec().items()
                if not each:
                    return {name: spec}
                used = {
                    gpu
                    for other in self.worker_spec.values()
                    for gpu in other["options"]["env"]["CUDA_VISIBLE_DEVICES"].split(",")
                }
                mine = ",".join([gpu for gpu in gpus() if gpu not in used][:each])
                env = {**(spec["options"].get("env") or {}), "CUDA_VISIBLE_DEVICES": mine}
                return {name: {**spec, "options": {**spec["options"], "env": env}}}

        return Cluster(
            n_workers=0,  # those that are missing are started; one that dies then is no error here
            memory_limit=self.needs.memory or "auto",
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # a port of its own: 8787 may be taken
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
        )

    def lost(self, units: Collection[str], joined: Collection[str]) -> Collection[str]:
        now = time.monotonic()
        missing = set(units) - set(joined)
        if not missing:
            self._short_since = None
            return ()
        if self._short_since is None:
            self._short_since = now
        if now - self._short_since < MISSING:
            return ()
        self._short_since = None
        return missing


def cluster_of(
    on: str, workers: int, needs: Needs = ANYTHING, among: Collection[Needs] = (ANYTHING,)
) -> Cluster:
    """Return the cluster that ``"local"`` or a scheduler's address names.

    Parameters
    ----------
    needs : Needs
        What its workers must have.
    among : collection of Needs
        What the workers of all pools on it must have.
    """
    return Local(workers, needs) if on == "local" else Existing(on, needs, among)


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


def configure() -> None:
    """Set what Dask has no arguments for; local workers inherit it."""
    import dask

    dask.config.set(SETTINGS)
    # Dask tells about every connection; what fails is seen here as workers that left.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)


def connect(cluster: Any) -> Any:
    """Return a Dask client of a cluster or a scheduler's address."""
    import distributed

    client: Any = distributed.Client  # not annotated
    return client(cluster)


def names(client: Any) -> dict[str, str]:
    """Return the workers that are there: address -> name."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return {address: str(worker["name"]) for address, worker in workers.items()}


def restart(client: Any, workers: Collection[str]) -> None:
    """Have the nannies of workers replace their processes."""
    try:
        client.restart_workers(list(workers), timeout=30, raise_for_error=False)
    except Exception as error:  # a worker without a nanny, whom Dask cannot replace
        log.error("workers %s cannot be replaced: %s", ", ".join(workers), error)


def last_line(error: BaseException) -> str:
    """Return the last line that an error says; of a command that failed it is the reason."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
