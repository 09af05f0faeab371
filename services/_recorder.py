"""The documents of all runs, as a follower gets them, and in which order they came."""

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from p06bs import Follower
from p06bs.model.documents import (
    Document,
    NamedDocument,
    goes_with_scan,
    is_derived,
    is_snapshots,
)


class Arrival(NamedTuple):
    """When a document came."""

    place: int
    """Among all documents that the recorder got, of all runs."""
    seconds: float
    """By the monotonic clock."""


@dataclass
class Record:
    """The documents of one run, and when each came."""

    documents: list[NamedDocument] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)

    @property
    def start(self) -> Document:
        """The start document."""
        return self.documents[0][1]

    @property
    def stopped(self) -> bool:
        """Whether the stop document has come."""
        return self.documents[-1][0] == "stop"


class Recorder:
    """Follow runs from a thread of its own, and tell when something has come.

    Parameters
    ----------
    follower : Follower
        Closed together with the recorder.
    progress : callable
        Called in the recorder's thread with a run's start document and a number of new events.

    Attributes
    ----------
    runs : dict
        Uid -> `Record`.
    """

    def __init__(
        self,
        follower: Follower,
        progress: Callable[[Document, int], None] = lambda start, events: None,
    ) -> None:
        self.runs: dict[str, Record] = {}
        self._follower = follower
        self._progress = progress
        self._owner: dict[str, str] = {}  # uid of a descriptor -> run uid
        self._snapshots: set[str] = set()  # uids of descriptors
        self._place = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._listen, name="recorder")

    def derived(self, raw: str) -> dict[str, str]:
        """Return the derived runs of a raw run that have begun: name of the modality -> uid.

        Those that are made while it goes on; not what is computed again.
        """
        return {
            record.start["process"]["name"]: uid
            for uid, record in list(self.runs.items())
            if is_derived(record.start)
            and record.start["original_run_uid"] == raw
            and goes_with_scan(record.start)
        }

    def stopped(self, raw: str, modalities: Collection[str]) -> bool:
        """Return whether a raw run and its derived runs by these modalities have stopped."""
        derived = self.derived(raw)
        if not derived.keys() >= set(modalities):
            return False
        uids = [raw, *(derived[name] for name in modalities)]
        return all(uid in self.runs and self.runs[uid].stopped for uid in uids)

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition, which is asked after each document; return whether it holds."""
        with self._changed:
            return self._changed.wait_for(until, seconds)

    def events(self, run: str, before: Arrival | None = None) -> int:
        """Return how many events of a run have come, snapshots left out.

        Only those before an arrival, if one is given.
        """
        record = self.runs[run]
        return sum(
            self._events(*named)
            for named, came in zip(record.documents, record.arrivals, strict=True)
            if before is None or came.place < before.place
        )

    def points(self, run: str, before: Arrival, seconds: float) -> int:
        """Return of how many points all devices of a run had told `seconds` before an arrival."""
        record = self.runs[run]
        rows: dict[str, int] = {}  # uid of a descriptor or of a stream resource -> rows
        for (name, document), came in zip(record.documents, record.arrivals, strict=True):
            if name == "stream_resource":
                rows.setdefault(document["uid"], 0)
            elif came.place >= before.place or came.seconds > before.seconds - seconds:
                continue
            elif name == "stream_datum":
                numbers = document["seq_nums"]
                rows[document["stream_resource"]] += numbers["stop"] - numbers["start"]
            elif events := self._events(name, document):
                of = document["descriptor"]
                rows[of] = rows.get(of, 0) + events
        return min(rows.values(), default=0)

    def __call__(self, name: str, document: Document) -> None:
        """Take a document."""
        with self._changed:
            run = (
                document["uid"]
                if name == "start"
                else document.get("run_start") or self._owner.get(document.get("descriptor", ""))
            )
            if run is None:
                return  # a datum or a resource that does not say whose it is
            if name == "descriptor":
                self._owner[document["uid"]] = run
                if is_snapshots(document):
                    self._snapshots.add(document["uid"])
            record = self.runs.setdefault(run, Record())
            record.arrivals.append(Arrival(self._place, time.monotonic()))
            record.documents.append((name, document))
            self._place += 1
            self._changed.notify_all()
        if events := self._events(name, document):
            self._progress(record.start, events)

    def __enter__(self) -> "Recorder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._follower.close()
        self._thread.join()

    def _listen(self) -> None:
        for name, document in self._follower:
            self(name, document)

    def _events(self, name: str, document: Document) -> int:
        if document.get("descriptor") in self._snapshots:
            return 0
        return len(document["seq_num"]) if name == "event_page" else int(name == "event")
