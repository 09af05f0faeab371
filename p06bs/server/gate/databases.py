"""Whose fault an error of a database is: the database's, which is away, or that of the values.

PostgreSQL says it by the SQLSTATE: SQLAlchemy knows most errors of asyncpg as `DBAPIError` only,
and leaves what is raised while connecting as it is.
"""

import traceback
from typing import Literal

import asyncpg
from sqlalchemy import exc

Fault = Literal["away", "values", "other"]

ERRORS: tuple[type[Exception], ...] = (
    exc.DBAPIError,
    exc.TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""What a database can raise; errors of files are among them, and are ``other``."""

NO_ANSWER = "The database does not answer; try again."

AWAY = ("08", "40", "53", "57", "58")
"""Classes of SQLSTATE: connection, rollback, too few resources, an operator, the system."""

VALUES = ("22", "23", "54")
"""Data, constraints, limits of the program."""


def fault_of(error: Exception) -> Fault:
    """Return whether a database is ``away`` (to try again helps), or does not take ``values``.

    ``other`` is everything else: a statement that is wrong, a table that is missing.
    """
    if state := state_of(error):
        return "away" if state[:2] in AWAY else "values" if state[:2] in VALUES else "other"
    if isinstance(error, exc.DataError | exc.IntegrityError):
        return "values"
    if isinstance(cause_of(error), asyncpg.DataError):  # found by asyncpg, before it is sent
        return "values"
    if isinstance(error, OSError):
        return "away" if _through_asyncpg(error) else "other"
    away = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)
    return "away" if isinstance(error, (*away, *ERRORS[2:])) else "other"


def state_of(error: Exception) -> str:
    """Return the SQLSTATE, empty where there is none (as always with SQLite)."""
    return getattr(cause_of(error), "sqlstate", None) or ""


def cause_of(error: Exception) -> BaseException:
    """Return the driver's own error, which says what is wrong in the fewest words."""
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def _through_asyncpg(error: Exception) -> bool:
    names = (f.f_globals.get("__name__", "") for f, _ in traceback.walk_tb(error.__traceback__))
    return any(name.startswith("asyncpg.") for name in names)
