"""The offline DB as a Tiled tree: all runs, laid out as those of the sink.

The runs are nodes of a stock Tiled catalog; what is asked of it, and of the index beside it,
is in `p06bs.server.archive.listing`; the runs themselves are in `p06bs.server.archive.archived`.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import anyio
from fastapi import HTTPException
from sqlalchemy import Select, func, select
from tiled.catalog import orm
from tiled.catalog.adapter import format_distinct_result
from tiled.server.core import NoEntry
from tiled.server.dependencies import MAX_PAGE_SIZE
from tiled.structures.core import Spec, StructureFamily

from p06bs.server.access.policy import Everybody, Viewer, Visible
from p06bs.server.archive import schema
from p06bs.server.archive.archived import Archive
from p06bs.server.archive.listing import Listing, Sorting
from p06bs.server.archive.schema import RUNS
from p06bs.server.tree.tree import RunAdapter

logger = logging.getLogger(__name__)

FARTHEST = 2**31
"""Offsets and cursors beyond are behind the last run."""


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
        listing: Listing | None = None,
        viewers: tuple[Viewer, ...] = (),
    ) -> None:
        self._archive = archive
        self._listing = Listing(archive.stock) if listing is None else listing
        self._viewers = viewers
        self._visible: Listing | None = None
        self._first: Sequence[Any] | None = None
        self.node = archive.stock.node
        self.context = archive.stock.context

    @property
    def viewer(self) -> Viewer | None:
        return self._viewers[-1] if self._viewers else None

    @property
    def sorting(self) -> list[tuple[str, int]]:
        return list(self._listing.sorting)

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
            viewers = (*self._viewers, query.viewer)
            return ArchiveAdapter(self._archive, listing=self._listing, viewers=viewers)
        return self._variation(self._listing.search(query))

    def sort(self, sorting: Sorting) -> "ArchiveAdapter":
        """Return the runs in the order of their metadata, then of their start times."""
        return self._variation(replace(self._listing, sorting=sorting))

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
        seen = await self._seen()
        if seen.looked_up and seen.direction is not None:
            # Tiled asks for a page of them next.
            self._first = await self._fetch(seen, seen.counted(MAX_PAGE_SIZE + 1))
            return int(self._first[0].total) if self._first else 0
        return int((await self._fetch(seen, seen.select(func.count())))[0][0])

    async def lbound_len(self, threshold: int) -> int:
        """Return the number of runs if it is at most `threshold`, else one more than that."""
        seen = await self._seen()
        limited = seen.select(seen.table.c.node_id).limit(threshold + 1).subquery()
        statement = select(func.count()).select_from(limited)
        return int((await self._fetch(seen, statement))[0][0])

    async def keys_page(
        self, cursor: int | None = None, limit: int | None = None
    ) -> tuple[list[str], int | None]:
        """Return the uids of a page, and the cursor of the next."""
        rows, after = await self._page(RUNS.c.uid, cursor=cursor, limit=limit)
        return [row.uid for row in rows], after

    async def keys_range(self, offset: int = 0, limit: int | None = None) -> list[str]:
        """Return uids from `offset` on."""
        rows, _ = await self._page(RUNS.c.uid, offset=offset, limit=limit)
        return [row.uid for row in rows]

    async def items_page(
        self, cursor: int | None = None, limit: int | None = None
    ) -> tuple[list[tuple[str, RunAdapter]], int | None]:
        """Return uids and runs of a page, and the cursor of the next."""
        rows, after = await self._page(cursor=cursor, limit=limit)
        return await self._archive.runs(rows), after

    async def items_range(
        self, offset: int = 0, limit: int | None = None
    ) -> list[tuple[str, RunAdapter]]:
        """Return uids and runs from `offset` on."""
        rows, _ = await self._page(offset=offset, limit=limit)
        return await self._archive.runs(rows)

    async def cursor_for_offset(self, offset: int) -> int | None:
        """Return the cursor of the page from `offset` on; None where the order has none."""
        if not 0 < offset < FARTHEST or self._listing.direction is None:
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
        runs = []
        if len(segments[0]) <= schema.LONGEST and "\0" not in segments[0]:
            seen = await self._seen()
            one = seen.select(seen.table.c.node_id, runs=True).where(RUNS.c.uid == segments[0])
            runs = await self._archive.runs(await self._archive.fetch(one))
        if not runs:
            raise NoEntry(segments)
        entry: Any = runs[0][1]
        for segment in segments[1:]:
            try:
                entry = await anyio.to_thread.run_sync(
                    entry.__getitem__, segment, limiter=self._archive.opening
                )
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
        seen = await self._seen()

        async def values(statement: Select[Any]) -> Any:
            rows = await self._archive.fetch(statement)
            # The databases count what is not there in two ways.
            return format_distinct_result([row for row in rows if row[0] is not None], counts)

        found: dict[str, Any] = {}
        if metadata:
            found["metadata"] = {
                key: await values(seen.distinct(key, counts=counts)) for key in metadata
            }
        if structure_families:
            family = seen.grouped(orm.Node.structure_family, counts=counts, nodes=True)
            found["structure_families"] = await values(family)
        if specs:
            found["specs"] = await values(seen.grouped(orm.Node.specs, counts=counts, nodes=True))
        return found

    def _variation(self, listing: Listing) -> "ArchiveAdapter":
        return ArchiveAdapter(self._archive, listing=listing, viewers=self._viewers)

    async def _seen(self) -> Listing:
        """Return the listing of what all viewers may see; they are asked once."""
        if self._visible is None:
            self._visible = self._listing
            # However many of them are visible: runs of a new folder may come meanwhile.
            if any(not isinstance(viewer, Everybody) for viewer in self._viewers):
                folders = dict(await self._archive.folders())
                for viewer in self._viewers:
                    await viewer.ask(path for path in folders if path)
                ids = _visible(self._viewers, folders)
                self._visible = replace(self._listing, folders=ids)
        return self._visible

    async def _page(
        self,
        *columns: Any,
        cursor: int | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> tuple[Sequence[Any], int | None]:
        """Return rows with `node_id` and columns of the runs, and the cursor of the next page."""
        if limit == 0 or offset >= FARTHEST or (cursor or 0) >= FARTHEST:
            return [], None
        seen = await self._seen()
        wanted = None if limit is None else limit + 1
        if self._first is not None and wanted and not (columns or cursor or offset):
            rows = list(self._first[:wanted])
        else:
            statement = seen.page(*columns, runs=bool(columns), cursor=cursor, offset=offset)
            rows = list(await self._fetch(seen, statement.limit(wanted)))
        if limit is None or len(rows) <= limit:
            return rows, None
        rows.pop()
        return rows, rows[-1].node_id if seen.direction is not None else None

    async def _fetch(self, seen: Listing, statement: Select[Any]) -> Sequence[Any]:
        return await self._archive.fetch(statement, scan=not seen.looked_up)


def _visible(viewers: Iterable[Viewer], folders: dict[str, int]) -> tuple[int, ...]:
    """Return the ids of the folders whose runs all of the viewers may see."""
    left = dict(folders)
    for viewer in viewers:
        visible = viewer.visible([path for path in left if path])
        without = "" in left and viewer.may_see(None)
        left = {
            path: number for path, number in left.items() if (path in visible if path else without)
        }
    return tuple(sorted(left.values()))
