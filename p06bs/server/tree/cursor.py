"""Where a subscriber is in what it subscribed to: rows of a column, children of a node.

A subscription keeps no messages: the rows are in the sink, so a subscriber is a
number of a row. Row n (from 1) has sequence number n, a message with the rows a+1
to b has sequence number b, and a client that comes back asks for b+1: after the
server was killed, too, because the sink is filled from the logs again, in which the
rows of a run have one order. Whoever is slow is behind, and nothing waits for him
in memory.

No clock and no I/O here: what is known now comes in, what to do next comes out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Rows:
    """What is known of a column, or a table, at one moment.

    Attributes
    ----------
    count : int
        Rows that are there.
    form : str
        By what a client decodes the values; said once per connection.
    finished : bool
        Whether no more rows come.
    """

    count: int
    form: str
    finished: bool


@dataclass(frozen=True, slots=True)
class Send:
    """Send the rows `start` to `stop - 1`, counted from 0; the sequence number is `sequence`."""

    start: int
    stop: int
    sequence: int


@dataclass(frozen=True, slots=True)
class End:
    """There is no more to send: it was all, or (`again`) the client has to come back."""

    again: bool = False


class RowCursor:
    """Say which rows a subscriber gets next.

    Each row comes once and in order. When the form of the values changes (a text
    wider than any before, a float after integers) the client has to come back and is
    told the new form: it resumes behind the last sequence number that it has seen.
    One that has none yet, because it subscribed to what comes from now on, is first
    given one, with a message of no rows.

    Parameters
    ----------
    start : int or None
        First row that the subscriber wants, from 1; 0 is the first one that is there,
        None is the next one that comes, where some are there already.
    rows : Rows
        What is there when the client is told the form.
    """

    def __init__(self, start: int | None, rows: Rows) -> None:
        if start is None and not rows.count:
            raise ValueError("with no rows there is no number to resume behind")
        self._next = rows.count if start is None else max(0, start - 1)
        self._form = rows.form
        self._numbered = start is not None

    def step(self, rows: Rows, most: int) -> Send | End | None:
        """Return what to do next, None to wait; `most` is the rows of one message."""
        if rows.count > self._next:
            if rows.form != self._form:
                if self._numbered:
                    return End(again=True)
                self._numbered = True
                return Send(self._next, self._next, self._next)
            first, self._next = self._next, min(rows.count, self._next + max(1, most))
            self._numbered = True
            return Send(first, self._next, self._next)
        return End() if rows.finished else None


@dataclass(frozen=True, slots=True)
class Child:
    """A child of a node: the sequence numbers at which it came and was changed last."""

    created: int
    updated: int | None = None


@dataclass(frozen=True, slots=True)
class News:
    """Tell the subscriber that `child` is there, or has other metadata."""

    key: str
    kind: Literal["created", "updated"]
    sequence: int


class ChildCursor:
    """Say of which children a subscriber hears next.

    Sequence numbers come from the documents, so that they are the same after a
    restart, and may be equal or out of order. What a subscriber gets never
    decreases: a child that comes late has the number of the one before it.

    Parameters
    ----------
    start : int or None
        First sequence number that the subscriber wants; None is what comes from now on.
    children : mapping
        What is there when the subscription begins.
    """

    def __init__(self, start: int | None, children: Mapping[str, Child]) -> None:
        self._last = 1
        self._known: dict[str, int | None] = {}
        for key, child in children.items():
            if start is None:
                self._known[key] = child.updated
            elif child.created < start:
                told = child.updated is not None and child.updated < start
                self._known[key] = child.updated if told else None

    def step(self, children: Mapping[str, Child]) -> list[News]:
        """Return what the subscriber has not heard of, in the order of the sequence numbers."""
        found: list[tuple[int, str, Literal["created", "updated"]]] = []
        for key, child in children.items():
            if key not in self._known:
                found.append((child.created, key, "created"))
            if child.updated is not None and child.updated != self._known.get(key):
                found.append((max(child.created, child.updated), key, "updated"))
        # Those that went are forgotten: what is known stays as small as what is there.
        self._known = {key: child.updated for key, child in children.items()}
        news = []
        for sequence, key, kind in sorted(found):
            self._last = max(self._last, sequence)
            news.append(News(key, kind, self._last))
        return news


def sequence_of(time: object) -> int:
    """Return a document's time, Unix time in s, as a sequence number: whole microseconds.

    What is no time, or before 1970, is 1, the smallest number that Tiled allows.
    """
    if isinstance(time, int | float) and 0 < time < 1e12:
        return max(1, round(time * 1e6))
    return 1
