"""One raw run in one pipeline: raw documents in, and what becomes of them out of `Work`."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from p06bs.bus.codec import Packed
from p06bs.bus.reader import LogError
from p06bs.bus.run_log import LogLockedError
from p06bs.model.binding import Binding, BindingError
from p06bs.model.derived import PREVIEW, Clock, DerivedRun
from p06bs.model.documents import Document
from p06bs.model.modality import Modality
from p06bs.model.revisions import Revision
from p06bs.model.run import RawRun
from p06bs.pipeline.earlier import Earlier
from p06bs.pipeline.fan_in import Emit
from p06bs.pipeline.master import Master
from p06bs.pipeline.sampler import Sampler
from p06bs.pipeline.setups import Setups, Submit, at_once
from p06bs.pipeline.work import Judged, Work

log = logging.getLogger(__name__)

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
    candidates : sequence of Revision
        Settings to begin with, the best first; the modality's own by default. The first
        that fits the run holds. The last one is not tried before.
    begun : bool
        An earlier process has begun the derived run, with the one candidate.
    began : callable
        Told of those, and of the derived run's uid, before it begins; returns the settings
        that it begins with, if that was decided before.
    newest : callable
        Says which settings a run that an earlier process has begun is to have by now.
    judged : callable
        Told of settings that were tried on this run.
    reprocessing : int
        Number of the derived run; 0 is the one that is made while the raw run goes on. Others
        are made in small batches. `PREVIEW` is made of some of them, when it is released.
    rows : int, optional
        The derived run is made of the first so many rows only.

    Attributes
    ----------
    held : bool
        Whether it waits to be released: a preview does.
    derived : str or None
        Uid of the derived run; None until the inputs are bound.
    work : Work or None
        The derived run in the making; None until the inputs are bound.
    left : str or None
        Why there is no derived run, or no end of it.
    stands_by : str
        Why it has to wait before it begins: another process makes the derived run, or what it
        begins with cannot be kept. "" otherwise.
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
        candidates: Sequence[Revision] = (),
        begun: bool = False,
        began: Callable[[Revision, str], Revision] = lambda revision, derived: revision,
        newest: Callable[[], Revision | None] = lambda: None,
        judged: Judged = lambda revision, problem: None,
        reprocessing: int = 0,
        rows: int | None = None,
    ) -> None:
        self.modality = modality
        self.raw = RawRun(modality, start, rows)
        self.emit = emit
        self.look_back = look_back
        self.clock = clock
        self.size = size
        self.submit = submit
        self.reprocessing = reprocessing
        self.held = reprocessing == PREVIEW
        self.derived: str | None = None
        self.work: Work | None = None
        self.left: str | None = None
        self.stands_by = ""
        self.was_done = False  # an earlier process has finished the derived run
        self._setups: Setups | None = None
        self._asked = list(candidates) or [Revision(0, modality.settings)]
        self._begun = begun
        self._began = began
        self._newest = newest
        self._judged = judged
        self.refusals: dict[int, str] = {}  # number of a change -> why this run refuses it
        self._warned: set[str] = set()  # what was said once

    @property
    def over(self) -> bool:
        """Whether nothing is left to do for this run."""
        ended = self.work is not None and self.work.ended
        return ended or self.was_done or self.left is not None

    @property
    def going(self) -> Work | None:
        """The work, while there is something to do for it."""
        return None if self.over else self.work

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
        if self.raw.problem:
            self._warn("binding", f"so far {self.raw.problem}")
        if self.raw.reconfigured:
            anew = ", ".join(sorted(self.raw.reconfigured))
            name = self.modality.name
            self._warn("device", f"{anew} was configured anew; {name} goes on with the first")
        if self.work is None or self.raw.stop is not None:
            self.advance()

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("run %s: %s", self.raw.uid, text)

    def refuse(self, name: str, error: Exception) -> None:
        """Leave out a document that cannot be used; the first one is told."""
        if "document" not in self._warned:
            self._warned.add("document")
            log.error(
                "run %s: %s leaves out a document (%s), which cannot be used: %s: %s",
                self.raw.uid,
                self.modality.name,
                name,
                type(error).__name__,
                error,
            )

    def _begin(self) -> None:
        """Begin under the first of the candidates that fits; later, if one is being tried."""
        assert self.raw.binding is not None
        if self._setups is None:
            self._setups = Setups(self.modality, self.raw.binding, self.submit)
        while len(self._asked) > 1:
            trial = self._setups.trial(self._asked[0])
            if not trial.done():
                return
            problem = trial.exception()
            if problem is None:
                self._judged(self._asked[0], "")
                break
            log.error(
                "run %s: %s does not begin with settings that do not fit it: %s",
                self.raw.uid,
                self.modality.name,
                problem,
            )
            self._take_judgement(self._asked[0], str(problem) or type(problem).__name__)
        self._start(self._asked[0], self._setups, self.raw.binding)

    def _start(self, initial: Revision, setups: Setups, binding: Binding) -> None:
        try:
            # Others that host this pipeline may have decided before, under other settings.
            initial = self._began(initial, self.derived_run(initial, binding).uid)
        except OSError as error:
            self.stands_by = f"its settings cannot be kept: {error}"
            self._warn("kept", f"{self.modality.name} waits: {self.stands_by}")
            return
        self._asked, self._begun = [initial], True
        derived = self.derived_run(initial, binding)
        try:
            earlier = self.look_back(derived)
        except LogLockedError as error:
            self.stands_by = str(error)
            if "standby" not in self._warned:
                self._warned.add("standby")
                log.info("run %s: %s stands by: %s", self.raw.uid, self.modality.name, error)
            return
        self.derived = derived.uid
        if earlier is not None and earlier.ended:
            self.was_done = True
            return
        self.work = Work(
            self.raw,
            derived,
            setups,
            self._emit,
            size=self.size,
            earlier=earlier,
            judged=self._take_judgement,
            brief=self.reprocessing != 0,
            master=Sampler if self.reprocessing == PREVIEW else Master,
        )
        if earlier is None:
            self.work.start()
        newest = self._newest()
        if newest is not None and newest.change > self.change:
            self.revise(newest)

    def derived_run(self, initial: Revision, binding: Binding) -> DerivedRun:
        """Return the derived run that begins with these settings."""
        raw = self.raw
        return DerivedRun(
            self.modality, raw.start, binding, initial, self.clock, self.reprocessing, raw.limit
        )

    def release(self, initial: Revision) -> None:
        """Begin a run that was held, with these settings."""
        self.held = False
        self._asked = [initial]
        self.advance()

    def take_over(self) -> None:
        """Begin if what it stood by for is over; call it now and then."""
        if self.stands_by:
            self.stands_by = ""
            self.advance()

    @property
    def initial(self) -> Revision:
        """The settings in force at the first row, those asked for until it is known."""
        return self._asked[0] if self.work is None else self.work.derived.initial

    @property
    def asked(self) -> Revision:
        """The settings that were asked for last, in force or yet to be tried."""
        return self._asked[-1 if self.work is not None else 0]

    @property
    def change(self) -> int:
        """Number of the last change of the pipeline's settings that was in force here."""
        since = [] if self.work is None else self.work.since
        return max([self._asked[0].change, *(s.revision.change for s in since)])

    def _take_judgement(self, revision: Revision, problem: str) -> None:
        """Take settings back that do not fit this run; those before them hold."""
        if problem:
            self._asked = [asked for asked in self._asked if asked is not revision]
            self.refusals[revision.change] = problem
        self._judged(revision, problem)

    def _emit(self, name: str, document: Document | Packed) -> None:
        self.emit(name, document)

    def revise(self, revision: Revision) -> None:
        """Change the settings from the next row on that is in no batch yet.

        They are tried on this run first. Settings that do not fit it are refused
        with an error in the log; the old ones stay in force.
        """
        if self.work is None and not self._begun:  # else `newest` will say so
            self._asked.insert(0, revision)
        elif self.going is not None:
            self._asked.append(revision)
            self.going.propose(revision)

    def advance(self) -> None:
        """Go on with what waited for a setup, or for the end of the raw run."""
        ready = self.raw.rows is not None and not self.held and not self.stands_by
        if self.work is None and ready and not self.over:
            try:
                self._begin()
            except LogError:
                raise
            except Exception as error:  # an author's code may raise anything
                self.abandon(f"it cannot begin: {type(error).__name__}: {error}")
        if self.going is not None:
            self.going.go_on()

    def abandon(self, reason: str) -> None:
        """Leave the run as it is, because its derived run cannot be written."""
        log.error("run %s: %s leaves it: %s", self.raw.uid, self.modality.name, reason)
        self.left = reason
