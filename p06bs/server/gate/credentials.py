"""What somebody shows at the door: keys and tokens in headers, cookies and URLs."""

import hashlib
import json
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import HTTPConnection
from starlette.types import Message, Scope
from tiled.server.utils import API_KEY_COOKIE_NAME, API_KEY_QUERY_PARAMETER

from p06bs.server.gate.bodies import RefusedError

SECRET_PARAMETERS = frozenset({API_KEY_QUERY_PARAMETER, "access_token", "refresh_token"})


@dataclass(frozen=True, slots=True)
class Shown:
    """Credentials of a request. They are compared by digest and never kept.

    Attributes
    ----------
    api_keys : tuple of str
        Of which Tiled takes the first: query, header, cookie.
    bearer : bool
        There is a session's access token; it is signed, so that nobody guesses one.
    cookie : bool
        There is a key in a cookie, which a browser sends by itself.
    """

    api_keys: tuple[str, ...]
    bearer: bool
    cookie: bool

    @property
    def digest(self) -> bytes | None:
        """Return the digest of the API key that counts, None without one."""
        return digest(self.api_keys[0]) if self.api_keys else None


def digest(secret: str) -> bytes:
    """Return what a secret is remembered by."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def shown(scope: Scope) -> Shown:
    """Return the credentials of a request, read as Tiled reads them.

    Read in another way, a key could pass here unseen and count there.
    """
    request = HTTPConnection(scope)
    scheme, secret = get_authorization_scheme_param(request.headers.get("authorization"))
    query = request.query_params.get(API_KEY_QUERY_PARAMETER)
    header = secret if scheme.lower() == "apikey" else ""
    cookie = request.cookies.get(API_KEY_COOKIE_NAME)
    keys = tuple(key for key in (query, header, cookie) if key)
    return Shown(keys, scheme.lower() == "bearer", bool(cookie))


def header_key(scope: Scope) -> str | None:
    """Return the API key of the Authorization header, the only one that WebSockets look at."""
    header = HTTPConnection(scope).headers.get("authorization")
    scheme, secret = get_authorization_scheme_param(header)
    return secret if scheme.lower() == "apikey" and secret else None


def check_ascii(scope: Scope) -> None:
    """Refuse credentials with other characters: Tiled compares them as ASCII only.

    Raises
    ------
    RefusedError
        With status 401.
    """
    for name, value in scope["headers"]:
        if name in (b"authorization", b"cookie", b"x-csrf") and not value.isascii():
            raise RefusedError(401, f"The header {name.decode()} is ASCII.")
    if not all(key.isascii() for key in shown(scope).api_keys):
        raise RefusedError(401, "Invalid API key")


def check_csrf(scope: Scope) -> None:
    """Refuse writes that a browser may have been talked into.

    Tiled wants the token of its cookie in a header or in the URL, and fails on the latter.

    Raises
    ------
    RefusedError
        With status 403.
    """
    header = any(name == b"x-csrf" and value for name, value in scope["headers"])
    if shown(scope).cookie and not header:
        raise RefusedError(403, "With a cookie, send the token of tiled_csrf as the header x-csrf.")


def without_secrets(query: bytes) -> bytes:
    """Return a query string without keys and tokens."""
    fields = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    kept = [(name, value) for name, value in fields if name not in SECRET_PARAMETERS]
    return urlencode(kept).encode("latin-1")


def session_token(scope: Scope) -> str:
    """Return the access token of a session that a request shows, empty if it shows none."""
    header = HTTPConnection(scope).headers.get("authorization")
    scheme, secret = get_authorization_scheme_param(header)
    return secret if scheme.lower() == "bearer" else ""


def socket_session_token(scope: Scope) -> str:
    """Return the access token of a session in a WebSocket's URL, empty if there is none."""
    query = parse_qsl(scope["query_string"].decode("latin-1"))  # leaves empty ones out
    return next((value for name, value in query if name == "access_token"), "")


def first_message_secrets(message: Message) -> tuple[str | None, str]:
    """Return the API key and the access token of a WebSocket's first message, as browsers send it.

    Raises
    ------
    RefusedError
        With status 401, if it holds credentials that none can be.
    """
    text = message.get("text")
    try:
        content = json.loads(text if text is not None else message.get("bytes") or b"")
    except (ValueError, RecursionError):
        return None, ""  # for Tiled to refuse
    if not isinstance(content, dict):
        return None, ""
    for name in ("api_key", "access_token"):
        secret = content.get(name)
        if secret is not None and not (isinstance(secret, str) and secret.isascii()):
            raise RefusedError(401, f"{name} is ASCII text.")
    return content.get("api_key"), content.get("access_token") or ""
