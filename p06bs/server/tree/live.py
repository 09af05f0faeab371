"""Tiled's WebSocket subscriptions on the nodes of the sink.

Nothing is queued for anybody: each subscriber is a cursor over what is in memory
(`p06bs.server.tree.cursor`), which is read when the socket can take more. Rights are asked
for again while a socket lives, by walking to the node anew as a request would.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket, WebSocketDisconnect
from tiled.structures.core import StructureFamily

from p06bs.server.gate.together import until_one_ends
from p06bs.server.sink.columns import View
from p06bs.server.sink.places import RowsLostError
from p06bs.server.sink.sink import Sink
from p06bs.server.sink.views import StreamView
from p06bs.server.tree.cursor import Child, End, sequence_of
from p06bs.server.tree.subscriptions import ChildSubscription, Look, RowSubscription, Subscription
from p06bs.server.tree.wakeups import LOOK_SECONDS, Topic, Wakeups

COMPLETE = 1000, "All has been sent."
COME_BACK = 1012, "Subscribe again, from the next one."
GONE = 4410, "There is no such node any more."
"""Close codes and reasons. A stock client ends at the first and comes back at the others;
where the node is gone, because memory was needed or rights were revoked, it finds 404."""

NO_SUBSCRIPTIONS = "There are no subscriptions to this."

Formatter = Callable[[WebSocket, dict[str, Any], bytes | None], Awaitable[None]]


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
        Returns the node as it is now, for the same viewer; KeyError if it went. It goes by
        the rights that are known.
    ask : callable
        Asks for them: those that are not known, or all `anew`.
    """

    live: "Live | None" = None
    at: tuple[str, ...] = ()
    finished = False
    again: Callable[[], Any]
    ask: Callable[[bool], Awaitable[None]]

    def handing(self, key: str, child: Any) -> Any:
        """Return a child, which can then be subscribed to as this node can."""
        if isinstance(child, Watched):
            child.live, child.at = self.live, (*self.at, key)
            child.finished = child.finished or self.finished
            child.again = lambda: self.again()[key]
            if "ask" in vars(self):  # what is archived changes no more
                child.ask = self.ask
        return child

    def new_variation(self, *args: Any, **kwargs: Any) -> Any:
        """Return the same node with other children, as its `search` and `sort` do."""
        other = super().new_variation(*args, **kwargs)  # type: ignore[misc]
        other.live, other.at, other.finished = self.live, self.at, self.finished
        if "again" in vars(self):
            other.again = self.again
        if "ask" in vars(self):
            other.ask = self.ask
        return other

    def look(self) -> Look:
        """Return the rows of an array or a table that are there now.

        Raises
        ------
        KeyError
            If the node is gone.
        """
        uid, name, *_ = self.at
        run = self._subscribed().sink.view(uid)
        finished = "stop" in run.metadata  # before the rows, which may come meanwhile
        stream = run.streams[name]()
        held = 0 if stream.stream is None else stream.stream.in_log
        return Look(self.columns_of(stream), stream.read, finished, held)

    def columns_of(self, stream: StreamView) -> Mapping[str, View]:
        """Return the columns of a stream that an array or a table shows.

        Raises
        ------
        KeyError
            If the stream has no such column any more.
        """
        key = self.at[-1]
        return {key: stream.columns[key]}

    def touch(self) -> None:
        """Note that somebody reads the data."""
        self._subscribed().sink.touch(self.at[0])

    def children(self) -> Mapping[str, Child]:
        """Return a container's children."""
        raise NotImplementedError

    def state(self) -> Hashable:
        """Return what is equal only as long as `children` are the same."""
        return object()

    def make_ws_handler(self, websocket: WebSocket, formatter: Formatter, uri: str) -> Any:
        """Return what serves a subscription; Tiled's router calls it with the first number.

        Raises
        ------
        HTTPException
            404, if there are no subscriptions.
        """
        return partial(self._subscribed().serve, self, websocket, formatter, uri)

    def _subscribed(self) -> "Live":
        if self.live is None:
            raise HTTPException(404, NO_SUBSCRIPTIONS)
        return self.live


class Unwatched:
    """Mixin of adapters that cannot be subscribed to, where Tiled expects that all can."""

    def make_ws_handler(self, websocket: WebSocket, formatter: Formatter, uri: str) -> Any:
        """Refuse with 404.

        Raises
        ------
        HTTPException
            Always.
        """
        raise HTTPException(404, NO_SUBSCRIPTIONS)


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
            send = partial(formatter, websocket)
            await until_one_ends(
                _left(websocket),
                _send(node, subscription, websocket, send, woken),
                expected=WebSocketDisconnect,
            )


async def _send(
    node: Any,
    subscription: Subscription,
    websocket: WebSocket,
    send: Callable[[dict[str, Any], bytes | None], Awaitable[None]],
    woken: asyncio.Event,
) -> None:
    """Send step after step; the socket is waited for, so a slow one costs no memory."""
    loop = asyncio.get_running_loop()
    look_at = loop.time() + LOOK_SECONDS
    while True:
        woken.clear()
        try:
            if loop.time() >= look_at:
                await node.ask(True)
                node.again()
                look_at = loop.time() + LOOK_SECONDS
            step = await subscription.step()
        except KeyError:
            await websocket.close(*GONE)
            return
        except RowsLostError:
            await asyncio.sleep(LOOK_SECONDS)  # a client comes back at once
            await websocket.close(*COME_BACK)
            return
        if step is None:
            await woken.wait()
        elif isinstance(step, End):
            await websocket.close(*(COME_BACK if step.again else COMPLETE))
            return
        else:
            for message, payload in step:
                await send(message, payload)
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
