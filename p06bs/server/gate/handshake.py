"""WebSockets are for what is live, and wait until the sink has been filled."""

import asyncio
import re
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LIVE = re.compile(r"/api/v1/stream/single/+live(/.*)?")
"""Nodes that can be subscribed to; of others Tiled would make an internal error."""

WAIT_SECONDS = 8.0
"""A stock client gives a handshake 10 s."""

POLL_SECONDS = 0.05


class Handshake:
    """Let WebSockets to nodes under ``/live`` through to `app` when the sink has been filled.

    After a restart it is filled from the logs. A client that comes back meanwhile would
    be told 404 for a run that is not there yet, and give up. It waits, and after
    `WAIT_SECONDS` is asked to come back (close code 1012).

    Parameters
    ----------
    app : ASGI application
    ready : callable
        Says whether the sink has been filled.
    """

    def __init__(self, app: ASGIApp, ready: Callable[[], bool] = lambda: True) -> None:
        self._app = app
        self._ready = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or WebSocket (ASGI)."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        if not LIVE.fullmatch(scope["path"]):
            await receive()
            await JSONResponse({"detail": "Not Found"}, 404)(scope, receive, send)
        elif await self._filled():
            await self._app(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.accept"})
            reason = "The server is being filled: come back."
            await send({"type": "websocket.close", "code": 1012, "reason": reason})
        # uvicorn closes the connection after a refusal, and if this returned before that
        # is done it would log as an error that there was no handshake.
        await asyncio.sleep(0)

    async def _filled(self) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + WAIT_SECONDS
        while not self._ready():
            if loop.time() > deadline:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True
