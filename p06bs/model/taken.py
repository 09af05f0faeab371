"""Consecutive rows of work: which raw events they are of, and where their columns lie."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from p06bs.model.feed import Indices
from p06bs.model.source import Span


@dataclass(frozen=True, slots=True)
class RowNames:
    """Consecutive rows, the first one's position, and of which raw events they are.

    Attributes
    ----------
    first : int
        Position of the first row in acquisition order, from 0.
    seq : ndarray of int64
        Their raw seq_nums.
    uids : list of str
        Their identities.
    times : list of float
        Times of the raw events, Unix time, s; empty where these have none.
    """

    first: int
    seq: Indices
    uids: list[str]
    times: list[float]

    def __len__(self) -> int:
        return len(self.uids)


@dataclass(frozen=True, slots=True)
class Taken(RowNames):
    """Rows that were taken as work, and where each source's columns of them lie."""

    spans: Mapping[str, tuple[Span, ...]]


def cut(rows: Taken, start: int, stop: int) -> Taken:
    """Return rows `start` to `stop - 1` of taken rows."""
    return replace(
        rows,
        first=rows.first + start,
        seq=rows.seq[start:stop],
        uids=rows.uids[start:stop],
        times=rows.times[start:stop],
        spans={key: tuple(_cut(spans, start, stop)) for key, spans in rows.spans.items()},
    )


def _cut(spans: Iterable[Span], start: int, stop: int) -> Iterator[Span]:
    at = 0
    for span in spans:
        low, high = max(start, at), min(stop, at + span.count)
        if low < high:
            yield replace(span, start=span.start + low - at, count=high - low)
        at += span.count
