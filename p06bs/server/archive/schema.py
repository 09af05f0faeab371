"""Tables of the offline DB beside Tiled's own: the index of runs, their folders, their logs.

Tiled's catalog holds one node per run. What runs are found by (`p06bs.metadata.INDEXED`)
is in a row of `RUNS` for each node, with real columns and indexes, because a search in
metadata uses no index on SQLite. How it is filled is in `p06bs.server.archive.filling`.
"""

import json
from collections.abc import Mapping
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
    false,
    func,
    insert,
    inspect,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import aliased
from tiled.catalog import orm

from p06bs.metadata import INDEXED, LISTS, Indexed

VERSION = 2
"""Of these tables; the list of indexed fields is compared apart. 2: runs say if they have maps."""

LONGEST = 512
"""Characters of a text in the index. Longer ones are not in it (PostgreSQL refuses them)."""

LONGEST_FOLDER = 2000
"""Bytes of a beamtime folder: PostgreSQL's index takes no more than 2.7 kB."""

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


def corrected() -> Any:
    """Return the uid of the newest run that corrects the positions of a run of `RUNS`, or null.

    As `corrects` and `is_valid_correction` say it of documents.
    """
    found, node = RUNS.alias(), aliased(orm.Node)
    process = ("start", "process")
    return (
        select(found.c.uid)
        .join(node, node.id == found.c.node_id)
        .where(
            found.c.original_run_uid == func.coalesce(RUNS.c.original_run_uid, RUNS.c.uid),
            found.c.process_name == "positions",
            found.c.exit_status != "fail",
            node.metadata_[(*process, "reprocessing")].as_integer() >= 0,
            node.metadata_[(*process, "rows")].as_string().is_(None),
        )
        .order_by(found.c.time.desc(), found.c.node_id.desc())
        .limit(1)
        .correlate(RUNS)
        .scalar_subquery()
    )


def of_runs(connection: Connection) -> list[Table]:
    """Return the tables with what the index holds of runs."""
    words = [WORDS] if connection.dialect.name == "postgresql" else []
    return [RUNS, *ITEMS.values(), *words]


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


def _fields() -> str:
    return json.dumps([[field.key, field.kind] for field in INDEXED])
