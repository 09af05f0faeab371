"""Results of one run in, in any order; derived event pages out, in acquisition order."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from p06bs.bus.codec import Packed
from p06bs.model.compute import Result
from p06bs.model.derived import DerivedRun, Page
from p06bs.model.documents import Document
from p06bs.model.rows import RowNames
from p06bs.pipeline.setups import Setups
from p06bs.pipeline.sorter import Order, without

Emit = Callable[[str, Document | Packed], object]


@dataclass(frozen=True, slots=True)
class Composed:
    """An event page that a worker has composed, and what has to be known of it."""

    revision: int
    rows: int
    invalid: int
    page: Packed


class FanIn:
    """Emit the pages of one derived run.

    Parameters
    ----------
    derived : DerivedRun
    setups : Setups
        Of the same run; a page waits until its setup is ready, if there is a scan.
    emit : callable
        Takes ``(name, document)``; pages that workers have composed stay encoded.
    first : int
        Row with which it begins.
    published : list of str
        Rows that an earlier process has published, with the reason why each is invalid
        or "": they are not emitted again, and one that was invalid stays so.
    """

    def __init__(
        self,
        derived: DerivedRun,
        setups: Setups,
        emit: Emit,
        *,
        first: int = 0,
        published: Sequence[str] = (),
    ) -> None:
        self._derived = derived
        self._setups = setups
        self._emit = emit
        self._published = published
        self._order: Order[Page | Composed] = Order(first)
        self._unscanned: deque[Page] = deque()  # in order, until their setup is ready

    @property
    def next(self) -> int:
        """The first row that is not emitted yet."""
        return self._unscanned[0].rows.first if self._unscanned else self._order.next

    @property
    def waiting(self) -> int:
        """Number of pages that wait for an earlier one, or for their setup."""
        return self._order.waiting + len(self._unscanned)

    def take(self, rows: RowNames, page: Page | Composed) -> None:
        """Take a batch's result, and emit the pages whose turn has come with it.

        Raises
        ------
        SetupError
            If the modality could not be made ready to scan.
        """
        for ready, skip in self._order.accept(rows.first, len(rows), page):
            assert skip == 0, "batches of one run never overlap"
            if isinstance(ready, Composed):
                stream = self._derived.stream(ready.revision).name
                self._derived.count(stream, ready.rows, ready.invalid)
                self._emit("event_page", replace(ready.page, run=self._derived.uid))
            elif self._derived.modality.scan is None:
                self._emit(*self._derived.page(ready))
            else:
                self._unscanned.append(ready)
        self.scan()

    def scan(self) -> None:
        """Scan and emit the pages whose setup is ready.

        Raises
        ------
        SetupError
            If the modality could not be made ready.
        """
        while self._unscanned:
            page = self._unscanned[0]
            setup = self._setups.ready(page.revision)
            if setup is None:
                return
            self._unscanned.popleft()
            name, document = self._derived.page(self._as_published(page), setup)
            already = len(self._published) - page.rows.first
            if already < len(page.rows):
                self._emit(name, without(document, already) if already > 0 else document)

    def _as_published(self, page: Page) -> Page:
        """Return a page whose rows are invalid where they were when they were published.

        A row that its file lacked then may be there now; state must not know it.
        """
        said = self._published[page.rows.first : page.rows.first + len(page.rows)]
        if not any(said):
            return page
        said = [*said, *[""] * (len(page.rows) - len(said))]
        valid = page.result.valid
        keep = np.array([not reason for reason in said])[valid]
        columns = {name: column[keep] for name, column in page.result.columns.items()}
        reasons = [new or old for new, old in zip(page.result.reasons, said, strict=True)]
        return replace(page, result=Result(reasons, columns if keep.any() else {}))
