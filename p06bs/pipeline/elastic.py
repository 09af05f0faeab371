"""A pool of workers whose number follows its load."""

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from p06bs.bus.curve import Keys
from p06bs.bus.log import DocumentLog
from p06bs.bus.sockets import HERE
from p06bs.pipeline.cluster import Cluster, cluster_of
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.engine import Engine
from p06bs.pipeline.measures import Meter
from p06bs.pipeline.needs import Needs, local_limits
from p06bs.pipeline.pool import Pool
from p06bs.pipeline.scaling import Scaling, drain_order

log = logging.getLogger(__name__)

ALONE = 15.0
"""Seconds without a worker after which that is said."""


class ElasticPool:
    """Lease batches to workers, and have as many of them as the load asks for.

    Not thread-safe: all is called from one thread.

    Parameters
    ----------
    needs : Needs
        What its workers must have.
    among : collection of Needs
        What those of all pools must have.
    pipelines : sequence of str
        Names of the pipelines that it works for.
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
        needs: Needs,
        among: Collection[Needs],
        pipelines: Sequence[str],
        workers: tuple[int, int],
        on: str | Cluster,
        deadline: float,
        modalities: Sequence[str],
        later: Callable[[Callable[[], None]], None],
        keys: Keys | None = None,
        listen: str = HERE,
        worker_keys: Path | None = None,
    ) -> None:
        self.needs = needs
        self.pipelines = tuple(pipelines)
        name = str(needs) if needs != Needs() else "workers"
        self.scaling = Scaling(*workers)
        self.meter = Meter(name)
        self._alone_since: float | None = None  # without any worker
        self._told = False
        self.pool = Pool(context, documents, deadline, address=listen, keys=keys)
        self.engine = Engine(
            self.pool.address,
            self.pool.epoch,
            cluster_of(on, self.scaling.least, needs, among) if isinstance(on, str) else on,
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

    def held_up(self, key: str) -> str:
        """Say why nobody computes what a run has queued; "" if somebody does. Any thread."""
        if not self.pool.leases.workers:
            return "no worker has joined" + (
                f" that has {self.needs}" if self.needs != Needs() else ""
            )
        places = self.pool.late.places(lambda batch: batch[0] == key)
        return f"batches wait for {'; '.join(places)}" if places else ""

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
        load = self.pool.load
        demand = load.demand()
        if self.engine.cluster.scales:
            computed = sum(tally.seconds for tally in load.tallies.values())
            wanted = self.scaling.decide(demand, computed, now)
            self.engine.scale(wanted, drain_order(self.pool.leases.loads()))
        there = len(self.pool.leases.workers)
        wanted = self.scaling.wanted if self.engine.cluster.scales else self.engine.workers
        self._complain(there, demand.queued, now)
        self.meter.take(load.readings(wall), there, wanted, now)

    def _complain(self, there: int, queued: int, now: float) -> None:
        """Say so once if there is work, but for long no worker that will do."""
        if there or not queued or not self.engine.opened:
            self._alone_since, self._told = None, False
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since > ALONE and not self._told:
            self._told = True
            log.error(
                "pipelines cannot work (%s): for %.0f s no worker has joined%s",
                ", ".join(self.pipelines),
                ALONE,
                f" that has {self.needs}" if self.needs != Needs() else "",
            )

    def close(self, seconds: float) -> None:
        """End the workers, which have some time to return what they have, and the cluster."""
        try:
            self.pool.stop_workers(seconds)
            self.engine.close()
        finally:
            self.pool.close()


def placed(
    pipelines: Sequence[Pipeline],
    workers: tuple[int, int],
    on: str | Cluster | Callable[[Needs], str | Cluster],
) -> dict[Needs, tuple[str | Cluster, tuple[int, int]]]:
    """Return for each of the pipelines' needs where its workers are, and how few and many.

    Raises
    ------
    ValueError
        If this host has not what a pipeline needs of local workers, or a cluster is given for
        pipelines with different needs.
    """
    among = list(dict.fromkeys(p.needs for p in pipelines))
    if len(among) > 1 and not isinstance(on, str) and not callable(on):
        raise ValueError("pipelines with different needs cannot share the workers of a cluster")
    places = {needs: on(needs) if callable(on) else on for needs in among}
    limits = dict.fromkeys(among, workers)
    for pipeline in pipelines:
        if places[pipeline.needs] == "local":
            try:
                limits[pipeline.needs] = local_limits(pipeline.needs, limits[pipeline.needs])
            except ValueError as error:
                raise ValueError(f"pipeline {pipeline.name}: {error}") from None
    return {needs: (places[needs], limits[needs]) for needs in among}
