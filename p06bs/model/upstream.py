"""Find the rows of a derived run that feed another one: by the raw event, never by arrival.

A derived run says of each row of which raw event it is (``raw_uid``), and its rows come in the
order of its raw source. Hence an event is known to have no row there as soon as a row of a later
event has come, and nobody has to wait for the end to know it. A row that comes after that is not
used: what belongs together must follow from the logs alone, not from who has read how much of them.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from p06bs.model.documents import Document, is_snapshots, pipeline_of
from p06bs.model.feed import ROW_BITS, ROW_MASK, Indices
from p06bs.model.source import Source, Span


class Place(IntEnum):
    """What is known of a row that has none."""

    ABSENT = -1
    """The derived run has none for this event."""
    UNKNOWN = -2
    """It may come."""
    CUT = -3
    """The derived run ended before it, and not in good order."""


@dataclass(slots=True)
class _Page:
    """Rows of one document, and how many of them are yet to be handed out."""

    where: Any
    descriptor: str
    uids: Sequence[str]
    left: int
    at: int = 0  # the first one of which the raw event is not known yet


class Upstream:
    """Take the documents of one derived run, and tell where the row of a raw event lies.

    Parameters
    ----------
    start : Document
        Its start document.

    Attributes
    ----------
    name : str
        By which it feeds pipelines.
    descriptor : Document or None
        The first descriptor of its rows: what it makes.
    stop : Document or None
    unused : int
        Number of rows that came and were not handed out.
    """

    def __init__(self, start: Document) -> None:
        self.start = start
        self.uid: str = start["uid"]
        self.name = pipeline_of(start)
        self.descriptor: Document | None = None
        self.stop: Document | None = None
        self.unused = 0
        self._units: dict[str, dict[str, Any]] = {}  # descriptor -> data key -> unit
        self._wanted: Mapping[str, Any] = {}  # data key -> unit with which it was bound
        self._pages: dict[int, _Page] = {}
        self._made = 0
        self._pending: deque[int] = deque()  # pages with rows whose raw event is not known yet
        self._ahead: OrderedDict[str, int] = OrderedDict()  # raw rows that it has not reached
        self._passed: set[str] = set()  # raw rows that it has none for
        self._found: dict[int, int] = {}  # ref of the raw row -> ref of its row
        self._reached = -1  # ref of the last raw row that it has a row for
        self._complete = False  # no more raw rows come

    @property
    def described(self) -> bool:
        """Whether it is known what it makes, or that it makes nothing."""
        return self.descriptor is not None or self.stop is not None

    def source(self, is_external: Mapping[tuple[str, str], bool]) -> Source:
        """Return the source of the raw run whose events its rows are.

        `is_external` tells it of each stream and data key.
        """
        process = self.start["process"]
        said = process.get("source")
        if said is None:  # made before it was recorded
            said = next(iter(process["inputs"].values()))
            if not is_external.get((said["stream"], said["data_key"])):
                return Source(said["stream"])
        return Source(said["stream"], said["data_key"])

    def add(self, name: str, document: Document, where: Any = None) -> None:
        """Take its next document; `where` says where it can be read again, the document if None."""
        if name == "descriptor" and not is_snapshots(document):
            self.descriptor = self.descriptor or document
            keys = document["data_keys"].items()
            self._units[document["uid"]] = {key: said.get("units") for key, said in keys}
        elif name in ("event", "event_page") and document["descriptor"] in self._units:
            uids = document["data"]["raw_uid"]
            uids = [uids] if name == "event" else list(uids)
            place = document if where is None else where
            self._pages[self._made] = _Page(place, document["descriptor"], uids, len(uids))
            self._pending.append(self._made)
            self._made += 1
            self.unused += len(uids)
            self._advance()
        elif name == "stop":
            self.stop = document

    def want(self, keys: Iterable[str]) -> None:
        """Take which of its data keys feed inputs, as its first descriptor describes them."""
        assert self.descriptor is not None
        self._wanted = {key: self.descriptor["data_keys"][key].get("units") for key in keys}

    @property
    def bad_end(self) -> Document | None:
        """How a run that it feeds ends, if it has ended, and not well."""
        if self.stop is None or self.stop["exit_status"] == "success":
            return None
        status, reason = self.stop["exit_status"], self.stop.get("reason")
        said = f"{self.name} ended with {status}" + (f": {reason}" if reason else "")
        return {"exit_status": status, "reason": said}

    def know(self, identities: Sequence[str], refs: Sequence[int]) -> None:
        """Take the next rows of its raw source: the raw event of each, and a number that grows."""
        self._ahead.update(zip(identities, refs, strict=True))
        self._advance()

    def finish(self) -> None:
        """Take note that there are no more raw rows."""
        self._complete = True
        self._advance()

    def _advance(self) -> None:
        """Find the raw rows of its own rows, in order, as far as they are known."""
        while self._pending:
            number = self._pending[0]
            page = self._pages[number]
            while page.at < len(page.uids):
                uid = page.uids[page.at]
                if uid in self._ahead:
                    self._pass(uid)
                    self._found[self._reached] = (number << ROW_BITS) + page.at
                elif uid in self._passed or self._complete:
                    self._let_go(number, 1)
                else:
                    return
                page.at += 1
            self._pending.popleft()

    def _pass(self, uid: str) -> None:
        """Reach the raw row `uid`; those before it have no row here."""
        while True:
            passed, self._reached = self._ahead.popitem(last=False)
            if passed == uid:
                return
            self._passed.add(passed)

    def place(self, ref: int) -> int:
        """Return the ref of the row that belongs to a raw row, or what else is known (`Place`)."""
        found = self._found.get(ref)
        if found is not None:
            return found
        if ref < self._reached:
            return Place.ABSENT
        if self.stop is None or self._pending:
            return Place.UNKNOWN
        return Place.ABSENT if self.stop["exit_status"] == "success" else Place.CUT

    def spans(self, raw: Indices, refs: Indices) -> Iterator[Span]:
        """Yield where the rows `refs` lie, which belong to the rows `raw`, and let go of them."""
        for ref in raw.tolist():
            self._found.pop(ref, None)
        if not len(refs):
            return
        absent = refs < 0
        goes_on = np.where(absent[1:], absent[:-1], ~absent[:-1] & (np.diff(refs) == 1))
        breaks = np.flatnonzero(~goes_on) + 1
        for part in np.split(refs, breaks):
            first = int(part[0])
            if first < 0:
                yield Span(None, 0, len(part), f"{self.name} has no row for this event")
                continue
            number, start = first >> ROW_BITS, first & ROW_MASK
            page = self._pages[number]
            yield Span(page.where, start, len(part), self._changed(page.descriptor))
            self._let_go(number, len(part))

    def _changed(self, descriptor: str) -> str:
        """Return why rows under a descriptor cannot be used; "" if they can."""
        units = self._units[descriptor]
        for key, unit in self._wanted.items():
            if key not in units:
                return f"{self.name} makes no {key} any more: its settings were changed"
            if units[key] != unit:
                return f"{self.name} makes {key} in {units[key]} now, and not in {unit} as before"
        return ""

    def _let_go(self, number: int, rows: int) -> None:
        page = self._pages[number]
        page.left -= rows
        self.unused -= rows
        if not page.left:
            del self._pages[number]
