"""What a subscriber of a node gets, one step at a time: rows, or news of children."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import pyarrow
from tiled.structures.core import StructureFamily

from p06bs.server.sink.columns import Array, View
from p06bs.server.tree import updates
from p06bs.server.tree.cursor import ChildCursor, End, News, RowCursor, Rows, Send
from p06bs.server.tree.updates import Message


@dataclass(frozen=True, slots=True)
class Look:
    """The rows of an array, or of a table's columns, at one moment.

    Attributes
    ----------
    views : mapping
        The columns; an array is one.
    read : callable
        Returns rows of columns: names, first row, end.
    finished : bool
        Whether no more rows come.
    held : int
        Rows from this one on are in memory; reading others takes time.
    """

    views: Mapping[str, View]
    read: Callable[[Sequence[str], int, int], Mapping[str, Array | list[str]] | pyarrow.Table]
    finished: bool
    held: int = 0

    @property
    def view(self) -> View:
        """The array's only column."""
        (view,) = self.views.values()
        return view

    @property
    def count(self) -> int:
        """Rows that are there."""
        return min((view.rows for view in self.views.values()), default=0)


class Subscription(Protocol):
    """What a subscriber gets."""

    async def step(self) -> list[Message] | End | None:
        """Return the next messages, the end, or None to wait.

        Raises
        ------
        KeyError
            If the node is gone.
        RowsLostError
            If rows cannot be read.
        """


class RowSubscription:
    """A subscription to an array or a table.

    Where there are no rows yet and the subscriber wants those that come, it is told how
    to decode them when the first ones are there: until then it may change, and a client
    that has seen none cannot resume.

    Parameters
    ----------
    node : adapter
        Array or table.
    start : int or None
        First row, from 1; see `RowCursor`.
    uri : str
        Where a client fetches the array.
    json : bool
        Whether messages are JSON.
    """

    def __init__(self, node: Any, start: int | None, uri: str, json: bool) -> None:
        self._node, self._uri, self._json = node, uri, json
        self._table = node.structure_family == StructureFamily.table
        self._cursor: RowCursor | None = None
        self._first: list[Message] = []
        look = node.look()
        if start is not None or look.count:
            self._open(look, start)

    async def step(self) -> list[Message] | End | None:
        """Return how to decode the rows, then the next rows."""
        look = self._node.look()
        if self._cursor is None and look.count:
            self._open(look, 1)
        if self._first:
            first, self._first = self._first, []
            return first
        if self._cursor is None:
            return End() if look.finished else None
        send = self._cursor.step(self._rows(look), self._most(look))
        if not isinstance(send, Send):
            return send
        self._node.touch()
        if send.start < look.held and not self._by_reference(look):
            return [await anyio.to_thread.run_sync(self._message, look, send)]
        return [self._message(look, send)]

    def _open(self, look: Look, start: int | None) -> None:
        self._cursor = RowCursor(start, self._rows(look))
        schema = (
            updates.table_schema(self._node.again().structure().arrow_schema)
            if self._table
            else updates.array_schema(look.view)
        )
        self._first = [(schema, None)]

    def _rows(self, look: Look) -> Rows:
        if self._table:  # its columns may come, go, and become text
            kinds = {name: view.dtype.kind for name, view in look.views.items()}
            return Rows(look.count, str(kinds), look.finished)
        form = "" if self._json else look.view.dtype.str  # JSON says itself what it holds
        return Rows(look.count, form, look.finished)

    def _by_reference(self, look: Look) -> bool:
        return not self._table and updates.by_reference(look.view, self._json)

    def _most(self, look: Look) -> int:
        if not self._table:
            return updates.most_rows(look.view, self._json)
        width = sum(updates.row_bytes(view, self._json) for view in look.views.values())
        return updates.MESSAGE_BYTES // max(1, width)

    def _message(self, look: Look, send: Send) -> Message:
        start, stop, sequence = send.start, send.stop, send.sequence
        if self._table:
            values = look.read(list(look.views), start, stop)
            return updates.table_data(values, sequence, self._json)
        if self._by_reference(look):
            structure = self._node.again().structure()
            return updates.array_ref(structure, start, stop, sequence, self._uri)
        return updates.array_data(look.view.read(start, stop), start, sequence, self._json)


class ChildSubscription:
    """A subscription to a container; see `ChildCursor` for `start`."""

    def __init__(self, node: Any, start: int | None) -> None:
        self._node = node
        self._state: object = None
        self._cursor = ChildCursor(start, node.children())
        self._first: list[Message] = [(dict(updates.CONTAINER_SCHEMA), None)]

    async def step(self) -> list[Message] | End | None:
        """Return what is new."""
        if self._first:
            first, self._first = self._first, []
            return first
        await self._node.ask(False)  # runs of other folders may have come
        return await anyio.to_thread.run_sync(self._news)

    def _news(self) -> list[Message] | End | None:
        node = self._node.again()
        state = node.state()  # before the children, of which more may come
        if state == self._state:
            return None
        self._state = state
        messages = []
        for news in self._cursor.step(node.children()):
            try:
                messages.append(_announcement(node, news))
            except KeyError:
                continue  # left since it was listed
        if messages:
            return messages
        return End() if node.finished else None


def _announcement(node: Any, news: News) -> Message:
    make = updates.child_created if news.kind == "created" else updates.child_updated
    return make(news.key, node[news.key], news.sequence)
