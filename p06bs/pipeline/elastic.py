"""A pool of workers whose number follows its load."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from p06bs.bus.curve import Keys
from p06bs.bus.log import DocumentLog
from p06bs.bus.sockets import HERE
from p06bs.pipeline.cluster import Cluster, cluster_of
from p06bs.pipeline.engine import Engine
from p06bs.pipeline.measures import Meter
from p06bs.pipeline.pool import Pool
from p06bs.pipeline.scaling import Scaling, drain_order


class ElasticPool:
    """Lease batches to workers, and have as many of them as the load asks for.

    Not thread-safe: all is called from one thread.

    Parameters
    ----------
    name : str
        What it is called in metrics.
    workers : (int, int)
        Fewest and most workers.
    on : str or Cluster
        See `Pipelines`.
    modalities : sequence of str
        What workers warm up, as ``module:Class``.
    later : callable
        Has something done soon by the thread that calls everything here. Any thread.
    keys, listen, worker_keys
        See `Pipelines`.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        documents: DocumentLog,
        *,
        name: str,
        workers: tuple[int, int],
        on: str | Cluster,
        deadline: float,
        modalities: Sequence[str],
        later: Callable[[Callable[[], None]], None],
        keys: Keys | None = None,
        listen: str = HERE,
        worker_keys: Path | None = None,
    ) -> None:
        self.name = name
        self.scaling = Scaling(*workers)
        self.meter = Meter(name)
        self.pool = Pool(context, documents, deadline, address=listen, keys=keys)
        self.engine = Engine(
            self.pool.address,
            self.pool.epoch,
            cluster_of(on, self.scaling.least) if isinstance(on, str) else on,
            modalities=modalities,
            gone=lambda loop: later(partial(self.pool.gone, loop)),
            drain=lambda loop: later(partial(self.pool.drain, loop)),
            keys=None if keys is None else str(worker_keys or keys.directory),
        )
        self.pool.restart = self.engine.restart

    @property
    def ready(self) -> bool:
        """Whether work can begin: a worker has joined, or nobody need wait for the first."""
        waited = self.scaling.least and self.engine.cluster.prompt
        return bool(self.pool.leases.workers) or (self.engine.opened and not waited)

    def tick(self, now: float, wall: float) -> None:
        """Drop workers that are silent, scale, and take readings. Called several times a second.

        Parameters
        ----------
        now : float
            Monotonic time, s.
        wall : float
            Unix time, s.

        Raises
        ------
        RuntimeError
            If no workers can be placed any more.
        """
        if self.engine.failure is not None:
            raise RuntimeError("no workers can be placed") from self.engine.failure
        self.pool.expire()
        if self.engine.cluster.scales:
            computed = sum(tally.seconds for tally in self.pool.tallies.values())
            wanted = self.scaling.decide(self.pool.demand(), computed, now)
            self.engine.scale(wanted, drain_order(self.pool.leases.loads()))
        there = len(self.pool.leases.workers)
        wanted = self.scaling.wanted if self.engine.cluster.scales else self.engine.workers
        self.meter.take(self.pool.readings(wall), there, wanted, now)

    def close(self, seconds: float) -> None:
        """End the workers, which have some time to return what they have, and the cluster."""
        self.pool.stop_workers(seconds)
        self.engine.close()
        self.pool.close()
