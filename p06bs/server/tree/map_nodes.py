"""Tiled nodes of maps: an array of two axes each, in one container per run.

Tiled asks a node for its metadata and structure in the event loop, where nothing
may take long. So the container makes the maps that are asked for in a thread,
before Tiled sees them.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from types import SimpleNamespace
from typing import Any

import anyio.to_thread
import numpy as np
from fastapi import HTTPException
from tiled.adapters.core import Adapter
from tiled.ndslice import NDBlock, NDSlice
from tiled.server.core import NoEntry
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import Spec, StructureFamily
from tiled.utils import OneShotCachedMap

from p06bs.model.documents import part_uid
from p06bs.model.gridding import Gridded
from p06bs.model.mapped import Mapped
from p06bs.model.raster import Map
from p06bs.server.tree.arrays import EVERYTHING, Touch
from p06bs.server.tree.distinct import DistinctMap
from p06bs.server.tree.live import Unwatched

Look = Callable[[], Gridded]


class MapNode(Unwatched, Adapter[ArrayStructure]):
    """Serve a map as it is when it is first looked at; shape ``(ny, nx)``, float64.

    Parameters
    ----------
    mapped : Mapped
        What the map shows.
    look : callable
        Returns it with its values, up to the newest row.
    touch : callable
        Called when data are read.
    """

    structure_family = StructureFamily.array

    def __init__(self, mapped: Mapped, look: Look, touch: Touch) -> None:
        self._mapped = mapped
        self._look = look
        self._touch = touch
        self._seen: Gridded | None = None
        self._specs: list[Spec] = []

    def make(self, *, keep: bool = True) -> None:
        """Make the map now; without `keep` only what is known about it is kept in memory."""
        seen = self._look()
        self._seen = seen if keep else Gridded(seen.grid, seen.rows, seen.statistics)

    @property
    def _gridded(self) -> Gridded:
        if self._seen is None:
            self.make()
        assert self._seen is not None
        return self._seen

    def structure(self) -> ArrayStructure:
        """Return shape, axes and dtype."""
        shape = self._gridded.grid.shape
        slow, fast = (axis.name for axis in self._mapped.where.axes)
        return ArrayStructure(
            data_type=BuiltinDtype.from_numpy_dtype(np.dtype(np.float64)),
            chunks=tuple((n,) for n in shape),
            shape=shape,
            dims=(slow, fast),
        )

    @property
    def dims(self) -> tuple[str, ...] | None:
        """Names of the axes."""
        dims: tuple[str, ...] | None = self.structure().dims
        return dims

    def metadata(self) -> dict[str, Any]:
        """Return unit, origin, axes and statistics of the map."""
        one, seen = self._mapped, self._gridded
        return {
            "kind": one.where.kind,
            "column": one.column,
            "stream": one.streams[0],
            "streams": [name for name in one.streams if name in one.having],
            "unit": one.unit,
            "axes": [
                {"name": axis.name, "unit": axis.unit, "first": first, "last": last}
                for axis, (first, last) in zip(one.where.axes, seen.extents, strict=True)
            ],
            "rows": seen.rows,
            "statistics": asdict(seen.statistics),
        }

    def read(self, slice: NDSlice = EVERYTHING) -> Map:
        """Return a slice of the map.

        Raises
        ------
        HTTPException
            400 if the slice does not fit to the map.
        """
        self._touch()
        values = self._gridded.values
        if values is None:
            self.make()
            values = self._gridded.values
        assert values is not None
        try:
            picked: Map = values[tuple(NDSlice(*slice).expand_for_shape(values.shape))]
        except (IndexError, ValueError) as error:
            raise HTTPException(400, f"No such slice of a map: {error}") from error
        return picked

    def read_block(self, block: NDBlock, slice: NDSlice = EVERYTHING) -> Map:
        """Return a slice of the only block."""
        if any(block):
            raise IndexError(block)
        return self.read(slice)


class MapsNode(Unwatched, DistinctMap):
    """Serve the maps of a run.

    Its methods with ``async`` are those that Tiled prefers where a node has them.
    """

    node = SimpleNamespace(parent=0)
    """What has `lookup_adapter` is a catalog for Tiled, which asks whether it is one's root."""

    def __init__(self, mapping: Mapping[str, MapNode], **kwargs: Any) -> None:
        super().__init__(mapping, **kwargs)

    async def lookup_adapter(self, segments: list[str]) -> MapNode:
        """Return a map, made.

        Raises
        ------
        NoEntry
            If there is none of that name.
        """
        name, *below = segments
        if name not in self._mapping or below:
            raise NoEntry(segments)
        node: MapNode = self._mapping[name]
        try:
            await anyio.to_thread.run_sync(node.make)
        except KeyError as error:  # the run has left the memory meanwhile
            raise NoEntry(segments) from error
        return node

    async def cursor_for_offset(self, offset: int) -> None:
        """Return that pages are found by offset."""

    async def items_page(self, cursor: Any, limit: int) -> tuple[list[tuple[str, MapNode]], None]:
        """Return the first maps."""
        return await self.items_range(0, limit), None

    async def keys_page(self, cursor: Any, limit: int) -> tuple[list[str], None]:
        """Return the first names."""
        return await self.keys_range(0, limit), None

    async def items_range(
        self, offset: int = 0, limit: int | None = None
    ) -> list[tuple[str, MapNode]]:
        """Return some maps, made, without their values."""
        items: list[tuple[str, MapNode]] = []
        for name in await self.keys_range(offset, limit):
            node: MapNode = self._mapping[name]
            try:
                await anyio.to_thread.run_sync(partial(node.make, keep=False))
            except KeyError:  # the run has left the memory meanwhile
                continue
            items.append((name, node))
        return items

    async def keys_range(self, offset: int = 0, limit: int | None = None) -> list[str]:
        """Return some names."""
        return list(self._mapping)[offset : None if limit is None else offset + limit]


def maps_node(
    start: Mapping[str, Any],
    maps: Mapping[str, Mapped],
    look: Callable[[Mapped], Gridded],
    touch: Touch,
) -> MapsNode:
    """Return the container of the maps of a run; a map's node is made when it is asked for.

    It is a composite: ``run["maps"].read()`` gives all maps as one dataset.
    """

    def node(one: Mapped) -> Callable[[], MapNode]:
        return lambda: MapNode(one, lambda: look(one), touch)

    return MapsNode(
        OneShotCachedMap({name: node(one) for name, one in maps.items()}),
        metadata=_described(start, maps),
        specs=[Spec("composite")],
    )


def _described(start: Mapping[str, Any], maps: Mapping[str, Mapped]) -> dict[str, Any]:
    """Return metadata in the form of a descriptor.

    The older interfaces of bluesky's clients (v1, v2) take all children of a run for
    streams, and fail at one without.
    """
    keys: dict[str, Any] = {}
    for name, one in maps.items():
        grid = one.where.grid
        keys[name] = {
            "source": f"{one.streams[0]}/{one.column}",
            "dtype": "array",
            "dtype_numpy": "<f8",
            "shape": list(grid.shape) if grid else [None, None],
            "dims": [axis.name for axis in one.where.axes],
        }
        if one.unit is not None:
            keys[name]["units"] = one.unit
    return {
        "uid": part_uid(start["uid"], "maps"),
        "time": start["time"],
        "data_keys": keys,
        "configuration": {},
        "hints": {},
    }
