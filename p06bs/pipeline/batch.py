"""Batches: consecutive rows by name, and how many make one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from p06bs.model.documents import Document
from p06bs.model.taken import Taken, cut

LARGEST = 1024
"""Most events of a batch."""
WORTH = 0.005
"""Seconds of computing that are worth a batch of its own."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows of one run under one revision of the settings, by name."""

    number: int
    revision: int
    rows: Taken

    def resources(self, known: Mapping[str, Document]) -> dict[str, Document]:
        """Return the stream resources that the batch's frames lie in."""
        names = {
            s.where for spans in self.rows.spans.values() for s in spans if isinstance(s.where, str)
        }
        return {name: known[name] for name in names if name in known}


def batch_size(
    available: int, workers: int, largest: int = LARGEST, row_seconds: float = WORTH
) -> int:
    """Return the batch size for a backlog: a power of two from 1 to `largest`.

    Twice as many batches as workers, so that the last ones end together; small
    batches while the pipeline keeps up, which is what makes it prompt. But what is
    computed in no time is not cut: reading a page twice, and two more messages,
    would cost more.

    Parameters
    ----------
    row_seconds : float
        How long one row takes, s.
    """
    share = max(available // max(1, 2 * workers), int(WORTH / max(row_seconds, 1e-9)))
    limit = 1 << (largest.bit_length() - 1)
    return min(limit, 1 << max(0, share.bit_length() - 1))


def halves(rows: Taken) -> Iterator[Taken]:
    """Yield the two halves of a batch's rows."""
    middle = len(rows) // 2
    yield cut(rows, 0, middle)
    yield cut(rows, middle, len(rows))
