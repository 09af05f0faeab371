"""WebSockets at the gate: from where, how many, and authenticated in time."""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import urlsplit

from starlette.status import WS_1013_TRY_AGAIN_LATER as TRY_LATER
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from p06bs.server.gate import headers
from p06bs.server.gate.attempts import Attempts, address
from p06bs.server.gate.bodies import RefusedError
from p06bs.server.gate.credentials import (
    check_ascii,
    digest,
    first_message_secrets,
    header_key,
    socket_session_token,
)
from p06bs.server.gate.databases import ERRORS
from p06bs.server.gate.keys import Key
from p06bs.server.gate.logins import Seats
from p06bs.server.gate.outgoing import refusal
from p06bs.server.gate.together import until_one_ends
from p06bs.server.sessions import name_of

FIRST_MESSAGE_SECONDS = 10.0
"""A browser sends its key in the first message; who sends none does not keep the place."""

LOOK_SECONDS = 1.0
"""Interval at which the key or session of an open WebSocket is looked up again."""

REVOKED = 4410, "The token or session was revoked or has expired."
"""A stock client then asks again, and is told 401."""

WRONG_KEY = 4003
"""Tiled's close code for a first message with a wrong key."""

NO_MESSAGE = 4001


class FindKey(Protocol):
    """Look up API keys."""

    async def find(self, secret: str) -> Key | None:
        """Return what is known of a key, None if it is not valid."""

    async def holds(self, name: str) -> bool:
        """Return whether a key or session of this name is there, neither revoked nor expired."""


class SocketGate:
    """Let WebSockets pass to the application.

    Parameters
    ----------
    app : ASGI application
    origins : sequence of str
        Of web pages that may connect, beside our own.
    seats : Seats
        Places of addresses and users.
    attempts : Attempts
    keys : FindKey, optional
        Says whose a key is.
    """

    def __init__(
        self,
        app: ASGIApp,
        origins: Sequence[str],
        seats: Seats,
        attempts: Attempts,
        keys: FindKey | None,
    ) -> None:
        self.app = app
        self.seats = seats
        self.attempts = attempts
        self.keys = keys
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send, admitted: bool) -> None:
        """Serve a WebSocket (ASGI); `admitted` says that there is one at this path."""
        await receive()  # websocket.connect
        socket = _Socket(self, scope, receive, send)
        try:
            self._check(scope, admitted)
            await socket.run()
        except RefusedError as refused:
            await _deny(refused, scope, receive, send)
        finally:
            socket.leave()

    def _check(self, scope: Scope, admitted: bool) -> None:
        if not admitted:
            raise RefusedError(404, "There is nothing here.")
        if (too_long := headers.oversized(scope)) is not None:
            raise RefusedError(*too_long)
        check_ascii(scope)
        origin = headers.header(scope, b"origin")
        if origin and origin not in self._origins:
            host = headers.header(scope, b"x-forwarded-host") or headers.header(scope, b"host")
            if urlsplit(origin).netloc != host:
                raise RefusedError(403, "Web pages of this origin may not connect.")


class _Socket:
    """One WebSocket between client and application."""

    def __init__(self, gate: SocketGate, scope: Scope, receive: Receive, send: Send) -> None:
        self._gate = gate
        self._scope = scope
        self._receive = receive
        self._send = send
        self._key = header_key(scope)
        token = socket_session_token(scope)
        self._authenticated = bool(self._key or token)
        self._lasting = name_of(token)
        self._opened = False
        self._closed = False
        self._taken: list[tuple[str, str]] = []

    async def run(self) -> None:
        """Serve it until one end goes.

        Raises
        ------
        RefusedError
            If there is no place left, or its key may not be tried.
        """
        # Who has said nothing yet takes no place of those who have.
        await self.sit(("address" if self._authenticated else "stranger", address(self._scope)))
        if self._key is not None:
            await self._knock(self._key)
        # The client may go at any time, also while the application answers its first message.
        await until_one_ends(self._serve(), self._watch(), expected=WebSocketDisconnect)

    async def _serve(self) -> None:
        await self._gate.app(self._scope, self._next, self._answer)

    async def _watch(self) -> None:
        """Return when the key no longer counts, and nothing more is sent."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._gate.keys is None or not self._lasting or self._closed:
                continue
            try:
                there = await self._gate.keys.holds(self._lasting)
            except ERRORS:
                continue  # a database that is away; it is asked again
            if not there:
                self._closed = True
                code, reason = REVOKED
                with contextlib.suppress(TimeoutError):  # a client that takes nothing
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._send(
                            {"type": "websocket.close", "code": code, "reason": reason}
                        )
                return

    async def sit(self, who: tuple[str, str]) -> None:
        if not self._gate.seats.take(who):
            whose = "address" if who[0] == "stranger" else who[0]
            raise RefusedError(429, f"Too many WebSockets of this {whose}.", 10.0)
        self._taken.append(who)

    def rise(self, who: tuple[str, str]) -> None:
        self._taken.remove(who)
        self._gate.seats.leave(who)

    def leave(self) -> None:
        for who in list(self._taken):
            self.rise(who)

    async def _knock(self, key: str) -> None:
        """Ask whether this key may be tried, and whether its owner has a place left."""
        self._gate.attempts.check(self._scope, digest(key))
        found = await self._gate.keys.find(key) if self._gate.keys is not None else None
        if found is not None:
            self._lasting = found.lasting(datetime.now(UTC))
            await self.sit(("user", found.owner))

    async def _next(self) -> Message:
        if not self._opened:
            self._opened = True
            return {"type": "websocket.connect"}
        if self._authenticated or self._closed:
            return await self._receive()
        self._authenticated = True
        try:
            async with asyncio.timeout(FIRST_MESSAGE_SECONDS):
                message = await self._receive()
            await self.sit(("address", address(self._scope)))
            self.rise(("stranger", address(self._scope)))
            self._key, token = first_message_secrets(message)
            self._lasting = name_of(token)
            if self._key is not None:
                await self._knock(self._key)
        except TimeoutError:
            return await self._close(NO_MESSAGE, "The first message did not come in time.")
        except RefusedError as refused:
            if refused.status in (429, 503):
                return await self._close(TRY_LATER, refused.reason)
            self._gate.attempts.failed([("address", address(self._scope))])
            return await self._close(WRONG_KEY, refused.reason)
        return message

    async def _close(self, code: int, reason: str) -> Message:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})
        self._closed = True
        return {"type": "websocket.disconnect", "code": code}

    async def _answer(self, message: Message) -> None:
        if self._closed:
            return
        kind = message["type"]
        if kind == "websocket.close":
            self._closed = True
            if message.get("code") == WRONG_KEY:
                self._wrong()
        elif kind == "websocket.http.response.start":
            if message["status"] == 401:
                self._wrong()
        elif kind == "websocket.send" and self._key is not None:
            self._gate.attempts.good(digest(self._key))
        await self._send(message)

    def _wrong(self) -> None:
        if self._key is not None:
            self._gate.attempts.wrong(self._scope, digest(self._key))


async def _deny(refused: RefusedError, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse before the WebSocket is there, with a status where the server can send one."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await refusal(refused)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": refused.reason})
