"""Fill the index of runs, and make it again from the nodes when its tables have changed."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, cast, func, insert, inspect, select, text
from sqlalchemy.dialects.postgresql import JSONB, REGCONFIG
from tiled.catalog import orm

from p06bs.metadata import LISTS
from p06bs.server.archive.location import Location
from p06bs.server.archive.runfiles import read_run, untouched
from p06bs.server.archive.schema import (
    COLUMNS,
    ITEMS,
    LONGEST,
    RUNS,
    SCHEMA,
    VERSION,
    WORDS,
    SchemaError,
    check,
    create,
)
from p06bs.server.files.roots import FileRoots
from p06bs.server.sink.held import RunView
from p06bs.server.tree.maps import Maps
from p06bs.server.tree.search import BIGGEST

logger = logging.getLogger(__name__)

AT_ONCE = 500
"""Runs that go into the index with one statement."""


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
        See `p06bs.server.archive.schema.have_maps`.
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


HasMaps = Callable[[str, int, Mapping[str, Any], Sequence[str]], bool | None]
"""Says of a run, by uid, generation, metadata and streams, what the index holds of its maps."""


def maps_in(location: Location) -> HasMaps:
    """Return what says whether a run has maps: its start document, or else its columns."""
    maps = Maps()

    def has_maps(
        uid: str, generation: int, metadata: Mapping[str, Any], names: Sequence[str]
    ) -> bool | None:
        def stream(name: str) -> Any:
            return read_run(location.generation(uid, generation), FileRoots()).streams[name]()

        view = RunView(metadata, {name: partial(stream, name) for name in names}, untouched)
        try:
            return maps.decide(view)
        except FileNotFoundError as error:
            logger.warning("run %s has no maps: %s", uid, error)
            return False

    return has_maps


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
