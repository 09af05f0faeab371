"""Tables of the offline DB beside Tiled's own: the index of runs, their folders, their logs.

Tiled's catalog holds one node per run. What runs are found by (`p06bs.metadata.INDEXED`)
is in a row of `RUNS` for each node, with real columns and indexes, because a search in
metadata uses no index on SQLite. The index can be made again from the nodes; `upgrade`
does so when the list of fields has changed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    and_,
    cast,
    false,
    func,
    insert,
    inspect,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, REGCONFIG, TSVECTOR
from tiled.catalog import orm

from p06bs.metadata import INDEXED, Indexed

VERSION = 2
"""Of these tables; the list of indexed fields is compared apart. 2: runs say if they have maps."""

AT_ONCE = 500
"""Runs that go into the index with one statement."""

LONGEST = 512
"""Characters of a text in the index. Longer ones are not in it (PostgreSQL refuses them)."""

LONGEST_FOLDER = 2000
"""Bytes of a beamtime folder: PostgreSQL's index takes no more than 2.7 kB."""

BIGGEST = 2**63 - 1
"""Integers beyond are not in the index."""

METADATA = MetaData()


def _text() -> Any:
    """Text in the order of its code points on both databases."""
    return Text().with_variant(Text(collation="C"), "postgresql")


SCHEMA = Table(
    "p06bs_schema",
    METADATA,
    Column("version", Integer, nullable=False),
    Column("indexed", Text, nullable=False),
)

FOLDERS = Table(
    "p06bs_folders",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("path", _text(), nullable=False, unique=True),
)
"""Beamtime folders; the path "" is that of runs without one."""

LOGS = Table(
    "p06bs_logs",
    METADATA,
    Column("run", _text(), primary_key=True),
    Column("state", Text, nullable=False, index=True),
    Column("nbytes", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", Float, nullable=False),
)
"""What became of each log: its state, the size and the time of change (ns) it had then."""

_TYPES: Mapping[str, Any] = {"text": _text(), "integer": BigInteger(), "number": Float()}
COLUMNS = tuple(field for field in INDEXED if field.kind != "texts")
LISTS = tuple(field for field in INDEXED if field.kind == "texts")


def _runs() -> Table:
    indexes = [
        # With time and folder in it, a page of what one may see needs the index only.
        Index(f"ix_p06bs_runs_{field.column}", field.column, "time", "node_id", "folder_id")
        for field in COLUMNS
        if field.column not in ("time", "uid")
    ]
    return Table(
        "p06bs_runs",
        METADATA,
        Column(
            "node_id",
            ForeignKey(orm.Node.id, ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        Column("folder_id", ForeignKey(FOLDERS.c.id), nullable=False),
        Column("generation", Integer, nullable=False),
        Column("streams", Text, nullable=False),
        Column("maps", Boolean),  # null: if the raw run has, see `have_maps`
        *(Column(field.column, _TYPES[field.kind]) for field in COLUMNS),
        Index("ix_p06bs_runs_uid", "uid", unique=True),
        Index("ix_p06bs_runs_time", "time", "node_id", "folder_id"),
        Index("ix_p06bs_runs_folder", "folder_id", "time", "node_id"),
        *indexes,
    )


def _list(field: Indexed) -> Table:
    return Table(
        f"p06bs_runs_{field.column}",
        METADATA,
        Column("node_id", ForeignKey(orm.Node.id, ondelete="CASCADE"), primary_key=True),
        Column("value", _text(), primary_key=True),
        # Time and folder are the run's, so that a page of what one may see needs this table only.
        Column("time", Float),
        Column("folder_id", Integer, nullable=False),
        Index(f"ix_p06bs_runs_{field.column}_value", "value", "time", "node_id", "folder_id"),
    )


RUNS = _runs()
ITEMS = {field.key: _list(field) for field in LISTS}
"""Table of the items of each field that is a list of text, by the field's key."""


POSTGRES = MetaData()
"""Tables that only PostgreSQL has: SQLite's full text is Tiled's own."""

WORDS = Table(
    "p06bs_runs_words",
    POSTGRES,
    Column("node_id", ForeignKey(orm.Node.id, ondelete="CASCADE"), primary_key=True),
    Column("time", Float),
    Column("folder_id", Integer, nullable=False),
    Column("words", TSVECTOR, nullable=False),
    Index("ix_p06bs_runs_words", "words", postgresql_using="gin"),
)
"""The words of the metadata, as Tiled's index has them."""


def have_maps(raw: Any) -> Any:
    """Return the condition that a run has maps, where `raw` is an alias of `RUNS` for its raw run.

    The maps of a derived run may be at the positions of the raw run, which may come into
    the archive later. Who may see the one need not see the other: their folder is the same.
    """
    theirs = and_(RUNS.c.maps.is_(None), raw.c.maps, raw.c.folder_id == RUNS.c.folder_id)
    return func.coalesce(or_(RUNS.c.maps, theirs), false())


def of_runs(connection: Connection) -> list[Table]:
    """Return the tables with what the index holds of runs."""
    words = [WORDS] if connection.dialect.name == "postgresql" else []
    return [RUNS, *ITEMS.values(), *words]


def indexed_row(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `RUNS` holds of a run's metadata, by column.

    Runs are in the order of their times: one that is no finite number counts as 0.
    """
    found = {field.column: _short(field.of(metadata)) for field in COLUMNS}
    return {**found, "time": found["time"] or 0.0}


def indexed_items(metadata: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the items of each field that is a list, by the field's key."""
    return {
        field.key: sorted({item for item in field.of(metadata) or () if _short(item) is not None})
        for field in LISTS
    }


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONGEST else None
    if isinstance(value, int) and abs(value) > BIGGEST:
        return None
    return value


class SchemaError(RuntimeError):
    """The database has no tables of ours, or those of another version; says what to do."""


def check(connection: Connection) -> None:
    """Make sure that the database has these tables, in this version.

    Raises
    ------
    SchemaError
        If it has not.
    """
    if not inspect(connection).has_table(SCHEMA.name):
        raise SchemaError("this database has no index of runs: run p06bs archive init")
    version, indexed = connection.execute(select(SCHEMA)).one()
    if version > VERSION:
        raise SchemaError(
            f"this database was made by a newer p06bs (index version {version}, "
            f"this one knows {VERSION})"
        )
    if (version, indexed) != (VERSION, _fields()):
        raise SchemaError(
            "the index of runs is of another version: stop the server and the ingestion, back up "
            "the database, then run p06bs archive upgrade"
        )


def create(connection: Connection) -> None:
    """Make the tables where there are none."""
    METADATA.create_all(connection)
    if connection.dialect.name == "postgresql":
        POSTGRES.create_all(connection)
    if connection.execute(select(SCHEMA)).first() is None:
        connection.execute(insert(SCHEMA).values(version=VERSION, indexed=_fields()))


HasMaps = Callable[[str, int, Mapping[str, Any], Sequence[str]], bool | None]
"""Says of a run, by uid, generation, metadata and streams, what the index holds of its maps."""


def upgrade(connection: Connection, has_maps: HasMaps) -> None:
    """Bring the tables to this version: the index is made again from the nodes.

    Parameters
    ----------
    has_maps : callable
        Asked of the runs of an index that does not say.

    Raises
    ------
    SchemaError
        If they are of a newer version.
    """
    try:
        check(connection)
    except SchemaError:
        if inspect(connection).has_table(SCHEMA.name):
            version = connection.execute(select(SCHEMA.c.version)).scalar_one()
            if version > VERSION:
                raise
            _rebuild(connection, has_maps)
        create(connection)


def _rebuild(connection: Connection, has_maps: HasMaps) -> None:
    there = {column["name"] for column in inspect(connection).get_columns(RUNS.name)}
    kept = ["node_id", "folder_id", "generation", "streams", *({"maps"} & there)]
    old = connection.execute(text(f"SELECT {', '.join(kept)} FROM {RUNS.name}")).all()
    mine = [name for name in inspect(connection).get_table_names() if name.startswith(RUNS.name)]
    for name in sorted(mine, reverse=True):
        connection.execute(text(f"DROP TABLE {name}"))
    connection.execute(text(f"DROP TABLE {SCHEMA.name}"))
    create(connection)
    for first in range(0, len(old), AT_ONCE):
        part = {row.node_id: row._asdict() for row in old[first : first + AT_ONCE]}
        nodes = select(orm.Node.id, orm.Node.key, orm.Node.metadata_).where(orm.Node.id.in_(part))
        rows = []
        for number, uid, metadata in connection.execute(nodes):
            about = part[number]
            streams, generation = json.loads(about["streams"]), about["generation"]
            if "maps" in about:
                maps = None if about["maps"] is None else bool(about["maps"])
            else:
                maps = has_maps(uid, generation, metadata, streams)
            rows.append(Row(number, about["folder_id"], generation, streams, maps, metadata))
        put_index(connection, rows)


@dataclass(frozen=True, slots=True)
class Row:
    """What the index holds of a run beside the fields in its metadata.

    Attributes
    ----------
    node_id : int
        Of the run's node in Tiled's catalog.
    streams : sequence of str
        Names of the run's children.
    maps : bool or None
        See `have_maps`.
    """

    node_id: int
    folder_id: int
    generation: int
    streams: Sequence[str]
    maps: bool | None
    metadata: Mapping[str, Any]


def put_index(connection: Connection, rows: Sequence[Row]) -> None:
    """Insert what the index holds of runs."""
    runs: list[dict[str, Any]] = []
    items: dict[str, list[dict[str, Any]]] = {key: [] for key in ITEMS}
    for row in rows:
        fields = indexed_row(row.metadata)
        same = {"node_id": row.node_id, "folder_id": row.folder_id, "time": fields["time"]}
        about = {"generation": row.generation, "maps": row.maps}
        runs.append({**same, **about, "streams": json.dumps(list(row.streams)), **fields})
        for key, values in indexed_items(row.metadata).items():
            items[key] += [{**same, "value": value} for value in values]
    for table, found in ((RUNS, runs), *((ITEMS[key], found) for key, found in items.items())):
        if found:
            connection.execute(insert(table), found)
    if connection.dialect.name == "postgresql":
        _put_words(connection, [row.node_id for row in rows])


def _put_words(connection: Connection, ids: Sequence[int]) -> None:
    """Insert the words of nodes, whose runs are in the index."""
    nodes = orm.Node.__table__
    vector = func.jsonb_to_tsvector(
        cast("simple", REGCONFIG), nodes.c.metadata, cast(["string"], JSONB)
    )
    words = (
        select(RUNS.c.node_id, RUNS.c.time, RUNS.c.folder_id, vector)
        .join(nodes, nodes.c.id == RUNS.c.node_id)
        .where(RUNS.c.node_id.in_(ids))
    )
    connection.execute(insert(WORDS).from_select(WORDS.c.keys(), words))


def _fields() -> str:
    return json.dumps([[field.key, field.kind] for field in INDEXED])
