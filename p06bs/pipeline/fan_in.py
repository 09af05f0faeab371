"""Results of one run in, in any order; derived event pages out, in acquisition order."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from p06bs.bus.codec import Packed
from p06bs.model.compute import Result, Setup
from p06bs.model.derived import DerivedRun, Page
from p06bs.model.documents import Document
from p06bs.model.results import Results
from p06bs.model.taken import Taken
from p06bs.pipeline.setups import Setups
from p06bs.pipeline.sorter import Order

Emit = Callable[[str, Document | Packed], object]


@dataclass(frozen=True, slots=True)
class Composed:
    """An event page that a worker has composed, and what has to be known of it."""

    revision: int
    rows: int
    invalid: int
    page: Packed
    parts: tuple[Any, ...] = ()


class FanIn:
    """Emit the pages of one derived run, and the snapshots of its results.

    Parameters
    ----------
    derived : DerivedRun
    setups : Setups
        Of the same run. Where there is state (scan or fold), a page waits until its
        setup is ready.
    emit : callable
        Takes ``(name, document)``; pages that workers have composed stay encoded.
    first : int
        Row with which it begins.
    published : list of str
        Rows that an earlier process has published, with the reason why each is invalid
        or "": they are not emitted again, and one that was invalid stays so.
    results : Results, optional
        Of a modality with fold.
    """

    def __init__(
        self,
        derived: DerivedRun,
        setups: Setups,
        emit: Emit,
        *,
        first: int = 0,
        published: Sequence[str] = (),
        results: Results | None = None,
    ) -> None:
        self._derived = derived
        self._setups = setups
        self._emit = emit
        self._published = published
        self._results = results
        self._order: Order[tuple[Taken, Page | Composed]] = Order(first)
        self._held: deque[tuple[Taken, Page | Composed]] = deque()  # in order, to be emitted

    @property
    def next(self) -> int:
        """The first row that is not emitted yet. Any thread."""
        try:
            return self._held[0][0].first
        except IndexError:
            return self._order.next

    @property
    def waiting(self) -> int:
        """Number of pages that wait for an earlier one, or for their setup."""
        return self._order.waiting + len(self._held)

    def take(self, rows: Taken, page: Page | Composed) -> None:
        """Take a batch's result, and emit the pages whose turn has come with it.

        Raises
        ------
        SetupError
            If the modality could not be made ready for its state.
        """
        for ready, skip in self._order.accept(rows.first, len(rows), (rows, page)):
            assert skip == 0, "batches of one run never overlap"
            self._held.append(ready)
        self.go_on()

    def go_on(self) -> None:
        """Emit the pages whose setup is ready.

        Raises
        ------
        SetupError
            If the modality could not be made ready for its state.
        """
        while self._held:
            rows, page = self._held[0]
            setup = self._setups[page.revision]
            if setup.modality.is_stateful:
                ready = self._setups.ready(page.revision)
                if ready is None:
                    return
                setup = ready
            self._held.popleft()
            parts = page.parts if isinstance(page, Composed) else page.result.parts
            self._show(rows, page, setup)
            if self._results is not None:
                for document in self._results.add(page.revision, setup, rows, parts):
                    self._emit(*document)

    def _show(self, rows: Taken, page: Page | Composed, setup: Setup) -> None:
        said = self._published[rows.first : rows.first + len(rows)]
        assert len(said) in (0, len(rows)), "a batch ends where the published rows do"
        if isinstance(page, Composed):
            stream = self._derived.stream(page.revision).name
            invalid = sum(map(bool, said)) if said else page.invalid
            self._derived.count(stream, page.rows, invalid)
            document: Document | Packed = replace(page.page, run=self._derived.uid)
        else:
            _, document = self._derived.page(_as_published(page, said), setup)
        if not said:
            self._emit("event_page", document)


def _as_published(page: Page, said: Sequence[str]) -> Page:
    """Return a page whose rows are invalid where they were when they were published.

    A row that its file lacked then may be there now; state must not know it.
    """
    if not any(said):
        return page
    keep = np.array([not reason for reason in said])[page.result.valid]
    columns = {name: column[keep] for name, column in page.result.columns.items()}
    reasons = [new or old for new, old in zip(page.result.reasons, said, strict=True)]
    return replace(page, result=Result(reasons, columns if keep.any() else {}, page.result.parts))
