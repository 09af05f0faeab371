"""What responses cost that are made as a whole: refused where that is too much memory."""

from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from tiled.media_type_registration import SerializationRegistry
from tiled.structures.core import StructureFamily

STOCK = ("application/octet-stream", "application/vnd.apache.arrow.file")
"""What stock clients ask for, by blocks and partitions, which are small as they are."""

COSTS = {"image/png": 2, "image/tiff": 2, "application/json": 3}
"""Bytes taken at the peak for each byte of an array or table, beside itself.

Measured as the peak of a process that serializes float64 numbers.
"""

TABLE_COSTS = {
    "application/json": 8,
    "application/x-hdf5": 2,
    "text/html": 24,
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": 64,
}

OTHER_COST = 10
"""Of the other formats, which are text, or pack."""

Serializer = Callable[..., Any]


def limit_costs(registry: SerializationRegistry, nbytes: int) -> None:
    """Let arrays and tables be made into a format only if that takes little memory.

    Parameters
    ----------
    registry : SerializationRegistry
        Its serializers of arrays and tables are replaced.
    nbytes : int
        What one response may take at its peak, with the data themselves.
    """
    for family in (StructureFamily.array, StructureFamily.table):
        costs = COSTS if family is StructureFamily.array else COSTS | TABLE_COSTS
        for media_type in list(registry.media_types(family)):
            if media_type in STOCK:
                continue
            serializer = registry.dispatch(family, media_type)
            cost = costs.get(media_type, OTHER_COST)
            registry.register(family, media_type, _limited(serializer, nbytes // (1 + cost)))


def _limited(serializer: Serializer, limit: int) -> Serializer:
    def serialize(mimetype: str, values: Any, metadata: Any) -> Any:
        nbytes = _nbytes(values)
        if nbytes > limit:
            raise HTTPException(
                400,
                f"These are {nbytes} bytes, and as {mimetype} the server makes {limit} at most: "
                "ask for a slice, for fewer columns, for a partition, or for another format.",
            )
        return serializer(mimetype, values, metadata)

    return serialize


def _nbytes(values: Any) -> int:
    """Return the bytes of an array or a data frame."""
    usage = getattr(values, "memory_usage", None)
    return int(values.nbytes if usage is None else usage(index=False).sum())
