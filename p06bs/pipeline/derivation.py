"""One raw run on its way to one derived run, in one process."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from p06bs.bus.frames import Frames
from p06bs.model.compute import Result, Setup, compute, make_ready, rows_within
from p06bs.model.derived import Clock, DerivedRun, Page
from p06bs.model.documents import Document
from p06bs.model.losses import losses
from p06bs.model.modality import Modality, Output
from p06bs.model.results import Results
from p06bs.model.revisions import Revision
from p06bs.model.rows import Rows
from p06bs.model.run import RawRun
from p06bs.model.taken import Taken
from p06bs.pipeline.gathering import Gathering


class Derivation:
    """Compute the derived run of one raw run as its documents come.

    Parameters
    ----------
    modality : Modality
    start : Document
        The raw start document.
    emit : callable
        Takes ``(name, document)`` of the derived run.
    frames : Frames
        Reads rows of stream resources.
    changes : mapping of raw event uid to settings
        Settings, in order, that begin with the event of that uid.
    after : sequence of str
        Names of derived runs that are waited for; see `RawRun`.
    batch_size, share, deadline, wait_at_stop, reprocessing, rows, clock, pipeline
        See `inline.Worker`.
    """

    def __init__(
        self,
        modality: Modality,
        start: Document,
        emit: Callable[[str, Document], None],
        frames: Frames,
        *,
        changes: Mapping[str, Sequence[Mapping[str, Any]]],
        batch_size: int,
        share: tuple[int, int],
        deadline: float,
        wait_at_stop: bool,
        reprocessing: int,
        rows: int | None,
        clock: Clock,
        after: Sequence[str] = (),
        pipeline: str = "",
    ) -> None:
        self.modality = modality
        self.emit = emit
        self.changes = changes
        self.batch_size = batch_size
        self.share = share
        self.wait_at_stop = wait_at_stop
        self.reprocessing = reprocessing
        self.clock = clock
        self.pipeline = pipeline
        self.raw = RawRun(modality, start, rows, after)
        self.gathering = Gathering(self.raw.resources, frames, deadline)
        self.late: Taken | None = None  # rows that a file lacks yet; all others wait behind them
        self.derived: DerivedRun | None = None
        self.results: Results | None = None
        self.setup: Setup | None = None
        self.revision = Revision(0, modality.settings)
        self.batch = 0
        self.size = 0  # events per batch; known with the binding and the revision

    def add(self, name: str, document: Document) -> None:
        self.raw.add(name, document)
        for _, error in self.raw.refused:
            raise error
        self.work(final=name == "stop")

    def feed(self, run: str, name: str, document: Document) -> None:
        """Take a document of a derived run that may feed inputs."""
        self.raw.feed(run, name, document)
        for _, error in self.raw.refused:
            raise error
        self.work(final=False)

    def work(self, *, final: bool) -> None:
        rows = self.raw.rows
        if rows is None or self.raw.binding is None:
            return
        if self.derived is None:
            self.derived = DerivedRun(
                self.modality,
                self.raw.start,
                self.raw.binding,
                self.revision,
                self.clock,
                self.reprocessing,
                self.raw.limit,
                self.pipeline,
            )
            self.emit(*self.derived.start())
            if self.modality.fold is not None:
                self.results = Results(self.derived)
            self._fit(self.modality.outputs(self.revision.settings, self.raw.binding.bound))
        while self.late or rows.available >= self.size or (final and rows.available):
            taken = self.late or self._take(rows)
            self.late = None if self._compute(taken, wait=final or not self.wait_at_stop) else taken
            if self.late:
                return
        if final:
            self._stop()

    def _fit(self, outputs: Mapping[str, Output]) -> None:
        assert self.raw.binding is not None
        self.size = rows_within(self.raw.binding, outputs, self.batch_size)

    def _take(self, rows: Rows) -> Taken:
        """Take the next batch, of rows under the same settings."""
        self._revise(next(rows.next_uids(1)))
        taken = rows.take(self._until_next_change(self.size))
        assert taken is not None
        return taken

    def _until_next_change(self, size: int) -> int:
        """Return how many rows can be taken before the next change of settings."""
        assert self.raw.rows is not None
        if self.changes:
            for number, uid in enumerate(self.raw.rows.next_uids(size)):
                if number and uid in self.changes:
                    return number
        return size

    def _revise(self, uid: str) -> None:
        """Record the settings that begin with the event `uid`, if any do."""
        for changed in self.changes.get(uid, ()):
            settings = self.modality.validate(changed)
            self._record(Revision(self.revision.number + 1, settings), uid)
        if self.setup is None:
            self._record(self.revision, uid)

    def _record(self, revision: Revision, uid: str) -> None:
        assert self.derived is not None
        assert self.raw.binding is not None
        assert self.raw.rows is not None
        self.revision = revision
        self.setup = make_ready(self.modality, revision.settings, self.raw.binding)
        self._fit(self.setup.outputs)
        first = self.raw.rows.taken
        self.emit(*self.derived.revise(revision, self.setup, first, uid))

    def _compute(self, taken: Taken, *, wait: bool) -> bool:
        """Compute a batch, or pass it over; return whether its rows were all there."""
        assert self.derived is not None
        assert self.setup is not None
        if self.batch % self.share[1] != self.share[0]:
            self.derived.pass_over(self.revision.number, len(taken))
        elif (result := self._result(self.setup, taken, wait=wait)) is None:
            return False
        else:
            number = self.revision.number
            self.emit(*self.derived.page(Page(number, taken, result)))
            if self.results is not None:
                for document in self.results.add(number, self.setup, taken, result.parts):
                    self.emit(*document)
        self.batch += 1
        return True

    def _result(self, setup: Setup, taken: Taken, *, wait: bool) -> Result | None:
        gathered = self.gathering(setup.binding, taken, wait=wait)
        return None if gathered is None else compute(setup, *gathered)

    def _stop(self) -> None:
        assert self.derived is not None
        assert self.raw.rows is not None
        if self.results is not None:
            made = [
                (setup, len(rows), result.parts)
                for _, setup, rows in self.results.again()
                if (result := self._result(setup, rows, wait=True)) is not None
            ]
            for last in self.results.finish(made or None):
                self.emit(*last)
        stop = self.raw.ending or {
            "exit_status": "abort",
            "reason": "a derived run that feeds it has no stop document",
        }
        found = losses(self.raw)
        if self.results is not None:
            found |= self.results.losses()
        events = None if self.results is None else self.results.events
        self.emit(*self.derived.stop(stop["exit_status"], stop.get("reason", ""), found, events))

    def fail(self, reason: str) -> None:
        """End the derived run, if it has begun, because the modality cannot go on."""
        if self.derived is not None:
            self.emit(*self.derived.stop("fail", reason))
