"""Restore acquisition order: fan-in of results that come in any order, late, lost or twice."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Generic, TypeVar

import numpy as np

from p06bs.model.documents import Document, is_derived, is_snapshots
from p06bs.model.revisions import recorded

Item = TypeVar("Item")
Subscriber = Callable[[str, Document], Any]


class Order(Generic[Item]):
    """Put items that cover ranges of positions in order; drop what was there already.

    Decides, and does nothing else: no clock, no socket.
    """

    def __init__(self, first: int = 0) -> None:
        self.next = first
        self._tie = count()
        self._early: list[tuple[int, int, int, Item]] = []

    def accept(self, first: int, length: int, item: Item) -> Iterator[tuple[Item, int]]:
        """Yield ``(item, skip)`` of all items whose turn has come, in order.

        `skip` is how many leading positions of the item were delivered before.
        An item that brings nothing new is dropped.
        """
        if first + length > self.next:
            heapq.heappush(self._early, (first, next(self._tie), length, item))
        while self._early and self._early[0][0] <= self.next:
            start, _, extent, ready = heapq.heappop(self._early)
            skip = self.next - start
            if skip < extent:
                self.next = start + extent
                yield ready, skip

    @property
    def waiting(self) -> int:
        """Number of items that wait for an earlier one."""
        return len(self._early)


@dataclass
class _Run:
    """A derived run whose pages come shuffled."""

    process: str
    order: Order[Document] = field(default_factory=Order)  # of rows, over all its streams
    names: dict[str, str] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)  # row that a stream begins with
    invalid: dict[str, int] = field(default_factory=dict)
    stop: Document | None = None


class Sorter:
    """Turn the shuffled, doubled pages of a derived run into ordered ones.

    A plain ``(name, document)`` callable: ``RemoteDispatcher.subscribe(Sorter(...))``.
    Documents of other runs pass as they are. The stop document waits until every
    event that it counts was delivered.

    Parameters
    ----------
    *subscribers : callable
        Each is called with ``(name, document)`` in order.
    """

    def __init__(self, *subscribers: Subscriber) -> None:
        self.subscribers = list(subscribers)
        self._runs: dict[str, _Run] = {}
        self._run_of: dict[str, str] = {}
        self._ended: set[str] = set()

    def __call__(self, name: str, document: Document) -> None:
        """Take a document of any run."""
        for ordered in self._take(name, document):
            for subscriber in self.subscribers:
                subscriber(*ordered)

    def _take(self, name: str, document: Document) -> Iterator[tuple[str, Document]]:
        match name:
            case "start":
                if document["uid"] in self._runs or document["uid"] in self._ended:
                    return
                if is_derived(document):
                    self._runs[document["uid"]] = _Run(document["process"]["name"])
                yield name, document
            case "descriptor":
                run = self._runs.get(document["run_start"])
                if run is not None:
                    if document["uid"] in run.names:
                        return
                    stream = document.get("name", "primary")
                    if is_snapshots(document):
                        yield name, document
                        return
                    run.names[document["uid"]] = stream
                    run.first.setdefault(stream, recorded(document, run.process)["first_row"])
                    run.invalid.setdefault(stream, 0)
                    self._run_of[document["uid"]] = document["run_start"]
                elif document["run_start"] in self._ended:
                    return
                yield name, document
            case "event_page" if document["descriptor"] in self._run_of:
                uid = self._run_of[document["descriptor"]]
                yield from self._page(self._runs[uid], document)
                yield from self._end(uid)
            case "stop" if document["run_start"] in self._runs:
                self._runs[document["run_start"]].stop = document
                yield from self._end(document["run_start"])
            case _:
                owner = document.get("run_start")
                if owner not in self._ended and document.get("descriptor") not in self._ended:
                    yield name, document

    def _page(self, run: _Run, document: Document) -> Iterator[tuple[str, Document]]:
        stream = run.names[document["descriptor"]]
        seq = document["seq_num"]
        row = run.first[stream] + int(seq[0]) - 1
        for page, skip in run.order.accept(row, len(seq), document):
            ready = without(page, skip) if skip else page
            run.invalid[run.names[page["descriptor"]]] += int(
                (~np.asarray(ready["data"]["valid"], bool)).sum()
            )
            yield "event_page", ready

    def _end(self, uid: str) -> Iterator[tuple[str, Document]]:
        run = self._runs[uid]
        if run.stop is None:
            return
        counts = run.stop.get("num_events", {})
        if run.order.next < sum(counts.get(stream, 0) for stream in run.first):
            return
        del self._runs[uid]
        self._ended.add(uid)
        self._ended.update(run.names)
        for descriptor in run.names:
            del self._run_of[descriptor]
        yield "stop", {**run.stop, "num_invalid": dict(run.invalid)}


def without(page: Document, skip: int) -> Document:
    """Return an event page without its first `skip` rows."""
    short = {k: v[skip:] if k in ("seq_num", "time", "uid") else v for k, v in page.items()}
    for part in ("data", "timestamps", "filled"):
        if part in page:
            short[part] = {k: v[skip:] for k, v in page[part].items()}
    return short
