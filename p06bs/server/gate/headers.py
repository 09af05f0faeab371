"""Headers of requests: how many, how long, and what only a proxy may say."""

from collections.abc import Sequence

from starlette.types import Scope

HeaderList = list[tuple[bytes, bytes]]

COUNT_LIMIT = 100
BYTES_LIMIT = 32_000
URL_LIMIT = 16_000

FORWARDED = (b"x-forwarded-", b"forwarded", b"x-real-ip", b"x-tiled-request-id")
"""What only a proxy may say; of a request's id Tiled logs each one that it does not like."""


def without_forwarded(scope: Scope) -> Scope:
    """Return the request without what a proxy would say.

    Tiled takes the host of its links from X-Forwarded-Host, whoever sent it:
    with a cache between, others would get links to a stranger's host.
    """
    kept = [(n, v) for n, v in scope["headers"] if not n.startswith(FORWARDED)]
    return scope if len(kept) == len(scope["headers"]) else {**scope, "headers": kept}


def behind_proxy(scope: Scope) -> Scope:
    """Return the request as the client sent it to our proxy, which sets X-Forwarded-*.

    The last address is the one that the proxy saw; those before it the client
    may have made up.
    """
    told = {n: v.decode("latin-1") for n, v in scope["headers"] if n.startswith(b"x-forwarded-")}
    changed = dict(scope)
    if address := told.get(b"x-forwarded-for", "").rpartition(",")[2].strip():
        changed["client"] = (address, 0)
    protocol = told.get(b"x-forwarded-proto", "")
    if protocol in ("http", "https"):
        websocket = scope["type"] == "websocket"
        changed["scheme"] = protocol.replace("http", "ws") if websocket else protocol
    return changed


def oversized(scope: Scope) -> tuple[int, str] | None:
    """Return status and reason if URL or headers are too long, else None."""
    url = len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])
    if url > URL_LIMIT:
        return 414, f"The URL has {url} bytes, {URL_LIMIT} are the limit; long lists go by POST."
    headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
    if len(headers) > COUNT_LIMIT or sum(len(n) + len(v) for n, v in headers) > BYTES_LIMIT:
        return 431, f"The headers may have {BYTES_LIMIT} bytes, and be {COUNT_LIMIT}."
    return None


def header(scope: Scope, name: bytes) -> str:
    """Return a request's header, "" without it."""
    return next((v.decode("latin-1") for n, v in scope["headers"] if n == name), "")
