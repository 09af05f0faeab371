"""What passes the gate: a list of methods and paths, and nothing else.

Tiled has more routes than a beamline needs, some of them with holes: the raw
assets of a node (a relative path leads out of its directory), registration of
any ``file://`` URI, Zarr without a key. What is not listed here is closed,
also what a later version of Tiled adds.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

READING = frozenset({"GET", "HEAD", "OPTIONS"})

API = "/api/v1"

NAME_BYTES = 255
"""Length of a name in a path: no file system takes longer ones."""

WRITABLE = "live"
"""The tree that services write to; the archive is written by nobody."""


@dataclass(frozen=True, slots=True)
class Route:
    """A method or more on paths that match a regular expression as a whole.

    Attributes
    ----------
    upload : bool
        Whether bodies are files, which may be larger and take longer than requests.
    """

    methods: frozenset[str]
    path: re.Pattern[str]
    upload: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request ends at the gate, as an HTTP status and in words."""

    status: int
    reason: str


def route(methods: str, path: str, *, upload: bool = False) -> Route:
    """Return a route; methods are separated by spaces, OPTIONS and HEAD come with GET."""
    listed = frozenset(methods.split())
    return Route(listed | READING if "GET" in listed else listed, re.compile(path), upload)


PAGES = (
    # Tiled gives away any file of the machine as /ui//PATH, and fails at the UI's directory.
    route("GET", r"/|/favicon\.ico|/tiled-ui-settings|/(ui|static)(/(?!/|assets/?$).*)?"),
    route("GET", r"/openapi\.json|/docs(/oauth2-redirect)?"),
    route("GET", r"/healthz|/health|/ready"),
)

READS = (
    route("GET", rf"{API}/?"),
    route("GET", rf"{API}/(metadata|search|search-deep|distinct|revisions)/.*"),
    route("GET", rf"{API}/array/(full|block)/.*|{API}/ragged/full/.*"),
    route("GET", rf"{API}/(table/(full|partition)|container/full|node/full)/.*"),
    # Clients send reads as POST when the list of columns is too long for a URL.
    route("POST", rf"{API}/(table/(full|partition)|container/full)/.*"),
    route("GET", rf"{API}/metrics"),
)

WRITES = (
    route("POST PUT PATCH DELETE", rf"{API}/metadata/{WRITABLE}(/.*)?"),
    route("PUT PATCH", rf"{API}/array/full/{WRITABLE}/.*"),
    route("PUT", rf"{API}/array/block/{WRITABLE}/.*|{API}/table/full/{WRITABLE}/.*"),
    route("PUT PATCH", rf"{API}/table/partition/{WRITABLE}/.*"),
    route("DELETE", rf"{API}/stream/close/{WRITABLE}/.*"),
)

AUTH = (
    route("POST", rf"{API}/auth/provider/[a-z]+/(token|authorize|device_code)"),
    route("GET", rf"{API}/auth/provider/[a-z]+/(authorize|code|device_code)"),
    route("POST", rf"{API}/auth/(session/(refresh|revoke)|logout)"),
    route("DELETE", rf"{API}/auth/session/revoke/[0-9a-fA-F-]+"),
    route("GET POST DELETE", rf"{API}/auth/apikey"),
    route("GET", rf"{API}/auth/whoami"),
    route("GET", rf"{API}/auth/principal(/[0-9a-fA-F-]+)?"),
    route("POST DELETE", rf"{API}/auth/principal/[0-9a-fA-F-]+/apikey"),
)

ROUTES = (*PAGES, *READS, *WRITES, *AUTH)

SOCKETS = (re.compile(rf"{API}/stream/single/.*"),)

CLOSED = (
    (re.compile(r"/+zarr(/.*)?"), Refusal(404, "The Zarr routes are not served.")),
    (
        re.compile(rf"{API}/asset/.*"),
        Refusal(403, "Raw files are not served: read arrays and tables."),
    ),
    (
        re.compile(rf"{API}/(register|data_source)/.*"),
        Refusal(
            403,
            "Files are registered by the server itself, from the documents of runs, "
            "under the configured directories.",
        ),
    ),
)
"""Doors that people look for: why they are closed."""


class Routes:
    """Decide about methods and paths.

    Parameters
    ----------
    more : iterable of Route
        What passes beside `ROUTES`.
    sockets : iterable of re.Pattern
        Paths of WebSockets beside `SOCKETS`.
    """

    def __init__(self, more: Iterable[Route] = (), sockets: Iterable[re.Pattern[str]] = ()) -> None:
        self._routes = (*ROUTES, *more)
        self._sockets = (*SOCKETS, *sockets)

    def refusal(self, method: str, path: str) -> Refusal | None:
        """Return why a request does not pass, or None if it does."""
        if (odd := _oddity(path)) is not None:
            return odd
        found = [route for route in self._routes if route.path.fullmatch(path)]
        if any(method in route.methods for route in found):
            return None
        for closed, refusal in CLOSED:
            if closed.fullmatch(path):
                return refusal
        if found:
            return Refusal(405, f"This is read-only: {method} is not served here.")
        if method not in READING:
            return Refusal(405, "This is read-only: only runs below /live are written.")
        return Refusal(404, "There is nothing here.")

    def is_upload(self, method: str, path: str) -> bool:
        """Return whether the body of a request that passes is a file."""
        return any(
            route.upload and method in route.methods and route.path.fullmatch(path)
            for route in self._routes
        )

    def admits_socket(self, path: str) -> bool:
        """Return whether a WebSocket is served here."""
        return _oddity(path) is None and any(p.fullmatch(path) for p in self._sockets)


def _oddity(path: str) -> Refusal | None:
    """Refuse paths that something before or behind us may read in another way."""
    # The replacement character is what is left of bytes that are no UTF-8.
    if not path.isprintable() or "\\" in path or "\N{REPLACEMENT CHARACTER}" in path:
        return Refusal(400, "The path has characters that no path here has.")
    segments = path.split("/")
    if any(segment in (".", "..") or len(segment.encode()) > NAME_BYTES for segment in segments):
        return Refusal(404, "There is nothing here.")
    return None
