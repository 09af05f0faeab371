"""The offline DB as a Tiled tree: all runs, laid out as those of the sink.

The runs are nodes of a stock Tiled catalog. Which of them match, in which order, is asked
of the index beside it; what the index does not know is asked of the catalog, by Tiled's own
translation of queries. The rows come from the runs' directories.
"""

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import anyio
from fastapi import HTTPException
from sqlalchemy import Select, func, literal, select, tuple_
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from tiled.catalog import orm
from tiled.catalog.adapter import construct_order_by_clauses, format_distinct_result
from tiled.catalog.adapter import from_uri as stock_catalog
from tiled.queries import QueryValueError
from tiled.server.core import NoEntry
from tiled.structures.core import Spec, StructureFamily
from tiled.utils import UnsupportedQueryType

from p06bs.server import schema
from p06bs.server.access import Viewer, Visible
from p06bs.server.catalog import RUN_MIMETYPE
from p06bs.server.detector import Roots
from p06bs.server.index import FIELDS, Condition, among, condition, item
from p06bs.server.runfiles import Location, read_run, untouched
from p06bs.server.schema import FOLDERS, ITEMS, RUNS
from p06bs.server.sink import RunView
from p06bs.server.tree import RunAdapter, run_adapter

logger = logging.getLogger(__name__)

Sorting = Sequence[tuple[str, int]]

FARTHEST = 2**31
"""Offsets and cursors beyond are behind the last run."""

MISMATCHES = ("42804", "42846", "42883")
"""PostgreSQL's states: datatype mismatch, cannot coerce, no such operator for these types."""

GIVEN = ("", "_")
"""What clients call the given order: by start time."""


class Archive:
    """The database and the files of the runs, which all views of the tree share.

    Parameters
    ----------
    database : str
        ``sqlite:///PATH`` or ``postgresql://USER@HOST/NAME``.
    storage : Path
        Directory of the runs' files.
    roots : Roots
        Where detector files may lie.
    extra : callable
        Says which children a run has beside its streams; as for the sink.
    """

    def __init__(
        self,
        database: str,
        storage: Path,
        roots: Roots,
        extra: Callable[[RunView], Any] | None = None,
    ) -> None:
        self.location = Location(storage.absolute())
        self.roots = roots
        self._extra = extra
        self.known_folders: dict[str, int] = {}
        self._newest = 0
        self.stock = stock_catalog(
            database,
            readable_storage=[str(self.location.storage)],
            adapters_by_mimetype={RUN_MIMETYPE: f"{__name__}:StoredRun"},
        )
        self.dialect: str = self.stock.context.engine.dialect.name

    async def startup(self) -> None:
        """Connect, and make sure that the tables are those that this software knows.

        Raises
        ------
        SchemaError, UninitializedDatabase, DatabaseUpgradeNeeded
            If they are not.
        """
        await self.stock.startup()
        async with self.stock.context.engine.connect() as connection:
            await connection.run_sync(schema.check)
        await self.folders()

    async def shutdown(self) -> None:
        """Close the connections."""
        await self.stock.shutdown()

    async def fetch(self, statement: Select[Any]) -> Sequence[Any]:
        """Return the rows of a statement.

        Raises
        ------
        HTTPException
            400 if the database cannot ask what a client's query asks.
        """
        try:
            async with self.stock.context.engine.connect() as connection:
                rows: Sequence[Any] = (await connection.execute(statement)).all()
                return rows
        except DBAPIError as error:
            if _is_clients(error):
                logger.debug("a query failed: %s", error)
                raise HTTPException(400, "The database cannot compare with that value.") from None
            raise

    async def folders(self) -> dict[str, int]:
        """Return the id of each beamtime folder; "" is that of runs without one."""
        new = select(FOLDERS.c.id, FOLDERS.c.path).where(FOLDERS.c.id > self._newest)
        for number, path in await self.fetch(new):
            self.known_folders[path] = number
            self._newest = max(self._newest, number)
        return self.known_folders

    def run(self, row: Any) -> RunAdapter:
        """Return the tree of a run; its files are opened when somebody asks for a stream."""
        files = _Files(self.location.generation(row.key, row.generation), self.roots)
        streams = {name: partial(files.stream, name) for name in json.loads(row.streams)}
        view = RunView(row.metadata, streams, untouched)
        run = run_adapter(view) if self._extra is None else run_adapter(view, self._extra)
        run.documents = self.location.log(row.key, row.generation)
        run.lbound_len = partial(_len, len(run))
        return run


class ArchiveAdapter:
    """Serve the runs of the archive, in the order of their start times.

    Reading only: it has none of the methods by which Tiled writes.

    Attributes
    ----------
    viewer : Viewer or None
        Who looks, where a `Visible` query has filtered the runs.
    """

    structure_family = StructureFamily.container
    specs = (Spec("CatalogOfBlueskyRuns", version="3.0"),)

    def __init__(
        self,
        archive: Archive,
        *,
        conditions: tuple[Condition, ...] = (),
        items: tuple[tuple[Any, str], ...] = (),
        stock: Any = None,
        viewers: tuple[Viewer, ...] = (),
        sorting: Sorting = (("", 1),),
    ) -> None:
        self._archive = archive
        self._conditions = conditions
        self._items = items
        # The table that a listing is read from: it has node, time and folder of each run.
        self._from = items[0][0] if items else RUNS
        self._stock = archive.stock if stock is None else stock
        self._viewers = viewers
        self.sorting = list(sorting)
        self._found: list[Condition] | None = None
        self.node = archive.stock.node
        self.context = archive.stock.context
        self.startup_tasks = [archive.startup]
        self.shutdown_tasks = [archive.shutdown]

    @property
    def viewer(self) -> Viewer | None:
        return self._viewers[-1] if self._viewers else None

    def folders(self) -> frozenset[str]:
        """Return the beamtime folders that are known so far, so that their rights are asked for."""
        return frozenset(path for path in self._archive.known_folders if path)

    def metadata(self) -> dict[str, Any]:
        """Return no metadata."""
        return {}

    def structure(self) -> None:
        """Return no structure: the runs are counted when that is asked for."""

    def search(self, query: Any) -> "ArchiveAdapter":
        """Return the runs that match, or that somebody may see.

        Raises
        ------
        QueryValueError
            If the query cannot be asked.
        """
        if isinstance(query, Visible):
            return self._variation(viewers=(*self._viewers, query.viewer))
        about = item(query)
        if about is not None:
            return self._variation(items=(*self._items, about))
        found = condition(query, self._archive.dialect)
        if found is not None:
            return self._variation(conditions=(*self._conditions, found))
        try:
            return self._variation(stock=self._stock.search(query))
        except UnsupportedQueryType:
            raise QueryValueError(f"{type(query).__name__} is not supported here") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise QueryValueError(f"cannot compare with that value: {error}") from None

    def sort(self, sorting: Sorting) -> "ArchiveAdapter":
        """Return the runs in the order of their metadata, then of their start times."""
        return self._variation(sorting=sorting)

    def read(self, fields: list[str] | None = None) -> Any:
        """Refuse: one request does not read all runs.

        Raises
        ------
        HTTPException
            400.
        """
        raise HTTPException(400, "Export runs one by one, not the whole archive.")

    async def create_node(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: runs come from their logs.

        Raises
        ------
        HTTPException
            405.
        """
        raise HTTPException(405, "The archive is filled from the logs of the runs only.")

    def make_ws_handler(self, websocket: Any, formatter: Any, uri: str) -> Any:
        """Return what refuses a subscription: what is in the archive does not change."""

        async def refuse(*args: Any, **kwargs: Any) -> None:
            await websocket.close(1008, "The archive has no subscriptions: subscribe to /live.")

        return refuse

    async def exact_len(self) -> int:
        """Return the number of runs."""
        statement = await self._select(func.count())
        return int((await self._archive.fetch(statement))[0][0])

    async def lbound_len(self, threshold: int) -> int:
        """Return the number of runs if it is at most `threshold`, else one more than that."""
        limited = (await self._select(self._from.c.node_id)).limit(threshold + 1).subquery()
        statement = select(func.count()).select_from(limited)
        return int((await self._archive.fetch(statement))[0][0])

    async def keys_page(
        self, cursor: int | None = None, limit: int | None = None
    ) -> tuple[list[str], int | None]:
        """Return the uids of a page, and the cursor of the next."""
        rows, after = await self._page(RUNS.c.uid, runs=True, cursor=cursor, limit=limit)
        return [row.uid for row in rows], after

    async def keys_range(self, offset: int = 0, limit: int | None = None) -> list[str]:
        """Return uids from `offset` on."""
        rows, _ = await self._page(RUNS.c.uid, runs=True, offset=offset, limit=limit)
        return [row.uid for row in rows]

    async def items_page(
        self, cursor: int | None = None, limit: int | None = None
    ) -> tuple[list[tuple[str, RunAdapter]], int | None]:
        """Return uids and runs of a page, and the cursor of the next."""
        rows, after = await self._page(cursor=cursor, limit=limit)
        return await self._runs(rows), after

    async def items_range(
        self, offset: int = 0, limit: int | None = None
    ) -> list[tuple[str, RunAdapter]]:
        """Return uids and runs from `offset` on."""
        rows, _ = await self._page(offset=offset, limit=limit)
        return await self._runs(rows)

    async def cursor_for_offset(self, offset: int) -> int | None:
        """Return the cursor of the page from `offset` on; None where the order has none."""
        if not 0 < offset < FARTHEST or self._direction is None:
            return None
        rows, _ = await self._page(offset=offset - 1, limit=1)
        return rows[0].node_id if rows else None

    async def lookup_adapter(self, segments: list[str]) -> Any:
        """Return a run, or what is in one.

        Raises
        ------
        NoEntry
            If there is no such thing among the runs of this view.
        """
        if not segments:
            return self
        rows = []
        if len(segments[0]) <= schema.LONGEST and "\0" not in segments[0]:
            one = (await self._select(RUNS.c.node_id, runs=True)).where(RUNS.c.uid == segments[0])
            rows = await self._runs(await self._archive.fetch(one))
        if not rows:
            raise NoEntry(segments)
        entry: Any = rows[0][1]
        for segment in segments[1:]:
            try:
                entry = await anyio.to_thread.run_sync(entry.__getitem__, segment)
            except (KeyError, TypeError, AttributeError):
                raise NoEntry(segments) from None
        return entry

    async def get_distinct(
        self,
        metadata: Iterable[str] | None,
        structure_families: bool,
        specs: bool,
        counts: bool,
    ) -> dict[str, Any]:
        """Return the values that metadata have; of a list that is indexed, its items."""
        found: dict[str, Any] = {}
        if metadata:
            found["metadata"] = {key: await self._values(key, counts) for key in metadata}
        for name, wanted in (("structure_family", structure_families), ("specs", specs)):
            if wanted:
                place = getattr(orm.Node, name)
                found["structure_families" if name != "specs" else name] = await self._group(
                    place, counts, nodes=True
                )
        return found

    async def _values(self, key: str, counts: bool) -> list[dict[str, Any]]:
        if key in FIELDS:
            return await self._group(RUNS.c[FIELDS[key].column], counts, runs=True)
        if key in ITEMS:
            return await self._group(None, counts, items=ITEMS[key])
        place: Any = orm.Node.metadata_
        for segment in key.split("."):
            place = place[segment]
        return await self._group(place, counts, nodes=True)

    async def _group(
        self,
        place: Any,
        counts: bool,
        *,
        runs: bool = False,
        nodes: bool = False,
        items: Any = None,
    ) -> list[dict[str, Any]]:
        if items is not None:
            values = items.alias()
            place = values.c.value
        columns = (place, func.count(place)) if counts else (place,)
        statement = await self._select(*columns, runs=runs, nodes=nodes)
        if items is not None:
            statement = statement.join(values, values.c.node_id == self._from.c.node_id)
        if not nodes:
            statement = statement.where(place.is_not(None))
        rows = await self._archive.fetch(statement.group_by(place).order_by(place))
        result: list[dict[str, Any]] = format_distinct_result(rows, counts)
        return result

    def _variation(self, **changed: Any) -> "ArchiveAdapter":
        return ArchiveAdapter(
            self._archive,
            **{
                "conditions": self._conditions,
                "items": self._items,
                "stock": self._stock,
                "viewers": self._viewers,
                "sorting": self.sorting,
                **changed,
            },
        )

    @property
    def _direction(self) -> int | None:
        """1 or -1 where the order is that of the start times, else None."""
        keys = [key for key, _ in self.sorting if key not in GIVEN]
        if keys not in ([], ["start.time"]):
            return None
        return self.sorting[0][1] if self.sorting else 1

    async def _select(self, *columns: Any, runs: bool = False, nodes: bool = False) -> Select[Any]:
        """Select from the runs of this view; `runs` and `nodes` say which tables are needed."""
        source: Any = self._from
        if source is not RUNS and (runs or self._conditions):
            source = source.join(RUNS, RUNS.c.node_id == self._from.c.node_id)
        if nodes or self._stock.conditions:
            source = source.join(orm.Node, orm.Node.id == self._from.c.node_id)
        where = await self._where()
        return select(*columns).select_from(source).where(*where, *self._stock.conditions)

    async def _where(self) -> list[Condition]:
        """Return the conditions on the index; who may see what is asked once."""
        if self._found is None:
            found = list(self._conditions)
            for number, (table, value) in enumerate(self._items):
                here = table.c.value == value
                if number:
                    here = self._from.c.node_id.in_(select(table.c.node_id).where(here))
                found.append(here)
            for viewer in self._viewers:
                folders = await self._archive.folders()
                ids = await anyio.to_thread.run_sync(_visible, viewer, dict(folders))
                if len(ids) < len(folders):
                    found.append(among(self._from.c.folder_id, ids, self._archive.dialect))
            self._found = found
        return self._found

    async def _page(
        self,
        *columns: Any,
        runs: bool = False,
        cursor: int | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> tuple[Sequence[Any], int | None]:
        """Return rows with `node_id` and `columns`, and the cursor of the next page."""
        direction = self._direction
        if limit == 0 or offset >= FARTHEST or (cursor or 0) >= FARTHEST:
            return [], None
        by_runs, by_nodes, order = self._order()
        statement = await self._select(
            self._from.c.node_id, *columns, runs=runs or by_runs, nodes=by_nodes
        )
        if cursor is not None:
            if direction is None:
                raise HTTPException(400, "page[cursor] needs the order of the start times")
            time = select(RUNS.c.time).where(RUNS.c.node_id == cursor).scalar_subquery()
            here = tuple_(self._from.c.time, self._from.c.node_id)
            there = tuple_(time, literal(cursor))
            statement = statement.where(here > there if direction > 0 else here < there)
        statement = statement.order_by(*order).offset(offset or None)
        rows = list(
            await self._archive.fetch(statement.limit(None if limit is None else limit + 1))
        )
        if limit is None or len(rows) <= limit:
            return rows, None
        rows.pop()
        return rows, rows[-1].node_id if direction is not None else None

    def _order(self) -> tuple[bool, bool, list[Any]]:
        """Return whether the order needs the runs and the nodes, and what it is by."""
        order: list[Any] = []
        by_runs = by_nodes = False
        given = 1
        for name, direction in self.sorting:
            key = name.removeprefix("metadata.")
            # Equal ones are in the direction of the last key, so that clients, which ask
            # for the end of a listing in reverse, find the same order.
            given = direction
            if key in GIVEN:
                continue
            if key == "start.time":
                break  # nothing behind it matters
            if key in FIELDS:
                by_runs = True
                place = RUNS.c[FIELDS[key].column]
                order.append((place if direction > 0 else place.desc()).nulls_last())
            else:
                by_nodes = True
                order += construct_order_by_clauses([(name, direction)])[0][:1]
        last = (self._from.c.time, self._from.c.node_id)
        return by_runs, by_nodes, [*order, *(one if given > 0 else one.desc() for one in last)]

    async def _runs(self, rows: Sequence[Any]) -> list[tuple[str, RunAdapter]]:
        """Return the runs of the given nodes, in the order of these."""
        ids = [row.node_id for row in rows]
        if not ids:
            return []
        nodes = select(
            orm.Node.id,
            orm.Node.key,
            orm.Node.metadata_.label("metadata"),
            RUNS.c.streams,
            RUNS.c.generation,
        ).join(RUNS, RUNS.c.node_id == orm.Node.id)
        found = {}
        for first in range(0, len(ids), 500):
            part = nodes.where(orm.Node.id.in_(ids[first : first + 500]))
            found.update({row.id: row for row in await self._archive.fetch(part)})
        return [(found[one].key, self._archive.run(found[one])) for one in ids if one in found]


class _Files:
    """The files of a run, opened at the first look."""

    def __init__(self, directory: Path, roots: Roots) -> None:
        self._directory = directory
        self._roots = roots

    def stream(self, name: str) -> Any:
        """Return the view of a stream.

        Raises
        ------
        HTTPException
            503 if the run was ingested anew since it was looked up.
        """
        try:
            return self._run.streams[name]()
        except (FileNotFoundError, KeyError):
            raise HTTPException(503, "The run has just been written anew: try again.") from None

    @cached_property
    def _run(self) -> RunView:
        return read_run(self._directory, self._roots)


class StoredRun:
    """Make the tree of a run for a stock Tiled server, from what its catalog says."""

    @classmethod
    def from_catalog(
        cls, data_source: Any, node: Any, /, data_uri: str = "", **kwargs: Any
    ) -> RunAdapter:
        """Return the tree of the run whose directory is the data source's asset.

        Detector files are read wherever they are: a stock server has no roots for them.
        """
        from tiled.utils import path_from_uri

        (directory,) = (a.data_uri for a in data_source.assets if a.parameter == "data_uri")
        return run_adapter(read_run(path_from_uri(directory), Roots()))


async def _len(count: int, threshold: int) -> int:
    """Return the number of children of a run: Tiled counts others in a thread each."""
    return count


def _visible(viewer: Viewer, folders: dict[str, int]) -> list[int]:
    """Return the ids of the folders whose runs somebody may see."""
    visible = viewer.visible([path for path in folders if path])
    ids = [number for path, number in folders.items() if path in visible]
    if "" in folders and viewer.may_see(None):
        ids.append(folders[""])
    return sorted(ids)


def _is_clients(error: DBAPIError) -> bool:
    """Return whether an error is about what was asked, and not about the database."""
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return False
    if isinstance(error, OperationalError):
        said = str(error.orig).lower()
        return "json" in said or "fts5" in said
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return isinstance(error, DataError) or state.startswith(("22", "54")) or state in MISMATCHES
