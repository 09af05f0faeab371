"""Write runs into the offline DB: Tiled's nodes, the index beside them, what became of each log."""

import json
import sqlite3
import time
from asyncio import Runner
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from sqlalchemy import Connection, delete, exists, func, insert, select, text, update
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from tiled.alembic_utils import UninitializedDatabase, check_database
from tiled.alembic_utils import upgrade as upgrade_tiled
from tiled.catalog import orm
from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
from tiled.catalog.core import ALL_REVISIONS, REQUIRED_REVISION, initialize_database
from tiled.server.connection_pool import close_database_connection_pool, get_database_engine
from tiled.server.schemas import Management
from tiled.server.settings import DatabaseSettings
from tiled.structures.core import StructureFamily
from tiled.utils import ensure_specified_sql_driver

from p06bs.bus.closing import Closing
from p06bs.metadata import folder_of
from p06bs.server.archive import schema
from p06bs.server.archive.schema import COLUMNS, FOLDERS, LOGS, RUNS

RUN_MIMETYPE = "application/x-p06bs-run"
"""Of a run's directory in the archive."""

SPECS = [{"name": "BlueskyRun", "version": "3.0"}]

INITIALIZE_SECONDS = 15.0
"""For which another process may be making the tables."""

State = Literal["complete", "incomplete", "quarantined", "retry"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Log:
    """What became of a log, and what it was like then.

    Attributes
    ----------
    state : str
        ``complete`` and ``incomplete`` runs are in the archive, ``quarantined`` ones are not
        for the given reason; ``retry`` asks the ingestion to try again.
    nbytes, changed : int
        Size and time of the last change (ns) of the log.
    generation : int
        Number of the run's directory.
    """

    run: str
    state: State
    nbytes: int
    changed: int
    generation: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run whose files are written, as the database shows it.

    Attributes
    ----------
    metadata : mapping
        ``start``, and ``stop`` where there is one; plain JSON (see `searchable`).
    streams : sequence of str
        Names of its children.
    directory : Path
        Of its files.
    assets : sequence of (str, bool)
        URIs of the files of its detectors, and whether each is a directory.
    """

    log: Log
    metadata: Mapping[str, Any]
    streams: Sequence[str]
    directory: Path
    assets: Sequence[tuple[str, bool]] = ()


class UnavailableError(RuntimeError):
    """Database or storage cannot be used now; it says why. What failed is tried again later."""


class Database(Closing):
    """Transactions on the offline DB for a process without an event loop.

    Parameters
    ----------
    uri : str
        ``sqlite:///PATH`` or ``postgresql://USER@HOST/NAME``.
    """

    def __init__(self, uri: str) -> None:
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
        sqlalchemy.exc.DataError
            If it does not take the values.
        """

        async def transaction() -> T:
            async with self._engine.begin() as connection:
                return await connection.run_sync(lambda c: work(c, *args, **kwargs))

        try:
            return self._runner.run(transaction())
        except DataError:
            raise
        except DBAPIError as error:
            raise UnavailableError(f"the database fails: {error.orig}") from error
        except (ConnectionError, TimeoutError) as error:  # asyncpg's, before there is a connection
            raise UnavailableError(f"the database does not answer: {error}") from error

    def run(self, work: Callable[[AsyncEngine], Coroutine[Any, Any, T]]) -> T:
        """Return what asynchronous work on the engine returns."""
        return self._runner.run(work(self._engine))

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
        path.parent.mkdir(parents=True, exist_ok=True)
        # Who reads does not wait for who writes. (Tiled asks for this within a transaction,
        # where SQLite does not listen.)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    with Database(uri) as database:
        until = time.monotonic() + INITIALIZE_SECONDS
        while True:
            try:
                database.run(_initialize_tiled)
                database(schema.create)
                return
            except (
                DBAPIError,
                UnavailableError,
            ):  # another process is at it, or the database is not there
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)


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


def upgrade(uri: str) -> None:
    """Bring Tiled's tables and ours to the versions that this software needs."""
    upgrade_tiled(ALEMBIC_INI_TEMPLATE_PATH, ALEMBIC_DIR, ensure_specified_sql_driver(uri), "head")
    with Database(uri) as database:
        database(schema.upgrade)


def put_runs(connection: Connection, records: Iterable[RunRecord]) -> None:
    """Show runs, in place of what was shown of them before."""
    for record in records:
        _put_run(connection, record)


def put_log(connection: Connection, log: Log) -> None:
    """Note what became of a log."""
    connection.execute(delete(LOGS).where(LOGS.c.run == log.run))
    connection.execute(
        insert(LOGS).values(
            run=log.run,
            state=log.state,
            nbytes=log.nbytes,
            changed=log.changed,
            generation=log.generation,
            reason=log.reason,
            time=time.time(),
        )
    )


def logs(connection: Connection, *states: State) -> list[Log]:
    """Return what became of the logs, of those in the given states if any are given."""
    fields = (LOGS.c[name] for name in Log.__dataclass_fields__)
    statement = select(*fields).order_by(LOGS.c.time)
    if states:
        statement = statement.where(LOGS.c.state.in_(states))
    return [Log(*row) for row in connection.execute(statement)]


def counts(connection: Connection) -> dict[str, int]:
    """Return the number of logs by state."""
    statement = select(LOGS.c.state, func.count()).group_by(LOGS.c.state)
    return {row.state: row[1] for row in connection.execute(statement)}


def newest(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """Return what the index says of the runs that began last, the last one last."""
    fields = (RUNS.c[field.column] for field in COLUMNS)
    statement = select(*fields).order_by(RUNS.c.time.desc(), RUNS.c.node_id.desc()).limit(limit)
    return [dict(row) for row in connection.execute(statement).mappings()][::-1]


def ask_retry(connection: Connection, run: str) -> bool:
    """Ask the ingestion to try a run again; return False where the run is not known."""
    done = connection.execute(update(LOGS).where(LOGS.c.run == run).values(state="retry"))
    return done.rowcount > 0


def analyze(connection: Connection) -> None:
    """Let the database look at how the index is filled, so that it plans queries well."""
    for table in schema.of_runs(connection):
        connection.execute(text(f"ANALYZE {table.name}"))


def _put_run(connection: Connection, record: RunRecord) -> None:
    log, nodes = record.log, orm.Node.__table__
    found = select(nodes.c.id).where(nodes.c.parent == 0, nodes.c.key == log.run)
    node_id = connection.execute(found).scalar_one_or_none()
    shown = {"metadata": record.metadata, "specs": SPECS}
    if node_id is None:
        made = connection.execute(
            insert(nodes).values(
                key=log.run, parent=0, structure_family=StructureFamily.container, **shown
            )
        )
        assert made.inserted_primary_key is not None
        node_id = made.inserted_primary_key[0]
    else:
        connection.execute(update(nodes).where(nodes.c.id == node_id).values(**shown))
        for table in schema.of_runs(connection):
            connection.execute(delete(table).where(table.c.node_id == node_id))
        _forget_data_sources(connection, node_id)
    _put_data_source(connection, node_id, record)
    schema.put_index(
        connection,
        record.metadata,
        node_id=node_id,
        folder_id=_folder(connection, folder_of(record.metadata["start"]) or ""),
        generation=log.generation,
        streams=json.dumps(list(record.streams)),
    )
    put_log(connection, log)


def _folder(connection: Connection, path: str) -> int:
    found = connection.execute(select(FOLDERS.c.id).where(FOLDERS.c.path == path)).scalar()
    if found is None:
        made = connection.execute(insert(FOLDERS).values(path=path)).inserted_primary_key
        assert made is not None
        found = made[0]
    return int(found)


def _put_data_source(connection: Connection, node_id: int, record: RunRecord) -> None:
    """Describe the run's files as Tiled does, so that a stock catalog can serve them, too."""
    made = connection.execute(
        insert(orm.DataSource.__table__).values(
            node_id=node_id,
            structure_family=StructureFamily.container,
            mimetype=RUN_MIMETYPE,
            parameters={},
            properties={},
            management=Management.external,
        )
    ).inserted_primary_key
    assert made is not None
    own = (f"file://localhost{record.directory.absolute()}", True)
    for uri, is_directory in dict.fromkeys((own, *record.assets)):
        connection.execute(
            insert(orm.DataSourceAssetAssociation.__table__).values(
                data_source_id=made[0],
                asset_id=_asset(connection, uri, is_directory),
                parameter="data_uri" if uri == own[0] else None,
            )
        )


def _asset(connection: Connection, uri: str, is_directory: bool) -> int:
    assets = orm.Asset.__table__
    found = connection.execute(select(assets.c.id).where(assets.c.data_uri == uri)).scalar()
    if found is None:
        values = {"data_uri": uri, "is_directory": is_directory}
        made = connection.execute(insert(assets).values(**values)).inserted_primary_key
        assert made is not None
        found = made[0]
    return int(found)


def _forget_data_sources(connection: Connection, node_id: int) -> None:
    sources, assets = orm.DataSource.__table__, orm.Asset.__table__
    used = orm.DataSourceAssetAssociation.__table__
    mine = select(sources.c.id).where(sources.c.node_id == node_id)
    named = select(used.c.asset_id).where(used.c.data_source_id.in_(mine))
    ids = list(connection.execute(named).scalars())
    connection.execute(delete(used).where(used.c.data_source_id.in_(mine)))
    connection.execute(delete(sources).where(sources.c.node_id == node_id))
    still = exists().where(used.c.asset_id == assets.c.id)
    connection.execute(delete(assets).where(assets.c.id.in_(ids), ~still))
