"""Tiled's WebSocket subscriptions on the nodes of the sink.

Nothing is queued for anybody: each subscriber is a cursor over what is in memory
(`p06bs.server.cursor`), which is read when the socket can take more. Rights are asked
for again while a socket lives, by walking to the node anew as a request would.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect
from tiled.structures.core import StructureFamily

from p06bs.server import updates
from p06bs.server.columns import View
from p06bs.server.cursor import Child, ChildCursor, End, News, RowCursor, Rows, Send, sequence_of
from p06bs.server.sink import Sink
from p06bs.server.updates import Message
from p06bs.server.wakeups import LOOK_SECONDS, Topic, Wakeups

COMPLETE = 1000, "All has been sent."
COME_BACK = 1012, "The type of the values changed: subscribe again from the next one."
GONE = 4410, "There is no such node any more."
"""Close codes and reasons. A stock client ends at the first, comes back at the others,
and finds 404 where the node is gone: memory was needed, or rights were revoked."""

Formatter = Callable[[WebSocket, dict[str, Any], bytes | None], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Look:
    """Rows at one moment: an array's, or those of a table's columns."""

    views: Mapping[str, View]
    finished: bool

    @property
    def count(self) -> int:
        return min((view.rows for view in self.views.values()), default=0)


class Watched:
    """Mixin of the adapters that can be subscribed to, before Tiled's class.

    A container hands its children what they need through `handing`.

    Attributes
    ----------
    live : Live or None
        Runs the subscriptions.
    at : tuple of str
        Keys from the list of runs down to the node.
    finished : bool
        Whether the node changes no more.
    again : callable
        Returns the node as it is now, for the same viewer; KeyError if it went.
    """

    live: "Live | None" = None
    at: tuple[str, ...] = ()
    finished = False
    again: Callable[[], Any]

    def handing(self, key: str, child: Any) -> Any:
        """Return a child, which can then be subscribed to as this node can."""
        if isinstance(child, Watched):
            child.live, child.at = self.live, (*self.at, key)
            child.finished = child.finished or self.finished
            child.again = lambda: self.again()[key]
        return child

    def new_variation(self, *args: Any, **kwargs: Any) -> Any:
        """Return the same node with other children, as its `search` and `sort` do."""
        other = super().new_variation(*args, **kwargs)  # type: ignore[misc]
        other.live, other.at, other.finished = self.live, self.at, self.finished
        other.again = lambda: other
        return other

    def look(self) -> Look:
        """Return the rows of an array or a table that are there now.

        Raises
        ------
        KeyError
            If the node is gone.
        """
        sink = self.subscribed.sink
        uid, stream, name = self.at
        run = sink.view(uid)
        finished = "stop" in run.metadata  # before the rows, which may come meanwhile
        columns = run.streams[stream]().columns
        names: Sequence[str] = getattr(self, "names", (name,))
        return Look({name: columns[name] for name in names}, finished)

    def touch(self) -> None:
        """Note that somebody reads the data."""
        self.subscribed.sink.touch(self.at[0])

    def children(self) -> Mapping[str, Child]:
        """Return a container's children."""
        raise NotImplementedError

    @property
    def subscribed(self) -> "Live":
        """What runs the subscriptions."""
        if self.live is None:
            raise KeyError("there are no subscriptions to this node")
        return self.live

    def make_ws_handler(self, websocket: WebSocket, formatter: Formatter, uri: str) -> Any:
        """Return what serves a subscription; Tiled's router calls it with the first number."""
        return partial(self.subscribed.serve, self, websocket, formatter, uri)


class Subscription(Protocol):
    """What a subscriber gets, one step at a time."""

    @property
    def schema(self) -> Mapping[str, Any]: ...

    def step(self) -> list[Message] | End | None:
        """Return the next messages, the end, or None to wait; KeyError if the node is gone."""


class RowSubscription:
    """A subscription to an array or a table."""

    def __init__(self, node: Any, start: int | None, uri: str, json: bool) -> None:
        self._node, self._uri, self._json = node, uri, json
        self._table = node.structure_family == StructureFamily.table
        look = node.look()
        if self._table:
            self.schema = updates.table_schema(node.structure().arrow_schema)
            width = sum(updates.row_bytes(view, json) for view in look.views.values())
            most = updates.MESSAGE_BYTES // max(1, width)
        else:
            (view,) = look.views.values()
            self.schema = updates.array_schema(view)
            most = updates.most_rows(view, json)
        self._cursor = RowCursor(start, self._rows(look), most)

    def step(self) -> list[Message] | End | None:
        """Return the next rows."""
        look = self._node.look()
        send = self._cursor.step(self._rows(look))
        if not isinstance(send, Send):
            return send
        self._node.touch()
        return [self._message(look, send)]

    def _rows(self, look: Look) -> Rows:
        # JSON and Arrow say themselves what they hold.
        fixed = self._table or self._json
        form = "" if fixed else next(iter(look.views.values())).dtype.str
        return Rows(look.count, form, look.finished)

    def _message(self, look: Look, send: Send) -> Message:
        start, stop, sequence = send.start, send.stop, send.sequence
        if self._table:
            values = {name: view.read(start, stop) for name, view in look.views.items()}
            return updates.table_data(values, sequence, self._json)
        (view,) = look.views.values()
        if updates.by_reference(view, self._json):
            structure = self._node.again().structure()
            return updates.array_ref(structure, start, stop, sequence, self._uri)
        return updates.array_data(view.read(start, stop), start, sequence, self._json)


class ChildSubscription:
    """A subscription to a container."""

    schema = updates.CONTAINER_SCHEMA

    def __init__(self, node: Any, start: int | None) -> None:
        self._node = node
        self._cursor = ChildCursor(start, node.children())

    def step(self) -> list[Message] | End | None:
        """Return what is new."""
        node = self._node.again()
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


class Live:
    """Run the subscriptions on the nodes of a sink.

    Parameters
    ----------
    sink : Sink
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._wakeups = Wakeups(sink)

    async def serve(
        self,
        node: Any,
        websocket: WebSocket,
        formatter: Formatter,
        uri: str,
        start: int | None = None,
        already_accepted: bool = False,
    ) -> None:
        """Serve one socket until its node is complete or gone, or the client leaves."""
        json = websocket.query_params.get("envelope_format", "json") == "json"
        with self._wakeups.waiting(_topic(node.at)) as woken:
            try:
                subscription: Subscription = (
                    ChildSubscription(node, start)
                    if node.structure_family == StructureFamily.container
                    else RowSubscription(node, start, uri, json)
                )
            except KeyError:
                await websocket.close(*GONE)
                return
            if not already_accepted:
                await websocket.accept()
            tasks = {
                asyncio.create_task(self._send(node, subscription, websocket, formatter, woken)),
                asyncio.create_task(_left(websocket)),
            }
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                for result in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(result, Exception) and not isinstance(
                        result, WebSocketDisconnect
                    ):
                        raise result

    async def _send(
        self,
        node: Any,
        subscription: Subscription,
        websocket: WebSocket,
        formatter: Formatter,
        woken: asyncio.Event,
    ) -> None:
        await formatter(websocket, dict(subscription.schema), None)
        loop = asyncio.get_running_loop()
        look_at = loop.time() + LOOK_SECONDS
        while True:
            woken.clear()
            try:
                if loop.time() >= look_at:
                    node.again()
                    look_at = loop.time() + LOOK_SECONDS
                step = subscription.step()
            except KeyError:
                await websocket.close(*GONE)
                return
            if step is None:
                await woken.wait()
            elif isinstance(step, End):
                await websocket.close(*(COME_BACK if step.again else COMPLETE))
                return
            else:
                for message, payload in step:
                    await formatter(websocket, message, payload)
                # A socket that takes all does not wait, and others want their turn.
                await asyncio.sleep(0)


async def _left(websocket: WebSocket) -> None:
    """Return when the client left or the server shuts down; what a client says is ignored."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


def _topic(at: tuple[str, ...]) -> Topic:
    """Return what wakes the subscribers of a node."""
    if not at:
        return None
    return at[0], at[1] if len(at) > 1 else ""


def numbered(metadata: Mapping[str, Any], updated: object = None) -> Child:
    """Return a child that came at the time in its document, and changed at time `updated`."""
    changed = None if updated is None else sequence_of(updated)
    return Child(sequence_of(metadata.get("time")), changed)
