"""One source's rows: which documents they came in, by seq_num and occurrence.

A row is named by a *ref*, the number of its document and its place in it, packed
into one integer, so that a million rows cost a few arrays.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

ROW_BITS = 32
ROW_MASK = (1 << ROW_BITS) - 1
FIRST_ROWS = 256


class Segment:
    """What one document contributed: its place, identities and times."""

    __slots__ = ("base", "times", "uids", "where")

    def __init__(
        self, where: Any, base: int, uids: list[str] | str, times: list[float] | None
    ) -> None:
        self.where = where
        self.base = base
        self.uids = uids  # a str: the uid of the stream_datum, identity is uid/index
        self.times = times

    def identities(self, start: int, count: int) -> list[str]:
        """Return the identities of some of its rows."""
        if isinstance(self.uids, str):
            first = self.base + start
            return [f"{self.uids}/{i}" for i in range(first, first + count)]
        return self.uids[start : start + count]


class New(NamedTuple):
    """Rows that were not there before: seq_num, ref, how often the seq_num was there before."""

    seqs: Indices
    refs: Indices
    occurrence: Indices
    leg: Indices
    """How often the source had gone back to a checkpoint when the row came."""


class Feed:
    """One source's rows by seq_num and occurrence.

    Attributes
    ----------
    top : int
        Highest seq_num.
    last : int
        Newest seq_num, where rows that come late do not count.
    before : int
        Highest seq_num that was left for an earlier one at a rewind; -1 before any.
    legs : int
        How often it went back to a seq_num that it had had.
    """

    def __init__(self) -> None:
        self.segments: dict[int, Segment] = {}
        self._aside: dict[int, Segment] = {}  # of rows that may never be asked for
        self.top = 0
        self.last = 0
        self.before = -1
        self.legs = 0
        self._made = 0
        self._low = 0  # the first document that was not let go
        self._newest: Indices = np.full(FIRST_ROWS, -1, np.int64)
        self._count: Indices = np.zeros(FIRST_ROWS, np.int64)
        self._used: Indices = np.full(FIRST_ROWS, -1, np.int64)
        self._older: dict[tuple[int, int], int] = {}
        self._fingerprints: list[int] = []
        self._seen: set[int] | None = None

    def add(self, segment: Segment, seqs: Indices, *, index: bool) -> New | None:
        """Take a document's rows; return the new ones, None if all were there.

        `index` lets them be found by seq_num, which a source that is alone needs not.
        """
        if not len(seqs):
            return None
        high = first = int(seqs[0])
        repeated = first <= self.top
        if len(seqs) > 1:
            high = int(seqs.max())
            repeated = repeated or not bool((seqs[1:] > seqs[:-1]).all())
        fingerprints = (
            [hash((segment.uids, segment.base))]
            if isinstance(segment.uids, str)
            else list(map(hash, segment.uids))
        )
        rows = np.arange(len(seqs), dtype=np.int64)
        if repeated:
            # Only a repeated seq_num can be a double: otherwise no identity is looked up.
            if self._seen is None:
                self._seen = set(self._fingerprints)
                self._fingerprints = []
            fresh = [f not in self._seen for f in fingerprints]
            if len(fresh) == 1:
                fresh *= len(seqs)
            rows = rows[fresh]
            seqs = seqs[fresh]
            if not len(seqs):
                return None
            high = int(seqs.max())
        if self._seen is None:
            self._fingerprints.extend(fingerprints)
        else:
            self._seen.update(fingerprints)
        refs = rows + (self._made << ROW_BITS)
        self.segments[self._made] = segment
        self._made += 1
        self.top = max(self.top, high)
        if not index:
            return New(seqs, refs, rows, rows)  # nobody asks for occurrence and leg
        return New(seqs, refs, *self._count_in(seqs, refs, high, repeated))

    def _count_in(
        self, seqs: Indices, refs: Indices, high: int, repeated: bool
    ) -> tuple[Indices, Indices]:
        """Count the occurrence of each seq_num and remember where the newest one lies."""
        self._reach(high)
        if not repeated:
            self._newest[seqs] = refs
            self._count[seqs] = 1
            self.last = int(seqs[-1])
            return np.zeros(len(seqs), np.int64), np.full(len(seqs), self.legs, np.int64)
        occurrence, leg = np.zeros((2, len(seqs)), np.int64)
        for i, (seq, ref) in enumerate(zip(seqs.tolist(), refs.tolist(), strict=True)):
            before = int(self._count[seq])
            if before:
                self._older[seq, before - 1] = int(self._newest[seq])
                if seq <= self.last:
                    self.before = max(self.before, self.last)
                    self.legs += 1
                self.last = seq
            else:  # one that comes late is no rewind
                self.last = max(self.last, seq)
            self._newest[seq] = ref
            self._count[seq] = before + 1
            occurrence[i], leg[i] = before, self.legs
        return occurrence, leg

    def _reach(self, seq: int) -> None:
        more = max(seq + 1, 2 * len(self._count)) - len(self._count)
        if seq >= len(self._count):
            self._newest = np.concatenate([self._newest, np.full(more, -1, np.int64)])
            self._count = np.concatenate([self._count, np.zeros(more, np.int64)])
            self._used = np.concatenate([self._used, np.full(more, -1, np.int64)])

    def occurrences(self, seqs: Indices) -> Indices:
        """Return how often each seq_num came."""
        inside = seqs < len(self._count)
        found = np.zeros(len(seqs), np.int64)
        found[inside] = self._count[seqs[inside]]
        return found

    def is_free(self, seqs: Indices, occurrence: Indices) -> npt.NDArray[np.bool_]:
        """Return whether a row came for (seq_num, occurrence) that is in use nowhere yet."""
        inside = seqs < len(self._used)
        used = np.full(len(seqs), -1, np.int64)
        used[inside] = self._used[seqs[inside]]
        return (occurrence >= 0) & (occurrence > used) & (occurrence < self.occurrences(seqs))

    def use(self, seqs: Indices, occurrence: Indices) -> Indices:
        """Return the ref of each (seq_num, occurrence), which has come, and note its use."""
        self._used[seqs] = np.maximum(self._used[seqs], occurrence)
        found = self._newest[seqs]
        for i in np.flatnonzero(occurrence < self._count[seqs] - 1):
            found[i] = self._older[int(seqs[i]), int(occurrence[i])]
        return found

    def spans(self, refs: Indices) -> Iterator[tuple[Segment, int, int]]:
        """Yield (segment, first row, count) of consecutive refs."""
        breaks = np.flatnonzero(np.diff(refs) != 1) + 1
        firsts = refs[np.concatenate([[0], breaks])] if len(refs) else refs
        counts = np.diff(np.concatenate([[0], breaks, [len(refs)]]))
        for ref, count in zip(firsts.tolist(), counts.tolist(), strict=True):
            if count:
                number = ref >> ROW_BITS
                segment = self.segments.get(number) or self._aside[number]
                yield segment, ref & ROW_MASK, count

    def forget(self, bound: int, kept: Mapping[int, int] = MappingProxyType({})) -> None:
        """Let go of the documents before number `bound`, but for those in `kept`."""
        for number in range(self._low, min(bound, self._made)):
            segment = self.segments.pop(number)
            if kept.get(number, 0) > 0:
                self._aside[number] = segment
        self._low = max(self._low, min(bound, self._made))
