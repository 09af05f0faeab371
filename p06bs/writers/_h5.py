"""NeXus groups, fields and names, and values as HDF5 holds them without loss.

What HDF5 holds as an array (numbers, booleans, text, of one shape) becomes an
array. What it does not (ragged rows, None, mappings, dates, text with NUL)
becomes JSON text, and the dataset's attribute ``encoding`` says so.
"""

import datetime
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

JSON = "application/json"
TEXT = h5py.string_dtype("utf-8")


def json_text(value: object) -> str:
    """Return `value` as JSON text (ASCII; NaN and infinities as Python's json writes them).

    Arrays become lists, dates ISO 8601.

    Raises
    ------
    TypeError
        If the value holds something that JSON has no word for.
    """
    return json.dumps(value, default=_plain)


def _plain(value: object) -> Any:
    if isinstance(value, np.datetime64 | np.timedelta64):
        return str(value)
    if isinstance(value, np.ndarray):
        return list(value) if value.ndim else value[()]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a document holds {value!r} of type {type(value).__name__}, which is not JSON")


class Names:
    """Make names that NeXus allows (letters, digits, underscore), each once in its group."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def __call__(self, key: str) -> str:
        """Return the name for `key`."""
        stem = re.sub(r"[^a-zA-Z0-9_]", "_", key) or "_"
        stem = f"_{stem}" if stem[0].isdigit() else stem
        name, number = stem, 0
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name


def group(parent: h5py.Group, name: str, nx_class: str, **attributes: str) -> h5py.Group:
    """Create a group of a NeXus class."""
    made = parent.create_group(name)
    made.attrs["NX_class"] = nx_class
    made.attrs.update(attributes)
    return made


def field(
    parent: h5py.Group, name: str, value: object, units: str | None = None, **attributes: str
) -> h5py.Dataset:
    """Create a field of any value; what is no array becomes JSON text. Returns the dataset."""
    block = as_block([value])
    if block is None:
        made = parent.create_dataset(name, data=json_text(value), dtype=TEXT)
        made.attrs["encoding"] = JSON
    elif block.dtype.kind == "O":
        made = parent.create_dataset(name, data=block[0], dtype=TEXT)
    else:
        made = parent.create_dataset(name, data=block[0])
    if units:
        made.attrs["units"] = units
    made.attrs.update(attributes)
    return made


def as_block(rows: Sequence[Any]) -> Array | None:
    """Return rows as one array that HDF5 holds without loss; None if there is none.

    Text comes as an array of objects.
    """
    try:
        block = np.asarray(rows)
    except (ValueError, OverflowError):  # ragged; an integer beyond 64 bits
        return None
    if block.dtype.kind in "OUT":
        texts = np.array(rows, dtype=object) if block.dtype.kind == "U" else block.astype(object)
        return texts if all(map(_is_text, texts.flat)) else None
    if block.dtype.kind not in "biufc":
        return None
    if block.dtype.kind == "f" and any(isinstance(v, int) and float(v) != v for v in rows):
        # Integers that float64 does not hold: numpy takes it for 2**63 beside smaller ones.
        return _unsigned(rows)
    return block.astype(block.dtype.newbyteorder("="), copy=False)


def _unsigned(rows: Sequence[Any]) -> Array | None:
    if all(isinstance(v, int) and 0 <= v < 2**64 for v in rows):
        return np.array(rows, np.uint64)
    return None


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
