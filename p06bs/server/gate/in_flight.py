"""How many responses are in memory at a time: those that Tiled makes as a whole."""

import asyncio
import logging
import re
from collections.abc import Hashable, Iterator

from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from p06bs.server.gate.attempts import address
from p06bs.server.gate.bodies import replayed, too_large
from p06bs.server.gate.credentials import digest, shown
from p06bs.server.gate.sockets import FindKey
from p06bs.server.gate.turns import Allowance, Turns

logger = logging.getLogger(__name__)

WHOLE = re.compile(r"/api/v1/(table/(full|partition)|container/full|node/full|ragged/.*)/.*")
ARRAY = re.compile(r"/api/v1/array/(full|block)/.*")
OCTETS = "application/octet-stream"

COUNT, EACH = 4, 2
"""Responses at a time, of all and of one client."""

BODY_LIMIT = 1_000_000
"""Bytes that a request for such a response may have: names of columns, and no more."""

GRACE_SECONDS, LOWEST_RATE = 10.0, 250_000.0
"""A client has to take a response of n bytes in ``GRACE_SECONDS + n / LOWEST_RATE`` s."""

PART_BYTES = 1 << 18
"""What is sent at a time: what is on its way is in memory, too, and no client is waited for
before it has been sent."""


class SlowClientError(Exception):
    """A client does not take its response in time."""


class InFlight:
    """Let few of the responses that cost memory be made and sent at a time; others wait.

    These are tables, exports, and arrays in other formats than octets. A client that
    does not take its response in time loses it: it holds up others. Who sends a body asks
    for a turn when that is there, and for one that goes while it waits none is made.

    Parameters
    ----------
    app : ASGI application
    keys : FindKey, optional
        Says whose a key is, where there are several users; one user is one client, and
        otherwise an address is.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: FindKey | None = None,
        *,
        grace: float = GRACE_SECONDS,
        rate: float = LOWEST_RATE,
    ) -> None:
        self._app = app
        self._keys = keys
        self._grace, self._rate = grace, rate
        self._turns = Turns(COUNT, EACH)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or WebSocket (ASGI).

        Raises
        ------
        RefusedError
            If the body is too long, or the users' database does not answer.
        """
        if scope["type"] != "http" or not _costs_memory(scope):
            await self._app(scope, receive, send)
            return
        if (body := await _body(receive)) is None:
            return
        client = await self._client(scope)
        turn = asyncio.Event()
        try:
            _begin(self._turns.ask(turn, client))
            if await _comes(turn, receive):
                await self._serve(scope, replayed(body, receive), send)
        finally:
            _begin(self._turns.leave(turn))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowance = Allowance(self._grace, self._rate)
        loop = asyncio.get_running_loop()
        slow = False

        async def send_in_time(message: Message) -> None:
            nonlocal slow
            for part in _parts(message):
                begun = loop.time()
                try:
                    async with asyncio.timeout(allowance.more(len(part.get("body", b"")))):
                        await send(part)
                except TimeoutError:
                    slow = True
                    raise SlowClientError from None
                allowance.took(loop.time() - begun)

        try:
            await self._app(scope, receive, send_in_time)
        except Exception:
            if not slow:  # else it is what the application made of that
                raise
        if slow:
            logger.warning("a client took less than %g B/s of %s", self._rate, scope["path"])

    async def _client(self, scope: Scope) -> Hashable:
        """Return the user if the key says who that is, the session, or the address."""
        credentials = shown(scope)
        if credentials.api_keys and self._keys is not None:
            found = await self._keys.find(credentials.api_keys[0])
            if found is not None:
                return "user", found.owner
        if credentials.bearer:
            return "session", digest(Headers(scope=scope)["authorization"])
        return "address", address(scope)


async def _body(receive: Receive) -> bytes | None:
    """Return a request's body; None if the client goes before it is there."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > BODY_LIMIT:
            raise too_large(BODY_LIMIT)
        more = message.get("more_body", False)
    return bytes(body)


async def _comes(turn: asyncio.Event, receive: Receive) -> bool:
    """Wait for a turn; return False if the client goes before it comes."""
    if turn.is_set():
        return True
    gone = asyncio.ensure_future(receive())  # nothing else comes after the body
    tasks = [asyncio.ensure_future(turn.wait()), gone]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not gone.done():
            return True
        await gone  # which may have failed
        return False
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def wants_octets(scope: Scope) -> bool:
    """Return whether octets are what Tiled would answer a read of an array with."""
    query = QueryParams(scope["query_string"])
    if "format" in query:
        return query["format"] == OCTETS
    accept = Headers(scope=scope).get("accept", "*/*")
    return accept.split(",", maxsplit=1)[0].strip() in (OCTETS, "*/*")


def _costs_memory(scope: Scope) -> bool:
    path = scope["path"]
    return bool(WHOLE.fullmatch(path)) or bool(ARRAY.fullmatch(path) and not wants_octets(scope))


def _begin(turns: list[object]) -> None:
    for turn in turns:
        assert isinstance(turn, asyncio.Event)
        turn.set()


def _parts(message: Message) -> Iterator[Message]:
    """Yield a message as several ones of at most `PART_BYTES`."""
    body = memoryview(message.get("body", b""))
    for first in range(0, len(body) - PART_BYTES, PART_BYTES):
        part = bytes(body[first : first + PART_BYTES])
        yield {"type": "http.response.body", "body": part, "more_body": True}
    if len(body) > PART_BYTES:
        last = (len(body) - 1) // PART_BYTES * PART_BYTES
        message = {**message, "body": bytes(body[last:])}
    yield message
