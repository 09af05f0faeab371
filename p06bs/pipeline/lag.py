"""How far the results of a run are behind it. No clock: times come with the events."""

from collections import deque

from p06bs.model.documents import Document

STEP = 0.1
"""Seconds of events that share one mark, so that an hour of them costs a megabyte at most."""


class Lag:
    """Remember when the rows of a run came that are not delivered yet."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque()  # (first row, its time)
        self._rows = 0

    def arrived(self, rows: int, when: float) -> None:
        """Note that there are so many rows in all by now; the new ones are of `when`, s."""
        if rows > self._rows:
            if not self._marks or not 0 <= when - self._marks[-1][1] < STEP:
                self._marks.append((self._rows, when))
            self._rows = rows

    def events(self, delivered: int) -> int:
        """Return how many rows are not delivered, if so many are."""
        return max(0, self._rows - delivered)

    def since(self, delivered: int) -> float | None:
        """Return the time of the oldest row that is not delivered, to a tenth of a second."""
        if delivered >= self._rows:
            self._marks.clear()
            return None
        while len(self._marks) > 1 and self._marks[1][0] <= delivered:
            self._marks.popleft()
        return self._marks[0][1]


def time_of(document: Document, otherwise: float) -> float:
    """Return when the first event of a document was, Unix time, s; not all say it."""
    when = document.get("time", otherwise)
    if isinstance(when, list):  # of an event page
        when = when[0] if when else otherwise
    return float(when) if isinstance(when, int | float) else otherwise
