"""How many responses are in memory at a time: those that Tiled makes as a whole."""

import asyncio
import logging
import re

from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

WHOLE = re.compile(r"/api/v1/(table/(full|partition)|container/full|node/full|ragged/.*)/.*")
ARRAY = re.compile(r"/api/v1/array/(full|block)/.*")
OCTETS = "application/octet-stream"

SECONDS = 60.0
"""Time in which a client has to take a response; then the connection ends."""


class InFlight:
    """Let `count` of the responses that cost memory be made and sent at a time; others wait.

    These are tables, exports, and arrays in other formats than octets. A client that
    does not take its response in time loses it: it holds up everybody else.

    Parameters
    ----------
    app : ASGI application
    count : int
        See `Shares`: a response may have an eighth of what is kept back for them.
    seconds : float
        Time in which a client has to take a response, s.
    """

    def __init__(self, app: ASGIApp, count: int = 2, seconds: float = SECONDS) -> None:
        self._app = app
        self._free = asyncio.Semaphore(count)
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _costs_memory(scope):
            await self._app(scope, receive, send)
            return

        async def send_in_time(message: Message) -> None:
            await asyncio.wait_for(send(message), self._seconds)

        async with self._free:
            try:
                await self._app(scope, receive, send_in_time)
            except TimeoutError:
                logger.warning("a client did not take %s in %g s", scope["path"], self._seconds)


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
