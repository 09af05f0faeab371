"""Columns of events as HDF5 datasets that grow, without loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from p06bs.writers._h5 import JSON, TEXT, Array, as_block, json_text

CHUNK_BYTES = 256 * 1024
FRAME_BYTES = 256 * 1024
"""From this size on a value is a frame: a chunk of its own, compressed with bitshuffle and LZ4."""
BUFFER_BYTES = 8 * 1024 * 1024
BUFFER_ROWS = 1024


class Column:
    """One dataset that grows along its leading axis, events."""

    def __init__(
        self, parent: h5py.Group, name: str, described: Mapping[str, Any], **attributes: str
    ) -> None:
        self.parent = parent
        self.name = name
        self.described = described
        self.dataset: h5py.Dataset | None = None
        self._attributes = dict(attributes)
        if described.get("units"):
            self._attributes["units"] = str(described["units"])

    @property
    def is_scalar_number(self) -> bool:
        """Whether there are rows, each one real number."""
        return (
            self.dataset is not None and self.dataset.ndim == 1 and self.dataset.dtype.kind in "iuf"
        )

    def append(self, rows: Sequence[Any]) -> None:
        """Append rows; changes type or encoding of the dataset if it cannot hold them."""
        if not len(rows):
            return
        block = None if "encoding" in self._attributes else as_block(rows)
        if self.dataset is None:
            if block is None:
                self._attributes["encoding"] = JSON
                block = _texts(rows)
            self._create(block, self._first_dtype(block))
        elif "encoding" in self._attributes:
            block = _texts(rows)
        elif block is None or not self._fits(block):
            self._encode()
            block = _texts(rows)
        assert self.dataset is not None
        count = len(self.dataset)
        self.dataset.resize(count + len(block), axis=0)
        self.dataset[count:] = block

    def _fits(self, block: Array) -> bool:
        """Return whether the dataset holds the block, after a change of its dtype if need be."""
        assert self.dataset is not None
        have = self.dataset.dtype
        if block.shape[1:] != self.dataset.shape[1:] or (have.kind == "O") != (
            block.dtype.kind == "O"
        ):
            return False
        if have.kind == "O" or _holds(have, block):
            return True
        old = self.dataset[...]
        wide = np.result_type(have, block.dtype)
        if not (_holds(wide, block) and _holds(wide, old)):
            return False
        self._replace(old, wide)
        return True

    def _encode(self) -> None:
        """Turn the rows that are there into JSON texts."""
        assert self.dataset is not None
        text = self.dataset.dtype.kind == "O"
        old = self.dataset.asstr()[...] if text else self.dataset[...]
        self._attributes["encoding"] = JSON
        self._replace(_texts(list(old)), np.dtype(object))

    def _replace(self, rows: Array, dtype: np.dtype[Any]) -> None:
        del self.parent[self.name]
        self._create(rows, dtype)
        assert self.dataset is not None
        self.dataset.resize(len(rows), axis=0)
        self.dataset[...] = rows

    def _first_dtype(self, block: Array) -> np.dtype[Any]:
        if block.dtype.kind in "Ob":  # ophyd describes True and False as integers
            return block.dtype
        said, kind = self.described.get("dtype_numpy"), self.described.get("dtype")
        wanted: str | None = said if isinstance(said, str) else None
        if wanted is None and block.ndim == 1:
            wanted = {"number": "f8", "integer": "i8", "boolean": "?"}.get(str(kind))
        if wanted is not None:
            dtype = np.dtype(wanted).newbyteorder("=")
            if dtype.kind in "biufc" and _holds(dtype, block):
                return dtype
        return block.dtype

    def _create(self, block: Array, dtype: np.dtype[Any]) -> None:
        value = block.shape[1:]
        size = max(int(np.prod(value)), 1) * dtype.itemsize
        options: dict[str, Any] = {}
        if dtype.kind == "O":
            pass  # the filters would see references, not text
        elif size >= FRAME_BYTES:
            options = dict(hdf5plugin.Bitshuffle(cname="lz4"))
        else:
            options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        self.dataset = self.parent.create_dataset(
            self.name,
            (0, *value),
            TEXT if dtype.kind == "O" else dtype,
            chunks=(min(max(CHUNK_BYTES // size, 1), BUFFER_ROWS), *(max(n, 1) for n in value)),
            maxshape=(None, *(n or None for n in value)),
            **options,
        )
        self.dataset.attrs.update(self._attributes)


def _texts(rows: Sequence[Any]) -> Array:
    texts = np.empty(len(rows), object)
    texts[:] = [json_text(row) for row in rows]
    return texts


def _holds(dtype: np.dtype[Any], block: Array) -> bool:
    """Return whether `dtype` holds every value of the block exactly."""
    lossy = block.dtype.kind in "iu" and dtype.kind in "fc"  # which numpy calls safe
    if np.can_cast(block.dtype, dtype, "safe") and not lossy:
        return True
    with np.errstate(all="ignore"):  # what overflows does not come back equal
        cast = block.astype(dtype)
        back = cast.astype(block.dtype)
    nan = block.dtype.kind in "fc" and dtype.kind in "fc"
    return all(np.array_equal(other, block, equal_nan=nan) for other in (cast, back))


class Table:
    """Columns that grow together, through one buffer."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self.columns = dict(columns)
        self._rows: dict[str, list[Any]] = {key: [] for key in self.columns}
        size = sum(
            8 * max(int(np.prod([n or 1 for n in c.described.get("shape") or ()])), 1)
            for c in self.columns.values()
        )
        self._limit = min(max(BUFFER_BYTES // max(size, 1), 1), BUFFER_ROWS)
        self._buffered = 0
        self.count = 0

    def extend(self, rows: Mapping[str, Sequence[Any]]) -> None:
        """Append the same number of rows to every column.

        Raises
        ------
        ValueError
            If columns are missing, unknown or unequally long; nothing is appended then.
        """
        counts = {key: len(values) for key, values in rows.items()}
        if counts.keys() != self._rows.keys():
            odd = ", ".join(sorted(counts.keys() ^ self._rows.keys()))
            raise ValueError(f"its columns differ from those its descriptor announced, by {odd}")
        if len(set(counts.values())) > 1:
            raise ValueError(f"its columns differ in length: {counts}")
        for key, values in rows.items():
            # Copies, because devices reuse the arrays of their readings.
            self._rows[key] += [v.copy() if isinstance(v, np.ndarray) else v for v in values]
        added = next(iter(counts.values()), 0)
        self.count += added
        self._buffered += added
        if self._buffered >= self._limit:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered."""
        for key, column in self.columns.items():
            column.append(self._rows[key])
            self._rows[key].clear()
        self._buffered = 0
