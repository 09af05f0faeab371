"""How a raw run begins in a pipeline: under which settings, and as whose derived run."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

from p06bs.bus.log import DocumentLog
from p06bs.bus.publish import Publisher
from p06bs.bus.reader import LogError
from p06bs.model.compute import Setup
from p06bs.model.derived import PREVIEW, DerivedRun
from p06bs.model.documents import Document
from p06bs.pipeline.adjustments import Adjustments
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.earlier import Earlier
from p06bs.pipeline.elastic import ElasticPool
from p06bs.pipeline.keeper import Keeper
from p06bs.pipeline.run import RunPipeline
from p06bs.pipeline.setups import fulfil
from p06bs.settings import Again


def key_of(name: str, run: str, reprocessing: int) -> str:
    """Return the key of a run in the pool."""
    return f"{name}:{run}" + (f"#{reprocessing}" if reprocessing else "")


class Beginnings:
    """Begin with raw runs in pipelines, and let go of them.

    Parameters
    ----------
    adjustments : Adjustments
        The settings of the pipelines.
    documents : DocumentLog
    publisher : Publisher
        Takes the documents of the derived runs.
    pools : mapping of str to ElasticPool
        By the name of the pipeline.
    after : callable
        Returns the names of the derived runs that may feed a pipeline in a raw run.
    later : callable
        Has something done soon by the thread that calls everything here. Any thread.
    """

    def __init__(
        self,
        adjustments: Adjustments,
        documents: DocumentLog,
        publisher: Publisher,
        pools: Mapping[str, ElasticPool],
        after: Callable[[Pipeline, str], Sequence[str]],
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        self._adjustments = adjustments
        self._documents = documents
        self._publisher = publisher
        self._pools = pools
        self._after = after
        self._later = later
        self._working: set[str] = set()  # uids of the derived runs that are being made

    def begin(
        self,
        pipeline: Pipeline,
        start: Document,
        again: Again | None = None,
        *,
        preview: bool = False,
    ) -> RunPipeline:
        """Return a raw run in a pipeline, as its documents are to be fed to it.

        Parameters
        ----------
        start : Document
            The raw start document.
        again : Again, optional
            What is to be computed again.
        preview : bool
            Whether it shows a part of the run before.
        """

        def submit(make: Callable[[], Setup]) -> "Future[Setup]":
            future: Future[Setup] = Future()
            # A daemon: however long an author's prepare takes, the process can end.
            threading.Thread(
                target=fulfil, args=(future, make), name="prepare", daemon=True
            ).start()
            future.add_done_callback(lambda _: self._later(partial(run.attempt, run.advance)))
            return future

        name, uid = pipeline.name, start["uid"]
        store = self._adjustments[name]
        make = partial(
            RunPipeline,
            pipeline.modality,
            start,
            self._publisher,
            self._look_back,
            time.time,
            size=pipeline.batch_size,
            submit=submit,
            pipeline=name,
            after=self._after(pipeline, uid),
        )
        judged = partial(self._adjustments.judged, name, uid)
        if preview:
            run = make(reprocessing=PREVIEW)
        elif again is None:
            try:
                candidates = self._adjustments.candidates(name, start)
            except Exception as error:  # an author's validator may raise anything
                run = make()
                run.abandon(f"its settings cannot be had: {type(error).__name__}: {error}")
            else:
                keeper = Keeper(
                    candidates,
                    begun=store.derived_of(uid) is not None,
                    began=partial(store.began, uid),
                    newest=partial(store.newest_for, uid),
                    judged=judged,
                )
                run = make(keeper=keeper)
        else:
            keeper = Keeper([again.revision], judged=judged)
            run = make(keeper=keeper, reprocessing=again.number, rows=again.rows)
        self._pools[name].pool.load.add(key_of(name, uid, run.reprocessing), run)
        return run

    def _look_back(self, derived: DerivedRun) -> Earlier | None:
        """Be the writer of a derived run; return what an earlier process has written of it.

        Raises
        ------
        LogLockedError
            If another process writes it.
        LogError
            If another pipeline of this process makes it, or the log is damaged.
        """
        if derived.uid in self._working:
            raise LogError(f"another pipeline of this process makes derived run {derived.uid}")
        path = self._documents.path(derived.uid)
        last = self._documents.ends(derived.uid)[1] if path.exists() else None
        earlier = Earlier(ended=last is not None and last.name == "stop")
        if not earlier.ended:
            self._documents.claim(derived.uid, earlier.take)  # reads it once
        self._working.add(derived.uid)
        return earlier if earlier.start or earlier.ended else None

    def let_go(self, name: str, run: RunPipeline) -> None:
        """Let go of a run that is over."""
        self._pools[name].pool.remove(key_of(name, run.raw.uid, run.reprocessing))
        if run.derived is not None:
            self._working.discard(run.derived)
            self._publisher.release(run.derived)
