"""One source's rows: which documents they came in, by seq_num and occurrence.

A row is named by a *ref*, the number of its document and its place in it, packed
into one integer, so that a million rows cost a few arrays.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

ROW_BITS = 32
ROW_MASK = (1 << ROW_BITS) - 1


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


class Feed:
    """One source's rows by seq_num and occurrence."""

    def __init__(self) -> None:
        self.segments: dict[int, Segment] = {}
        self.top = 0
        self._made = 0
        self._newest: Indices = np.full(256, -1, np.int64)
        self._count: Indices = np.zeros(256, np.int64)
        self._older: dict[tuple[int, int], int] = {}
        self._fingerprints: list[int] = []
        self._seen: set[int] | None = None

    def add(self, segment: Segment, seqs: Indices, index: bool) -> tuple[Indices, Indices] | None:
        """Take a document's rows; return (seq_nums, refs) of the new ones, None if all known."""
        if not len(seqs):
            return None
        repeated = int(seqs[0]) <= self.top or not bool((seqs[1:] > seqs[:-1]).all())
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
        if self._seen is None:
            self._fingerprints.extend(fingerprints)
        else:
            self._seen.update(fingerprints)
        refs = rows + (self._made << ROW_BITS)
        self.segments[self._made] = segment
        self._made += 1
        if index:
            self.count(seqs, refs, repeated)
        self.top = max(self.top, int(seqs.max()))
        return seqs, refs

    def count(self, seqs: Indices, refs: Indices, repeated: bool) -> None:
        """Count the occurrence of each seq_num and remember where the newest one lies."""
        high = int(seqs.max()) + 1
        if high > len(self._newest):
            grow = max(high, 2 * len(self._newest)) - len(self._newest)
            self._newest = np.concatenate([self._newest, np.full(grow, -1, np.int64)])
            self._count = np.concatenate([self._count, np.zeros(grow, np.int64)])
        if not repeated:
            self._newest[seqs] = refs
            self._count[seqs] = 1
            return
        for seq, ref in zip(seqs.tolist(), refs.tolist(), strict=True):
            if self._count[seq]:
                self._older[seq, int(self._count[seq]) - 1] = int(self._newest[seq])
            self._newest[seq] = ref
            self._count[seq] += 1

    def occurrences(self, seqs: Indices) -> Indices:
        """Return how often each seq_num came."""
        inside = seqs < len(self._count)
        found = np.zeros(len(seqs), np.int64)
        found[inside] = self._count[seqs[inside]]
        return found

    def refs(self, seqs: Indices, occurrence: Indices) -> Indices:
        """Return the ref of each (seq_num, occurrence); the newest where that never came."""
        found = self._newest[seqs].copy()
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
                yield self.segments[ref >> ROW_BITS], ref & ROW_MASK, count
