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
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zmq

from p06bs.bus.follow import Follower
from p06bs.bus.log import DocumentLog
from p06bs.bus.publish import Publisher
from p06bs.bus.reader import Entry, LogError
from p06bs.model.derived import DerivedRun, modality_path
from p06bs.model.documents import Document, is_derived, settings_digest
from p06bs.model.modality import Modality
from p06bs.model.revisions import Revision
from p06bs.pipeline.earlier import Earlier
from p06bs.pipeline.engine import Engine
from p06bs.pipeline.pool import Pool
from p06bs.pipeline.run import RunPipeline

log = logging.getLogger(__name__)

CATCH_UP = 3600.0
"""Raw runs whose log was written within so many seconds before the start are made up for."""
EXPIRE = 0.25


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A modality that is to be computed online.

    Parameters
    ----------
    modality : Modality
    batch_size : int, optional
        Fixed number of events per batch; by default a power of two that follows the backlog.
    name : str
        What the pipeline is called; the modality's name by default.
    """

    modality: Modality
    batch_size: int | None = None
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.modality.name)
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size of pipeline {self.name} is {self.batch_size}, not >= 1")

    def made(self, process: Document) -> bool:
        """Return whether a derived run that says so of its process is this pipeline's."""
        modality = self.modality
        bound = process["inputs"]
        return (
            process["name"] == modality.name
            and process["version"] == modality.version
            and process["settings_digest"] == settings_digest(modality.settings)
            and process["reprocessing"] == 0
            and all(
                name in bound
                and key in (bound[name]["data_key"], "{stream}/{data_key}".format(**bound[name]))
                for name, key in modality.inputs.items()
            )
        )


def _refuse_twins(pipelines: Sequence[Pipeline]) -> None:
    """Raise ValueError if two pipelines would write the same derived run."""
    made: dict[tuple[str, ...], str] = {}
    for pipeline in pipelines:
        modality = pipeline.modality
        digest = settings_digest(modality.settings)
        twin = (modality.name, modality.version, digest, *map(str, sorted(modality.inputs.items())))
        if twin in made:
            raise ValueError(
                f"pipelines {made[twin]!r} and {pipeline.name!r} have the same modality, settings "
                "and inputs: they would write one derived run; leave one out"
            )
        made[twin] = pipeline.name


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
    workers : int
        Number of worker processes.
    on : str
        ``"local"`` for worker processes on this machine, or a Dask scheduler's address.
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
        workers: int = 2,
        on: str = "local",
        deadline: float = 10.0,
        catch_up: float = CATCH_UP,
    ) -> None:
        self.pipelines = [p if isinstance(p, Pipeline) else Pipeline(modality=p) for p in pipelines]
        doubled = [n for n, times in Counter(p.name for p in self.pipelines).items() if times > 1]
        if doubled:
            raise ValueError(f"two pipelines are called {doubled[0]!r}; give one another name")
        _refuse_twins(self.pipelines)
        self.documents = log if isinstance(log, DocumentLog) else DocumentLog(log)
        self._owns_log = not isinstance(log, DocumentLog)
        self._started = time.time()
        self._context = zmq.Context()
        self.pool = Pool(self._context, self.documents, deadline)
        self.engine = Engine(
            self.pool.address,
            self.pool.epoch,
            on=on,
            workers=workers,
            modalities=[modality_path(p.modality) for p in self.pipelines],
            gone=self._later_gone,
        )
        self.pool.restart = self.engine.restart
        self.publisher = Publisher(inbound, self.documents)
        self._done = self._look_for_done(self._started - catch_up)
        self.follower = Follower(
            outbound,
            self.documents,
            since=self._started - catch_up,
            runs=self._wanted,
            arrays=False,  # workers read them
        )
        self._runs: dict[str, dict[str, RunPipeline]] = {}
        self._requests: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._wishes: dict[str, Revision] = {}  # by pipeline, until the process ends
        self._stop = threading.Event()

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Work until `stop` is called, then end the workers and close everything.

        `ready` is called when the first worker has joined.
        """
        self.engine.start()
        for pipeline in self.pipelines:
            pipeline.modality.warm_up()
        waiting = True
        poller = zmq.Poller()
        poller.register(self.pool.socket, zmq.POLLIN)
        if self.follower.socket is not None:
            poller.register(self.follower.socket, zmq.POLLIN)
        expired = time.monotonic()
        busy = False
        try:
            while not self._stop.is_set():
                if not busy:
                    poller.poll(20)
                busy = self.pool.receive()
                for entry in self.follower.entries(0):
                    busy = True
                    self._take(entry)
                if self.engine.failure is not None:
                    raise RuntimeError("no workers can be placed") from self.engine.failure
                self._serve_requests()
                now = time.monotonic()
                if now - expired > EXPIRE:
                    expired = now
                    self.pool.expire()
                self.pool.lease()
                self._tidy()
                if waiting and self.pool.leases.workers:
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
        self._requests.put(("revise", (pipeline, revision)))

    def _wanted(self, uid: str) -> bool:
        """Return whether to follow a run.

        Not derived runs, which feed no pipeline yet, and not raw runs that have
        ended and whose derived runs have ended: a restart must not read them all.
        """
        first, last = self._ends(uid)
        if first is None:
            return True
        if is_derived(first.document):
            return False
        ended = last is not None and last.name == "stop"
        done = self._done.get(uid, [])
        return not ended or not all(any(p.made(d) for d in done) for p in self.pipelines)

    def _ends(self, uid: str) -> tuple[Entry | None, Entry | None]:
        """Return the ends of a log; one that cannot be read is for the follower to complain of."""
        try:
            return self.documents.ends(uid)
        except (OSError, LogError) as error:
            log.warning("the log of run %s cannot be read: %s", uid, error)
            return None, None

    def _look_for_done(self, since: float) -> dict[str, list[Document]]:
        """Return what the start documents of ended derived runs say, by raw run."""
        done: dict[str, list[Document]] = defaultdict(list)
        for uid in self.documents.runs(since=since):
            first, last = self._ends(uid)
            if first is None or last is None or last.name != "stop":
                continue
            if is_derived(first.document):
                done[first.document["derived_from"][0]].append(first.document["process"])
        return done

    def _later_gone(self, loop: str) -> None:
        self._requests.put(("gone", loop))

    def _serve_requests(self) -> None:
        while not self._requests.empty():
            kind, what = self._requests.get()
            if kind == "gone":
                self.pool.gone(what)
            else:
                name, revision = what
                self._wishes[name] = revision
                for runs in self._runs.values():
                    if name in runs:
                        runs[name].revise(revision)

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
                run.refuse(entry.name, entry.index, error)
                log.debug("pipeline %s", name, exc_info=True)

    def _begin(self, pipeline: Pipeline, entry: Entry) -> RunPipeline:
        run = RunPipeline(
            pipeline.modality,
            entry.document,
            self.publisher,
            self._look_back,
            time.time,
            size=pipeline.batch_size,
        )
        if pipeline.name in self._wishes:
            run.revise(self._wishes[pipeline.name])
        self.pool.add(f"{pipeline.name}:{entry.run}", run)
        return run

    def _look_back(self, derived: DerivedRun) -> Earlier | None:
        """Return what the log holds of a derived run that an earlier process has begun."""
        if not self.documents.path(derived.uid).exists():
            return None
        earlier = Earlier.read(self.documents.read(derived.uid))
        if earlier is not None and not earlier.ended:
            # Takes the lock: nobody else may be writing this run.
            self.documents.reopen(derived.uid)
        return earlier

    def _tidy(self) -> None:
        """Let go of runs that are over in every pipeline."""
        for uid in [u for u, runs in self._runs.items() if all(r.over for r in runs.values())]:
            for name in self._runs.pop(uid):
                self.pool.remove(f"{name}:{uid}")

    def _close(self) -> None:
        self.pool.stop_workers(2.0)
        self.follower.close()
        self.engine.close()
        self.publisher.close()
        self.pool.close()
        if self._owns_log:
            self.documents.close()
        self._context.term()
