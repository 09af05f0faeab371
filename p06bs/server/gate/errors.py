"""Errors of Tiled that are the client's: answered as such, and nothing else is.

Tiled 0.2.20 answers 500 to some requests that are merely wrong. `CLIENTS_FAULT`
lists what is known, by the type of the exception and the function of Tiled that
raises it (or passes it on). An exception that is not in the list stays what it
is, an internal error, with its traceback in the log.
"""

import json
import logging
import re
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.status import WS_1008_POLICY_VIOLATION as POLICY_VIOLATION
from starlette.status import WS_1013_TRY_AGAIN_LATER as TRY_LATER
from starlette.websockets import WebSocket, WebSocketState
from tiled.adapters.utils import DataNotReadyError

from p06bs.server.gate.databases import ERRORS, NO_ANSWER, fault_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """An exception in a function that means a status.

    Attributes
    ----------
    types : tuple of exception types
    function : str
        Regular expression of the ``module.qualified_name`` of a function that the
        exception passed through.
    status : int
    detail : str
        What the client is told.
    itself : bool
        The function raises it itself; errors of what it calls are not meant.
    when : callable
        Says of such an error whether it is meant.
    """

    types: tuple[type[Exception], ...]
    function: str
    status: int
    detail: str
    itself: bool = False
    when: Callable[[Exception], bool] = lambda error: True

    def matches(self, error: Exception) -> bool:
        """Return whether this is it."""
        if not (isinstance(error, self.types) and self.when(error)):
            return False
        functions = _functions(error)
        return any(
            re.fullmatch(self.function, name)
            for name in (functions[-1:] if self.itself else functions)
        )


_AUTH = r"tiled\.server\.authentication\.authentication_router\.<locals>\."
_ROUTER = r"tiled\.server\.router\.get_router\.<locals>\."
_READ_ONLY = "This node is read-only."
_SAY_TYPE = "Say the media type in a header, Content-Type."

CLIENTS_FAULT = (
    # A session's id that is no UUID, a refresh token that is another token or has expired.
    Known(
        (ValueError,), r"tiled\.authn_database\.core\.lookup_valid_session", 404, "No such session."
    ),
    Known((KeyError,), rf"{_AUTH}(slide|revoke)_session", 401, "This is no refresh token."),
    Known((jwt.ExpiredSignatureError,), rf"{_AUTH}revoke_session", 401, "The session has expired."),
    Known((AttributeError,), rf"{_AUTH}revoke_session_by_id", 401, "Log in first.", itself=True),
    Known(
        (OverflowError,),
        r"tiled\.server\.authentication\.generate_apikey",
        422,
        "expires_in is seconds, not ages.",
        itself=True,
    ),
    # What would be below a file of the UI.
    Known(
        (NotADirectoryError,),
        r"tiled\.server\.app\.build_app\.<locals>\.lookup_file",
        404,
        "There is nothing here.",
    ),
    # Nodes without these methods.
    Known(
        (AttributeError,), rf"{_ROUTER}(_create_node|close_stream)", 405, _READ_ONLY, itself=True
    ),
    Known(
        (NotImplementedError,), rf"{_ROUTER}_create_node", 422, "Say one data source.", itself=True
    ),
    # Its HTTPException has the text for a status.
    Known(
        (ValueError, TypeError),
        rf"{_ROUTER}post_metadata",
        403,
        "Files are registered by the server itself, from the documents of runs.",
        itself=True,
    ),
    # Operations of a JSON patch that are none.
    Known(
        (KeyError, TypeError, AttributeError),
        r"tiled\.server\.schemas\.\w+\.specs_uniqueness_validator(\.<locals>\.<\w+>)?",
        422,
        "A patch has operations with op, path and value.",
        itself=True,
    ),
    # "scalar" where numbers are meant, and numbers of more than 4300 digits.
    Known(
        (ValueError,),
        r"tiled\.server\.dependencies\.\w*(shape|offset)\w*",
        422,
        "A shape or offset is a few numbers.",
        itself=True,
    ),
    Known((ValueError,), r"tiled\.utils\.parse_mimetype", 406, "This is no media type.", True),
    # A structure of an array or a table in which something is missing, or of another type.
    Known(
        (KeyError, TypeError, AttributeError, IndexError),
        r"tiled\.server\.schemas\.PostMetadataRequest\.narrow_structure_type",
        422,
        "The structure of a data source is incomplete.",
    ),
    # What is written: in a media type that nobody reads, or in none.
    Known(
        (ValueError,),
        r"tiled\.media_type_registration\.SerializationRegistry\.dispatch",
        415,
        "Data of this media type are not taken.",
        itself=True,
    ),
    Known((KeyError,), r"starlette\.datastructures\.Headers\.__getitem__", 415, _SAY_TYPE, True),
    # Conditions of queries: fields that are missing, values that are no JSON.
    Known((TypeError,), r"tiled\.server\.core\.apply_search", 400, "A query lacks a field.", True),
    Known(
        (ValueError, TypeError), r"tiled\.queries\.\w+\.decode", 400, "A query's value is wrong."
    ),
)

UNAVAILABLE = (
    Known((httpx.HTTPError,), ".*", 503, "The identity provider does not answer; try again."),
    Known(
        ERRORS,
        ".*",
        503,
        NO_ANSWER,
        when=lambda error: fault_of(error) == "away",
    ),
    # Tiled says so of arrays, not of tables.
    Known((DataNotReadyError,), ".*", 503, "Rows cannot be read (yet): try again."),
)
"""Not the client's fault, and not ours: something that is asked over the network is away."""

NO_INTERNAL_ERROR = (
    (re.compile("The shape expected from the structure"), 422),
    (re.compile("Block index out of range"), 400),
)
"""What Tiled raises as HTTP 500 on purpose, and should not."""


class PlainJSON(JSONResponse):
    """JSON of what a client may have sent: also numbers and characters that JSON has not."""

    def render(self, content: Any) -> bytes:
        """Return it as ASCII."""
        return json.dumps(content, ensure_ascii=True, default=repr).encode("ascii")


def install(app: FastAPI, more: Iterable[Known] = ()) -> None:
    """Answer known errors of the application by their status."""
    known = (*CLIENTS_FAULT, *more, *UNAVAILABLE)

    async def answer(asked: Request | WebSocket, error: Exception) -> Response | None:
        for one in known:
            if one.matches(error):
                logger.log(
                    logging.WARNING if one in UNAVAILABLE else logging.INFO,
                    "%s %r: %d, for %s: %.200s",
                    asked.scope.get("method", "WebSocket"),
                    asked.url.path,
                    one.status,
                    type(error).__name__,
                    error,
                )
                later = one.status == 503
                headers = {"Retry-After": "5"} if later else None
                said = PlainJSON({"detail": one.detail}, one.status, headers)
                if isinstance(asked, Request):
                    return said
                if asked.application_state is WebSocketState.CONNECTING:
                    await asked.send_denial_response(said)
                else:
                    await asked.close(TRY_LATER if later else POLICY_VIOLATION, one.detail)
                return None
        raise error

    handler: Any = answer  # Starlette annotates those of requests and of WebSockets apart
    for kind in {kind for one in known for kind in one.types}:
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)


async def _invalid(request: Request, error: Exception) -> Response:
    """Say what is wrong with a request and where, not with which value: that may be anything."""
    assert isinstance(error, RequestValidationError)
    problems = [{name: one.get(name) for name in ("type", "loc", "msg")} for one in error.errors()]
    return PlainJSON({"detail": problems}, 422)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    if status == 500:
        found = [s for detail, s in NO_INTERNAL_ERROR if detail.match(str(error.detail))]
        status = found[0] if found else status
    if status in (204, 304):
        return Response(status_code=status, headers=error.headers)
    return PlainJSON({"detail": error.detail}, status, error.headers)


def _functions(error: Exception) -> list[str]:
    """Return the functions that the error passed through, the one that raised it last."""
    return [
        f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
