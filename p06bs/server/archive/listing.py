"""Which runs of the archive match, in which order: statements on the index and the catalog.

What the index knows is asked of it, everything else of the metadata in Tiled's catalog. No
statement is run here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import HTTPException
from sqlalchemy import Select, func, literal, select, tuple_
from tiled.catalog import orm
from tiled.catalog.adapter import construct_order_by_clauses
from tiled.queries import QueryValueError
from tiled.utils import UnsupportedQueryType

from p06bs.server.archive.index import FIELDS, Condition, among, condition, source
from p06bs.server.archive.inside import inside
from p06bs.server.archive.schema import ITEMS, RUNS

Sorting = Sequence[tuple[str, int]]

GIVEN = ("", "_")
"""What clients call the given order: by start time."""


@dataclass(frozen=True)
class Listing:
    """Runs that match queries, in an order.

    Attributes
    ----------
    stock : CatalogContainerAdapter
        Has the conditions that Tiled translated.
    conditions : tuple
        On the index of runs.
    sources : tuple
        What is read in place of the index of runs (see `index.source`); of the second and
        further ones the runs must be, too.
    folders : tuple of int, optional
        Ids of the folders whose runs are visible; None is all.
    """

    stock: Any
    conditions: tuple[Condition, ...] = ()
    sources: tuple[Any, ...] = ()
    sorting: Sorting = (("", 1),)
    folders: tuple[int, ...] | None = None

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return str(self.stock.context.engine.dialect.name)

    @property
    def table(self) -> Any:
        """The table that the runs are read from."""
        return self.sources[0] if self.sources else RUNS

    @property
    def direction(self) -> int | None:
        """1 or -1 where the order is that of the start times, else None."""
        keys = [key for key, _ in self.sorting if key not in GIVEN]
        if keys not in ([], ["start.time"]):
            return None
        return self.sorting[0][1] if self.sorting else 1

    def search(self, query: Any) -> "Listing":
        """Return those runs that match a query, too.

        Raises
        ------
        QueryValueError
            If the query cannot be asked.
        """
        instead = source(query, self.dialect)
        if instead is not None:
            return replace(self, sources=(*self.sources, instead))
        found = condition(query, self.dialect)
        if found is not None:
            return replace(self, conditions=(*self.conditions, found))
        found = inside(query, self.dialect)
        if found is not None:
            here = self.stock.new_variation(conditions=[*self.stock.conditions, found])
            return replace(self, stock=here)
        try:
            return replace(self, stock=self.stock.search(query))
        except UnsupportedQueryType:
            raise QueryValueError(f"{type(query).__name__} is not supported here") from None

    def select(self, *columns: Any, runs: bool = False, nodes: bool = False) -> Select[Any]:
        """Select of the runs; `runs` and `nodes` say which tables the columns need."""
        tables: Any = self.table
        if tables is not RUNS and (runs or self.conditions):
            tables = tables.join(RUNS, RUNS.c.node_id == self.table.c.node_id)
        if nodes or self.stock.conditions:
            tables = tables.join(orm.Node, orm.Node.id == self.table.c.node_id)
        where = [*self.conditions, *self.stock.conditions]
        where += [self.table.c.node_id.in_(select(one.c.node_id)) for one in self.sources[1:]]
        where += self._visible(self.table)
        return select(*columns).select_from(tables).where(*where)

    def _visible(self, table: Any) -> list[Condition]:
        """Return the conditions that runs are visible."""
        if self.folders is None:
            return []
        return [among(table.c.folder_id, self.folders, self.dialect)]

    def page(
        self, *columns: Any, runs: bool = False, cursor: int | None = None, offset: int = 0
    ) -> Select[Any]:
        """Select `node_id` and columns, in order, behind a cursor or from an offset on.

        Raises
        ------
        HTTPException
            400 if there is a cursor, and the order is another one than that of start times.
        """
        by_runs, by_nodes, order = self._order()
        statement = self.select(
            self.table.c.node_id, *columns, runs=runs or by_runs, nodes=by_nodes
        )
        if cursor is not None:
            if self.direction is None:
                raise HTTPException(400, "page[cursor] needs the order of the start times")
            # Nobody gets to know, by what is behind it, when a run was that is hidden.
            time = select(RUNS.c.time).where(RUNS.c.node_id == cursor, *self._visible(RUNS))
            here = tuple_(self.table.c.time, self.table.c.node_id)
            there = tuple_(time.scalar_subquery(), literal(cursor))
            statement = statement.where(here > there if self.direction > 0 else here < there)
        return statement.order_by(*order).offset(offset or None)

    @property
    def looked_up(self) -> bool:
        """Whether runs are looked up in an index of words or items, on PostgreSQL.

        That gives all runs in no order: counting them costs as much as a page of them.
        PostgreSQL would rather read the whole table where there are many, which is slower.
        """
        return bool(self.sources) and self.dialect == "postgresql"

    def counted(self, limit: int) -> Select[Any]:
        """Select `node_id` of the first runs by time, each with the number of all runs."""
        found = self.select(self.table.c.node_id, self.table.c.time).cte("found")
        count = select(func.count()).select_from(found).scalar_subquery()
        order: list[Any] = [found.c.time, found.c.node_id]
        if self.direction == -1:
            order = [place.desc() for place in order]
        return select(found.c.node_id, count.label("total")).order_by(*order).limit(limit)

    def distinct(self, key: str, *, counts: bool) -> Select[Any]:
        """Select the values that a key of the metadata has; of an indexed list, its items."""
        if key in FIELDS:
            return self.grouped(RUNS.c[FIELDS[key].column], counts=counts, runs=True)
        if key in ITEMS:
            values = ITEMS[key].alias()
            statement = self._grouped(values.c.value, counts)
            joined = statement.join(values, values.c.node_id == self.table.c.node_id)
            return joined.order_by(values.c.value)
        place: Any = orm.Node.metadata_
        for segment in key.split("."):
            place = place[segment]
        return self.grouped(place, counts=counts, nodes=True)

    def grouped(
        self, place: Any, *, counts: bool, runs: bool = False, nodes: bool = False
    ) -> Select[Any]:
        """Select the values of a column, and how often there is each."""
        statement = self._grouped(place, counts, runs=runs, nodes=nodes).order_by(place)
        return statement if nodes else statement.where(place.is_not(None))

    def _grouped(self, place: Any, counts: bool, **tables: bool) -> Select[Any]:
        columns = (place, func.count(place)) if counts else (place,)
        return self.select(*columns, **tables).group_by(place)

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
        last = (self.table.c.time, self.table.c.node_id)
        return by_runs, by_nodes, [*order, *(one if given > 0 else one.desc() for one in last)]
