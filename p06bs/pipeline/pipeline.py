"""Running pipelines: one process hosts one or many, on one shared pool of workers.

::

    follower ──> RunPipeline (one per raw run and modality) ──> pool ──> worker loops
                     │   ^                                               │
                     v   └────────────── results ────────────────────────┘
                 publisher (log, then the proxy)
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from p06bs.bus.curve import Keys
from p06bs.bus.follow import Follower
from p06bs.bus.log import DocumentLog
from p06bs.bus.metrics import Measure
from p06bs.bus.publish import Publisher
from p06bs.bus.sockets import HERE, Address
from p06bs.model.modality import Modality
from p06bs.pipeline.adjustments import Adjustments
from p06bs.pipeline.cluster import Cluster
from p06bs.pipeline.decisions import Decisions
from p06bs.pipeline.declared import Pipeline, refuse_cycles, refuse_twins
from p06bs.pipeline.earlier import EarlierRuns
from p06bs.pipeline.elastic import placed
from p06bs.pipeline.foreseen import foresee_all
from p06bs.pipeline.measures import measures
from p06bs.pipeline.needs import Needs
from p06bs.pipeline.pools import Pools
from p06bs.pipeline.under_way import UnderWay
from p06bs.pipeline.worker import warm_up

log = logging.getLogger(__name__)

CATCH_UP = 3600.0
"""Raw runs whose log was written within so many seconds before the start are made up for."""
BACKLOG = 1_000_000
"""Events whose names wait in memory; while there are so many, the rest waits in the logs."""
EXPIRE = 0.25
SETTINGS = "settings"
"""Directory of the settings in that of the logs."""
FINISH = 2.0
"""Seconds for workers to return what they have at the end; a restart computes what is missing."""


class Pipelines:
    """Follow raw runs and publish a derived run per pipeline while they run.

    Parameters
    ----------
    inbound : str or callable
        Address at which the proxy takes documents (derived ones go there).
    outbound : str or callable
        Address at which the proxy gives documents.
    log : DocumentLog or path
        Where raw and derived runs are logged.
    pipelines : sequence of Pipeline or Modality
    workers : int or (int, int)
        Number of worker processes; or the fewest and the most, between which it follows the
        load.
    on : str, Cluster or callable
        ``"local"`` for worker processes on this machine, a Dask scheduler's address, or a
        cluster, which is then closed by the end. A callable gets what workers must have
        (`Needs`), and returns one of these: there is a pool for each of the pipelines' needs.
    deadline : float
        Seconds to wait for detector files that do not grow.
    keys : Keys, optional
        With which the lane binds, and the proxy is connected to.
    listen : str
        Where the lane binds; beyond this host only with keys.
    worker_keys : path, optional
        Directory of the workers' keys, on their hosts; that of `keys` by default.

    Raises
    ------
    ValueError
        If this host has not what a pipeline needs of local workers, or pipelines wait for each
        other.
    OSError
        If changes of the settings cannot be kept in the directory of the logs.

    Attributes
    ----------
    decisions : Decisions
        What is made of each raw run, and why.
    works_on : callable
        Told the uids of the raw runs that are worked on, whenever these are others.

    `run` blocks until `stop` is called (from any thread or a signal handler).
    """

    def __init__(
        self,
        inbound: Address,
        outbound: Address,
        log: DocumentLog | Any,
        pipelines: Sequence[Pipeline | Modality],
        *,
        workers: int | tuple[int, int] = 2,
        on: str | Cluster | Callable[[Needs], str | Cluster] = "local",
        deadline: float = 10.0,
        catch_up: float = CATCH_UP,
        keys: Keys | None = None,
        listen: str = HERE,
        worker_keys: Path | None = None,
    ) -> None:
        self.pipelines = [p if isinstance(p, Pipeline) else Pipeline(modality=p) for p in pipelines]
        refuse_twins(self.pipelines)
        refuse_cycles({p.name: p.after for p in self.pipelines})
        limits = (workers, workers) if isinstance(workers, int) else workers
        places = placed(self.pipelines, limits, on)
        self.documents = log if isinstance(log, DocumentLog) else DocumentLog(log)
        self._owns_log = not isinstance(log, DocumentLog)
        self._context = zmq.Context()
        self.adjustments = Adjustments(self.documents.directory / SETTINGS, self.pipelines)
        self.pools = Pools(
            self.pipelines,
            self._context,
            self.documents,
            places=places,
            deadline=deadline,
            later=self._later,
            keys=keys,
            listen=listen,
            worker_keys=worker_keys,
        )
        self.publisher = Publisher(inbound, self.documents, keys=keys)
        since = time.time() - catch_up
        self.follower = Follower(
            outbound,
            self.documents,
            since=since,
            runs=EarlierRuns(
                self.documents,
                [partial(self.adjustments.made, name) for name in self.adjustments.names],
                since,
                {name for p in self.pipelines for name in p.after},
            ).is_wanted,
            arrays=False,  # workers read them
            keys=keys,
        )
        self.decisions = Decisions(
            partial(
                foresee_all, self.pipelines, self.documents, self.documents.directory / SETTINGS
            )
        )
        self.works_on: Callable[[tuple[str, ...]], None] = lambda runs: None
        self._told: tuple[str, ...] = ()
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.under_way = UnderWay(
            self.adjustments,
            self.documents,
            self.publisher,
            self.pools.of,
            self.decisions,
            self._later,
        )
        self._stop = threading.Event()

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Work until `stop` is called, then end the workers and close everything.

        `ready` is called when the first worker has joined, or none is wanted before there is
        work.
        """
        waiting = True
        poller = zmq.Poller()
        workers = zmq.Poller()  # without the documents
        for each in self.pools:
            poller.register(each.pool.socket, zmq.POLLIN)
            workers.register(each.pool.socket, zmq.POLLIN)
        if self.follower.socket is not None:
            poller.register(self.follower.socket, zmq.POLLIN)
        expired = time.monotonic()
        busy = False
        try:
            self.pools.start()
            warm_up(type(p.modality) for p in self.pipelines)
            for name in self.adjustments.names:
                self.under_way.reprocessing.take(name)
            while not self._stop.is_set():
                full = self.pools.backlog >= BACKLOG
                if not busy:
                    (workers if full else poller).poll(20)
                busy = self.pools.receive() > 0
                for entry in () if full else self.follower.entries(0):
                    busy = True
                    self.under_way.take(entry)
                while not self._requests.empty():
                    self._requests.get()()
                now = time.monotonic()
                if now - expired > EXPIRE:
                    expired = now
                    self.pools.tick(now, time.time())
                    for name in self.adjustments.look():
                        self.under_way.revise(name)
                    self.under_way.thin()
                    self.under_way.give_up()
                    self.under_way.take_over()
                busy |= self.under_way.go_on()
                self.pools.lease()
                self.under_way.tidy()
                self._tell()
                if waiting and self.pools.ready:
                    waiting = False
                    ready()
        finally:
            self._close()

    def stop(self) -> None:
        """End `run` soon; may be called from a signal handler or another thread."""
        self._stop.set()

    def measures(self) -> tuple[Measure, ...]:
        """Return what Prometheus is told of the pipelines and the pool. Any thread."""
        return measures(*(each.meter for each in self.pools))

    def settings(self, of: str | None = None) -> dict[str, dict[str, Any]]:
        """Return the settings in force, by pipeline; of all of them, or of one.

        Each is ``schema`` (JSON schema), ``values``, ``revision``, ``digest``,
        ``changed_by``, ``since`` (Unix time, s), ``preset``, and ``runs``: from which event on
        which settings hold in each run that goes on. Any thread.

        Raises
        ------
        ValueError
            If there is no such pipeline.
        """
        names = self.adjustments.names if of is None else [of]
        return {
            name: self.adjustments.record(
                name, [*self.under_way.going(name), *self.under_way.reprocessing.going(name)]
            )
            for name in names
        }

    def change(
        self,
        of: str,
        values: Mapping[str, Any],
        by: str = "",
        reprocess: bool = False,
        preset: str = "",
    ) -> dict[str, Any]:
        """Change some settings of a pipeline, from the next event on that no worker has yet.

        They hold for later runs, too, also after a restart. A name ``outer.inner`` is one
        entry of a mapping. Any thread.

        Parameters
        ----------
        reprocess : bool
            Compute the events so far of the runs that go on again under these settings, or
            of the last run, if none does: that makes a second derived run.
        preset : str
            Name of a preset whose settings are loaded below `values`.

        Returns
        -------
        dict
            As `settings` has it, and with ``reprocess`` the uids of the runs that are computed
            again.

        Raises
        ------
        ValueError
            If there is no such pipeline or preset, or the modality refuses the settings
            (SettingsError); the old ones stay in force.
        OSError
            If the change cannot be kept; the old ones stay in force.
        """
        runs: list[str] = []
        if reprocess:
            live = [uid for uid, run in self.under_way.going(of) if run.left is None]
            last = self.adjustments[of].last_run
            runs = live or ([last] if last else [])
        self.adjustments.change(of, values, by, preset=preset, reprocess=runs)
        self._later(partial(self.under_way.revise, of))
        return {**self.settings(of)[of], "reprocess": runs}

    def presets(self, of: str) -> list[dict[str, Any]]:
        """Return the presets of a pipeline, those that cannot be used with the ``problem``.

        Raises
        ------
        ValueError
            If there is no such pipeline.
        """
        return [asdict(preset) for preset in self.adjustments[of].judged_presets()]

    def save_preset(self, of: str, preset: str, beamtime_id: str = "", sample: str = "") -> str:
        """Keep the settings in force as a preset; return its file.

        Raises
        ------
        ValueError
            If there is no such pipeline, or the preset cannot be kept under that name.
        OSError
            If it cannot be written.
        """
        return str(self.adjustments[of].save(preset, beamtime_id=beamtime_id, sample=sample))

    def _later(self, action: Callable[[], None]) -> None:
        self._requests.put(action)

    def _tell(self) -> None:
        """Tell which raw runs are worked on, when that changed."""
        runs = self.under_way.uids
        if runs != self._told:
            self._told = runs
            self.works_on(runs)

    def _close(self) -> None:
        with ExitStack() as closing:  # the last one first, also if one fails
            closing.callback(self._context.term)
            if self._owns_log:
                closing.callback(self.documents.close)
            closing.callback(self.adjustments.close)
            closing.callback(self.publisher.close)
            for each in self.pools:
                closing.callback(each.close, FINISH)
            closing.callback(self.follower.close)
