"""Turn raw documents into rows of work, in acquisition order, joined by index.

A row is one event of the primary source together with the events or frames of
the other sources that have the same seq_num. Two sources are never joined by
arrival; `pairing` says what belongs together after a Bluesky rewind.

The place of a row in acquisition order, its *position*, follows from the raw
documents alone, so everyone who reads the same log counts alike.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from p06bs.model.binding import Binding, source_of
from p06bs.model.documents import Document
from p06bs.model.feed import ROW_BITS, ROW_MASK, Feed, Indices, New, Segment
from p06bs.model.pairing import Pairing
from p06bs.model.source import Source, Span
from p06bs.model.taken import Taken
from p06bs.model.upstream import Upstream
from p06bs.model.waiting import Waiting

CHUNK = 512
"""Rows up to which those of several documents are kept as one array."""


class Rows:
    """Join a run's documents to rows and hand them out in acquisition order.

    With `limit`, the first so many rows are all that there are. Rows that `upstream`, derived runs
    by their uids, feed are available when theirs have come.
    """

    def __init__(
        self,
        binding: Binding,
        limit: int | None = None,
        upstream: Mapping[str, Upstream] | None = None,
    ) -> None:
        self.limit = limit
        self._sources = binding.sources
        fed = (upstream or {}).items()
        feeding = {uid: (one, binding.fed_by[uid].key) for uid, one in fed if uid in binding.fed_by}
        self._waiting = Waiting(feeding) if feeding else None
        read = (b for b in binding.bound.values() if not b.run and b.value is None)
        self._read = {source_of(b).key for b in read}
        self._feeds = {source.key: Feed() for source in self._sources}
        self._primary = self._sources[0].key
        partners = {key: feed for key, feed in self._feeds.items() if key != self._primary}
        self._pairing = Pairing(self._feeds[self._primary], partners) if partners else None
        self._ready: deque[tuple[Indices, dict[str, Indices]]] = deque()
        self._timed = next((s.key for s in self._sources if s.data_key is None), None)
        self.available = 0
        self.taken = 0

    def add(self, source: Source, name: str, document: Document, where: Any = None) -> None:
        """Take a document of `source`; one that no input needs is ignored.

        Parameters
        ----------
        where
            Where event columns can be found again (see `Span`); the document
            itself if None. For stream_datum its stream resource is what counts.
        """
        key = source.key
        if key not in self._feeds:
            return
        if name == "stream_datum":
            indices, seq_nums = document["indices"], document["seq_nums"]
            base, count = indices["start"], indices["stop"] - indices["start"]
            first = seq_nums["start"] if seq_nums["stop"] > seq_nums["start"] else base + 1
            segment = Segment(document["stream_resource"], base, document["uid"], None)
            seqs = np.arange(first, first + count, dtype=np.int64)
        else:
            place = document if where is None else where
            if name == "event":
                segment = Segment(place, 0, [document["uid"]], [document["time"]])
                seqs = np.array([document["seq_num"]], np.int64)
            else:
                segment = Segment(place, 0, list(document["uid"]), list(document["time"]))
                seqs = np.asarray(document["seq_num"], np.int64)
                lengths = {len(document[k]) for k in ("uid", "time", "seq_num")}
                if len(lengths) > 1:
                    raise ValueError("uid, time and seq_num of an event_page differ in length")
        feed = self._feeds[key]
        legs = feed.legs
        new = feed.add(segment, seqs, index=self._pairing is not None)
        if new is None:
            return
        if self._waiting is not None:
            self._waiting.know(key, _identities(segment, new), new.refs)
        if self._pairing is None:
            self._push(new.seqs, {key: new.refs})
        elif key == self._primary:
            self._pairing.enter(new, legs)
            self._settle(self._pairing)
        else:
            if not isinstance(segment.uids, str):
                segment.uids = []  # identity is the primary's; theirs told doubles apart, no more
            self._pairing.partner(key, new, legs)
            self._settle(self._pairing)

    def _settle(self, pairing: Pairing, *, final: bool = False) -> None:
        settled = pairing.settle(final=final)
        if settled is not None:
            seqs, refs, found = settled
            self._push(seqs, {self._primary: refs, **found})

    def _push(self, seqs: Indices, refs: dict[str, Indices]) -> None:
        """Take the next rows that are joined."""
        if self._waiting is None:
            self._make_available(seqs, refs)
        else:
            self._waiting.add(seqs, refs)
            self.release()

    def release(self) -> None:
        """Make the rows available, in order, whose rows of derived runs are known by now."""
        for seqs, refs in () if self._waiting is None else self._waiting.release():
            self._make_available(seqs, refs)

    @property
    def waiting(self) -> int:
        """Number of rows that wait for those of derived runs."""
        return 0 if self._waiting is None else self._waiting.rows

    @property
    def awaited(self) -> list[str]:
        """Names of the derived runs that the first row which waits lacks."""
        return [] if self._waiting is None else self._waiting.awaited

    @property
    def cut_by(self) -> Upstream | None:
        """The derived run because of whose end there are no more rows; see `Waiting`."""
        return None if self._waiting is None else self._waiting.cut_by

    def _make_available(self, seqs: Indices, refs: dict[str, Indices]) -> None:
        if self.limit is not None:
            room = self.limit - self.taken - self.available
            seqs, refs = seqs[:room], {key: found[:room] for key, found in refs.items()}
        if not len(seqs):
            return
        self.available += len(seqs)
        if self._ready and len(self._ready[-1][0]) + len(seqs) <= CHUNK:  # many small ones are big
            before, theirs = self._ready.pop()
            refs = {key: np.concatenate((theirs[key], found)) for key, found in refs.items()}
            seqs = np.concatenate((before, seqs))
        self._ready.append((seqs, refs))

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self.limit is not None and self.taken + self.available >= self.limit

    def finish(self) -> None:
        """Settle what still waits, because no more documents of the raw run come."""
        if self._pairing is not None:
            self._settle(self._pairing, final=True)
        if self._waiting is not None:
            self._waiting.finish()
            self.release()

    @property
    def unpaired(self) -> int:
        """Primary rows that lack a partner so far and were passed over."""
        return 0 if self._pairing is None else self._pairing.unpaired

    @property
    def counts(self) -> dict[str, int]:
        """Highest seq_num of each source; they differ where frames or triggers are missing."""
        return {key: feed.top for key, feed in self._feeds.items()}

    def next_uids(self, limit: int) -> Iterator[str]:
        """Yield the identities of the next `limit` available rows without taking them."""
        feed = self._feeds[self._primary]
        for _, refs in self._ready:
            for segment, start, count in feed.spans(refs[self._primary][:limit]):
                yield from segment.identities(start, count)
            limit -= len(refs[self._primary])
            if limit <= 0:
                return

    def take(self, limit: int) -> Taken | None:
        """Take up to `limit` available rows, in acquisition order; None if there are none."""
        parts: list[tuple[Indices, dict[str, Indices]]] = []
        wanted = limit
        while self._ready and wanted > 0:
            seqs, refs = self._ready.popleft()
            if len(seqs) > wanted:
                later = {k: r[wanted:] for k, r in refs.items()}
                self._ready.appendleft((seqs[wanted:], later))
                seqs, refs = seqs[:wanted], {k: r[:wanted] for k, r in refs.items()}
            parts.append((seqs, refs))
            wanted -= len(seqs)
        if not parts:
            return None
        seqs = _concatenate(p[0] for p in parts)
        refs = {k: _concatenate(p[1][k] for p in parts) for k in parts[0][1]}
        uids: list[str] = []
        for segment, start, count in self._feeds[self._primary].spans(refs[self._primary]):
            uids += segment.identities(start, count)
        taken = Taken(self.taken, seqs, uids, self._times(refs), self._spans(refs))
        self.taken += len(seqs)
        self.available -= len(seqs)
        self._forget(int(refs[self._primary][-1]) >> ROW_BITS)
        return taken

    def skip(self, limit: int) -> int:
        """Drop up to `limit` available rows as if they were not there; return how many."""
        position = self.taken
        dropped = self.take(limit) if limit > 0 else None
        self.taken = position
        return 0 if dropped is None else len(dropped)

    def _spans(self, refs: dict[str, Indices]) -> dict[str, tuple[Span, ...]]:
        spans: dict[str, tuple[Span, ...]] = {}
        for key, feed in self._feeds.items():
            if key not in self._read:
                continue  # it only says which rows there are
            made: list[Span] = []
            for segment, start, count in feed.spans(refs[key]):
                first = segment.base + start
                last = made[-1] if made else None
                # Frames of one file go on from document to document; events do not.
                if (
                    isinstance(segment.uids, str)
                    and last is not None
                    and last.where == segment.where
                    and last.start + last.count == first
                ):
                    made[-1] = Span(last.where, last.start, last.count + count)
                else:
                    made.append(Span(segment.where, first, count))
            spans[key] = tuple(made)
        if self._waiting is not None:
            spans.update(self._waiting.spans(refs))
        return spans

    def _times(self, refs: dict[str, Indices]) -> list[float]:
        if self._timed is None:
            return []
        times: list[float] = []
        for segment, start, count in self._feeds[self._timed].spans(refs[self._timed]):
            times += (segment.times or [])[start : start + count]
        return times

    def _forget(self, last: int) -> None:
        """Let go of the primary's documents before `last` of which all rows were handed out."""
        feed = self._feeds[self._primary]
        bound = last
        oldest = None if self._waiting is None else self._waiting.oldest(self._primary)
        if oldest is not None:
            bound = min(bound, oldest >> ROW_BITS)
        if self._ready:
            bound = min(bound, int(self._ready[0][1][self._primary][0]) >> ROW_BITS)
        if self._pairing is None:
            feed.forget(bound)
        else:
            feed.forget(min(bound, self._pairing.oldest >> ROW_BITS), self._pairing.kept)


def _identities(segment: Segment, new: New) -> list[str]:
    """Return the identities of a document's new rows."""
    rows = (new.refs & ROW_MASK).tolist()
    every = segment.identities(0, rows[-1] + 1)
    return every if len(every) == len(rows) else [every[row] for row in rows]


def _concatenate(parts: Iterable[Indices]) -> Indices:
    listed = list(parts)
    return listed[0] if len(listed) == 1 else np.concatenate(listed)
