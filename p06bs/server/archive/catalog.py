"""Write runs into the offline DB: Tiled's nodes, the index beside them, what became of each log."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, delete, exists, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine
from tiled.catalog import orm
from tiled.server.schemas import Management
from tiled.structures.core import StructureFamily

from p06bs.metadata import folder_of
from p06bs.server.archive import schema
from p06bs.server.archive.filling import Row, put_index
from p06bs.server.archive.schema import COLUMNS, FOLDERS, LOGS, RUNS
from p06bs.server.archive.searchable import searchable_text
from p06bs.server.archive.survey import LEFT_OUT

RUN_MIMETYPE = "application/x-p06bs-run"
"""Of a run's directory in the archive."""

SPECS = [{"name": "BlueskyRun", "version": "3.0"}]

FAMILY = StructureFamily.container

AT_ONCE = 500
"""Runs that go into the database with one statement."""

LONGEST_REASON = 2000
"""Characters of a reason; an error may show any value."""

LONGEST_URI = 1023
"""Characters that Tiled's tables have for the name of a file."""

State = Literal["complete", "incomplete", "quarantined", "retry"]

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
    reason : str
        Of a run in the archive: which of its documents are left out, if any.
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
    maps : bool or None
        Whether it has maps; None: if its raw run has.
    directory : Path
        Of its files.
    assets : sequence of (str, bool)
        URIs of the files of its detectors, and whether each is a directory.
    left_out : int
        Number of its documents that fit nowhere.
    """

    log: Log
    metadata: Mapping[str, Any]
    streams: Sequence[str]
    maps: bool | None
    directory: Path
    assets: Sequence[tuple[str, bool]] = ()
    left_out: int = 0


def put_runs(connection: Connection, records: Sequence[RunRecord]) -> None:
    """Show runs, each once, in place of what was shown of them before; many at once are fast."""
    for part in _parts(records):
        _put(connection, part)


def put_logs(connection: Connection, news: Sequence[Log]) -> None:
    """Note what became of logs."""
    for part in _parts(news):
        connection.execute(delete(LOGS).where(LOGS.c.run.in_([log.run for log in part])))
        connection.execute(insert(LOGS), list(map(_noted, part)))


def _noted(log: Log) -> dict[str, Any]:
    reason = searchable_text(log.reason[:LONGEST_REASON])
    return {**asdict(log), "reason": reason, "time": time.time()}


def logs(connection: Connection, *states: State) -> list[Log]:
    """Return what became of the logs, of those in the given states if any are given."""
    return _logs(connection, *([LOGS.c.state.in_(states)] if states else []))


def reduced(connection: Connection) -> list[Log]:
    """Return what became of the logs whose runs are in the archive, some documents left out."""
    there = LOGS.c.state.in_(("complete", "incomplete"))
    return _logs(connection, there, LOGS.c.reason.contains(LEFT_OUT))


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


async def tidy(engine: AsyncEngine) -> None:
    """Let the database look at how the index is filled, so that it plans queries well.

    PostgreSQL counts and searches fast what is vacuumed, too.
    """
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        vacuum = "VACUUM " if engine.dialect.name == "postgresql" else ""
        for table in await connection.run_sync(schema.of_runs):
            await connection.execute(text(f"{vacuum}ANALYZE {table.name}"))


def _logs(connection: Connection, *conditions: Any) -> list[Log]:
    fields = (LOGS.c[name] for name in Log.__dataclass_fields__)
    statement = select(*fields).where(*conditions).order_by(LOGS.c.time)
    return [Log(*row) for row in connection.execute(statement)]


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield so many at a time as a statement has parameters for."""
    return (items[first : first + AT_ONCE] for first in range(0, len(items), AT_ONCE))


def _put(connection: Connection, records: Sequence[RunRecord]) -> None:
    nodes = orm.Node.__table__
    known = _node_ids(connection, records)
    _forget(connection, list(known.values()))
    news = []
    for record in records:
        shown = {"metadata": record.metadata, "specs": SPECS}
        run = record.log.run
        if run in known:
            connection.execute(update(nodes).where(nodes.c.id == known[run]).values(**shown))
        else:
            news.append({"key": run, "parent": 0, "structure_family": FAMILY, **shown})
    if news:
        connection.execute(insert(nodes), news)
    ids = _node_ids(connection, records)
    _put_data_sources(connection, {ids[record.log.run]: record for record in records})
    folders = _folders(connection, records)
    index = [
        Row(
            node_id=ids[record.log.run],
            folder_id=folders[_folder(record)],
            generation=record.log.generation,
            streams=record.streams,
            maps=record.maps,
            metadata=record.metadata,
        )
        for record in records
    ]
    put_index(connection, index)
    put_logs(connection, [record.log for record in records])


def _node_ids(connection: Connection, records: Sequence[RunRecord]) -> dict[str, int]:
    nodes = orm.Node.__table__
    uids = [record.log.run for record in records]
    found = select(nodes.c.key, nodes.c.id).where(nodes.c.parent == 0, nodes.c.key.in_(uids))
    return {row.key: row.id for row in connection.execute(found)}


def _folder(record: RunRecord) -> str:
    return folder_of(record.metadata["start"]) or ""


def _folders(connection: Connection, records: Sequence[RunRecord]) -> dict[str, int]:
    """Return the ids of the folders of runs, which are made where there are none."""
    wanted = set(map(_folder, records))

    def known() -> dict[str, int]:
        found = select(FOLDERS.c.path, FOLDERS.c.id).where(FOLDERS.c.path.in_(wanted))
        return {row.path: row.id for row in connection.execute(found)}

    news = [{"path": path} for path in sorted(wanted - known().keys())]
    if news:
        connection.execute(insert(FOLDERS), news)
    return known()


def _put_data_sources(connection: Connection, records: Mapping[int, RunRecord]) -> None:
    """Describe the runs' files as Tiled does, so that a stock catalog can serve them, too."""
    sources = orm.DataSource.__table__
    like = {
        "structure_family": FAMILY,
        "mimetype": RUN_MIMETYPE,
        "parameters": {},
        "properties": {},
        "management": Management.external,
    }
    connection.execute(insert(sources), [{"node_id": number, **like} for number in records])
    found = select(sources.c.node_id, sources.c.id).where(sources.c.node_id.in_(records))
    ids = {row.node_id: row.id for row in connection.execute(found)}
    uses = [
        (ids[number], uri, is_directory, parameter)
        for number, record in records.items()
        for uri, (is_directory, parameter) in _files(record).items()
    ]
    assets = _assets(connection, {uri: is_directory for _, uri, is_directory, _ in uses})
    connection.execute(
        insert(orm.DataSourceAssetAssociation.__table__),
        [
            {"data_source_id": source, "asset_id": assets[uri], "parameter": parameter}
            for source, uri, _, parameter in uses
        ],
    )


def _files(record: RunRecord) -> dict[str, tuple[bool, str | None]]:
    """Return whether each file of a run is a directory, and which parameter it is.

    Files whose names the tables cannot take are left out: they are read all the same.
    """
    # Tiled compares such a URI with its storage as it stands, and takes no %20 for a space.
    own = f"file://localhost{record.directory.absolute()}"
    named = {uri: (is_dir, None) for uri, is_dir in record.assets if len(uri) <= LONGEST_URI}
    return named | {own: (True, "data_uri")}


def _assets(connection: Connection, wanted: Mapping[str, bool]) -> dict[str, int]:
    """Return the ids of assets, which are made where there are none."""
    assets = orm.Asset.__table__
    ids: dict[str, int] = {}
    for part in _parts(list(wanted)):
        found = select(assets.c.data_uri, assets.c.id).where(assets.c.data_uri.in_(part))
        known = {row.data_uri for row in connection.execute(found)}
        news = [{"data_uri": uri, "is_directory": wanted[uri]} for uri in part if uri not in known]
        if news:
            connection.execute(insert(assets), news)
        ids |= {row.data_uri: row.id for row in connection.execute(found)}
    return ids


def _forget(connection: Connection, nodes: Sequence[int]) -> None:
    """Forget what index and catalog say of nodes, but for the nodes themselves."""
    if not nodes:
        return
    for table in schema.of_runs(connection):
        connection.execute(delete(table).where(table.c.node_id.in_(nodes)))
    sources, assets = orm.DataSource.__table__, orm.Asset.__table__
    used = orm.DataSourceAssetAssociation.__table__
    mine = select(sources.c.id).where(sources.c.node_id.in_(nodes))
    named = select(used.c.asset_id).where(used.c.data_source_id.in_(mine))
    ids = list(connection.execute(named).scalars())
    connection.execute(delete(used).where(used.c.data_source_id.in_(mine)))
    connection.execute(delete(sources).where(sources.c.node_id.in_(nodes)))
    still = exists().where(used.c.asset_id == assets.c.id)
    for part in _parts(ids):
        connection.execute(delete(assets).where(assets.c.id.in_(part), ~still))
