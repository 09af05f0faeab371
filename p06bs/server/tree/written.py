"""Nodes that services write over HTTP, in memory: containers, arrays, tables.

What comes in is checked before anything changes: who sends the wrong number of bytes,
another type, or rows that do not fit gets a 4xx, and nobody hears of it. One tree is one
run for the sink: it is counted, touched, and leaves as a whole.
"""

import io
import itertools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import pyarrow
from starlette.exceptions import HTTPException
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import Spec, StructureFamily
from tiled.structures.table import TableStructure
from tiled.utils import APACHE_ARROW_FILE_MIME_TYPE

from p06bs.metadata import folder_of
from p06bs.server.sink.names import node_name
from p06bs.server.sink.retention import NoRoomError
from p06bs.server.sink.sink import Sink
from p06bs.server.sink.stream import plain, size_of
from p06bs.server.sink.values import Array
from p06bs.server.tree.cursor import Child, sequence_of

NODE_BYTES = 4096
"""What Python keeps about a node, beside its data and metadata."""

_INDEX = re.compile(r"__index_level_\d+__")

OCTETS = "application/octet-stream"
MOST_AXES = 16
MOST_PARTS = 64
"""Parts of a table that are kept apart: appending does not copy, reading many is slow."""


class Tree:
    """A node at the top, with all that is below it.

    Parameters
    ----------
    sink : Sink
        Makes room, and counts.
    key : str
        Name of the top.
    """

    top: "Node"

    def __init__(self, sink: Sink, key: str) -> None:
        self.sink = sink
        self.key = key
        self.nbytes = 0
        self._last = 0

    @contextmanager
    def changing(self, nbytes: int, stream: str | None) -> Iterator[None]:
        """Make room for `nbytes` more; `stream` is the child of the top that changes.

        Raises
        ------
        HTTPException
            404 if the tree is gone, 413 if it cannot have so much.
        """
        try:
            with self.sink.writing(self, self.key, nbytes, stream) as run:
                yield
                if stream is None:
                    run.metadata = self.top.documents()
        except KeyError:
            raise HTTPException(404, f"There is no {self.key} any more.") from None
        except NoRoomError as error:
            raise HTTPException(413, f"The server's memory is too small: {error}") from None

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
        self.metadata = plain(metadata)
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
    def changing(self, nbytes: int) -> Iterator[None]:
        """Make room for `nbytes` more data and count them when it is done."""
        with self.tree.changing(nbytes, self.stream):
            before = self.metadata_bytes + self.data_bytes
            yield
            self.tree.nbytes += self.metadata_bytes + self.data_bytes - before

    def documents(self) -> dict[str, Any]:
        """Return what the sink knows of a run: when it began, its folder, whether it stopped."""
        begun = self.metadata.get("start")
        start: dict[str, Any] = {"uid": self.tree.key, "time": self.child.created / 1e6}
        if isinstance(begun, Mapping):
            start = {**begun, **start}
            if isinstance(begun.get("time"), int | float):
                start["time"] = float(begun["time"])
        return {"start": start, **({"stop": {}} if self.finished else {})}

    @property
    def folder(self) -> str | None:
        """The beamtime folder of a run."""
        start = self.metadata.get("start")
        return folder_of(start) if isinstance(start, Mapping) else None

    def replace_metadata(self, metadata: Mapping[str, Any], specs: Sequence[Spec]) -> None:
        """Take other metadata."""
        news = plain(metadata)
        nbytes = NODE_BYTES + size_of(news)
        with self.changing(max(0, nbytes - self.metadata_bytes)):
            self.metadata, self.specs, self.metadata_bytes = news, list(specs), nbytes
            self.child = Child(self.child.created, self.tree.number())

    def close(self) -> None:
        """Say that the node changes no more."""
        with self.changing(0):
            self.closed = True

    def add(self, key: str, node: "Node") -> None:
        """Add a child to a container.

        Raises
        ------
        HTTPException
            409 if there is one of that name.
        """
        with self.tree.changing(node.nbytes, node.stream):
            if key in self.children:
                raise HTTPException(409, f"There is {key!r} already.")
            self.children = {**self.children, key: node}
            self.tree.nbytes += node.nbytes

    def remove(self, key: str) -> None:
        """Remove a child of a container."""
        with self.tree.changing(0, self.stream):
            node = self.children[key]
            self.children = {k: v for k, v in self.children.items() if k != key}
            self.tree.nbytes -= node.nbytes


class Container(Node):
    """A container."""

    family = StructureFamily.container


class ArrayNode(Node):
    """An array. Its rows, along the first axis, are counted as they are written."""

    family = StructureFamily.array

    def __init__(self, *args: Any, structure: ArrayStructure) -> None:
        super().__init__(*args)
        if not isinstance(structure.data_type, BuiltinDtype):
            raise HTTPException(422, "Arrays of records are not kept here: write a table.")
        self.shape = checked_shape(structure.shape)
        try:
            self.dtype: np.dtype[Any] = structure.data_type.to_numpy_dtype()
            self.chunks = tuple(checked_shape(sizes, 1 << 20) for sizes in structure.chunks)
            if tuple(map(sum, self.chunks)) != self.shape:
                raise ValueError(f"chunks {self.chunks} of {self.shape}")
            self.dims = None if structure.dims is None else tuple(map(str, structure.dims))
            if self.dims is not None and len(self.dims) != len(self.shape):
                raise ValueError(f"dims {self.dims} of {self.shape}")
        except (KeyError, TypeError, ValueError) as error:
            raise HTTPException(422, f"This is no structure of an array: {error}") from error
        self.values: Array | None = None  # with room for more rows
        self.rows = 0
        self._blocks: set[tuple[int, ...]] = set()

    @property
    def data_bytes(self) -> int:
        return 0 if self.values is None else self.values.nbytes

    def size(self, shape: Sequence[int]) -> int:
        """Return the bytes of an array of that shape."""
        return prod(shape) * self.dtype.itemsize

    def decoded(self, media_type: str, body: bytes, shape: tuple[int, ...]) -> Array:
        """Return an array from its bytes."""
        if media_type != OCTETS:
            raise HTTPException(415, f"Arrays are written as {OCTETS}, not as {media_type}.")
        if len(body) != self.size(shape):
            raise HTTPException(
                422,
                f"{shape} of {self.dtype} has {self.size(shape)} bytes, {len(body)} have come.",
            )
        return np.frombuffer(body, self.dtype).reshape(shape)

    def write(self, media_type: str, body: bytes) -> None:
        """Take the whole array."""
        values = self.decoded(media_type, body, self.shape)
        with self.changing(self._needs(self.shape)):
            self._reserve(self.shape)[...] = values
            self.rows = self.shape[0] if self.shape else 1

    def write_block(self, block: tuple[Any, ...], media_type: str, body: bytes) -> None:
        """Take one chunk."""
        if len(block) != len(self.shape) or any(
            not isinstance(i, int) or not 0 <= i < len(sizes)
            for i, sizes in zip(block, self.chunks, strict=False)
        ):
            raise HTTPException(422, f"There is no block {tuple(block)}.")
        starts = [sum(sizes[:i]) for i, sizes in zip(block, self.chunks, strict=True)]
        shape = tuple(sizes[i] for i, sizes in zip(block, self.chunks, strict=True))
        values = self.decoded(media_type, body, shape)
        with self.changing(self._needs(self.shape)):
            where = tuple(slice(a, a + n) for a, n in zip(starts, shape, strict=True))
            self._reserve(self.shape)[where] = values
            self._blocks.add(tuple(block))
            self._count_blocks()

    def patch(
        self,
        shape: tuple[int, ...],
        offset: tuple[int, ...],
        extend: bool,
        media_type: str,
        body: bytes,
    ) -> None:
        """Take a part, which may make the array longer."""
        if len(shape) != len(self.shape) or len(offset) > len(shape):
            raise HTTPException(422, f"A part of {self.shape} has its axes, not {shape}.")
        at = (*offset, *(0 for _ in shape[len(offset) :]))
        checked_shape(shape)
        values = self.decoded(media_type, body, shape)
        ends = tuple(a + n for a, n in zip(at, shape, strict=True))
        whole = tuple(max(n, end) for n, end in zip(self.shape, ends, strict=True))
        checked_shape(whole)
        if whole != self.shape and not extend:
            raise HTTPException(409, f"{ends} is outside of {self.shape}: say extend=true.")
        with self.changing(self._needs(whole)):
            room = self._reserve(whole)
            room[tuple(slice(a, end) for a, end in zip(at, ends, strict=True))] = values
            if whole != self.shape:
                self.shape = whole
                size = self.chunks[0][0] if whole and self.chunks[0] else 1
                self.chunks = (chunked(whole[0], size or 1), *((n,) for n in whole[1:]))
                self._blocks.clear()
            if at and at[0] <= self.rows:
                self.rows = max(self.rows, ends[0])

    def structure(self) -> ArrayStructure:
        """Return the structure as it is now."""
        return ArrayStructure(
            data_type=BuiltinDtype.from_numpy_dtype(self.dtype),
            chunks=self.chunks,
            shape=self.shape,
            dims=self.dims,
        )

    def array(self) -> Array:
        """Return the values; zero where none have been written."""
        values = self.values
        if values is None:
            return np.broadcast_to(np.zeros((), self.dtype), self.shape)
        return values[: self.shape[0]] if self.shape else values

    def _needs(self, shape: tuple[int, ...]) -> int:
        return self.size(self._room(shape))

    def _room(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return what to allocate for a shape; the old one is kept where it is enough."""
        if self.values is None:
            return shape
        held = self.values.shape
        if held[1:] == shape[1:] and (not shape or shape[0] <= held[0]):
            return (0,) * max(1, len(shape))
        return (max(shape[0], held[0] + held[0] // 2), *shape[1:])

    def _reserve(self, shape: tuple[int, ...]) -> Array:
        room = self._room(shape)
        if self.values is None:
            self.values = np.zeros(room, self.dtype)
        elif prod(room):
            grown = np.zeros(room, self.dtype)
            grown[tuple(slice(n) for n in self.shape)] = self.array()
            self.values = grown
        return self.values

    def _count_blocks(self) -> None:
        """Count the rows of which all blocks have been written, from the first on."""
        across = [range(len(sizes)) for sizes in self.chunks[1:]]
        done = 0
        for i, size in enumerate(self.chunks[0] if self.chunks else ()):
            if not all((i, *rest) in self._blocks for rest in itertools.product(*across)):
                break
            done += size
        self.rows = max(self.rows, done)


class TableNode(Node):
    """A table of one partition, to which rows are appended."""

    family = StructureFamily.table

    def __init__(self, *args: Any, structure: TableStructure) -> None:
        super().__init__(*args)
        try:
            self.schema: pyarrow.Schema = structure.arrow_schema_decoded
        except (AttributeError, TypeError, ValueError, OSError, pyarrow.ArrowException) as error:
            raise HTTPException(422, f"This is no Arrow schema: {error}") from error
        if len(set(self.schema.names)) != len(self.schema.names):
            raise HTTPException(422, "Columns of a table have different names.")
        if structure.npartitions != 1:
            raise HTTPException(422, "Tables are kept in one partition: append to it.")
        self.arrow_schema = structure.arrow_schema
        self.columns = list(structure.columns)
        self._parts: list[pyarrow.Table] = []
        self.rows = 0
        self._data_bytes = 0

    @property
    def data_bytes(self) -> int:
        return self._data_bytes

    def write(self, media_type: str, body: bytes) -> None:
        """Take all rows."""
        table = self.decoded(media_type, body)
        with self.changing(table.nbytes):
            self._parts, self.rows, self._data_bytes = [table], len(table), table.nbytes

    def append(self, partition: int, media_type: str, body: bytes) -> None:
        """Take more rows."""
        if partition != 0:
            raise HTTPException(422, f"There is no partition {partition}, only 0.")
        table = self.decoded(media_type, body)
        joining = len(self._parts) >= MOST_PARTS
        with self.changing(table.nbytes + joining * self._data_bytes):
            parts = [*self._parts, table]
            if joining:
                parts = [pyarrow.concat_tables(parts).combine_chunks()]
            self._parts, self.rows = parts, self.rows + len(table)
            self._data_bytes = sum(part.nbytes for part in parts)

    def decoded(self, media_type: str, body: bytes) -> pyarrow.Table:
        """Return rows from an Arrow file, in the columns and types of the table."""
        if media_type != APACHE_ARROW_FILE_MIME_TYPE:
            raise HTTPException(
                415, f"Rows are written as {APACHE_ARROW_FILE_MIME_TYPE}, not as {media_type}."
            )
        try:
            table = pyarrow.ipc.open_file(io.BytesIO(body)).read_all()
            table.validate(full=True)
            # Clients send the index of a data frame, too, where the table has none.
            sent = {name for name in table.column_names if not _INDEX.fullmatch(name)}
            odd = sent ^ {name for name in self.schema.names if not _INDEX.fullmatch(name)}
            if odd:
                raise HTTPException(422, f"The columns are other ones: {', '.join(sorted(odd))}.")
            return table.select(self.schema.names).cast(self.schema)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise HTTPException(422, f"These rows do not fit the table: {error}") from error

    def structure(self) -> TableStructure:
        """Return the structure."""
        return TableStructure(arrow_schema=self.arrow_schema, npartitions=1, columns=self.columns)

    def table(self) -> pyarrow.Table:
        """Return the rows."""
        return pyarrow.concat_tables(self._parts) if self._parts else self.schema.empty_table()


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


def checked_shape(shape: Any, most: int = MOST_AXES) -> tuple[int, ...]:
    """Return the shape if it is one.

    Raises
    ------
    HTTPException
        422 if it is none.
    """
    if not isinstance(shape, list | tuple) or len(shape) > most or not all(map(_is_length, shape)):
        raise HTTPException(422, f"{str(shape)[:80]} is no shape of an array.")
    return tuple(shape)


def _is_length(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 40


def chunked(rows: int, size: int) -> tuple[int, ...]:
    """Return the chunks of so many rows, all but the last of one size."""
    whole, rest = divmod(rows, size)
    return (size,) * whole + ((rest,) if rest or not whole else ())
