"""The offline DB's database: its connections, and its tables, which are made and upgraded here."""

import fcntl
import os
import sqlite3
import time
from asyncio import Runner
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from tiled.alembic_utils import UninitializedDatabase, check_database
from tiled.alembic_utils import upgrade as upgrade_tiled
from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
from tiled.catalog.core import ALL_REVISIONS, REQUIRED_REVISION, initialize_database
from tiled.server.connection_pool import close_database_connection_pool, get_database_engine
from tiled.server.settings import DatabaseSettings
from tiled.utils import ensure_specified_sql_driver

from p06bs.bus.closing import Closing
from p06bs.server.archive import filling, schema
from p06bs.server.gate.databases import ERRORS, cause_of, fault_of
from p06bs.server.gate.redact import redacted
from p06bs.server.login.private import make_private

INITIALIZE_SECONDS = 15.0
"""For which another process may be making the tables."""

P = ParamSpec("P")
T = TypeVar("T")


class UnavailableError(RuntimeError):
    """Database or storage cannot be used now; it says why. What failed is tried again later."""


class RefusedError(ValueError):
    """The database does not take the values; it says why. To try again does not help."""


class Database(Closing):
    """Transactions on the offline DB for a process without an event loop.

    Parameters
    ----------
    uri : str
        ``sqlite:///PATH`` or ``postgresql://USER@HOST/NAME``.
    """

    def __init__(self, uri: str) -> None:
        self._shown = redacted(make_url(uri).render_as_string())
        self._settings = DatabaseSettings(uri=ensure_specified_sql_driver(uri))
        self._runner = Runner()
        self._engine: AsyncEngine = self._runner.run(_engine(self._settings))

    def __call__(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return ``work(connection, ...)``, which is one transaction.

        Raises
        ------
        UnavailableError
            If the database fails or does not answer, whatever the work.
        RefusedError
            If it does not take the values.
        """

        async def transaction(engine: AsyncEngine) -> T:
            async with engine.begin() as connection:
                return await connection.run_sync(lambda c: work(c, *args, **kwargs))

        return self.run(transaction)

    def run(self, work: Callable[[AsyncEngine], Coroutine[Any, Any, T]]) -> T:
        """Return what asynchronous work on the engine returns; raises as a transaction does."""
        try:
            return self._runner.run(work(self._engine))
        except ERRORS as error:
            fault = fault_of(error)
            if fault == "values":
                raise RefusedError(f"the database does not take it: {cause_of(error)}") from error
            if fault == "other" and isinstance(error, OSError):  # of files
                raise
            raise UnavailableError(self._explained(cause_of(error))) from error

    def _explained(self, cause: BaseException) -> str:
        if not isinstance(cause, OSError):  # it answers
            return f"the database {self._shown} fails: {cause}"
        return (
            f"the database {self._shown} does not answer "
            f"(does it run, and is [server.archive] database right?): {cause}"
        )

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(close_database_connection_pool(self._settings))
        self._runner.close()


async def _engine(settings: DatabaseSettings) -> AsyncEngine:
    engine: AsyncEngine = get_database_engine(settings)
    return engine


def initialize(uri: str) -> None:
    """Make the tables of Tiled's catalog and ours where there are none; nothing else changes.

    Server and ingestion may do so at the same time.
    """
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        make_private(path)  # what it says of runs is for those who may see them
        # Who reads does not wait for who writes. (Tiled asks for this within a transaction,
        # where SQLite does not listen.)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    with _alone(uri), Database(uri) as database:
        until = time.monotonic() + INITIALIZE_SECONDS
        while True:
            try:
                database.run(_initialize_tiled)
                database(schema.create)
                return
            except (UnavailableError, RefusedError):  # another process is at it, or it is not there
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Let one process at a time make the tables in a file: two at once leave them half-made."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    path = f"{uri.removeprefix('sqlite:///')}.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


async def _initialize_tiled(engine: AsyncEngine) -> None:
    try:
        await check_database(engine, REQUIRED_REVISION, ALL_REVISIONS)
    except UninitializedDatabase:
        await initialize_database(engine)
        async with engine.begin() as connection:
            await connection.run_sync(_stamp)


def _stamp(connection: Connection) -> None:
    """Note the revision of Tiled's tables, as ``tiled catalog init`` does."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    MigrationContext.configure(connection).stamp(ScriptDirectory(str(ALEMBIC_DIR)), "head")


def upgrade(uri: str, has_maps: filling.HasMaps) -> None:
    """Bring Tiled's tables and ours to the versions that this software needs."""
    upgrade_tiled(ALEMBIC_INI_TEMPLATE_PATH, ALEMBIC_DIR, ensure_specified_sql_driver(uri), "head")
    with Database(uri) as database:
        database(filling.upgrade, has_maps)
