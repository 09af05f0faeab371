"""The Tiled application over the sink, and its API key."""

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp
from tiled.adapters.mapping import MapAdapter
from tiled.config import Authentication
from tiled.server import app as tiled_app

from p06bs.server import errors, serializers
from p06bs.server.arrays import RESPONSE_LIMIT
from p06bs.server.documents import serialization_registry
from p06bs.server.gate import Gate
from p06bs.server.handshake import Handshake
from p06bs.server.in_flight import InFlight
from p06bs.server.live import Live
from p06bs.server.loopback import LoopbackServer
from p06bs.server.routes import Routes
from p06bs.server.serializers import LinesForPages
from p06bs.server.sink import Sink
from p06bs.server.sink_routes import ROUTES, sink_router
from p06bs.server.streamed import stream_arrays
from p06bs.server.tree import runs_adapter

__all__ = ["LoopbackServer", "build_app", "check_key", "key_of"]


def build_app(
    sink: Sink,
    api_key: str,
    healthy: Callable[[], bool] = lambda: True,
    filled: Callable[[], bool] = lambda: True,
    logs: Path | None = None,
) -> ASGIApp:
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
    filled : callable
        Says whether the sink has been filled from the logs; WebSockets wait for it.
    logs : Path, optional
        Directory of the logs, from which the documents of runs are exported.

    Raises
    ------
    ValueError
        If the key is empty or has other characters than letters and digits.
    """
    check_key(api_key)
    registry = serialization_registry(logs)
    serializers.register(registry)
    # Below "/", because Tiled runs the background tasks of a tree at "/" twice.
    app = tiled_app.build_app(
        MapAdapter({"live": runs_adapter(sink, live=Live(sink))}),
        authentication=Authentication(single_user_api_key=api_key, allow_anonymous_access=False),
        server_settings={
            "expose_raw_assets": False,
            "allow_origins": [],
            "response_bytesize_limit": RESPONSE_LIMIT,
        },
        serialization_registry=registry,
    )

    async def health() -> JSONResponse:
        good = healthy()
        return JSONResponse({"status": "ok" if good else "failed"}, 200 if good else 503)

    app.add_api_route("/health", health)
    app.include_router(sink_router(sink))
    stream_arrays(app)
    errors.install(app)
    return Gate(LinesForPages(Handshake(InFlight(app), filled)), routes=Routes(ROUTES))


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
