"""Errors of Tiled that are the client's: answered as such, and nothing else is.

Tiled 0.2.20 answers 500 to some requests that are merely wrong. `CLIENTS_FAULT`
lists what is known, by the type of the exception and the function of Tiled that
raises it (or passes it on). An exception that is not in the list stays what it
is, an internal error, with its traceback in the log.
"""

import logging
import traceback
from collections.abc import Iterable
from dataclasses import dataclass

import httpx
import jwt
from fastapi import FastAPI
from sqlalchemy.exc import InterfaceError, OperationalError
from starlette.requests import Request
from starlette.responses import JSONResponse

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """An exception in a function that means a status.

    Attributes
    ----------
    types : tuple of exception types
    function : str
        ``module.qualified_name`` of a frame in the traceback; "" is any.
    status : int
    detail : str
        What the client is told.
    itself : bool
        The function raises it itself; errors of what it calls are not meant.
    """

    types: tuple[type[Exception], ...]
    function: str
    status: int
    detail: str
    itself: bool = False

    def matches(self, error: Exception) -> bool:
        """Return whether this is it."""
        if not isinstance(error, self.types):
            return False
        functions = _functions(error)
        return not self.function or self.function in (functions[-1:] if self.itself else functions)


_AUTH = "tiled.server.authentication.authentication_router.<locals>."
_ROUTER = "tiled.server.router.get_router.<locals>."

CLIENTS_FAULT = (
    # A session's id that is no UUID, a refresh token that is another token or has expired.
    Known((ValueError,), "tiled.authn_database.core.lookup_valid_session", 404, "No such session"),
    Known((KeyError,), f"{_AUTH}slide_session", 401, "This is no refresh token."),
    Known((KeyError,), f"{_AUTH}revoke_session", 401, "This is no refresh token."),
    Known((jwt.ExpiredSignatureError,), f"{_AUTH}revoke_session", 401, "The session has expired."),
    Known((AttributeError,), f"{_AUTH}revoke_session_by_id", 401, "Log in first.", itself=True),
    # A node that is not writable has no context; data sources are not one.
    Known((AttributeError,), f"{_ROUTER}_create_node", 405, "This node is read-only.", itself=True),
    Known(
        (NotImplementedError,), f"{_ROUTER}_create_node", 422, "Say one data source.", itself=True
    ),
    # Its HTTPException has the text for a status.
    Known(
        (ValueError, TypeError),
        f"{_ROUTER}post_metadata",
        403,
        "Files are registered by the server itself, from the documents of runs.",
        itself=True,
    ),
)

UNAVAILABLE = (
    Known((httpx.HTTPError,), "", 503, "The identity provider does not answer; try again."),
    Known((OperationalError, InterfaceError), "", 503, "The database does not answer; try again."),
)
"""Not the client's fault, and not ours: something that is asked over the network is away."""


def install(app: FastAPI, more: Iterable[Known] = ()) -> None:
    """Answer known errors of the application by their status."""
    known = (*CLIENTS_FAULT, *more, *UNAVAILABLE)

    async def answer(request: Request, error: Exception) -> JSONResponse:
        for one in known:
            if one.matches(error):
                logger.log(
                    logging.WARNING if one in UNAVAILABLE else logging.INFO,
                    "%s %s: %d, for %s: %s",
                    request.method,
                    request.url.path,
                    one.status,
                    type(error).__name__,
                    error,
                )
                headers = {"Retry-After": "5"} if one.status == 503 else None
                return JSONResponse({"detail": one.detail}, one.status, headers)
        raise error

    for kind in {kind for one in known for kind in one.types}:
        app.add_exception_handler(kind, answer)


def _functions(error: Exception) -> list[str]:
    """Return the functions that the error passed through, the one that raised it last."""
    return [
        f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
