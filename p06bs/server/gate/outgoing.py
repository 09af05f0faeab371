"""What goes out through the gate: with the headers that protect, and nothing after a refusal."""

import math
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import Message, Scope, Send

from p06bs.server.gate.bodies import Body, RefusedError
from p06bs.server.gate.credentials import without_secrets
from p06bs.server.gate.protection import Protection


class Answer:
    """Send an application's answer on (ASGI's send).

    Attributes
    ----------
    started : bool
        The client has got the status.
    body : Body or None
        The request's; once it is refused, the application's answer is dropped.
    watch : callable or None
        Told the status and the beginning of the content.
    """

    def __init__(self, scope: Scope, send: Send, protection: Protection) -> None:
        self._send = send
        self._scope = scope
        self._protection = protection
        self._clean = _clean_url(scope)
        self._status = 0
        self.started = False
        self.body: Body | None = None
        self.watch: Callable[[int, bytes], None] | None = None

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        if self.body is not None and self.body.refused is not None and not self.started:
            return
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = {
                **message,
                "headers": self._protection.headers(message.get("headers", ()), self._scope),
            }
            if self._clean is not None and message["status"] == 200:
                message["status"] = 303
                message["headers"].append((b"location", self._clean))
            self.started = True
        elif message["type"] == "http.response.body" and self.watch is not None:
            if content := message.get("body", b""):
                self.watch(self._status, bytes(content))
                self.watch = None
            elif not message.get("more_body", False):
                self.watch(self._status, b"")
                self.watch = None
        await self._send(message)


def refusal(refused: RefusedError) -> JSONResponse:
    """Return the answer to a request that ends at the gate."""
    more = {"Retry-After": str(math.ceil(refused.retry_after))} if refused.retry_after else {}
    if refused.status in (408, 413):
        more["Connection"] = "close"
    return JSONResponse({"detail": refused.reason}, refused.status, more)


def _clean_url(scope: Scope) -> bytes | None:
    """Return where a page is without the key in its URL, None where there is none."""
    query = scope["query_string"]
    page = scope["path"] == "/" or scope["path"].startswith("/ui")
    if not page or b"api_key" not in query or scope["method"] != "GET":
        return None
    path = scope.get("raw_path") or scope["path"].encode()
    left = without_secrets(query)
    return b"?".join([path, left] if left else [path])
