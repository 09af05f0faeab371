"""The columns of a stream as its descriptor describes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Literal

import numpy as np

from p06bs.model.documents import Document
from p06bs.server.files.detector import is_row
from p06bs.server.sink.columns import Column, NumberColumn, TextColumn
from p06bs.server.sink.names import node_name
from p06bs.server.sink.places import LoggedPage
from p06bs.server.sink.shares import Shares
from p06bs.server.sink.values import NUMBERS, values_of

TABLE = "internal"
"""Name of the table of a stream's one-dimensional columns, as bluesky's TiledWriter has it."""

RESERVED = frozenset({"seq_num", "time", "uid", TABLE})

_DTYPES = {"number": np.float64, "integer": np.int64, "boolean": np.bool_}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where in an event page a column's values are."""

    part: Literal["data", "timestamps"] | None
    key: str


class Described:
    """Names, origins and types of a stream's columns.

    A data key that is called as a column of every stream has an underscore behind its
    name; see `names` for characters that a path cannot have.

    Attributes
    ----------
    origins : dict
        Name of the column -> where its values are in a page.
    external : dict
        Data key whose rows lie in files -> name of the column.
    """

    def __init__(self, data_keys: Mapping[str, Any], shares: Shares) -> None:
        self._data_keys = data_keys
        self._number = partial(NumberColumn, chunk=shares.chunk, block=shares.block)
        self._text = partial(TextColumn, chunk=shares.chunk, block=shares.block)
        self.origins = {key: Origin(None, key) for key in ("seq_num", "time", "uid")}
        self.external: dict[str, str] = {}
        taken = set(RESERVED)
        stamps: list[str] = []
        for key, description in data_keys.items():
            name = node_name(key)
            while name in taken:
                name += "_"
            taken.add(name)
            if str(_field(description, "external")).startswith("STREAM:"):
                self.external[key] = name
            else:
                self.origins[name] = Origin("data", key)
                stamps.append(key)
        for key in stamps:
            if (name := node_name(f"ts_{key}")) not in taken:
                self.origins[name] = Origin("timestamps", key)
        self._keys = frozenset(stamps)

    def columns(self) -> dict[str, Column]:
        """Return empty columns for what is described well enough."""
        found = {name: self._column(origin) for name, origin in self.origins.items()}
        return {name: column for name, column in found.items() if column is not None}

    def description(self, name: str) -> Mapping[str, Any]:
        """Return what the descriptor says of a column, with its data key where that differs."""
        origin = self.origins.get(name)
        keys = {column: key for key, column in self.external.items()}
        if origin is not None and origin.part == "data":
            keys[name] = origin.key
        if name not in keys:
            return {}
        described = self._data_keys[keys[name]]
        described = described if isinstance(described, Mapping) else {}
        return described if keys[name] == name else {**described, "data_key": keys[name]}

    def check_keys(self, page: Document) -> None:
        """Check that a page has the data keys that are described.

        Raises
        ------
        ValueError
            If not; says which are missing and which are not known.
        """
        keys = page["data"].keys()
        if keys != self._keys:
            missing = ", ".join(sorted(self._keys - keys)) or "none"
            unknown = ", ".join(sorted(map(str, keys - self._keys))) or "none"
            raise ValueError(f"missing data keys: {missing}; not described: {unknown}")

    def values(self, page: LoggedPage, name: str) -> Any:
        """Return what a page holds of a column; NaN for a time that it does not say."""
        origin = self.origins[name]
        if origin.part != "timestamps":
            return page.values(origin.part, origin.key)
        stamps = page.page.get("timestamps") or {}
        if origin.key not in stamps:
            return np.full(len(page), np.nan)
        return page.values("timestamps", origin.key)

    def column_for(self, name: str, values: Any) -> Column:
        """Return an empty column for what is described too little, from its first values.

        Raises
        ------
        ValueError
            If they do not fit the little that is described.
        """
        description = self._data_keys[self.origins[name].key]
        kind, shape = _field(description, "dtype"), _shape(description)
        if hasattr(values, "into"):
            return self._number(values.dtype, shape or tuple(values.shape[1:]))
        array = values_of(values)
        if isinstance(array, list):
            if kind == "array" and not all(_may_be_text(value, shape) for value in values):
                raise ValueError(f"{name}: {array[0][:80]!r} where an array is described")
            return self._text()
        if shape is not None and prod(array.shape[1:]) != prod(shape):
            raise ValueError(f"{name}: rows of shape {array.shape[1:]}, described are {shape}")
        return self._number(array.dtype, shape or array.shape[1:])

    def _column(self, origin: Origin) -> Column | None:
        if origin.part is None:
            dtypes = {"seq_num": np.int64, "time": np.float64}
            return (
                self._number(np.dtype(dtypes[origin.key]), ())
                if origin.key in dtypes
                else (self._text())
            )
        if origin.part == "timestamps":
            return self._number(np.dtype(np.float64), ())
        description = self._data_keys[origin.key]
        kind, said = _field(description, "dtype"), _field(description, "dtype_numpy")
        if kind == "string" or _field(description, "external"):
            return self._text()  # the events of old have datum ids in place of frames
        shape = _shape(description)
        dtype = _numpy_dtype(said)
        if dtype is not None and dtype.kind not in NUMBERS:
            return self._text()
        if dtype is None and kind in _DTYPES:
            dtype = np.dtype(_DTYPES[kind])
        if dtype is None or (shape is None and kind not in _DTYPES):
            return None
        return self._number(dtype, shape or ())


def _may_be_text(value: Any, shape: tuple[int, ...] | None) -> bool:
    """Return whether a value that is no array of numbers is an array all the same.

    Of known shape, it is one of text; else it may be ragged.
    """
    if isinstance(value, str):
        return False
    if shape is None:
        return True
    items = np.array(value, object).ravel().tolist()
    return len(items) == prod(shape) and all(isinstance(item, str) for item in items)


def _field(description: Any, name: str) -> Any:
    return (description.get(name) or "") if isinstance(description, Mapping) else ""


def _numpy_dtype(said: Any) -> np.dtype[Any] | None:
    try:
        return np.dtype(said) if isinstance(said, str) and said else None
    except (SyntaxError, TypeError, ValueError):
        return None


def _shape(description: Any) -> tuple[int, ...] | None:
    """Return the described shape; None where it does not say the number of values."""
    shape = _field(description, "shape")
    kind = _field(description, "dtype")
    if not isinstance(shape, list | tuple) or (not shape and kind == "array"):
        return () if kind in _DTYPES else None
    if not all(type(n) is int and n > 0 for n in shape) or not is_row(tuple(shape)):
        return None
    return tuple(shape)
