"""One raw run in one pipeline: raw documents in, and what becomes of them out of `Work`."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
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
from p06bs.pipeline.asked import Asked
from p06bs.pipeline.earlier import Earlier
from p06bs.pipeline.fan_in import Emit
from p06bs.pipeline.keeper import ALONE, Keeper
from p06bs.pipeline.master import Master
from p06bs.pipeline.sampler import Sampler
from p06bs.pipeline.setups import Setups, Submit, at_once
from p06bs.pipeline.work import Work

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
    keeper : Keeper
        Of the settings; by default the modality's own are all that there are.
    reprocessing : int
        Number of the derived run; 0 is the one that is made while the raw run goes on. Others
        are made in small batches. `PREVIEW` is made of some of them, when it is released.
    rows : int, optional
        The derived run is made of the first so many rows only.
    pipeline : str
        Name of the pipeline; that of the modality by default.
    after : sequence of str
        Names of derived runs that may feed inputs; see `RawRun`.

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
        keeper: Keeper = ALONE,
        reprocessing: int = 0,
        rows: int | None = None,
        pipeline: str = "",
        after: Sequence[str] = (),
    ) -> None:
        self.modality = modality
        self.pipeline = pipeline
        self.raw = RawRun(modality, start, rows, after)
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
        self._keeper = keeper
        self._asked = Asked(self.raw.uid, keeper, Revision(0, modality.settings))
        self._said: set[str] = set()  # kinds of what was said once

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
        """Take a raw document; `where` is its frame in the log. What cannot be used is left out."""
        self._take(name, partial(self.raw.add, name, document, where))

    def feed(self, run: str, name: str, document: Document, where: Any) -> None:
        """Take a document of a derived run that may feed inputs; see `add`."""
        self._take(name, partial(self.raw.feed, run, name, document, where))

    def go_without(self, why: str) -> None:
        """Wait no longer for derived runs that have not begun; `why`, as a sentence."""
        log.info("run %s: %s: %s", self.raw.uid, self.modality.name, why)
        self._take("", partial(self.raw.go_without, why))

    def _take(self, name: str, take: Callable[[], None]) -> None:
        if self.over:
            return
        try:
            take()
        except BindingError as reason:
            self.left = str(reason)
            log.info("run %s: %s", self.raw.uid, reason)
            return
        except Exception as error:  # whatever it holds, those behind it are taken
            self._leave_out(name, error)
        while self.raw.refused:
            self._leave_out(*self.raw.refused.pop())
        if self.raw.problem:
            self._say_once(logging.INFO, "binding", f"so far {self.raw.problem}")
        if self.work is None or self.raw.ending is not None:
            self.attempt(self.advance)

    def _leave_out(self, name: str, error: Exception) -> None:
        log.debug("run %s", self.raw.uid, exc_info=error)
        said = f"{self.modality.name} leaves out a document ({name}), which cannot be used"
        self._say_once(logging.ERROR, "document", f"{said}: {type(error).__name__}: {error}")

    def _say_once(self, level: int, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            log.log(level, "run %s: %s", self.raw.uid, text)

    def _begin(self) -> None:
        """Begin under the first of the candidates that fits; later, if one is being tried."""
        assert self.raw.binding is not None
        if self._setups is None:
            self._setups = Setups(self.modality, self.raw.binding, self.submit)
        initial = self._asked.choose(self._setups)
        if initial is not None:
            self._start(initial, self._setups, self.raw.binding)

    def _start(self, initial: Revision, setups: Setups, binding: Binding) -> None:
        try:
            # Others that host this pipeline may have decided before, under other settings.
            initial = self._asked.begin(initial, self.derived_run(initial, binding).uid)
        except OSError as error:
            self.stands_by = f"its settings cannot be kept: {error}"
            said = f"{self.modality.name} waits: {self.stands_by}"
            self._say_once(logging.WARNING, "kept", said)
            return
        derived = self.derived_run(initial, binding)
        try:
            earlier = self.look_back(derived)
        except LogLockedError as error:
            self.stands_by = str(error)
            self._say_once(logging.INFO, "standby", f"{self.modality.name} stands by: {error}")
            return
        self.stands_by = ""
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
            judged=self._asked.judge,
            brief=self.reprocessing != 0,
            master=Sampler if self.reprocessing == PREVIEW else Master,
        )
        for said in binding.warnings:
            log.warning("run %s: %s: %s", self.raw.uid, self.modality.name, said)
        if earlier is None:
            self.work.start()
        elif self.work.since:
            self._asked.add(self.work.since[-1].revision)  # what an earlier process was asked
        newest = self._keeper.newest()
        if newest is not None and newest.change > self.change:
            self.revise(newest)

    def derived_run(self, initial: Revision, binding: Binding) -> DerivedRun:
        """Return the derived run that begins with these settings."""
        raw = self.raw
        return DerivedRun(
            self.modality,
            raw.start,
            binding,
            initial,
            self.clock,
            self.reprocessing,
            raw.limit,
            self.pipeline,
        )

    def release(self, initial: Revision) -> None:
        """Begin a run that was held, with these settings."""
        self.held = False
        self._asked.only(initial)
        self.advance()

    def take_over(self) -> None:
        """Begin if what it stood by for is over; call it now and then."""
        if self.stands_by:
            self._try_to_begin()
            self.advance()

    @property
    def initial(self) -> Revision:
        """The settings in force at the first row, those asked for until it is known."""
        return self._asked.first if self.work is None else self.work.derived.initial

    @property
    def asked(self) -> Revision:
        """The settings that were asked for last, in force or yet to be tried."""
        return self._asked.first if self.work is None else self._asked.last

    @property
    def refusals(self) -> dict[int, str]:
        """Number of a change -> why this run refuses it."""
        return self._asked.refusals

    @property
    def change(self) -> int:
        """Number of the last change of the pipeline's settings that was in force here."""
        since = [] if self.work is None else self.work.since
        return max([self._asked.first.change, *(s.revision.change for s in since)])

    def _emit(self, name: str, document: Document | Packed) -> None:
        self.emit(name, document)

    def revise(self, revision: Revision) -> None:
        """Change the settings from the next row on that is in no batch yet.

        They are tried on this run first. Settings that do not fit it are refused
        with an error in the log; the old ones stay in force.
        """
        if self.work is None and not self._asked.begun:  # else `newest` will say so
            self._asked.prefer(revision)
        elif self.going is not None:
            self._asked.add(revision)
            self.going.propose(revision)

    def advance(self) -> None:
        """Go on with what waited for a setup, or for the end of the raw run."""
        if not self.stands_by:
            self._try_to_begin()
        if self.going is not None:
            self.going.go_on()

    def _try_to_begin(self) -> None:
        if self.work is not None or self.raw.rows is None or self.held or self.over:
            return
        try:
            self._begin()
        except LogError:
            raise
        except Exception as error:  # an author's code may raise anything
            self.abandon(f"it cannot begin: {type(error).__name__}: {error}")

    def attempt(self, action: Callable[[], None]) -> None:
        """Do something for this run; if that fails, the run is left, and others go on."""
        try:
            action()
        except LogError as error:
            self.abandon(f"its derived run cannot be written: {error}")
        except Exception as error:
            log.debug("run %s", self.raw.uid, exc_info=True)
            self.abandon(f"{type(error).__name__}: {error}")

    def abandon(self, reason: str) -> None:
        """Leave the run as it is, for a reason."""
        log.error("run %s: %s leaves it: %s", self.raw.uid, self.modality.name, reason)
        self.left = reason
