"""Rows of a raw run that wait, in order, for the rows of derived runs that feed them."""

from collections import deque
from collections.abc import Iterator, Mapping

import numpy as np

from p06bs.model.feed import Indices
from p06bs.model.source import Span
from p06bs.model.upstream import Place, Upstream

Joined = tuple[Indices, dict[str, Indices]]
"""Seq_nums of rows, and their refs by source, or by the uid of a derived run."""


class Waiting:
    """Hold rows back until it is known where those of derived runs lie.

    Parameters
    ----------
    upstream : mapping of str to (Upstream, str)
        Derived runs by uid, with the key of the raw source whose events their rows are of.

    Attributes
    ----------
    rows : int
        Number of rows that wait.
    cut_by : Upstream or None
        The derived run that ended before a row of it was there, and not in good order: there are
        no more rows.
    """

    def __init__(self, upstream: Mapping[str, tuple[Upstream, str]]) -> None:
        self._upstream = upstream
        self._joined: deque[Joined] = deque()
        self.rows = 0
        self.cut_by: Upstream | None = None

    def oldest(self, key: str) -> int | None:
        """Return the ref in a raw source of the first row that waits; None if none does."""
        return int(self._joined[0][1][key][0]) if self._joined else None

    @property
    def awaited(self) -> list[str]:
        """Names of the derived runs that the first row which waits lacks."""
        return [
            one.name
            for one, key in self._upstream.values()
            if (ref := self.oldest(key)) is not None and one.place(ref) == Place.UNKNOWN
        ]

    def know(self, key: str, identities: list[str], refs: Indices) -> None:
        """Let the derived runs know rows of the raw source that theirs are of."""
        for one, theirs in self._upstream.values():
            if theirs == key:
                one.know(identities, refs.tolist())

    def add(self, seqs: Indices, refs: dict[str, Indices]) -> None:
        """Take the next rows."""
        if len(seqs) and self.cut_by is None:
            self._joined.append((seqs, refs))
            self.rows += len(seqs)

    def finish(self) -> None:
        """Take note that there are no more raw rows."""
        for one, _ in self._upstream.values():
            one.finish()

    def release(self) -> Iterator[Joined]:
        """Yield the rows, in order, of which all is known, with the refs in derived runs."""
        while self._joined:
            seqs, refs = self._joined.popleft()
            places = {uid: _places(one, refs[key]) for uid, (one, key) in self._upstream.items()}
            known = min(map(len, places.values()))
            if known:
                self.rows -= known
                found = {key: part[:known] for key, part in refs.items()}
                found |= {uid: np.array(theirs[:known], np.int64) for uid, theirs in places.items()}
                yield seqs[:known], found
            if known < len(seqs):
                self._joined.appendleft(
                    (seqs[known:], {key: part[known:] for key, part in refs.items()})
                )
                self._look_for_end()
                return

    def _look_for_end(self) -> None:
        """Drop all rows if one of the first one's will not come any more."""
        for one, key in self._upstream.values():
            ref = self.oldest(key)
            if ref is not None and one.place(ref) == Place.CUT:
                self.cut_by = one
                self._joined.clear()
                self.rows = 0

    def spans(self, refs: Mapping[str, Indices]) -> Iterator[tuple[str, tuple[Span, ...]]]:
        """Yield where rows lie in each derived run, by its uid, and let go of them there."""
        for uid, (one, key) in self._upstream.items():
            yield uid, tuple(one.spans(refs[key], refs[uid]))


def _places(one: Upstream, refs: Indices) -> list[int]:
    """Return where a derived run's rows lie, up to the first one of which nothing is known."""
    places: list[int] = []
    for ref in refs.tolist():
        place = one.place(ref)
        if place in (Place.UNKNOWN, Place.CUT):
            break
        places.append(place)
    return places
