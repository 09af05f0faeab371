"""The runs of the archive: their rows in the database, their files in the storage."""

import json
import logging
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import anyio
from fastapi import HTTPException
from sqlalchemy import Select, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from tiled.catalog import orm
from tiled.catalog.adapter import from_uri as stock_catalog
from tiled.utils import path_from_uri

from p06bs.bus.envelope import is_run_uid
from p06bs.model.positions import corrects
from p06bs.server.archive import schema
from p06bs.server.archive.catalog import RUN_MIMETYPE
from p06bs.server.archive.location import Location, missing
from p06bs.server.archive.runfiles import read_run, untouched
from p06bs.server.archive.schema import FOLDERS, RUNS
from p06bs.server.archive.searchable import shown
from p06bs.server.files.roots import FileRoots
from p06bs.server.gate.databases import fault_of, state_of
from p06bs.server.sink.held import RunView
from p06bs.server.tree.arrays import SIZES
from p06bs.server.tree.maps import Maps
from p06bs.server.tree.tree import RunAdapter, run_adapter

logger = logging.getLogger(__name__)

OPENING = 8
"""So many threads open files of runs at once; Tiled's others stay free for the rest."""

MISMATCHES = ("42804", "42846", "42883")
"""PostgreSQL's states: datatype mismatch, cannot coerce, no such operator for these types."""


class Archive:
    """The database and the files of the runs, which all views of the tree share.

    Parameters
    ----------
    database : str
        ``sqlite:///PATH`` or ``postgresql://USER@HOST/NAME``.
    storage : Path
        Directory of the runs' files.
    roots : FileRoots
        Where detector files may lie.

    Attributes
    ----------
    sizes : Sizes
        How much of a run is read at a time.
    """

    sizes = SIZES

    def __init__(self, database: str, storage: Path, roots: FileRoots) -> None:
        self.location = Location(storage.absolute())
        self.roots = roots
        self.opening = anyio.CapacityLimiter(OPENING)
        self._maps = Maps(self.view)
        self.known_folders: dict[str, int] = {}
        self._newest = 0
        self.stock = stock_catalog(
            database,
            readable_storage=[str(self.location.storage)],
            adapters_by_mimetype={RUN_MIMETYPE: f"{__name__}:StoredRun"},
        )

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

    async def fetch(self, statement: Select[Any], *, scan: bool = True) -> Sequence[Any]:
        """Return the rows of a statement; without `scan` PostgreSQL reads no table from end to end.

        Raises
        ------
        HTTPException
            400 if the database cannot ask what a client's query asks.
        """
        try:
            async with self.stock.context.engine.connect() as connection:
                if not scan:
                    await connection.execute(text("SET LOCAL enable_seqscan = off"))
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

    async def runs(self, rows: Sequence[Any]) -> list[tuple[str, RunAdapter]]:
        """Return the runs of the given nodes, in the order of these."""
        ids = [row.node_id for row in rows]
        if not ids:
            return []
        raw = RUNS.alias()
        nodes = (
            select(
                orm.Node.id,
                orm.Node.key,
                orm.Node.metadata_.label("metadata"),
                RUNS.c.streams,
                RUNS.c.generation,
                schema.have_maps(raw).label("maps"),
                schema.corrected().label("corrected"),
            )
            .join(RUNS, RUNS.c.node_id == orm.Node.id)
            .outerjoin(raw, raw.c.uid == RUNS.c.original_run_uid)
        )
        found = {}
        for first in range(0, len(ids), 500):
            part = nodes.where(orm.Node.id.in_(ids[first : first + 500]))
            found.update({row.id: row for row in await self.fetch(part)})
        return [(found[one].key, self._run(found[one])) for one in ids if one in found]

    def view(self, uid: str) -> RunView:
        """Return a run by what its files say. Blocks, for threads.

        Raises
        ------
        KeyError
            If there are none.
        """
        generation = self.location.newest(uid) if is_run_uid(uid) else None
        if generation is None:
            raise KeyError(uid)
        try:
            return read_run(self.location.generation(uid, generation), self.roots)
        except FileNotFoundError:  # a newer one has just taken its place
            raise KeyError(uid) from None

    def _corrected(self, uid: str | None) -> RunView | None:
        """Return the run by a uid that `schema.corrected` found, if it does correct positions."""
        found = None if uid is None else self.view(uid)
        return found if found is not None and corrects(found.metadata["start"]) else None

    def _run(self, row: Any) -> RunAdapter:
        """Return the tree of a run; its files are opened when somebody asks for a stream."""
        files = _Files(self.location.generation(row.key, row.generation), self.roots)
        streams = {name: partial(files.stream, name) for name in json.loads(row.streams)}
        corrected = partial(self._corrected, row.corrected)
        view = RunView(shown(row.metadata), streams, untouched, corrected=corrected)
        make = partial(ArchivedRun, opening=self.opening)
        run = run_adapter(view, self._maps.children if row.maps else _no_maps, make, self.sizes)
        run.documents = self.location.log(row.key, row.generation)
        return run


def _no_maps(run: RunView) -> dict[str, Any]:
    return {}


class ArchivedRun(RunAdapter):
    """Serve a run of the archive; its files are opened in threads that have no other work.

    Its methods with ``async`` are those that Tiled prefers where a node has them.

    Parameters
    ----------
    opening : anyio.CapacityLimiter
        Of these threads.
    """

    def __init__(self, *args: Any, opening: anyio.CapacityLimiter, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._opening = opening

    def new_variation(self, *args: Any, **kwargs: Any) -> Any:
        """Return the run with other children."""
        return super().new_variation(*args, opening=self._opening, **kwargs)

    async def lbound_len(self, threshold: int) -> int:
        """Return the number of children."""
        return len(self)

    async def cursor_for_offset(self, offset: int) -> None:
        """Return that pages are found by offset."""

    async def items_page(self, cursor: Any, limit: int) -> tuple[list[tuple[str, Any]], None]:
        """Return the first children."""
        return await self.items_range(0, limit), None

    async def keys_page(self, cursor: Any, limit: int) -> tuple[list[str], None]:
        """Return the first names."""
        return await self.keys_range(0, limit), None

    async def items_range(self, offset: int = 0, limit: int | None = None) -> list[tuple[str, Any]]:
        """Return some children."""
        stop = None if limit is None else offset + limit
        return await anyio.to_thread.run_sync(
            lambda: list(self.items()[offset:stop]), limiter=self._opening
        )

    async def keys_range(self, offset: int = 0, limit: int | None = None) -> list[str]:
        """Return some names."""
        return list(self.keys()[offset : None if limit is None else offset + limit])


class _Files:
    """The files of a run, opened at the first look."""

    def __init__(self, directory: Path, roots: FileRoots) -> None:
        self._directory = directory
        self._roots = roots

    def stream(self, name: str) -> Any:
        """Return the view of a stream.

        Raises
        ------
        HTTPException
            See `missing`.
        """
        try:
            return self._run.streams[name]()
        except (FileNotFoundError, KeyError):
            raise missing(self._directory) from None

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
        (directory,) = (a.data_uri for a in data_source.assets if a.parameter == "data_uri")
        return run_adapter(read_run(path_from_uri(directory), FileRoots()))


def _is_clients(error: DBAPIError) -> bool:
    """Return whether an error is about what was asked, and not about the database."""
    if isinstance(error, OperationalError):
        said = str(error.orig).lower()
        return "json" in said or "fts5" in said
    return fault_of(error) == "values" or state_of(error) in MISMATCHES
