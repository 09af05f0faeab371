"""The Tiled application over the sink, its API key, and the server that runs it on loopback."""

import asyncio
import ipaddress
import os
import secrets
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp
from tiled.adapters.mapping import MapAdapter
from tiled.config import Authentication
from tiled.server import app as tiled_app

from p06bs.server.arrays import RESPONSE_LIMIT
from p06bs.server.gate import Gate
from p06bs.server.sink import Sink
from p06bs.server.tree import runs_adapter

SHUTDOWN_SECONDS = 5


def build_app(sink: Sink, api_key: str, healthy: Callable[[], bool] = lambda: True) -> ASGIApp:
    """Return the ASGI application that serves the sink as ``/live``.

    Everything but the UI, its documentation and the health routes needs the
    key: ``Authorization: Apikey KEY``, or ``?api_key=KEY``.

    Parameters
    ----------
    sink : Sink
        Fed by somebody else, in this process.
    api_key : str
        Letters and digits.
    healthy : callable
        Asked by ``/health``, which answers 503 where it says False. (Tiled's own
        ``/healthz`` says that the process answers, no more.)

    Raises
    ------
    ValueError
        If the key is empty or has other characters than letters and digits.
    """
    check_key(api_key)
    # Below "/", because Tiled runs the background tasks of a tree at "/" twice.
    app = tiled_app.build_app(
        MapAdapter({"live": runs_adapter(sink)}),
        authentication=Authentication(single_user_api_key=api_key, allow_anonymous_access=False),
        server_settings={
            "expose_raw_assets": False,
            "allow_origins": [],
            "response_bytesize_limit": RESPONSE_LIMIT,
        },
    )

    async def health() -> JSONResponse:
        good = healthy()
        return JSONResponse({"status": "ok" if good else "failed"}, 200 if good else 503)

    app.add_api_route("/health", health)
    return Gate(app)


def check_key(api_key: str) -> str:
    """Return the key if Tiled takes it.

    Raises
    ------
    ValueError
        If it is empty or has other characters than letters and digits.
    """
    if not (api_key.isascii() and api_key.isalnum()):
        raise ValueError("an API key consists of letters and digits, and of some")
    return api_key


def key_of(path: Path) -> str:
    """Return the API key in the file, making key and file where there is none.

    Raises
    ------
    PermissionError
        If others than the owner may read or write the file.
    ValueError
        If what it holds is no key.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise PermissionError(
                f"{path} holds the API key and has mode {mode:o}: others may not read it "
                f"(chmod 600 {path})"
            ) from None
        return check_key(path.read_text().strip())
    key = secrets.token_hex(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{key}\n")
    return key


class LoopbackServer(uvicorn.Server):
    """Run an application on a loopback address, which is bound when this is made.

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
    ) -> None:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        if not address.is_loopback:
            raise ValueError(
                f"refusing to listen on {host}: this server has no TLS, only loopback is safe; "
                "reach it through an SSH tunnel"
            )
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        self.socket = socket.create_server((str(address), port), family=family)
        # Connections inherit it. asyncio sets it only where a socket names its protocol, and
        # without it a small response waits 40 ms for the client's delayed acknowledgement.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound = self.socket.getsockname()[1]
        name = f"[{address}]" if address.version == 6 else str(address)
        self.url = f"http://{name}:{bound}"
        self._ready = ready
        super().__init__(
            uvicorn.Config(
                app,
                # Access logs would show keys that came as ?api_key=.
                access_log=False,
                log_level="warning",
                lifespan="on",
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
                ws="websockets-sansio",
                ws_per_message_deflate=False,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self._ready(self.url)

    def serve_forever(self) -> None:
        """Serve until SIGINT, SIGTERM or `stop`."""
        try:
            asyncio.run(self.serve(sockets=[self.socket]))
        finally:
            self.socket.close()

    def stop(self) -> None:
        """End `serve_forever`; from any thread."""
        self.should_exit = True
