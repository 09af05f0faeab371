"""One raw run in one pipeline: raw documents and results in, batches and derived documents out.

Decisions only; sockets, files and workers are in `pipeline`.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from p06bs.bus.codec import Packed
from p06bs.bus.reader import LogError
from p06bs.model.binding import BindingError
from p06bs.model.compute import Result, Setup, check_outputs, invalid, make_ready, rows_within
from p06bs.model.derived import Clock, DerivedRun, Page
from p06bs.model.documents import Document
from p06bs.model.modality import Modality, ModalitySettings, Output
from p06bs.model.page import Stream
from p06bs.model.revisions import Revision, recorded
from p06bs.model.rows import RowNames
from p06bs.model.run import RawRun
from p06bs.pipeline.earlier import Earlier
from p06bs.pipeline.master import LARGEST, Batch, Master
from p06bs.pipeline.sorter import Order, without

log = logging.getLogger(__name__)


REFUSALS = 3
"""Times that a modality may fail to get ready on workers before its derived run ends."""

Emit = Callable[[str, Document | Packed], object]

LookBack = Callable[[DerivedRun], Earlier | None]
"""Return what the log holds of a derived run, if a pipeline was restarted."""


@dataclass(frozen=True, slots=True)
class _Composed:
    """An event page that a worker has composed, and what has to be known of it."""

    revision: int
    rows: int
    invalid: int
    page: Packed


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
        self._order: Order[Page | _Composed] = Order()
        self._setups: dict[int, Setup] = {}
        self._published = 0  # rows that an earlier process has published
        self._initial = Revision(0, modality.settings)
        self._wish: Revision | None = None
        self._warned = False
        self._refused = 0  # documents that could not be used
        self._refusals = 0  # workers that could not make the modality ready

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
        if self.raw.problem and not self._warned:
            self._warned = True
            log.warning("run %s: so far %s", self.raw.uid, self.raw.problem)
        if self.derived is None and self.raw.rows is not None:
            try:
                self._begin()
            except LogError:
                raise
            except Exception as error:  # an author's code may raise anything
                self.abandon(f"it cannot begin: {type(error).__name__}: {error}")
                return
        self._finish()

    def refuse(self, name: str, index: int, error: Exception) -> None:
        """Leave out a document that cannot be used; the first one is told."""
        self._refused += 1
        if self._refused == 1:
            log.error(
                "run %s: %s leaves out document %d (%s), which cannot be used: %s: %s",
                self.raw.uid,
                self.modality.name,
                index,
                name,
                type(error).__name__,
                error,
            )

    def revise(self, revision: Revision) -> None:
        """Change the settings from the next row on that is in no batch yet.

        Settings that do not fit this run are refused with an error in the log;
        the old ones stay in force.
        """
        self._wish = revision
        if self.master is not None and not self.over:
            try:
                self._make_setup(revision.settings)
            except Exception as error:  # an author's code may raise anything
                log.error(
                    "run %s: %s keeps its settings: %s", self.raw.uid, self.modality.name, error
                )
                return
            self.master.revise(revision)

    def _outputs(self, settings: ModalitySettings) -> dict[str, Output]:
        assert self.raw.binding is not None
        return dict(self.modality.outputs(settings, self.raw.binding.bound))

    def _begin(self) -> None:
        assert self.raw.binding is not None
        derived = DerivedRun(
            self.modality, self.raw.start, self.raw.binding, self._initial, self.clock
        )
        earlier = self.look_back(derived)
        if earlier is not None and earlier.ended:
            self.ended = True
            return
        if earlier is None:
            outputs = self._setup(self._initial).outputs
            largest = self._largest(outputs)
            start = derived.start()
            self.master = Master(self.raw, self._initial, size=self.size, largest=largest)
            self.derived = derived
            self.emit(*start)
        else:
            self.derived = derived
            self._resume(earlier)
        if self._wish is not None:
            self.revise(self._wish)

    def _resume(self, earlier: Earlier) -> None:
        """Go on after the last row that an earlier process has published."""
        assert self.derived is not None
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
            self.derived.revise(revision, self._setup(revision), data["first_row"], "")
            streams[document["uid"]] = document["name"]
        self._published = earlier.rows
        scans = self.modality.scan is not None
        if not scans:
            for descriptor, valid in earlier.pages:
                self.derived.count(streams[descriptor], len(valid), valid.count(False))
        # State carried from event to event is not in the log: a scan begins at the first row.
        skip = 0 if scans else earlier.rows
        self._order = Order(skip)
        self.master = Master(
            self.raw,
            self._initial,
            largest=self._largest(self._outputs(initial)),
            known=history,
            skip=skip,
            last=earlier.last_raw_uid,
            size=self.size,
        )

    def _largest(self, outputs: Mapping[str, Output]) -> int:
        assert self.raw.binding is not None
        return rows_within(self.raw.binding, outputs, LARGEST)

    def _setup(self, revision: Revision) -> Setup:
        """Return the setup as the sorter needs it: ready to scan, or only the outputs."""
        if revision.number not in self._setups:
            self._setups[revision.number] = self._make_setup(revision.settings)
        return self._setups[revision.number]

    def _make_setup(self, settings: ModalitySettings) -> Setup:
        assert self.raw.binding is not None
        if self.modality.scan is not None:
            return make_ready(self.modality, settings, self.raw.binding)
        return Setup(self.modality, settings, self.raw.binding, None, self._outputs(settings))

    def settings(self, revision: int) -> Setup:
        """Return what a revision of the settings means for this run."""
        return self._setups[revision]

    def next_batch(self, workers: int) -> Batch | None:
        """Return a batch for one of `workers` workers."""
        if self.over or self.master is None or self.derived is None:
            return None
        boundary = self.master.boundary()
        if boundary is not None:
            revision, row, raw_uid = boundary
            self.emit(*self.derived.revise(revision, self._setup(revision), row, raw_uid))
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
        if result.columns and self.modality.scan is None:
            valid = sum(not r for r in result.reasons)
            check_outputs(self._setups[batch.revision], result.columns, valid)
        self.master.returned(number)
        self._deliver(batch.rows, Page(batch.revision, batch.rows, result))

    def composed(self, number: int, rows: int, invalid: int, page: Packed) -> None:
        """Take a batch's event page, which the worker has composed and encoded.

        Raises
        ------
        ValueError
            If it has another number of rows than the batch.
        """
        batch = None if self.master is None or self.over else self.master.batch_out(number)
        if batch is None or self.master is None:
            return
        if rows != len(batch.rows):
            raise ValueError(f"a page has {rows} rows, its batch {len(batch.rows)}")
        self.master.returned(number)
        self._deliver(batch.rows, _Composed(batch.revision, rows, invalid, page))

    def lost(self, number: int) -> None:
        """Take a batch back whose worker died."""
        if self.master is None or self.over:
            return
        reason = self.master.lost(number)
        batch = self.master.returned(number) if reason else None
        if batch is not None:
            count = len(batch.rows)
            self._deliver(batch.rows, Page(batch.revision, batch.rows, invalid(count, reason)))

    def refused(self, number: int, reason: str) -> None:
        """Take a batch back from a worker that could not make the modality ready.

        Others try; when `REFUSALS` could not, the derived run ends with the reason.
        """
        if self.over or self.derived is None or self.master is None:
            return
        self._refusals += 1
        if self._refusals < REFUSALS:
            self.master.again(number)
            return
        log.error("run %s: %s cannot start: %s", self.raw.uid, self.modality.name, reason)
        self.emit(*self.derived.stop("fail", reason))
        self.ended = True

    def abandon(self, reason: str) -> None:
        """Leave the run as it is, because its derived run cannot be written."""
        log.error("run %s: %s leaves it: %s", self.raw.uid, self.modality.name, reason)
        self.left = reason

    def _deliver(self, rows: RowNames, page: "Page | _Composed") -> None:
        """Emit the pages whose turn has come with this one."""
        assert self.derived is not None
        assert self.master is not None
        for ready, skip in self._order.accept(rows.first, len(rows), page):
            assert skip == 0, "batches of one run never overlap"
            self.master.delivered = self._order.next
            if isinstance(ready, _Composed):
                stream = self.derived.stream(ready.revision).name
                self.derived.count(stream, ready.rows, ready.invalid)
                self.emit("event_page", replace(ready.page, run=self.derived.uid))
                continue
            name, document = self.derived.page(ready)
            already = self._published - ready.rows.first
            if already < len(ready.rows):
                self.emit(name, without(document, already) if already > 0 else document)
        self._finish()

    def _finish(self) -> None:
        if self.master is None or not self.master.done or self.over or self.raw.stop is None:
            return
        assert self.derived is not None
        stop = self.raw.stop
        self.emit(
            *self.derived.stop(stop["exit_status"], stop.get("reason", ""), self.raw.losses())
        )
        self.ended = True
