"""Pair the rows of aligned sources: which frame, which event of another stream belongs to a row.

Equal seq_num means same point, and that is all as long as no seq_num comes twice. After
a rewind of the RunEngine seq_nums come again, but not in every source: one that had
not reached the checkpoint's next point yet, because the pause came between the two, goes
on as if nothing had been. Arrival says nothing, because sources lag. So, for a seq_num
that came `a` times in the primary source and `b` times in another,

- if `a` equals `b`, the k-th belongs to the k-th;
- if not, more may come. When the source that has fewer has passed everything that the other
  one had reached before it went back, none will: newest belongs to newest. Whether those
  before them, which are superseded, belong together nobody can tell: they are left out.
"""

from collections import Counter, deque
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from p06bs.model.feed import ROW_BITS, Feed, Indices, New

Flags = npt.NDArray[np.bool_]

AT_ONCE = 1024
"""Rows that are judged in one go; most that wait are behind the first that is not settled."""


class Pairing:
    """Hold the primary source's rows until it is settled which rows of the others are theirs.

    Parameters
    ----------
    primary : Feed
    partners : mapping of str to Feed
        The other sources by name.
    """

    def __init__(self, primary: Feed, partners: Mapping[str, Feed]) -> None:
        self._primary = primary
        self._partners = dict(partners)
        self._waiting: deque[New] = deque()
        self._passed_over: dict[int, list[New]] = {}  # may still get a partner that is late
        self._kept: Counter[int] = Counter()  # documents of those
        self._left = 0
        self._behind: set[str] = set()  # partners without news since the primary went back
        self._primary_behind: set[str] = set()  # partners that went back since the primary had news

    @property
    def oldest(self) -> int:
        """Ref of the first row that waits; beyond all refs if none does."""
        return int(self._waiting[0].refs[0]) if self._waiting else 1 << 62

    @property
    def kept(self) -> Mapping[int, int]:
        """Documents of the rows that were passed over and may still be paired."""
        return self._kept

    @property
    def unpaired(self) -> int:
        """Primary rows that lack a partner so far and were passed over."""
        return self._left + sum(map(len, self._passed_over.values()))

    def enter(self, new: New, legs: int) -> None:
        """Take new rows of the primary source, which had gone back `legs` times before them."""
        if self._primary.legs > legs:
            self._behind = set(self._partners)
        self._primary_behind.clear()
        self._waiting.append(new)

    def partner(self, name: str, new: New, legs: int) -> None:
        """Take note of new rows of another source, which had gone back `legs` times before."""
        self._behind.discard(name)
        if self._partners[name].legs > legs:
            self._primary_behind.add(name)
        for seq in set(new.seqs.tolist()) & self._passed_over.keys():
            for row in self._passed_over.pop(seq):
                self._kept[_document(row)] -= 1
                self._waiting.append(row)

    def settle(self, *, final: bool = False) -> tuple[Indices, Indices, dict[str, Indices]] | None:
        """Return (seq_nums, primary refs, partners' refs) of the rows that are settled, in order.

        `final`: no more documents come.
        """
        parts: list[tuple[Indices, Indices, dict[str, Indices]]] = []
        while self._waiting:
            rows = self._head()
            ready, late, gone = self._judge(rows, final)
            settled = ready | late | gone
            stop = len(settled) if settled.all() else int(np.argmin(settled))
            self._left += int(gone[:stop].sum())
            for i in np.flatnonzero(late[:stop]).tolist():
                one = New(*(part[i : i + 1] for part in rows))
                self._passed_over.setdefault(int(rows.seqs[i]), []).append(one)
                self._kept[_document(one)] += 1
            chosen = np.flatnonzero(ready[:stop])
            if len(chosen):
                parts.append(self._use(*(part[chosen] for part in rows)))
            if stop < len(settled):
                self._waiting.appendleft(New(*(part[stop:] for part in rows)))
                break
        if not parts:
            return None
        seqs, refs, found = zip(*parts, strict=True)
        return (
            np.concatenate(seqs),
            np.concatenate(refs),
            {name: np.concatenate([f[name] for f in found]) for name in self._partners},
        )

    def _head(self) -> New:
        """Take the first rows that wait, not more than are worth judging in one go."""
        rows = [self._waiting.popleft()]
        while self._waiting and sum(len(r.seqs) for r in rows) < AT_ONCE:
            rows.append(self._waiting.popleft())
        if len(rows) == 1:
            return rows[0]
        return New(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))

    def _use(
        self, seqs: Indices, refs: Indices, occurrence: Indices, _: Indices
    ) -> tuple[Indices, Indices, dict[str, Indices]]:
        found = {
            name: feed.use(seqs, self._wanted(feed, seqs, occurrence)[0])
            for name, feed in self._partners.items()
        }
        return seqs, refs, found

    def _wanted(
        self, feed: Feed, seqs: Indices, occurrence: Indices
    ) -> tuple[Indices, Indices, Indices]:
        """Return which occurrence in `feed` belongs to each row, and how often its seq_num came."""
        here, there = self._primary.occurrences(seqs), feed.occurrences(seqs)
        return occurrence + there - here, here, there

    def _judge(self, rows: New, final: bool) -> tuple[Flags, Flags, Flags]:
        """Return which rows have all partners, which may get one late, which get none."""
        ready = np.ones(len(rows.seqs), bool)
        late, gone = np.zeros((2, len(rows.seqs)), bool)
        for name, feed in self._partners.items():
            wanted, here, there = self._wanted(feed, rows.seqs, rows.occurrence)
            none = there == 0
            apart = ~none & (here != there)
            settled = np.full(len(apart), final)
            settled |= (here > there) & self._has_passed(name, feed)
            settled |= (here < there) & self._was_passed(name, feed)
            superseded = apart & settled & (rows.occurrence < here - 1)
            free = feed.is_free(rows.seqs, wanted) & ~superseded
            ready &= free & (~apart | settled)
            # What a source makes after it went back is of the rows that came after that, too.
            over = none & (rows.leg < self._primary.legs) & (rows.leg < feed.legs)
            gone |= over | superseded
            late |= none & ~over & (final | (rows.seqs < feed.top))
            late |= ~none & ~free & (~apart | settled)
        return ready & ~late & ~gone, late & ~gone, gone

    def _has_passed(self, name: str, feed: Feed) -> bool:
        """Return whether a partner is beyond all that the primary had before it went back."""
        return name not in self._behind and feed.last > self._primary.before

    def _was_passed(self, name: str, feed: Feed) -> bool:
        """Return whether the primary is beyond all that a partner had before it went back."""
        return name not in self._primary_behind and self._primary.last > feed.before


def _document(row: New) -> int:
    return int(row.refs[0]) >> ROW_BITS
