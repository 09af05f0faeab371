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
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import zmq

from p06bs.bus.follow import Follower
from p06bs.bus.log import DocumentLog
from p06bs.bus.publish import Publisher
from p06bs.bus.reader import Entry, LogError
from p06bs.model.compute import Setup
from p06bs.model.derived import DerivedRun
from p06bs.model.documents import is_derived
from p06bs.model.modality import Modality
from p06bs.model.reference import reference_to
from p06bs.model.revisions import Revision
from p06bs.pipeline.cluster import Cluster
from p06bs.pipeline.declared import Pipeline, refuse_twins
from p06bs.pipeline.earlier import Earlier, EarlierRuns
from p06bs.pipeline.elastic import ElasticPool
from p06bs.pipeline.run import RunPipeline
from p06bs.pipeline.setups import fulfil
from p06bs.pipeline.worker import warm_up

log = logging.getLogger(__name__)

CATCH_UP = 3600.0
"""Raw runs whose log was written within so many seconds before the start are made up for."""
EXPIRE = 0.25
FINISH = 2.0
"""Seconds for workers to return what they have at the end; a restart computes what is missing."""


class Pipelines:
    """Follow raw runs and publish a derived run per pipeline while they run.

    Parameters
    ----------
    inbound : str
        Address at which the proxy takes documents (derived ones go there).
    outbound : str
        Address at which the proxy gives documents.
    log : DocumentLog or path
        Where raw and derived runs are logged.
    pipelines : sequence of Pipeline or Modality
    workers : int or (int, int)
        Number of worker processes; or the fewest and the most, between which it follows the
        load.
    on : str or Cluster
        ``"local"`` for worker processes on this machine, a Dask scheduler's address, or a
        cluster, which is then closed by the end.
    deadline : float
        Seconds to wait for detector files that do not grow.

    `run` blocks until `stop` is called (from any thread or a signal handler).
    """

    def __init__(
        self,
        inbound: str,
        outbound: str,
        log: DocumentLog | Any,
        pipelines: Sequence[Pipeline | Modality],
        *,
        workers: int | tuple[int, int] = 2,
        on: str | Cluster = "local",
        deadline: float = 10.0,
        catch_up: float = CATCH_UP,
    ) -> None:
        self.pipelines = [p if isinstance(p, Pipeline) else Pipeline(modality=p) for p in pipelines]
        refuse_twins(self.pipelines)
        self.documents = log if isinstance(log, DocumentLog) else DocumentLog(log)
        self._owns_log = not isinstance(log, DocumentLog)
        self._context = zmq.Context()
        self.elastic = ElasticPool(
            self._context,
            self.documents,
            workers=(workers, workers) if isinstance(workers, int) else workers,
            on=on,
            deadline=deadline,
            modalities=[reference_to(p.modality) for p in self.pipelines],
            later=self._later,
        )
        self.pool = self.elastic.pool
        self.publisher = Publisher(inbound, self.documents)
        since = time.time() - catch_up
        self.follower = Follower(
            outbound,
            self.documents,
            since=since,
            runs=EarlierRuns(self.documents, self.pipelines, since).is_wanted,
            arrays=False,  # workers read them
        )
        self._runs: dict[str, dict[str, RunPipeline]] = {}
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._working: set[str] = set()  # uids of the derived runs that are being made
        # Settings that were asked for, by pipeline, the newest last; until the process ends
        self._wishes: defaultdict[str, list[Revision]] = defaultdict(list)
        self._stop = threading.Event()

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Work until `stop` is called, then end the workers and close everything.

        `ready` is called when the first worker has joined, or none is wanted before there is
        work.
        """
        waiting = True
        poller = zmq.Poller()
        poller.register(self.pool.socket, zmq.POLLIN)
        if self.follower.socket is not None:
            poller.register(self.follower.socket, zmq.POLLIN)
        expired = time.monotonic()
        busy = False
        try:
            self.elastic.engine.start()
            warm_up(type(p.modality) for p in self.pipelines)
            while not self._stop.is_set():
                if not busy:
                    poller.poll(20)
                busy = self.pool.receive()
                for entry in self.follower.entries(0):
                    busy = True
                    self._take(entry)
                while not self._requests.empty():
                    self._requests.get()()
                now = time.monotonic()
                if now - expired > EXPIRE:
                    expired = now
                    self.elastic.tick(now)
                self.pool.lease()
                self._tidy()
                if waiting and self.elastic.ready:
                    waiting = False
                    ready()
        finally:
            self._close()

    def stop(self) -> None:
        """End `run` soon; may be called from a signal handler or another thread."""
        self._stop.set()

    def revise(self, pipeline: str, settings: Mapping[str, Any], changed_by: str = "") -> None:
        """Change a pipeline's settings from the next event on that no worker has yet.

        They hold for later runs, too, until the process ends.

        Raises
        ------
        KeyError
            If there is no such pipeline.
        SettingsError
            If the modality refuses the settings; the old ones stay in force.
        """
        named = {p.name: p for p in self.pipelines}
        if pipeline not in named:
            raise KeyError(f"no pipeline {pipeline!r}; there are {', '.join(named)}")
        valid = named[pipeline].modality.validate(settings)
        revision = Revision(0, valid, changed_by, time.time())
        self._requests.put(partial(self._revise, pipeline, revision))

    def _later(self, action: Callable[[], None]) -> None:
        self._requests.put(action)

    def _revise(self, pipeline: str, revision: Revision) -> None:
        self._wishes[pipeline].append(revision)
        for runs in self._runs.values():
            if pipeline in runs:
                runs[pipeline].revise(revision)

    def _advance(self, run: RunPipeline) -> None:
        try:
            run.advance()
        except Exception as error:  # one run must not end the others
            run.abandon(f"{type(error).__name__}: {error}")

    def _take(self, entry: Entry) -> None:
        if entry.name == "start":
            if is_derived(entry.document):
                return  # derived runs feed no pipeline yet
            self._runs[entry.run] = {p.name: self._begin(p, entry) for p in self.pipelines}
        where = (entry.offset, entry.nbytes)
        for name, run in self._runs.get(entry.run, {}).items():
            try:
                run.add(entry.name, entry.document, where)
            except LogError as error:
                run.abandon(f"its derived run cannot be written: {error}")
            except Exception as error:  # whatever a document holds, the other runs go on
                run.refuse(entry.name, error)
                log.debug("pipeline %s", name, exc_info=True)

    def _begin(self, pipeline: Pipeline, entry: Entry) -> RunPipeline:
        def submit(make: Callable[[], Setup]) -> "Future[Setup]":
            future: Future[Setup] = Future()
            # A daemon: however long an author's prepare takes, the process can end.
            threading.Thread(
                target=fulfil, args=(future, make), name="prepare", daemon=True
            ).start()
            future.add_done_callback(lambda _: self._requests.put(partial(self._advance, run)))
            return future

        wishes = self._wishes[pipeline.name]

        def unfit(revision: Revision) -> None:
            if revision in wishes:
                wishes.remove(revision)

        run = RunPipeline(
            pipeline.modality,
            entry.document,
            self.publisher,
            self._look_back,
            time.time,
            size=pipeline.batch_size,
            submit=submit,
            wishes=wishes,
            unfit=unfit,
        )
        self.pool.add(f"{pipeline.name}:{entry.run}", run)
        return run

    def _look_back(self, derived: DerivedRun) -> Earlier | None:
        """Return what the log holds of a derived run that an earlier process has begun."""
        if derived.uid in self._working:
            raise LogError(f"another pipeline of this process makes derived run {derived.uid}")
        self._working.add(derived.uid)
        if not self.documents.path(derived.uid).exists():
            return None
        first, last = self.documents.ends(derived.uid)
        if first is None:
            return None
        earlier = Earlier(first.document)
        if last is not None and last.name == "stop":
            earlier.ended = True
        else:
            # Takes the lock, nobody else may be writing this run; and reads it only once.
            self.documents.reopen(derived.uid, earlier.take)
        return earlier

    def _tidy(self) -> None:
        """Let go of runs that are over in every pipeline."""
        for uid in [u for u, runs in self._runs.items() if all(r.over for r in runs.values())]:
            for name, run in self._runs.pop(uid).items():
                self.pool.remove(f"{name}:{uid}")
                if run.work is not None:
                    self._working.discard(run.work.derived.uid)
                    self.documents.release(run.work.derived.uid)

    def _close(self) -> None:
        self.follower.close()
        self.elastic.close(FINISH)
        self.publisher.close()
        if self._owns_log:
            self.documents.close()
        self._context.term()
