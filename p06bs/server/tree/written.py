"""Nodes that services write over HTTP, in memory: containers, arrays, tables.

What comes in is checked before anything changes: who sends the wrong number of bytes,
another type, or rows that do not fit gets a 4xx, and nobody hears of it. One tree is one
run for the sink: it is counted, touched, and leaves as a whole.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from starlette.exceptions import HTTPException
from tiled.structures.core import Spec, StructureFamily

from p06bs.metadata import folder_of
from p06bs.server.sink.names import node_name
from p06bs.server.sink.retention import NoRoomError
from p06bs.server.sink.sink import Sink
from p06bs.server.sink.values import plain, size_of, time_of
from p06bs.server.tree.arrays import Sizes
from p06bs.server.tree.cursor import Child, sequence_of

Room = Callable[[int], None]
"""Makes room for so many bytes more."""

NODE_BYTES = 4096
"""What Python keeps about a node, beside its data and metadata."""


class Tree:
    """A node at the top, with all that is below it.

    Parameters
    ----------
    sink : Sink
        Makes room, and counts.
    key : str
        Name of the top.
    sizes : Sizes
        How much one request may read.
    """

    top: "Node"

    def __init__(self, sink: Sink, key: str, sizes: Sizes) -> None:
        self.sink = sink
        self.key = key
        self.sizes = sizes
        self.nbytes = 0
        self._last = 0

    @contextmanager
    def changing(self, stream: str | None) -> Iterator[Room]:
        """Change something, one writer at a time; `stream` is the child of the top that changes.

        Raises
        ------
        HTTPException
            404 if the tree is gone, 413 if it cannot have so much.
        """
        with ExitStack() as stack:
            try:
                run, room = stack.enter_context(self.sink.writing(self, self.key, stream))
            except KeyError:
                raise HTTPException(404, f"There is no {self.key} any more.") from None
            try:
                yield room
            except NoRoomError as error:
                raise HTTPException(413, f"The server's memory is too small: {error}") from None
            if stream is None:
                run.metadata = self.top.documents()

    def at(self, path: tuple[str, ...]) -> "Node | None":
        """Return the node at a path, or None."""
        node: Node | None = self.top
        for key in path[1:]:
            node = None if node is None else node.children.get(key)
        return node

    def number(self) -> int:
        """Return a sequence number: microseconds, and more than any before."""
        self._last = max(self._last + 1, sequence_of(time.time()))
        return self._last


class Node:
    """A node: its metadata, and what kind it is.

    Parameters
    ----------
    tree : Tree
    path : tuple of str
        Keys from the top down to the node.
    metadata : mapping
    specs : sequence of Spec
    """

    family: StructureFamily

    def __init__(
        self, tree: Tree, path: tuple[str, ...], metadata: Mapping[str, Any], specs: Sequence[Spec]
    ) -> None:
        self.tree = tree
        self.path = path
        self.metadata = _checked(metadata)
        self.specs = list(specs)
        self.child = Child(tree.number())
        self.closed = False
        self.children: dict[str, Node] = {}
        self.metadata_bytes = NODE_BYTES + size_of(self.metadata)

    @property
    def data_bytes(self) -> int:
        """Bytes of the node's own data."""
        return 0

    @property
    def nbytes(self) -> int:
        """Bytes of the node and what is below."""
        below = sum(child.nbytes for child in self.children.values())
        return self.metadata_bytes + self.data_bytes + below

    @property
    def finished(self) -> bool:
        """Whether the node changes no more, as far as its writers said."""
        return self.closed or "stop" in self.metadata

    @property
    def holds_data(self) -> bool:
        """Whether there are arrays or tables, here or below."""
        family = self.family != StructureFamily.container
        return family or any(child.holds_data for child in self.children.values())

    @property
    def stream(self) -> str | None:
        """The child of the top that the node is in."""
        return self.path[1] if len(self.path) > 1 else None

    @contextmanager
    def changing(self, stream: str | None = None) -> Iterator[Room]:
        """Change the node: what depends on how it is now is decided within, and counted after.

        Gives what makes room: to be called before so many bytes more are taken.

        Raises
        ------
        HTTPException
            404 if the node is gone, 413 if it cannot have so much.
        """
        with self.tree.changing(stream or self.stream) as room:
            if self.tree.at(self.path) is not self:
                raise HTTPException(404, f"There is no {'/'.join(self.path)} any more.")
            before = self.metadata_bytes + self.data_bytes
            try:
                yield room
            finally:
                self.tree.nbytes += self.metadata_bytes + self.data_bytes - before

    def documents(self) -> dict[str, Any]:
        """Return what the sink knows of a run: when it began, its folder, whether it stopped."""
        begun = self.metadata.get("start")
        start: dict[str, Any] = {"uid": self.tree.key, "time": self.child.created / 1e6}
        if isinstance(begun, Mapping):
            start = {**begun, **start}
            if "time" in begun:
                start["time"] = time_of(begun)
        return {"start": start, **({"stop": {}} if self.finished else {})}

    @property
    def folder(self) -> str | None:
        """The beamtime folder of a run."""
        return folder_in(self.metadata)

    def replace_metadata(self, metadata: Mapping[str, Any], specs: Sequence[Spec]) -> None:
        """Take other metadata.

        Raises
        ------
        HTTPException
            409 if they name another beamtime folder: who may see a run stays as it is.
        """
        news = _checked(metadata)
        nbytes = NODE_BYTES + size_of(news)
        with self.changing() as room:
            if len(self.path) == 1 and folder_in(news) != self.folder:
                raise HTTPException(409, "The beamtime folder of what has been written stays.")
            room(max(0, nbytes - self.metadata_bytes))
            self.metadata, self.specs, self.metadata_bytes = news, list(specs), nbytes
            self.child = Child(self.child.created, self.tree.number())

    def close(self) -> None:
        """Say that the node changes no more."""
        with self.changing():
            self.closed = True

    def add(self, key: str, node: "Node") -> None:
        """Add a child to a container.

        Raises
        ------
        HTTPException
            409 if there is one of that name.
        """
        with self.changing(node.stream) as room:
            if key in self.children:
                raise HTTPException(409, f"There is {key!r} already.")
            room(node.nbytes)
            node.child = Child(self.tree.number())
            self.children = {**self.children, key: node}
            self.tree.nbytes += node.nbytes

    def remove(self, key: str) -> None:
        """Remove a child of a container.

        Raises
        ------
        HTTPException
            404 if there is none of that name.
        """
        with self.changing():
            node = self.children.get(key)
            if node is None:
                raise HTTPException(404, f"There is no {key!r} any more.")
            self.children = {k: v for k, v in self.children.items() if k != key}
            self.tree.nbytes -= node.nbytes


class Container(Node):
    """A container."""

    family = StructureFamily.container


def folder_in(metadata: Mapping[str, Any]) -> str | None:
    """Return the beamtime folder that a node's metadata name, as a run's do."""
    start = metadata.get("start")
    return folder_of(start) if isinstance(start, Mapping) else None


def _checked(metadata: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = plain(metadata)
        for name in ("start", "stop"):
            if isinstance(found.get(name), Mapping) and "time" in found[name]:
                time_of(found[name])
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"These are no metadata: {error}") from None
    return found


def checked_key(key: str) -> str:
    """Return the key if it can be a part of a path.

    Raises
    ------
    HTTPException
        422 if it cannot.
    """
    if not key or node_name(key) != key or len(key) > 255:
        raise HTTPException(422, f"{key[:80]!r} cannot be a part of a path.")
    return key
