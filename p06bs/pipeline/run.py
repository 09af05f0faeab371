"""One raw run in one pipeline: raw documents in, and what becomes of them out of `Work`."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from p06bs.bus.codec import Packed
from p06bs.bus.reader import LogError
from p06bs.model.binding import BindingError
from p06bs.model.derived import Clock, DerivedRun
from p06bs.model.documents import Document
from p06bs.model.modality import Modality
from p06bs.model.revisions import Revision
from p06bs.model.run import RawRun
from p06bs.pipeline.earlier import Earlier
from p06bs.pipeline.fan_in import Emit
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
    wishes : sequence of Revision
        Settings that were asked for before the run, the newest last: the newest that fits
        holds.
    unfit : callable
        Told of settings that this run refuses.

    Attributes
    ----------
    work : Work or None
        The derived run in the making; None until the inputs are bound.
    left : str or None
        Why there is no derived run, or no end of it.
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
        wishes: Sequence[Revision] = (),
        unfit: Callable[[Revision], None] = lambda revision: None,
    ) -> None:
        self.modality = modality
        self.raw = RawRun(modality, start)
        self.emit = emit
        self.look_back = look_back
        self.clock = clock
        self.size = size
        self.submit = submit
        self.work: Work | None = None
        self.left: str | None = None
        self._was_done = False  # an earlier process has finished the derived run
        self._wishes = list(wishes)
        self._unfit = unfit
        self._warned: set[str] = set()  # what was said once

    @property
    def over(self) -> bool:
        """Whether nothing is left to do for this run."""
        ended = self.work is not None and self.work.ended
        return ended or self._was_done or self.left is not None

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
        begins = self.work is None and self.raw.rows is not None
        if begins:
            try:
                self._begin()
            except LogError:
                raise
            except Exception as error:  # an author's code may raise anything
                self.abandon(f"it cannot begin: {type(error).__name__}: {error}")
        if begins or self.raw.stop is not None:
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
        assert self.raw.binding is not None
        initial = Revision(0, self.modality.settings)
        derived = DerivedRun(self.modality, self.raw.start, self.raw.binding, initial, self.clock)
        earlier = self.look_back(derived)
        if earlier is not None and earlier.ended:
            self._was_done = True
            return
        setups = Setups(self.modality, self.raw.binding, self.submit)
        self.work = Work(
            self.raw,
            derived,
            setups,
            self._emit,
            size=self.size,
            earlier=earlier,
            unfit=self._refused,
        )
        if earlier is None:
            self.work.start()
        if self._wishes:
            self.work.propose(self._wishes[-1])

    def _refused(self, revision: Revision) -> None:
        """Take settings back that do not fit this run; those before them hold."""
        newest = self._wishes and self._wishes[-1] is revision
        self._wishes = [wish for wish in self._wishes if wish is not revision]
        self._unfit(revision)
        begun = self.raw.rows is not None and self.raw.rows.taken > 0
        if newest and self._wishes and not begun and self.work is not None:
            self.work.setups.propose(self._wishes[-1])

    def _emit(self, name: str, document: Document | Packed) -> None:
        self.emit(name, document)

    def revise(self, revision: Revision) -> None:
        """Change the settings from the next row on that is in no batch yet.

        They are tried on this run first. Settings that do not fit it are refused
        with an error in the log; the old ones stay in force.
        """
        self._wishes.append(revision)
        if self.going is not None:
            self.going.propose(revision)

    def advance(self) -> None:
        """Go on with what waited for a setup, or for the end of the raw run."""
        if self.going is not None:
            self.going.go_on()

    def abandon(self, reason: str) -> None:
        """Leave the run as it is, because its derived run cannot be written."""
        log.error("run %s: %s leaves it: %s", self.raw.uid, self.modality.name, reason)
        self.left = reason
