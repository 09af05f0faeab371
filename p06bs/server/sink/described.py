"""The columns of a stream as its descriptor describes them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from p06bs.model.documents import Document
from p06bs.server.files.announced import is_row
from p06bs.server.sink.columns import Column, NumberColumn, TextColumn
from p06bs.server.sink.names import column_names
from p06bs.server.sink.pages import LoggedPage, timestamps_of
from p06bs.server.sink.shares import Shares
from p06bs.server.sink.values import NUMBERS, exactly, gaps, is_ragged, text_of, values_of

_DTYPES = {"number": np.float64, "integer": np.int64, "boolean": np.bool_}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where in an event page a column's values are."""

    part: Literal["", "data", "timestamps"]
    key: str


class DescribedColumns:
    """Names, origins and types of a stream's columns.

    What is described of types holds until a value needs another one; what is described of
    shapes holds until there are rows: descriptors are often wrong there.

    Attributes
    ----------
    origins : dict
        Name of the column -> where its values are in a page.
    external : dict
        Data key whose rows lie in files -> name of the column.
    """

    def __init__(self, data_keys: Mapping[str, Any], shares: Shares) -> None:
        self._data_keys = data_keys
        self._shares = shares
        self._number = partial(NumberColumn, chunk=shares.chunk, block=shares.block)
        self._text = partial(TextColumn, chunk=shares.chunk, block=shares.block)
        external = {
            key
            for key, description in data_keys.items()
            if str(_field(description, "external")).startswith("STREAM:")
        }
        self._keys = data_keys.keys() - external
        self.origins: dict[str, Origin] = {}
        self.external: dict[str, str] = {}
        for (part, key), name in column_names(data_keys, self._keys).items():
            if part == "data" and key in external:
                self.external[key] = name
            else:
                self.origins[name] = Origin(part, key)

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

    def including(self, keys: Iterable[str], about: Mapping[str, Any]) -> "DescribedColumns":
        """Return this with the data keys that are new, and what is said `about` them.

        Raises
        ------
        ValueError
            If a column would have to be called otherwise for them.
        """
        new = {key: about.get(key, {}) for key in keys if key not in self._data_keys}
        if not new:
            return self
        more = DescribedColumns({**self._data_keys, **new}, self._shares)
        for name, origin in self.origins.items():
            if more.origins.get(name) != origin:
                raise ValueError(f"not described: {', '.join(new)}; column {name} is in its place")
        return more

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
        """Return what a page holds of a column: None for each row if it has no such key."""
        origin = self.origins[name]
        if origin.part == "data" and origin.key not in page.page["data"]:
            return [None] * len(page)
        if origin.part != "timestamps":
            return page.values(origin.part, origin.key)
        if origin.key not in timestamps_of(page.page):
            return [None] * len(page)
        return page.values("timestamps", origin.key)

    def column_for(self, name: str, values: Any, rows: int, *, strict: bool) -> Column:
        """Return a column for its first values, of the shape that they have.

        The rows before them have none, and are in the log. It is of the type that is
        described if it is `strict`, or if they are known not to change by that.

        Raises
        ------
        ValueError
            If it is `strict` and they are of another kind than what is described, or if
            they are no numbers of one type.
        """
        column = self._first_column(name, values, strict)
        if not rows:
            return column
        if isinstance(column, NumberColumn):
            # Gaps are NaN, or NaT; of integers that would lose digits it is all text.
            dtype = gaps((), column.dtype).dtype
            array = None if hasattr(values, "into") else values_of(values)
            if not isinstance(array, np.ndarray) or exactly(array, dtype) is not None:
                column = self._number(dtype, column.shape)
                column.skip_gaps(rows)
                return column
            column = self._text()
        column.skip_rows(rows, len("null"))
        return column

    def _first_column(self, name: str, values: Any, strict: bool) -> Column:
        origin = self.origins[name]
        if origin.part == "timestamps":
            return self._number(np.dtype(np.float64), ())
        description = self._data_keys[origin.key]
        said = _described_dtype(description)
        if said is not None and said.kind not in NUMBERS:
            said = None
        if hasattr(values, "into"):
            dtype, shape = values.dtype, values.shape[1:]
            if not strict:
                said = None  # nobody has looked at them
        else:
            array = values_of(values)
            if isinstance(array, list):
                if strict and _field(description, "dtype") == "array" and not is_ragged(values):
                    _check_texts(name, values, _shape(description))
                return self._text()
            dtype, shape = array.dtype, array.shape[1:]
            if said is not None and not strict and exactly(array, said) is None:
                said = None
        if dtype.kind not in NUMBERS:
            return self._text()
        return self._number(dtype if said is None else said, shape)

    def text_behind(self, column: Column | None, rows: int) -> TextColumn:
        """Return a column of text in place of another one, whose rows are in the log, or of none.

        Where there is none its rows have no values.
        """
        text = self._text()
        text.skip_rows(rows, column.json_width if isinstance(column, NumberColumn) else len("null"))
        return text

    def _column(self, origin: Origin) -> Column | None:
        if not origin.part:
            dtypes = {"seq_num": np.int64, "time": np.float64}
            return (
                self._number(np.dtype(dtypes[origin.key]), ())
                if origin.key in dtypes
                else self._text()
            )
        if origin.part == "timestamps":
            return self._number(np.dtype(np.float64), ())
        description = self._data_keys[origin.key]
        kind = _field(description, "dtype")
        if kind == "string" or _field(description, "external"):
            return self._text()  # the events of old have datum ids in place of frames
        shape, dtype = _shape(description), _described_dtype(description)
        if dtype is not None and dtype.kind not in NUMBERS:
            return self._text()
        if dtype is None or (shape is None and kind not in _DTYPES):
            return None
        return self._number(dtype, shape or ())


def _check_texts(name: str, values: Any, shape: tuple[int, ...] | None) -> None:
    """Check that values that are no numbers are arrays all the same: of text, if described."""
    for value in values:
        items = [] if isinstance(value, str) else np.array(value, object).ravel().tolist()
        text = all(isinstance(item, str) for item in items)
        if isinstance(value, str) or (shape is not None and not text):
            raise ValueError(f"{name}: {text_of(value)[:80]!r} where an array is described")


def _field(description: Any, name: str) -> Any:
    return (description.get(name) or "") if isinstance(description, Mapping) else ""


def _described_dtype(description: Any) -> np.dtype[Any] | None:
    said, kind = _field(description, "dtype_numpy"), _field(description, "dtype")
    try:
        if isinstance(said, str) and said:
            return np.dtype(said)
    except (SyntaxError, TypeError, ValueError):
        pass  # what is no type says nothing
    return np.dtype(_DTYPES[kind]) if kind in _DTYPES else None


def _shape(description: Any) -> tuple[int, ...] | None:
    """Return the described shape; None where it does not say the number of values."""
    shape = _field(description, "shape")
    kind = _field(description, "dtype")
    if not isinstance(shape, list | tuple) or (not shape and kind == "array"):
        return () if kind in _DTYPES else None
    if not all(type(n) is int and n > 0 for n in shape) or not is_row(tuple(shape)):
        return None
    return tuple(shape)
