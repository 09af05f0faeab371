"""One derived run in the making: batches out, results in, documents in order.

Decisions only, from the moment on when the inputs are bound; sockets, files and workers
are in `pool` and `pipeline`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from p06bs.bus.codec import Packed
from p06bs.model.compute import Result, check_outputs, invalid, rows_within
from p06bs.model.derived import DerivedRun, Page
from p06bs.model.documents import NamedDocument
from p06bs.model.losses import losses
from p06bs.model.modality import Output
from p06bs.model.results import Results
from p06bs.model.revisions import Revision, Since
from p06bs.model.run import RawRun
from p06bs.pipeline.batch import LARGEST, Batch
from p06bs.pipeline.earlier import Earlier
from p06bs.pipeline.fan_in import Composed, Emit, FanIn
from p06bs.pipeline.keeper import Judged, ignore
from p06bs.pipeline.master import Master
from p06bs.pipeline.refold import Refold
from p06bs.pipeline.setups import SetupError, Setups

log = logging.getLogger(__name__)

REFUSALS = 3
"""Workers that a modality may fail to get ready on before its derived run ends."""


class Work:
    """Make one derived run of a raw run whose inputs are bound.

    Parameters
    ----------
    raw : RawRun
        Fed elsewhere.
    derived : DerivedRun
    setups : Setups
    emit : callable
        Takes the documents of the derived run, in order.
    size : int, optional
        Fixed batch size; by default it follows the backlog.
    earlier : Earlier, optional
        What an earlier process has published: it is gone on with.
    judged : callable
        Told of proposed settings when they were tried.
    brief : bool
        Whether batches are to be so short that those of other runs need not wait for them.
    master : type
        What cuts the batches.

    Attributes
    ----------
    since : list of Since
        The settings that were in force so far, in order.
    ended : bool
        Whether the stop document was emitted.
    failure : str
        Why it ended before its time; "" otherwise.
    """

    def __init__(
        self,
        raw: RawRun,
        derived: DerivedRun,
        setups: Setups,
        emit: Emit,
        *,
        size: int | None = None,
        earlier: Earlier | None = None,
        judged: Judged = ignore,
        brief: bool = False,
        master: type[Master] = Master,
    ) -> None:
        self.raw = raw
        self.modality = derived.modality
        self.setups = setups
        self.emit = emit
        self.judged = judged
        self.since: list[Since] = []
        self.ended = False
        self.failure = ""
        self._refold: Refold | None = None
        known = {} if earlier is None else earlier.revisions(self.modality)
        self.derived = derived
        streams = {uid: self._readopt(*known[uid]) for uid in known}
        self._results: Results | None = None
        if self.modality.fold is not None:
            events, finals = ({}, set()) if earlier is None else (earlier.snapshots, earlier.finals)
            self._results = Results(derived, events=events, published=finals)
        # State is not in the log: what carries it begins at the first row.
        skip = 0
        if earlier is not None and not self.modality.is_stateful:
            skip = earlier.rows
            for descriptor, reasons in earlier.pages:
                failed = len(reasons) - reasons.count("")
                derived.count(streams[descriptor], len(reasons), failed)
        outputs = setups.outline(derived.initial.settings).outputs
        self.fan_in = FanIn(
            derived,
            setups,
            emit,
            first=skip,
            published=() if earlier is None else earlier.reasons,
            results=self._results,
        )
        self.master = master(
            raw,
            derived.initial,
            size=size,
            largest=self._largest(outputs),
            known={row: revision for revision, row, _ in known.values()},
            skip=skip,
            published=0 if earlier is None else earlier.rows,
            last=None if earlier is None else earlier.last_raw_uid,
            brief=brief,
        )

    def _readopt(self, revision: Revision, first: int, raw_uid: str) -> str:
        """Take a recorded revision as it is; return the stream that it belongs to."""
        self._adopt(revision, first, raw_uid)
        return self.derived.stream(revision.number).name

    def _adopt(self, revision: Revision, first: int, raw_uid: str) -> NamedDocument:
        """Take settings that are in force from a row on; return the descriptor that says so."""
        setup = self.setups.adopt(revision)
        descriptor = self.derived.revise(revision, setup, first, raw_uid)
        stream = self.derived.stream(revision.number).name
        self.since.append(Since(revision, first, raw_uid, stream))
        return descriptor

    def _largest(self, outputs: Mapping[str, Output]) -> int:
        return rows_within(self.setups.binding, outputs, LARGEST)

    def start(self) -> None:
        """Emit the start document, if no earlier process has."""
        self.emit(*self.derived.start())

    def propose(self, revision: Revision) -> None:
        """Have new settings tried on this run; they hold if they fit it."""
        self.setups.propose(revision)
        self.go_on()

    def go_on(self) -> None:
        """Go on with what waited for a setup, or for the end of the raw run."""
        for revision, problem in self.setups.judged():
            if problem is None:
                self.master.revise(revision)
                self.judged(revision, "")
                continue
            log.error(
                "run %s: %s keeps its settings: %s", self.raw.uid, self.modality.name, problem
            )
            self.judged(revision, str(problem) or type(problem).__name__)
        self._deliver(self.fan_in.go_on)

    def next_batch(self, workers: int) -> Batch | None:
        """Return a batch for one of `workers` workers."""
        boundary = self.master.boundary()
        if boundary is not None:
            revision, row, raw_uid = boundary
            descriptor = self._adopt(revision, row, raw_uid)
            self.master.largest = self._largest(self.setups[revision.number].outputs)
            self.emit(*descriptor)
        return self.master.batch(workers)

    def first_row(self, change: int) -> int | None:
        """Return from which row on a change of the settings holds; None if that is not known.

        A change that was overtaken before it took effect counts as the one that did.
        """
        for since in self.since:
            if since.revision.change >= change:
                return since.row
        rows = self.raw.rows
        if rows is None or rows.available or self.fan_in.next < rows.taken:
            return None
        # What is published stays so, also over a restart: it begins behind that.
        is_next = rows.taken >= self.master.published and self.master.pending_change >= change
        return rows.taken if is_next else None

    def result(self, number: int, result: Result) -> None:
        """Take a batch's result; one that came before is dropped.

        Raises
        ------
        ValueError
            If it does not have the outputs of the batch's settings.
        """
        batch = self.master.batch_out(number)
        if batch is None or self._refolded(number, result.parts):
            return
        if result.columns and self.modality.scan is None:
            valid = sum(not reason for reason in result.reasons)
            check_outputs(self.setups[batch.revision], result.columns, valid)
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
        batch = self.master.batch_out(number)
        if batch is None or self._refolded(number, parts):
            return
        if rows != len(batch.rows):
            raise ValueError(f"a page has {rows} rows, its batch {len(batch.rows)}")
        self._take(batch, Composed(batch.revision, rows, invalid, page, tuple(parts)))

    def lost(self, number: int) -> None:
        """Take a batch back whose worker died."""
        reason = self.master.lost(number)
        batch = self.master.batch_out(number)
        if reason and batch is not None and not self._refolded(number, ()):
            failed = invalid(len(batch.rows), reason)
            self._take(batch, Page(batch.revision, batch.rows, failed))

    def refused(self, number: int, reason: str, workers: int, everybody: bool) -> None:
        """Take a batch back that a worker could not make the modality ready for.

        Others try. When `REFUSALS` of them could not, or everybody who is there, the
        derived run ends with the reason.
        """
        if workers < REFUSALS and not everybody:
            self.master.again(number)
        else:
            self._fail(reason)

    def _fail(self, reason: str) -> None:
        log.error("run %s: %s cannot start: %s", self.raw.uid, self.modality.name, reason)
        self.ended = True  # also if this cannot be written
        self.failure = reason
        self.emit(*self._stop("fail", reason))

    def _take(self, batch: Batch, page: Page | Composed) -> None:
        self.master.returned(batch.number)
        self._deliver(partial(self.fan_in.take, batch.rows, page))

    def _deliver(self, emit: Callable[[], None]) -> None:
        try:
            emit()
        except SetupError as error:
            self._fail(str(error))
            return
        self.master.delivered = self.fan_in.next
        self._finish()

    def _finish(self) -> None:
        """End the derived run, if the raw run has ended and nothing is left."""
        stop = self.raw.ending
        if stop is None or self.ended or not self.master.done or self.fan_in.waiting:
            return
        if self._finish_results():
            self.emit(*self._stop(stop["exit_status"], stop.get("reason", "")))
            self.ended = True

    def _stop(self, exit_status: str, reason: str) -> Any:
        found = losses(self.raw)
        for said in found.get("warnings", ()):
            log.warning("run %s: %s: %s", self.raw.uid, self.modality.name, said)
        if self._results is None:
            return self.derived.stop(exit_status, reason, found)
        found |= self._results.losses()
        return self.derived.stop(exit_status, reason, found, self._results.events)

    def _finish_results(self) -> bool:
        """Emit the last snapshot; return False while it has to be computed again for that."""
        if self._results is None:
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
        if self._refold is None:
            return False
        self.master.returned(number)
        self._refold.take(number, parts)
        self._finish()
        return True
