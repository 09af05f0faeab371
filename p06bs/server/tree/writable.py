"""What adapters of written nodes have in common: what Tiled asks of a node that one may change."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import anyio.to_thread
from starlette.exceptions import HTTPException
from tiled.server.schemas import DataSource
from tiled.structures.core import Spec, StructureFamily
from tiled.structures.data_source import Management

from p06bs.server.tree.cursor import Child
from p06bs.server.tree.live import Watched
from p06bs.server.tree.updates import MIMETYPE
from p06bs.server.tree.written import Node


class Writable(Watched):
    """What all written nodes have in common."""

    _node: Node
    writable = True

    @property
    def node(self) -> Any:
        """What Tiled asks of a catalog's node: its key."""
        return SimpleNamespace(key=self.key, parent=0)

    @property
    def key(self) -> str:
        """The node's name."""
        return self._node.path[-1]

    @property
    def listed(self) -> Child:
        """When the node was written and its metadata changed."""
        return self._node.child

    @property
    def folder(self) -> str | None:
        """The beamtime folder of a run; of what is in it, that of the run."""
        return self._node.tree.top.folder

    @property
    def access_tags(self) -> frozenset[str]:
        """Tags are not used: who may see a run is the file system's affair."""
        return frozenset()

    async def data_sources(self, include_assets: bool = True) -> list[Any]:
        """Return where the data are: in the server's memory."""
        if self._node.family == StructureFamily.container:
            return []
        return [
            DataSource(
                structure_family=self._node.family,
                structure=self.structure(),  # type: ignore[attr-defined]
                id=1,
                mimetype=MIMETYPE,
                management=Management.writable,
            )
        ]

    async def replace_metadata(
        self, metadata: Any = None, specs: Any = None, access_tags: Any = None, *,
        drop_revision: bool = False,
    ) -> None:  # fmt: skip
        """Take other metadata; earlier ones are not kept."""
        node = self._node
        await in_thread(
            node.replace_metadata,
            node.metadata if metadata is None else metadata,
            node.specs if specs is None else [Spec(s.name, s.version) for s in specs],
        )

    async def close_stream(self) -> None:
        """Say that the node changes no more: subscriptions end."""
        await in_thread(self._node.close)

    async def delete(self, recursive: bool = False, external_only: bool = True) -> None:
        """Remove the node.

        Raises
        ------
        HTTPException
            409 if it holds something, and that was not said to be removed, too.
        """
        node = self._node
        if node.children and not recursive:
            raise HTTPException(409, "It is not empty: say recursive=true.")
        if external_only and node.holds_data:
            raise HTTPException(409, "Its data would be lost: say external_only=false.")
        await in_thread(_remove, node)

    def touch(self) -> None:
        """Note that somebody reads the data."""
        self._node.tree.sink.touch(self._node.tree.key)


def _remove(node: Node) -> None:
    tree = node.tree
    if len(node.path) == 1:
        try:
            tree.sink.let_go(tree, tree.key)
        except KeyError:
            raise HTTPException(404, f"There is no {tree.key} any more.") from None
        return
    parent = tree.at(node.path[:-1])
    if parent is None:
        raise HTTPException(404, f"There is no {'/'.join(node.path)} any more.")
    parent.remove(node.path[-1])


async def in_thread(change: Callable[..., Any], *args: Any) -> Any:
    """Change something; the sink may be busy with a page."""
    return await anyio.to_thread.run_sync(partial(change, *args))
