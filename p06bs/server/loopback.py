"""The server on a loopback address: prompt clients, no access log, an end in good order."""

import asyncio
import fcntl
import ipaddress
import logging
import os
import resource
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from p06bs.server.protocols import PromptProtocol, WebSocketProtocol

logger = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 5.0
"""Time that responses have to end after SIGTERM; then their connections are cut off."""

LAST_SECONDS = 2.0
"""Time after that for the application, which may wait for a database that does not answer.

The driver of PostgreSQL then takes 2 s to give up a connection; all together is less than the
10 s after which service managers kill, ``p06bs up`` too.
"""

END_SECONDS = 9.5
"""Time after SIGTERM in which the process ends, whatever still hangs.

At its end Python waits for all threads, also for one that a file system does not answer.
"""

HIGH_DESCRIPTOR = 1 << 16
"""Above most that a process has open; the kernel's table grows up to the highest."""

LISTENERS = 64
"""Servers that one process may have."""

MESSAGE_LIMIT = 64_000
"""Bytes of a message from a WebSocket's client, who has little to say."""


def loopback_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address of a host, which must be this one's own.

    Raises
    ------
    ValueError
        If others can reach it, or it is no address.
    """
    address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    if not address.is_loopback:
        raise ValueError(
            f"refusing to listen on {host}: this server has no TLS, only loopback is safe; "
            "reach it through an SSH tunnel"
        )
    return address


class LoopbackServer(uvicorn.Server):
    """Run an application on a loopback address, which is bound when this is made.

    On SIGTERM, SIGINT or `stop` it takes no new connections, tells WebSockets
    that the service restarts (close code 1012: stock clients come again), lets
    responses end for `SHUTDOWN_SECONDS`, cuts off the others, and leaves the
    application after `LAST_SECONDS` more. A signal ends the process, after
    `END_SECONDS` at the latest.

    Parameters
    ----------
    app : ASGI application
    host : str
        A loopback address or ``localhost``.
    port : int
        0 takes a free one.
    ready : callable
        Called, with the URL, when requests are answered.

    Raises
    ------
    ValueError
        If the host is no loopback address.
    OSError
        If the address is in use.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str = "127.0.0.1",
        port: int = 0,
        ready: Callable[[str], None] = lambda url: None,
        **more: Any,
    ) -> None:
        address = loopback_of(host)
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        self.socket = _first_to_close(socket.create_server((str(address), port), family=family))
        # Connections inherit it. asyncio sets it only where a socket names its protocol, and
        # without it a small response waits 40 ms for the client's delayed acknowledgement.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound = self.socket.getsockname()[1]
        name = f"[{address}]" if address.version == 6 else str(address)
        self.url = f"http://{name}:{bound}"
        self._ready = ready
        settings: dict[str, Any] = {
            "access_log": False,
            "log_level": "warning",
            # It logs as everything else does, and not to handlers of its own.
            "log_config": None,
            "lifespan": "on",
            "timeout_graceful_shutdown": SHUTDOWN_SECONDS + LAST_SECONDS / 2,
            "http": PromptProtocol,
            # The gate looks at X-Forwarded-*, where the configuration says that there is a proxy.
            "proxy_headers": False,
            "server_header": False,
            "ws": WebSocketProtocol,
            "ws_max_size": MESSAGE_LIMIT,
            "ws_per_message_deflate": False,
        }
        super().__init__(uvicorn.Config(app, **{**settings, **more}))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self._ready(self.url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, on a signal to this process."""
        if not self.should_exit:
            last = threading.Timer(END_SECONDS, _end)
            last.daemon = True
            last.start()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, whatever clients and databases do."""
        cut_off = asyncio.get_running_loop().call_later(SHUTDOWN_SECONDS, self._cut_off)
        try:
            async with asyncio.timeout(SHUTDOWN_SECONDS + LAST_SECONDS):
                await super().shutdown(sockets)
        except TimeoutError:
            logger.warning("the application did not end in time, and is left")
        finally:
            cut_off.cancel()

    def _cut_off(self) -> None:
        """Close what is still open: the application sees that the clients have gone."""
        left = list(self.server_state.connections)
        logger.warning("the server ends and cuts off %d connections that take too long", len(left))
        for connection in left:
            connection.transport.abort()

    def serve_forever(self) -> None:
        """Serve until SIGINT, SIGTERM or `stop`."""
        try:
            asyncio.run(self.serve(sockets=[self.socket]))
        finally:
            self.socket.close()

    def stop(self) -> None:
        """End `serve_forever`; from any thread."""
        self.should_exit = True


def _end() -> None:
    """End the process: nobody waits for it any longer."""
    logger.warning("something still hangs, perhaps a file system: the process ends without it")
    logging.shutdown()
    os._exit(0)


def _first_to_close(listening: socket.socket) -> socket.socket:
    """Return a listening socket under a high descriptor.

    The kernel closes the files of a process that is killed from the highest descriptor
    down. A subscriber whose connection is gone connects again at once; with the
    connections closed first it would reach a socket that nobody serves any more, and a
    stock client takes that for the end, while it tries again where it is refused.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = HIGH_DESCRIPTOR if limit == resource.RLIM_INFINITY else min(limit, HIGH_DESCRIPTOR)
    lowest = max(listening.fileno(), most - LISTENERS)
    with listening:
        return socket.socket(fileno=fcntl.fcntl(listening, fcntl.F_DUPFD_CLOEXEC, lowest))
