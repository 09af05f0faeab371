"""What stands before Tiled's routes: a read-only door, and reads of what grows meanwhile."""

import re
from urllib.parse import parse_qsl, urlencode

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from tiled.ndslice import NDSlice

READ_BY_POST = re.compile(r"/api/v1/(table/(full|partition)|container/full)/")
"""Reads that clients send as POST when the list of columns is too long for a URL."""

BODY_LIMIT = 1 << 20

GROWING = re.compile(r"/api/v1/array/(full|block)/")


class Gate:
    """Let reads of `app` pass, and nothing else.

    - The tree is fed in the process and written by nobody else, so writing
      methods end here (405), before Tiled looks at their bodies.
    - Tiled 0.2.20 serves `/zarr` without asking for a key: 404.
    - There are no subscriptions yet: WebSockets are refused.
    - A client that reads an array says which shape it expects from the structure
      it has. When the array has grown since, Tiled calls that an error; here the
      read is bounded to the rows that the client knows.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            refusal = _refusal(scope)
            if refusal is not None:
                status, reason = refusal
                await JSONResponse({"detail": reason}, status)(scope, receive, send)
                return
            if GROWING.match(scope["path"]):
                scope = {**scope, "query_string": bounded_query(scope["query_string"])}
        await self._app(scope, receive, send)


def _refusal(scope: Scope) -> tuple[int, str] | None:
    path, method = scope["path"], scope["method"]
    if re.match(r"/+zarr(/|$)", path):
        return 404, "The Zarr routes are not served."
    if method in ("GET", "HEAD", "OPTIONS"):
        return None
    if method != "POST" or not READ_BY_POST.match(path):
        return 405, "This server is read-only."
    length = dict(scope["headers"]).get(b"content-length", b"")
    if not length.isdigit():
        return 411, "Say the Content-Length."
    if int(length) > BODY_LIMIT:
        return 413, f"The body may have {BODY_LIMIT} bytes."
    return None


def bounded_query(query: bytes) -> bytes:
    """Return the query of an array read with its slice bounded to the expected shape."""
    fields = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    expected = fields.get("expected_shape", "")
    if not re.fullmatch(r"\d+(,\d+)*", expected):
        return query
    bounded = bounded_slice(fields.get("slice", ""), int(expected.split(",")[0]))
    if bounded is None:
        return query
    fields["slice"] = bounded
    return urlencode(fields).encode("latin-1")


def bounded_slice(text: str, rows: int) -> str | None:
    """Return the slice that takes `rows` rows, or None where that needs no change.

    Parameters
    ----------
    text : str
        A numpy-style slice as clients send it; "" is everything.
    rows : int
        Length of the leading axis of the result that the client expects.
    """
    try:
        first, *rest = NDSlice.from_numpy_str(text) or (slice(None),)
    except ValueError:
        return None  # for Tiled to refuse
    if not isinstance(first, slice) or rows == 0:
        return None
    step = first.step or 1
    start = 0 if first.start is None and step > 0 else first.start
    if start is None or start < 0:
        return None
    stop = start + rows * step
    bounded: str = NDSlice(slice(start, stop if stop >= 0 else None, step), *rest).to_numpy_str()
    return bounded
