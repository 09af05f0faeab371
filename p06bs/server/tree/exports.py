"""Exports of whole containers: measured before they are read, and refused if too large."""

import html
import io
from collections.abc import Callable
from math import prod
from typing import Any

import h5py
from fastapi import HTTPException
from tiled.media_type_registration import SerializationRegistry
from tiled.serialization.container import walk
from tiled.structures.core import StructureFamily
from tiled.utils import ensure_awaitable

from p06bs.server.gate.in_flight import OCTETS

NODES = 2_000
"""Arrays and columns of one export. A tree of runs has more."""

Serializer = Callable[..., Any]


def limit_exports(registry: SerializationRegistry, nbytes: int, nodes: int = NODES) -> None:
    """Let containers be exported only if what is below them is small enough.

    Tiled makes an export as a whole, in memory. It is refused (400) before
    anything is read where the arrays have more bytes, or there are more arrays and
    columns, than allowed. Tables say how many bytes they have by an attribute `nbytes`;
    those without one check themselves when they are read.

    Parameters
    ----------
    registry : SerializationRegistry
        Its serializers of containers are replaced.
    nbytes : int
        What one export may have.
    nodes : int
    """
    for media_type in list(registry.media_types(StructureFamily.container)):
        serializer = registry.dispatch(StructureFamily.container, media_type)
        registry.register(
            StructureFamily.container, media_type, _limited(serializer, nbytes, nodes)
        )


def _limited(serializer: Serializer, nbytes: int, nodes: int) -> Serializer:
    async def serialize(
        mimetype: str, node: Any, metadata: Any, filter_for_access: Callable[..., Any]
    ) -> Any:
        await check_export(node, filter_for_access, nbytes, nodes)
        return await ensure_awaitable(serializer, mimetype, node, metadata, filter_for_access)

    return serialize


async def check_export(
    node: Any, filter_for_access: Callable[..., Any], nbytes: int, nodes: int = NODES
) -> None:
    """Refuse an export that is too large.

    Raises
    ------
    HTTPException
        With status 400 and what to do.
    """
    count = size = 0
    measured: set[int] = set()
    async for _, adapter in walk(node, filter_for_access):
        count += 1
        if count > nodes:
            raise HTTPException(
                400, f"This has more than {nodes} arrays and columns: export a part of it."
            )
        if id(adapter) not in measured:  # a table comes once for each column
            measured.add(id(adapter))
            size += nbytes_of(adapter)
        if size > nbytes:
            raise HTTPException(
                400,
                f"This has more than {nbytes} bytes: export a part of it, or read its arrays.",
            )


def nbytes_of(adapter: Any) -> int:
    """Return the bytes of what an adapter reads, as its structure says; 0 if it does not."""
    known = getattr(adapter, "nbytes", None)
    if isinstance(known, int):
        return known
    structure = adapter.structure()
    shape = getattr(structure, "shape", None)
    if shape is None:
        return 0
    itemsize: int = structure.data_type.to_numpy_dtype().itemsize
    return prod(map(int, shape)) * itemsize


def mend(registry: SerializationRegistry) -> None:
    """Replace serializers that fail in Tiled 0.2.20: of empty arrays, HTML, tables as HDF5."""
    octets = registry.dispatch(StructureFamily.array, OCTETS)
    csv = registry.dispatch(StructureFamily.array, "text/csv")

    def to_octets(mimetype: str, array: Any, metadata: Any) -> Any:
        return octets(mimetype, array, metadata) if array.size else b""

    def to_html(mimetype: str, array: Any, metadata: Any) -> bytes:
        text = bytes(csv("text/csv", array, metadata)).decode()
        return f"<html><body><pre>{html.escape(text)}</pre></body></html>".encode()

    registry.register(StructureFamily.array, OCTETS, to_octets)
    registry.register(StructureFamily.array, "text/html", to_html)
    registry.register(StructureFamily.table, "application/x-hdf5", _table_to_hdf5)


def _table_to_hdf5(mimetype: str, table: Any, metadata: Any) -> Any:
    """Return a file with a dataset for each column."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name in table.columns:
            values = table[name].to_numpy()
            if values.dtype.kind in "iufb":
                file.create_dataset(name, data=values)
            else:
                texts = [str(value) for value in values]
                file.create_dataset(name, data=texts, dtype=h5py.string_dtype())
    return buffer.getbuffer()
