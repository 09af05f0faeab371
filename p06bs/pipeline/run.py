"""One raw run in one pipeline: raw documents and results in, batches and derived documents out.

Decisions only; sockets, files and workers are in `pipeline`.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from p06bs.bus.codec import Packed
from p06bs.bus.reader import LogError
from p06bs.model.binding import BindingError
from p06bs.model.compute import Result, Setup, check_outputs, invalid, rows_within
from p06bs.model.derived import Clock, DerivedRun, Page
from p06bs.model.documents import Document
from p06bs.model.modality import Modality, Output
from p06bs.model.page import Stream
from p06bs.model.results import Results
from p06bs.model.revisions import Revision, recorded
from p06bs.model.run import RawRun
from p06bs.pipeline.earlier import Earlier
from p06bs.pipeline.fan_in import Composed, Emit, FanIn
from p06bs.pipeline.master import LARGEST, Batch, Master
from p06bs.pipeline.refold import Refold
from p06bs.pipeline.setups import SetupError, Setups, Submit, at_once

log = logging.getLogger(__name__)


REFUSALS = 3
"""Workers that a modality may fail to get ready on before its derived run ends."""

LookBack = Callable[[DerivedRun], Earlier | None]
"""Return what the log holds of a derived run, if a pipeline was restarted."""


class RunPipeline:
    """Take one raw run through one modality.

    Parameters
    ----------
    modality : Modality
    start : Document
        The raw start document.
    emit : callable
        Takes ``(name, document)`` of the derived run, in order; event pages may be
        encoded already.
    look_back : callable
        Says what an earlier process has published of the derived run.
    clock
        Time of documents.
    size : int, optional
        Fixed batch size; by default it follows the backlog.
    submit : callable
        Makes setups, where this need not wait for them; call `advance` when one is made.
    """

    def __init__(
        self,
        modality: Modality,
        start: Document,
        emit: Emit,
        look_back: LookBack,
        clock: Clock,
        *,
        size: int | None = None,
        submit: Submit = at_once,
    ) -> None:
        self.modality = modality
        self.raw = RawRun(modality, start)
        self.emit = emit
        self.look_back = look_back
        self.clock = clock
        self.size = size
        self.derived: DerivedRun | None = None
        self.left: str | None = None
        self.ended = False
        self.master: Master | None = None
        self._submit = submit
        self._setups: Setups | None = None  # known with the binding
        self._fan_in: FanIn | None = None
        self._results: Results | None = None
        self._refold: Refold | None = None
        self._initial = Revision(0, modality.settings)
        self._wish: Revision | None = None
        self._warned = False  # of inputs that are not bound yet
        self._told = False  # of inputs that were configured anew
        self._refused = 0  # documents that could not be used

    @property
    def over(self) -> bool:
        """Whether nothing is left to do for this run."""
        return self.ended or self.left is not None

    def add(self, name: str, document: Document, where: Any) -> None:
        """Take a raw document; `where` is its frame in the log."""
        if self.over:
            return
        try:
            self.raw.add(name, document, where)
        except BindingError as reason:
            self.left = str(reason)
            log.info("run %s: %s", self.raw.uid, reason)
            return
        while self.raw.refused:
            self.refuse(*self.raw.refused.pop())
        if self.raw.problem and not self._warned:
            self._warned = True
            log.warning("run %s: so far %s", self.raw.uid, self.raw.problem)
        if self.raw.reconfigured and not self._told:
            self._told = True
            log.warning(
                "run %s: %s was configured anew; %s goes on with the first configuration",
                self.raw.uid,
                ", ".join(sorted(self.raw.reconfigured)),
                self.modality.name,
            )
        if self.derived is None and self.raw.rows is not None:
            try:
                self._begin()
            except LogError:
                raise
            except Exception as error:  # an author's code may raise anything
                self.abandon(f"it cannot begin: {type(error).__name__}: {error}")
                return
        self._finish()

    def refuse(self, name: str, error: Exception) -> None:
        """Leave out a document that cannot be used; the first one is told."""
        self._refused += 1
        if self._refused == 1:
            log.error(
                "run %s: %s leaves out a document (%s), which cannot be used: %s: %s",
                self.raw.uid,
                self.modality.name,
                name,
                type(error).__name__,
                error,
            )

    def revise(self, revision: Revision) -> None:
        """Change the settings from the next row on that is in no batch yet.

        They are tried on this run first. Settings that do not fit it are refused
        with an error in the log; the old ones stay in force.
        """
        self._wish = revision
        if self._setups is not None and not self.over:
            self._setups.propose(revision)
            self.advance()

    def advance(self) -> None:
        """Go on with what waited for a setup."""
        if self._setups is None or self.master is None or self.over:
            return
        for revision, problem in self._setups.judged():
            if problem is None:
                self.master.revise(revision)
            else:
                log.error(
                    "run %s: %s keeps its settings: %s", self.raw.uid, self.modality.name, problem
                )
        if self._fan_in is not None:
            self._deliver(self._fan_in.go_on)

    def _begin(self) -> None:
        assert self.raw.binding is not None
        derived = DerivedRun(
            self.modality, self.raw.start, self.raw.binding, self._initial, self.clock
        )
        earlier = self.look_back(derived)
        if earlier is not None and earlier.ended:
            self.ended = True
            return
        self._setups = Setups(self.modality, self.raw.binding, self._submit)
        if earlier is None:
            largest = self._largest(self._setups.adopt(self._initial).outputs)
            start = derived.start()
            self.master = Master(self.raw, self._initial, size=self.size, largest=largest)
            self.derived = derived
            self._results = None if self.modality.fold is None else Results(derived)
            self._fan_in = FanIn(derived, self._setups, self.emit, results=self._results)
            self.emit(*start)
        else:
            self.derived = derived
            self._resume(earlier)
        if self._wish is not None:
            self.revise(self._wish)

    def _resume(self, earlier: Earlier) -> None:
        """Go on after the last row that an earlier process has published."""
        assert self.derived is not None
        assert self._setups is not None
        process = self.modality.name
        initial = self.modality.validate(json.loads(earlier.start["process"]["settings"]))
        self._initial = Revision(0, initial)
        self.derived = replace(self.derived, initial=self._initial)
        history: dict[int, Revision] = {}
        streams: dict[str, str] = {}
        for document in earlier.descriptors:
            data = recorded(document, process)
            settings = self.modality.validate(json.loads(data["settings"]))
            revision = Revision(data["revision"], settings, data["changed_by"], data["changed_at"])
            history[data["first_row"]] = revision
            self.derived.revise(revision, self._setups.adopt(revision), data["first_row"], "")
            streams[document["uid"]] = document["name"]
        again = self.modality.is_stateful
        if not again:
            for descriptor, reasons in earlier.pages:
                invalid_rows = len(reasons) - reasons.count("")
                self.derived.count(streams[descriptor], len(reasons), invalid_rows)
        # State is not in the log: what carries it begins at the first row.
        skip = 0 if again else earlier.rows
        if self.modality.fold is not None:
            self.derived.resume_snapshots(earlier.snapshots)
            self._results = Results(self.derived, published=earlier.finals)
        self._fan_in = FanIn(
            self.derived,
            self._setups,
            self.emit,
            first=skip,
            published=earlier.reasons,
            results=self._results,
        )
        self.master = Master(
            self.raw,
            self._initial,
            largest=self._largest(self._setups.outline(initial).outputs),
            known=history,
            skip=skip,
            published=earlier.rows,
            last=earlier.last_raw_uid,
            size=self.size,
        )

    def _largest(self, outputs: Mapping[str, Output]) -> int:
        assert self.raw.binding is not None
        return rows_within(self.raw.binding, outputs, LARGEST)

    def settings(self, revision: int) -> Setup:
        """Return what a revision of the settings means for this run, not made ready."""
        assert self._setups is not None
        return self._setups[revision]

    def next_batch(self, workers: int) -> Batch | None:
        """Return a batch for one of `workers` workers."""
        if self.over or self.master is None or self.derived is None or self._setups is None:
            return None
        boundary = self.master.boundary()
        if boundary is not None:
            revision, row, raw_uid = boundary
            setup = self._setups.adopt(revision)
            self.master.largest = self._largest(setup.outputs)
            self.emit(*self.derived.revise(revision, setup, row, raw_uid))
        return self.master.batch(workers)

    def stream(self, revision: int) -> Stream:
        """Return the derived stream that a revision's rows belong to."""
        assert self.derived is not None
        return self.derived.stream(revision)

    def result(self, number: int, result: Result) -> None:
        """Take a batch's result; one that came before is dropped.

        Raises
        ------
        ValueError
            If it does not have the outputs of the batch's settings.
        """
        batch = None if self.master is None or self.over else self.master.batch_out(number)
        if batch is None or self.master is None:
            return
        if self._refolded(number, result.parts):
            return
        if result.columns and self.modality.scan is None:
            valid = sum(not r for r in result.reasons)
            check_outputs(self.settings(batch.revision), result.columns, valid)
        self.master.returned(number)
        self._take(batch, Page(batch.revision, batch.rows, result))

    def composed(
        self, number: int, rows: int, invalid: int, page: Packed, parts: Sequence[Any] = ()
    ) -> None:
        """Take a batch's event page, which the worker has composed and encoded.

        Raises
        ------
        ValueError
            If it has another number of rows than the batch.
        """
        batch = None if self.master is None or self.over else self.master.batch_out(number)
        if batch is None or self.master is None:
            return
        if self._refolded(number, parts):
            return
        if rows != len(batch.rows):
            raise ValueError(f"a page has {rows} rows, its batch {len(batch.rows)}")
        self.master.returned(number)
        self._take(batch, Composed(batch.revision, rows, invalid, page, tuple(parts)))

    def lost(self, number: int) -> None:
        """Take a batch back whose worker died."""
        if self.master is None or self.over:
            return
        reason = self.master.lost(number)
        batch = self.master.returned(number) if reason else None
        if batch is not None and not self._refolded(number, ()):
            failed = invalid(len(batch.rows), reason)
            self._take(batch, Page(batch.revision, batch.rows, failed))

    def silenced(self, number: int) -> bool:
        """Note that a worker fell silent over a batch; return whether the batch is to blame."""
        return self.master is not None and self.master.silenced(number)

    def refused(self, number: int, reason: str, workers: int, everybody: bool) -> None:
        """Take a batch back that a worker could not make the modality ready for.

        Others try. When `REFUSALS` of them could not, or everybody who is there, the
        derived run ends with the reason.
        """
        if self.over or self.derived is None or self.master is None:
            return
        if workers < REFUSALS and not everybody:
            self.master.again(number)
            return
        self._fail(reason)

    def _fail(self, reason: str) -> None:
        assert self.derived is not None
        log.error("run %s: %s cannot start: %s", self.raw.uid, self.modality.name, reason)
        self.ended = True  # also if this cannot be written
        self.emit(*self.derived.stop("fail", reason))

    def abandon(self, reason: str) -> None:
        """Leave the run as it is, because its derived run cannot be written."""
        log.error("run %s: %s leaves it: %s", self.raw.uid, self.modality.name, reason)
        self.left = reason

    def _take(self, batch: Batch, page: Page | Composed) -> None:
        assert self._fan_in is not None
        self._deliver(partial(self._fan_in.take, batch.rows, page))

    def _deliver(self, emit: Callable[[], None]) -> None:
        assert self._fan_in is not None
        try:
            emit()
        except SetupError as error:
            self._fail(str(error))
            return
        if self.master is not None:
            self.master.delivered = self._fan_in.next
        self._finish()

    def _finish(self) -> None:
        if self.master is None or not self.master.done or self.over or self.raw.stop is None:
            return
        if self._fan_in is None or self._fan_in.waiting or not self._finish_results():
            return
        assert self.derived is not None
        stop = self.raw.stop
        losses = self.raw.losses() | (self._results.losses() if self._results else {})
        self.emit(*self.derived.stop(stop["exit_status"], stop.get("reason", ""), losses))
        self.ended = True

    def _finish_results(self) -> bool:
        """Emit the last snapshot; return False while it has to be computed again for that."""
        if self._results is None or self.master is None:
            return True
        if self._refold is None:
            again = self._results.again()
            numbers = [self.master.extra(revision, rows) for revision, _, rows in again]
            self._refold = Refold(again, numbers, self.master.halved)
        if not self._refold.complete:
            return False
        for document in self._results.finish(self._refold.parts):
            self.emit(*document)
        return True

    def _refolded(self, number: int, parts: Sequence[Any]) -> bool:
        """Take what a batch contributes that is only computed again; False if it is another."""
        if self._refold is None or self.master is None:
            return False
        self.master.returned(number)
        self._refold.take(number, parts)
        self._finish()
        return True
