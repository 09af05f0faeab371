"""Headers: those that browsers protect users by, and those that a proxy vouches for."""

import re
from collections.abc import Iterable, Sequence

from starlette.types import Scope

Headers = list[tuple[bytes, bytes]]

COUNT_LIMIT = 100
BYTES_LIMIT = 32_000
URL_LIMIT = 16_000

FORWARDED = (b"x-forwarded-", b"forwarded", b"x-real-ip", b"x-tiled-request-id")
"""What only a proxy may say; of a request's id Tiled logs each one that it does not like."""

POLICY = "; ".join(
    (
        "default-src 'self'",
        # The UI sets styles from scripts, and makes pictures and downloads from what it fetched.
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy of everything but Tiled's own two pages."""

_CDN = "https://cdn.jsdelivr.net"

PAGES = (
    (
        re.compile(r"/docs(/oauth2-redirect)?"),
        POLICY.replace(
            "style-src 'self'", f"script-src 'self' 'unsafe-inline' {_CDN}; style-src 'self' {_CDN}"
        ).replace("img-src 'self'", "img-src 'self' https://fastapi.tiangolo.com"),
    ),
    (
        re.compile(r"/|/api/v1/auth/provider/[a-z]+/device_code"),
        POLICY.replace("style-src 'self'", f"style-src 'self' {_CDN}"),
    ),
)
"""Tiled's pages that take their looks from elsewhere."""

COMMON: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
]

TLS = (b"strict-transport-security", b"max-age=31536000")


def protected(headers: Iterable[tuple[bytes, bytes]], path: str, tls: bool) -> Headers:
    """Return a response's headers with those that protect the browser's user."""
    policy = next((policy for page, policy in PAGES if page.fullmatch(path)), POLICY)
    ours = [*COMMON, (b"content-security-policy", policy.encode())]
    if tls:
        ours.append(TLS)
    names = {name for name, _ in ours} | {b"server"}
    kept = [(name, value) for name, value in headers if name.lower() not in names]
    if tls:
        kept = [(n, v + b"; Secure" if n.lower() == b"set-cookie" else v) for n, v in kept]
    return [*kept, *ours]


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
