"""The protocols of uvicorn, for clients who are slow, leave early, or send anything."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from p06bs.server.gate.headers import BYTES_LIMIT, URL_LIMIT

HEAD_SECONDS = 20.0
"""Time in which a request's head has to come; slower clients only hold a place."""

HEAD_LIMIT = 2 * (BYTES_LIMIT + URL_LIMIT)
"""Bytes of a head that is still incomplete; the parser itself has no limit."""

BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class PromptProtocol(HttpToolsProtocol):
    """HTTP of clients that send their requests' heads in time and of a size."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._head_nbytes = 0
        self._hurry: asyncio.TimerHandle | None = None
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and close the connection if a head does not end."""
        super().data_received(data)
        if self._hurry is not None and not self.transport.is_closing():
            self._head_nbytes += len(data)
            if self._head_nbytes > HEAD_LIMIT:
                self.transport.close()

    def on_message_begin(self) -> None:
        """Begin to wait for this head."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """Wait no more: bodies have limits of their own."""
        self._stop_waiting()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        if self._hurry is None:
            self._head_nbytes = 0
            self._hurry = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """WebSockets that may be denied with any HTTP status, and whose clients cause no errors.

    uvicorn logs errors where a client sends what is no UTF-8, or leaves while it is
    answered, and waits for ever after a handshake that it cannot read.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        # It would log messages with the middle left out: of a key the end, without its name.
        self.conn.debug = False

    def data_received(self, data: bytes) -> None:
        """Take what the client sends; refuse a handshake that cannot be read."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(BAD_REQUEST)
            self.transport.close()

    def send_receive_event_to_app(self) -> None:
        """Hand a message on unless the connection is at its end, which no UTF-8 is."""
        if self.transport.is_closing():
            return
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.conn.fail(1007, "a text is UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    async def send(self, event: Any) -> None:
        """Send a message, after which a denied handshake is complete.

        Raises
        ------
        ClientDisconnected
            If nothing reaches the client any more.
        """
        await self.writable.wait()
        if self.transport.is_closing():
            raise ClientDisconnected
        await super().send(event)
        last = not event.get("more_body", False)
        if event["type"] == "websocket.http.response.body" and last:
            self.handshake_complete = True
