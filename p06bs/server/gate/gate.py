"""What stands before Tiled's routes: who may knock, how often, how loud, and on which doors."""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from p06bs.config.headers import Headers
from p06bs.server.gate import headers
from p06bs.server.gate.attempts import Attempts, address
from p06bs.server.gate.bodies import FORM_LIMIT, Body, RefusedError, replayed, too_large
from p06bs.server.gate.credentials import check_ascii, check_csrf, digest, session_token, shown
from p06bs.server.gate.growing import GROWING, bounded_query
from p06bs.server.gate.keys import bounded_request
from p06bs.server.gate.logins import FailedLogins, Seats, Seen
from p06bs.server.gate.outgoing import Answer, refusal
from p06bs.server.gate.protection import Protection
from p06bs.server.gate.queries import check_query
from p06bs.server.gate.routes import API, READING, Routes
from p06bs.server.gate.sockets import FindKey, SocketGate
from p06bs.server.sessions import name_of

logger = logging.getLogger(__name__)

HEALTH = ("/health", "/healthz", "/ready")
"""What is asked for without the proxy."""

NEW_KEY = re.compile(rf"{API}/auth/(principal/[^/]+/)?apikey")
"""Where users make keys of their own, and admins those of others."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What the gate is told by the configuration.

    Attributes
    ----------
    body : int
        Bytes that a request's body may have.
    body_seconds : float
        Time for which a body may come.
    upload, upload_seconds : int, float
        The same of files that are stored.
    sockets : int
        WebSockets that a user and an address may have at once.
    failed_logins : int
        Failed logins a minute, of a user and of an address.
    origins : tuple of str
        Origins of web pages, beside our own, that may read answers and open WebSockets.
    headers : Headers
        What answers tell browsers.
    proxy : bool
        There is a reverse proxy before us, which sets X-Forwarded-*. Without one
        these headers are a stranger's and are dropped.
    """

    body: int = 64_000_000
    body_seconds: float = 120.0
    upload: int = 4_000_000_000
    upload_seconds: float = 3600.0
    sockets: int = 64
    failed_logins: int = 10
    origins: tuple[str, ...] = ()
    headers: Headers = field(default_factory=Headers)
    proxy: bool = False


class Gate:
    """Let what `routes` lists pass to `app`, within limits.

    Parameters
    ----------
    app : ASGI application
    guard : Guard
    routes : Routes
    keys : FindKey, optional
        Where there are several users: API keys make no mightier ones, and a user's
        WebSockets are counted.
    clock : callable
        Seconds, for the rate of failed logins.
    """

    def __init__(
        self,
        app: ASGIApp,
        guard: Guard = Guard(),
        routes: Routes | None = None,
        keys: FindKey | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._guard = guard
        self._routes = routes or Routes()
        self._keys = keys
        self._attempts = Attempts(FailedLogins(guard.failed_logins), Seen(), Seen(), clock)
        self._protection = Protection(guard.headers, guard.origins)
        self._complained = False  # of a proxy that does not say who its clients are
        self._sockets = SocketGate(app, guard.origins, Seats(guard.sockets), self._attempts, keys)

    @property
    def failed_logins(self) -> int:
        """Return how many logins have failed so far."""
        return self._attempts.failures.total

    @property
    def sockets(self) -> int:
        """Return how many WebSockets are open."""
        return self._sockets.seats.total

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or WebSocket (ASGI)."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._guard.proxy:
            self._look_for_addresses(scope)
            scope = headers.behind_proxy(scope)
        else:
            scope = headers.without_forwarded(scope)
        if scope["type"] == "websocket":
            admitted = self._routes.admits_socket(scope["path"])
            await self._sockets(scope, receive, send, admitted)
            return
        answer = Answer(scope, send, self._protection)
        try:
            await self._serve(scope, receive, answer)
        except RefusedError as refused:
            answer.body = answer.watch = None
            await refusal(refused)(scope, receive, answer)

    def _look_for_addresses(self, scope: Scope) -> None:
        """Say once that the proxy does not say who its clients are."""
        if self._complained or scope["path"] in HEALTH:
            return
        if not headers.header(scope, b"x-forwarded-for"):
            self._complained = True
            logger.warning(
                "behind_proxy is on, and a request has no X-Forwarded-For: its client and all "
                "others like it share the limits of one address; have the proxy set it"
            )

    async def _serve(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        path, method = scope["path"], _purpose(scope)
        if (too_long := headers.oversized(scope)) is not None:
            raise RefusedError(*too_long)
        if (closed := self._routes.refusal(method, path)) is not None:
            raise RefusedError(closed.status, closed.reason)
        check_ascii(scope)
        check_query(scope["query_string"])
        if scope["method"] not in READING:
            check_csrf(scope)
        upload = self._routes.is_upload(method, path)
        limit = self._guard.upload if upload else self._guard.body
        announced = headers.header(scope, b"content-length")
        if announced.isdecimal() and int(announced[:20]) > limit:
            raise too_large(limit)
        if method == "POST" and path.startswith(f"{API}/auth/provider/"):
            await self._login(scope, receive, answer)
            return
        seconds = self._guard.upload_seconds if upload else self._guard.body_seconds
        body = Body(receive, limit, seconds)
        if keys := shown(scope).api_keys:
            self._attempts.check(scope, digest(keys[0]))
            answer.watch = partial(self._attempts.note, scope, digest(keys[0]))
        if method == "POST" and NEW_KEY.fullmatch(path):
            scope, body = await self._minted(scope, receive, keys[0] if keys else None)
        if GROWING.match(path):
            scope = {**scope, "query_string": bounded_query(scope["query_string"])}
        await self._pass(scope, body, answer)

    async def _pass(self, scope: Scope, body: Body, answer: Answer) -> None:
        answer.body = body
        try:
            await self._app(scope, body, answer)
        except Exception:
            if body.refused is None:
                raise
            # What the application made of the client that seemed to go is of no interest.
        if body.refused is not None and not answer.started:
            raise body.refused

    async def _login(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        """Pass a login on unless too many have failed; count it if it fails."""
        content = await self._form(receive).whole()
        who = [("address", address(scope))]
        media = headers.header(scope, b"content-type").partition(";")[0].strip().lower()
        if media == "application/x-www-form-urlencoded":
            names = parse_qs(content.decode("latin-1")).get("username", [])
            who += [("user", name.casefold()) for name in names[-1:]]
        elif media.startswith("multipart/"):
            raise RefusedError(415, "Send the form as application/x-www-form-urlencoded.")
        self._attempts.check_login(who)
        answer.watch = partial(self._attempts.note_login, who)
        await self._pass(scope, self._form(replayed(content, receive)), answer)

    async def _minted(self, scope: Scope, receive: Receive, key: str | None) -> tuple[Scope, Body]:
        """Return the request for a key, bounded to what the key that asks has."""
        content = await self._form(receive).whole()
        parent = await self._keys.find(key) if key is not None and self._keys is not None else None
        own = scope["path"] == f"{API}/auth/apikey"
        session = name_of(session_token(scope))
        content = bounded_request(content, parent, datetime.now(UTC), own, session)
        kept = [(n, v) for n, v in scope["headers"] if n != b"content-length"]
        length = (b"content-length", str(len(content)).encode())
        body = self._form(replayed(content, receive))
        return {**scope, "headers": [*kept, length]}, body

    def _form(self, receive: Receive) -> Body:
        return Body(receive, FORM_LIMIT, self._guard.body_seconds)


def _purpose(scope: Scope) -> str:
    """Return the method; of a browser's question whether it may, the one that it asks for."""
    method: str = scope["method"]
    if method == "OPTIONS" and headers.header(scope, b"origin"):
        return headers.header(scope, b"access-control-request-method") or method
    return method
