"""Nodes that services write, as a part of Tiled's tree: containers, and what is added to them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from starlette.exceptions import HTTPException
from tiled.structures.array import ArrayStructure
from tiled.structures.core import Spec, StructureFamily
from tiled.structures.table import TableStructure
from tiled.utils import OneShotCachedMap

from p06bs.server.sink.retention import NoRoomError
from p06bs.server.sink.sink import Sink
from p06bs.server.tree.arrays import Sizes
from p06bs.server.tree.cursor import Child
from p06bs.server.tree.distinct import DistinctMap
from p06bs.server.tree.writable import Writable, in_thread
from p06bs.server.tree.written import Container, Node, Tree, checked_key
from p06bs.server.tree.written_adapters import WrittenArray, WrittenTable
from p06bs.server.tree.written_arrays import ArrayNode
from p06bs.server.tree.written_tables import TableNode

CREATE = ("array", "table", "container")


class WrittenContainer(Writable, DistinctMap):
    """A written container."""

    context = SimpleNamespace(key_maker=lambda: str(uuid4()))

    def __init__(self, node: Node, **kwargs: Any) -> None:
        self._node = node
        self.finished = node.finished
        children = {key: partial(adapter_of, child) for key, child in node.children.items()}
        super().__init__(
            **{
                "mapping": OneShotCachedMap(children),
                "metadata": dict(node.metadata),
                "specs": list(node.specs),
                **kwargs,
            }
        )

    def new_variation(self, *args: Any, **kwargs: Any) -> Any:
        """Return the container with other children."""
        return super().new_variation(*args, node=self._node, **kwargs)

    def __getitem__(self, key: str) -> Any:
        return self.handing(key, super().__getitem__(key))

    def children(self) -> Mapping[str, Child]:
        """Return the children, by when they were written and changed."""
        return {key: child.child for key, child in self._node.children.items()}

    async def create_node(self, *, key: str, **what: Any) -> Any:
        """Add a child; see `made`."""
        node = made(self._node.tree, (*self._node.path, checked_key(key)), **what)
        await in_thread(self._node.add, key, node)
        return adapter_of(node)


def adapter_of(node: Node) -> Any:
    """Return the adapter of a written node."""
    if isinstance(node, ArrayNode):
        return WrittenArray(node)
    return WrittenTable(node) if isinstance(node, TableNode) else WrittenContainer(node)


def made(
    tree: Tree,
    path: tuple[str, ...],
    *,
    structure_family: StructureFamily,
    metadata: Mapping[str, Any],
    specs: Sequence[Any] = (),
    data_sources: Sequence[Any] = (),
    access_tags: Any = None,
) -> Node:
    """Return a new node, which is in no container yet.

    Raises
    ------
    HTTPException
        422 if it is of a kind that is not kept here, or its structure is none.
    """
    if structure_family not in CREATE:
        raise HTTPException(422, f"Nodes of the kind {structure_family} are not kept here.")
    args = (tree, path, metadata, [Spec(spec.name, spec.version) for spec in specs or ()])
    if structure_family == StructureFamily.container:
        return Container(*args)
    structure = data_sources[0].structure
    if isinstance(structure, ArrayStructure) and structure_family == StructureFamily.array:
        return ArrayNode(*args, structure=structure)
    if isinstance(structure, TableStructure) and structure_family == StructureFamily.table:
        return TableNode(*args, structure=structure)
    raise HTTPException(422, f"A {structure_family.value} needs a structure.")


async def create_top(
    sink: Sink, taken: Callable[[str], bool], sizes: Sizes, key: str, **what: Any
) -> Any:
    """Add a node at the top, beside the runs; return its adapter.

    `taken` says of a uid whether it is that of a run; `sizes`, how much a request may read.

    Raises
    ------
    HTTPException
        409 if there is one of that name, or a run; 413 if there is no room.
    """
    tree = Tree(sink, checked_key(key), sizes)
    node = made(tree, (key,), **what)
    tree.top, tree.nbytes = node, node.nbytes
    documents = node.documents()
    finished = all(spec.name != "BlueskyRun" for spec in node.specs)
    try:
        if await in_thread(taken, key):
            raise KeyError(key)
        await in_thread(partial(sink.hold, documents["start"], tree, finished=finished))
    except KeyError:
        raise HTTPException(409, f"There is a run {key} already.") from None
    except NoRoomError as error:
        raise HTTPException(413, f"The server's memory is too small: {error}") from None
    return adapter_of(node)
