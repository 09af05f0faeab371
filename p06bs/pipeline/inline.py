"""A modality without any other process: the reference `process` and the notebook `callback`.

What these compute is what the word "derived run" means; the running pipelines
must give the same events.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from p06bs.bus.frames import FrameReader
from p06bs.model.binding import BindingError
from p06bs.model.compute import Setup, compute, gather, make_ready, rows_within
from p06bs.model.derived import Clock, DerivedRun, Page
from p06bs.model.documents import Document, NamedDocument
from p06bs.model.modality import Modality
from p06bs.model.revisions import Revision
from p06bs.model.rows import Taken
from p06bs.model.run import RawRun

log = logging.getLogger(__name__)

Subscriber = Callable[[str, Document], Any]
History = Sequence[tuple[str, Mapping[str, Any]]]


class _OneRun:
    """One raw run on its way to one derived run."""

    def __init__(self, worker: "Worker", start: Document) -> None:
        self.worker = worker
        self.raw = RawRun(worker.modality, start)
        self.derived: DerivedRun | None = None
        self.setup: Setup | None = None
        self.revision = Revision(0, worker.modality.settings)
        self.batch = 0

    def add(self, name: str, document: Document) -> None:
        self.raw.add(name, document)
        self.work(final=name == "stop")

    def work(self, *, final: bool) -> None:
        rows = self.raw.rows
        if rows is None or self.raw.binding is None:
            return
        if self.derived is None:
            self.derived = DerivedRun(
                self.worker.modality,
                self.raw.start,
                self.raw.binding,
                self.revision,
                self.worker.clock,
                self.worker.reprocessing,
            )
            self.worker.emit(*self.derived.start())
        outputs = self.worker.modality.outputs(self.revision.settings, self.raw.binding.bound)
        size = rows_within(self.raw.binding, outputs, self.worker.batch_size)
        while rows.available >= size or (final and rows.available):
            self._revise(next(rows.next_uids(1)))
            taken = rows.take(self._until_next_change(size))
            assert taken is not None
            self._compute(taken)
        if final:
            self._stop()

    def _until_next_change(self, size: int) -> int:
        """Return how many rows can be taken before the next change of settings."""
        history = self.worker.history
        assert self.raw.rows is not None
        if history:
            for number, uid in enumerate(self.raw.rows.next_uids(size)):
                if number and uid in history:
                    return number
        return size

    def _revise(self, uid: str) -> None:
        """Record the settings that begin with the event `uid`, if any do."""
        changes = self.worker.history.get(uid, [])
        for changed in changes:
            settings = self.worker.modality.validate(changed)
            self._record(Revision(self.revision.number + 1, settings), uid)
        if self.setup is None:
            self._record(self.revision, uid)

    def _record(self, revision: Revision, uid: str) -> None:
        assert self.derived is not None
        assert self.raw.binding is not None
        assert self.raw.rows is not None
        self.revision = revision
        self.setup = make_ready(self.worker.modality, revision.settings, self.raw.binding)
        first = self.raw.rows.taken
        self.worker.emit(*self.derived.revise(revision, self.setup, first, uid))

    def _compute(self, taken: Taken) -> None:
        assert self.derived is not None
        assert self.setup is not None
        number, self.batch = self.batch, self.batch + 1
        mine, of = self.worker.share
        if number % of != mine:
            return
        columns, reasons = gather(
            self.setup.binding,
            len(taken),
            taken.spans,
            self.raw.resources,
            _identity,
            self.worker.read_frames,
        )
        result = compute(self.setup, columns, reasons)
        page = Page(taken.first, self.revision.number, taken.seq, taken.uids, taken.times, result)
        self.worker.emit(*self.derived.page(page))

    def _stop(self) -> None:
        assert self.derived is not None
        assert self.raw.rows is not None
        stop = self.raw.stop or {
            "exit_status": "abort",
            "reason": "the raw run has no stop document",
        }
        name, document = self.derived.stop(
            stop["exit_status"], stop.get("reason", ""), self.raw.counts
        )
        self.worker.emit(name, document)


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
    """

    def __init__(
        self,
        modality: Modality,
        *subscribers: Subscriber,
        history: History = (),
        batch_size: int = 64,
        share: tuple[int, int] = (0, 1),
        deadline: float = 10.0,
        reprocessing: int = 0,
        clock: Clock = time.time,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, it must be at least 1")
        if not 0 <= share[0] < share[1]:
            raise ValueError(f"share is {share}, it must be (k, n) with 0 <= k < n")
        if share[1] > 1 and modality.scan is not None:
            raise ValueError(
                f"{modality.name} carries state from event to event (scan), "
                "so one worker must compute all of a run"
            )
        self.modality = modality
        self.subscribers = list(subscribers)
        self.history: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for uid, settings in history:
            self.history[uid].append(settings)
        self.batch_size = batch_size
        self.share = share
        self.reprocessing = reprocessing
        self.clock = clock
        self.read_frames = FrameReader(deadline)
        self._runs: dict[str, _OneRun] = {}
        self._owner: dict[str, str] = {}

    def __call__(self, name: str, document: Document) -> None:
        """Take a document of any run.

        Raises
        ------
        BindingError
            If a run does not have what the modality needs.
        """
        if name == "start":
            self._runs[document["uid"]] = _OneRun(self, document)
            return
        uid = document.get("run_start") or self._owner.get(
            document.get("descriptor", document.get("resource", "")), ""
        )
        run = self._runs.get(uid)
        if run is None:
            return
        if name in ("descriptor", "resource"):
            self._owner[document["uid"]] = uid
        try:
            run.add(name, document)
        except BindingError:
            self._forget(uid)
            raise
        if name == "stop":
            self._forget(uid)

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
        self.read_frames.close()

    def _forget(self, uid: str) -> None:
        self._runs.pop(uid, None)
        if not self._runs:
            self.read_frames.close()
        for key in [k for k, owner in self._owner.items() if owner == uid]:
            del self._owner[key]


def process(
    modality: Modality,
    documents: Iterable[NamedDocument],
    history: History = (),
    *,
    batch_size: int = 256,
    deadline: float = 10.0,
    reprocessing: int = 0,
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
    )
    try:
        for name, document in documents:
            worker(name, document)
        worker.finish()
    finally:
        worker.read_frames.close()
    return derived


def callback(modality: Modality, *subscribers: Subscriber) -> Callable[[str, Document], None]:
    """Return a RunEngine callback that computes `modality` while the scan runs.

    ``RE.subscribe(callback(RegionSums(...), LiveTable([...])))``. Each event is
    computed as it comes. A run that lacks an input is left with a warning, and an
    error in a subscriber is logged: a Bluesky plan never stops because of analysis.
    """
    worker = Worker(modality, *subscribers, batch_size=1)

    def analyse(name: str, document: Document) -> None:
        try:
            worker(name, document)
        except BindingError as reason:
            log.warning("%s", reason)
        except Exception:
            log.exception("%s failed on a %s document", modality.name, name)

    return analyse


def _identity(where: Any) -> Any:
    return where
