"""A modality without any other process: the reference `process`, and its worker.

What these compute is what the word "derived run" means; the running pipelines
must give the same events.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from p06bs.bus.frames import Frames
from p06bs.model.derived import Clock
from p06bs.model.documents import Document, NamedDocument
from p06bs.model.modality import Modality
from p06bs.pipeline.belonging import Belonging
from p06bs.pipeline.derivation import Derivation

Subscriber = Callable[[str, Document], Any]
History = Sequence[tuple[str, Mapping[str, Any]]]


class Worker:
    """Compute the derived run of every raw run that it is given.

    A plain ``(name, document)`` callable. Several workers can share one run:
    each gets all its documents, computes every n-th batch, and a `Sorter`
    behind them puts the pages in order.

    Parameters
    ----------
    modality : Modality
    *subscribers : callable
        Called with ``(name, document)`` of the derived run.
    history : sequence of (raw event uid, settings)
        Settings that replace the modality's own from the event with that uid on.
    batch_size : int
        Events per batch. A batch is computed as soon as it is complete, the
        rest at the stop document.
    share : (int, int)
        ``(k, n)``: compute batches k, k+n, k+2n, ...
    deadline : float
        Seconds to wait for detector files that do not grow.
    wait_at_stop : bool
        Wait for them at the stop document only. Until then rows that a file lacks, and those
        behind them, are tried again with later documents.
    reprocessing, rows, upstream, pipeline
        See `process`.
    after : sequence of str
        Names of derived runs that come while the raw run does (`feed`), and are waited for.
    """

    def __init__(
        self,
        modality: Modality,
        *subscribers: Subscriber,
        history: History = (),
        batch_size: int = 64,
        share: tuple[int, int] = (0, 1),
        deadline: float = 10.0,
        wait_at_stop: bool = False,
        reprocessing: int = 0,
        rows: int | None = None,
        clock: Clock = time.time,
        upstream: Iterable[NamedDocument] = (),
        after: Sequence[str] = (),
        pipeline: str = "",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, it must be at least 1")
        if not 0 <= share[0] < share[1]:
            raise ValueError(f"share is {share}, it must be (k, n) with 0 <= k < n")
        if share[1] > 1 and modality.is_stateful:
            raise ValueError(
                f"{modality.name} carries state through a run (scan or fold), "
                "so one worker must compute all of it"
            )
        self.modality = modality
        self.subscribers = list(subscribers)
        self.history: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for uid, settings in history:
            self.history[uid].append(settings)
        self.batch_size = batch_size
        self.share = share
        self.deadline = deadline
        self.wait_at_stop = wait_at_stop
        self.reprocessing = reprocessing
        self.rows = rows
        self.clock = clock
        self.after = after
        self.pipeline = pipeline
        self._upstream = _runs_of(upstream)
        self._fed: dict[str, str] = {}  # derived run that feeds -> its raw run
        self.frames = Frames()
        self._runs: dict[str, Derivation] = {}
        self._belonging = Belonging()
        self._unclaimed: dict[str, Document] = {}  # stream resources that name no run

    def __call__(self, name: str, document: Document) -> None:
        """Take a document of any run.

        Raises
        ------
        BindingError
            If a run does not have what the modality needs.
        """
        if name == "start":
            self._runs[document["uid"]] = Derivation(
                self.modality,
                document,
                self.emit,
                self.frames,
                changes=self.history,
                batch_size=self.batch_size,
                share=self.share,
                deadline=self.deadline,
                wait_at_stop=self.wait_at_stop,
                reprocessing=self.reprocessing,
                rows=self.rows,
                clock=self.clock,
                after=self.after,
                pipeline=self.pipeline,
            )
            for made in self._upstream:
                if made[0][1]["original_run_uid"] == document["uid"]:
                    for one in made:
                        self.feed(*one)
            return
        uid = self._belonging.run_of(name, document)
        run = self._runs.get(uid)
        if run is None:
            if name == "stream_resource" and "run_start" not in document:
                self._unclaimed[document["uid"]] = document
            return
        self._belonging.note(uid, name, document)
        self._attempt(uid, partial(run.add, name, document))
        if name == "stream_datum" and document["stream_resource"] in self._unclaimed:
            known = self._unclaimed.pop(document["stream_resource"])
            self._attempt(uid, partial(run.add, "stream_resource", known))
        if name == "stop":
            self._forget(uid)

    def feed(self, name: str, document: Document) -> None:
        """Take a document of a derived run that may feed inputs of its raw run's.

        Raises
        ------
        BindingError
            If the raw run, with all of that, does not have what the modality needs.
        """
        derived = self._belonging.run_of(name, document)
        if name == "start":
            self._fed[derived] = document["original_run_uid"]
        self._belonging.note(derived, name, document)
        raw = self._fed[derived]
        if raw in self._runs:
            self._attempt(raw, partial(self._runs[raw].feed, derived, name, document))
        if name == "stop":
            del self._fed[derived]
            self._belonging.forget(derived)

    def go_without(self, raw: str, why: str) -> None:
        """Wait no longer for derived runs of a raw run that have not begun; `why`, as a sentence.

        Raises
        ------
        BindingError
            If the raw run does not have what the modality needs.
        """
        if raw in self._runs:
            self._attempt(raw, partial(self._runs[raw].raw.go_without, why))

    def _attempt(self, uid: str, action: Callable[[], None]) -> None:
        """Do something for a run; if it fails, the run ends with the reason."""
        try:
            action()
        except Exception as error:
            run = self._runs[uid]
            self._forget(uid)
            run.fail(f"{type(error).__name__}: {error}")
            raise

    def emit(self, name: str, document: Document) -> None:
        """Hand a derived document to the subscribers."""
        for subscriber in self.subscribers:
            subscriber(name, document)

    def finish(self) -> None:
        """End the runs that got no stop document, and close all files."""
        for uid in list(self._runs):
            run = self._runs[uid]
            run.raw.add(
                "stop",
                {
                    "run_start": uid,
                    "exit_status": "abort",
                    "reason": "the raw run has no stop document",
                },
            )
            run.work(final=True)
            self._forget(uid)
        self.frames.close()

    def _forget(self, uid: str) -> None:
        self._runs.pop(uid, None)
        self._belonging.forget(uid)
        if not self._runs:
            self.frames.close()
            self._unclaimed.clear()


def process(
    modality: Modality,
    documents: Iterable[NamedDocument],
    history: History = (),
    *,
    batch_size: int = 256,
    deadline: float = 10.0,
    reprocessing: int = 0,
    rows: int | None = None,
    upstream: Iterable[NamedDocument] = (),
    pipeline: str = "",
) -> list[NamedDocument]:
    """Return the derived documents of recorded raw documents: the reference meaning.

    Parameters
    ----------
    modality : Modality
    documents : iterable of (name, document)
        Of one or several raw runs, in any order that event-model allows.
    history : sequence of (raw event uid, settings)
        Settings that replace the modality's own from the event with that uid on.
    batch_size : int
        Events per call of the modality; makes no difference to the results.
    deadline : float
        Seconds to wait for detector files that are still being written.
    reprocessing : int
        Tells derived runs of the same raw run, settings and inputs apart.
    rows : int, optional
        Compute the first so many rows only.
    upstream : iterable of (name, document)
        Derived runs of these raw runs, one after the other, whose outputs may feed inputs: by
        role what the raw run does not have, or explicitly, ``inputs={"x": "encoders/primary/x"}``.
    pipeline : str
        By which name the derived runs feed others, if that is not the modality's.

    Raises
    ------
    BindingError
        If a run does not have what the modality needs; says what it has.
    SettingsError
        If settings in the history are not valid.
    """
    derived: list[NamedDocument] = []
    worker = Worker(
        modality,
        lambda name, document: derived.append((name, document)),
        history=history,
        batch_size=batch_size,
        deadline=deadline,
        reprocessing=reprocessing,
        rows=rows,
        upstream=upstream,
        pipeline=pipeline,
    )
    try:
        for name, document in documents:
            worker(name, document)
        worker.finish()
    finally:
        worker.frames.close()
    return derived


def _runs_of(documents: Iterable[NamedDocument]) -> list[list[NamedDocument]]:
    """Return the documents of derived runs that come one after the other, run by run.

    Each gets an end, because no more documents come.
    """
    runs: list[list[NamedDocument]] = []
    for name, document in documents:
        if name == "start":
            runs.append([])
        runs[-1].append((name, document))
    for run in runs:
        if run[-1][0] != "stop":
            status = {"exit_status": "abort", "reason": "it has no stop document"}
            run.append(("stop", {"run_start": run[0][1]["uid"], **status}))
    return runs
