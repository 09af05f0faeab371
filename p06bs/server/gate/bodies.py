"""Bodies of requests: how long they may be, and how long they may take."""

import asyncio

from starlette.types import Message, Receive

FORM_LIMIT = 16_000
"""Bytes of a login or of what a token shall be."""


class RefusedError(Exception):
    """A request that ends at the gate; says with which status, and why."""

    def __init__(self, status: int, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class Body:
    """Hand a request's body on as it comes, up to a limit and a deadline.

    When either is passed the application is told that the client has gone, and
    `refused` says why; what it answers then is of no use.
    """

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self._receive = receive
        self._limit = limit
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._seconds = seconds
        self._nbytes = 0
        self._complete = False
        self.refused: RefusedError | None = None

    async def __call__(self) -> Message:
        """Return the next part (ASGI's receive)."""
        if self._complete:
            return await self._receive()  # waits for the client to go, as long as it takes
        if self.refused is None:
            try:
                return await self._next()
            except RefusedError as refused:
                self.refused = refused
        return {"type": "http.disconnect"}

    async def whole(self) -> bytes:
        """Return all of it; b"" if the client has gone.

        Raises
        ------
        RefusedError
            If it is too long or too slow.
        """
        parts = []
        while not self._complete:
            message = await self._next()
            if message["type"] != "http.request":
                return b""
            parts.append(message.get("body", b""))
        return b"".join(parts)

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise RefusedError(408, f"The body did not come within {self._seconds:g} s.") from None
        if message["type"] == "http.request":
            self._nbytes += len(message.get("body", b""))
            if self._nbytes > self._limit:
                raise too_large(self._limit)
            self._complete = not message.get("more_body", False)
        return message


def too_large(limit: int) -> RefusedError:
    """Return the refusal of a body that is too long."""
    return RefusedError(413, f"The body may have {limit} bytes.")


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a receive that gives the body first."""
    left = [body]

    async def again() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return again
