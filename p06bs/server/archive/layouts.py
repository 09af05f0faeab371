"""What the values of a column have in common: the type and shape that all of them fit."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from p06bs.server.archive.columnfile import Array, Layout
from p06bs.server.sink.values import NUMBERS, array_of, has_negative, has_wide, text_of

Values = Any
"""Rows of a column in a page: a sequence or an array."""


@dataclass(slots=True)
class Column:
    """What the values of a column have in common so far.

    Attributes
    ----------
    layout : Layout or None
        None while no value came.
    gaps : bool
        Whether a row has no value.
    wide : bool
        Whether an integer has more digits than floats hold.
    negative : bool
        Whether an integer is less than 0.
    """

    layout: Layout | None = None
    gaps: bool = False
    wide: bool = False
    negative: bool = False

    def see(self, values: Values) -> None:
        """Take further rows into account."""
        layout, gaps = layout_of(values)
        self.gaps = self.gaps or gaps
        if layout is not None:
            if layout.kind == "numbers":
                self.wide = self.wide or has_wide(values)
                signed = np.dtype(layout.dtype).kind == "i"
                self.negative = self.negative or (signed and has_negative(values))
            self.layout = layout if self.layout is None else _common(self.layout, layout)

    def final(self) -> Layout:
        """Return the layout that all rows fit: gaps are NaN, or null; no digit is lost."""
        if self.layout is None:
            return Layout("json", "<U4")
        if self.layout.kind == "json":
            return self.layout
        if self.layout.kind == "text":
            return Layout("json", self.layout.dtype) if self.gaps else self.layout
        kind = np.dtype(self.layout.dtype).kind
        needs_float = self.gaps or (kind == "u" and self.negative)
        if self.wide and (needs_float or kind in "fcmM"):
            return Layout("json", "<U1")
        if kind in "fcmM" or not needs_float:
            return self.layout
        return replace(self.layout, dtype="<f8")


def layout_of(values: Values) -> tuple[Layout | None, bool]:
    """Return what the rows of a page hold, and whether some are None."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind in NUMBERS:
            return Layout("numbers", values.dtype.newbyteorder("=").str, values.shape[1:]), False
        if values.dtype.kind == "U" and values.ndim == 1:
            return Layout("text", "<U1"), False
    there = [value for value in values if value is not None]
    gaps = len(there) < len(values)
    if not there:
        return None, gaps
    if all(isinstance(value, str) for value in there):
        return Layout("text", "<U1"), gaps
    try:
        array = array_of(there)
    except (ValueError, OverflowError):
        return Layout("json", "<U1"), gaps
    if array.dtype.kind not in NUMBERS:
        return Layout("json", "<U1"), gaps
    return Layout("numbers", array.dtype.newbyteorder("=").str, array.shape[1:]), gaps


def conform(values: Values, layout: Layout, count: int) -> Array | list[str]:
    """Return the rows of a page as a column of this layout holds them."""
    if values is None:  # the page has no such column
        values = [None] * count
    if layout.kind == "numbers":
        if isinstance(values, np.ndarray) and values.dtype != object:
            return values.astype(layout.dtype, copy=False)
        dtype = np.dtype(layout.dtype)
        if layout.shape and any(value is None for value in values):
            gap = np.full(layout.shape, np.nan if dtype.kind in "fc" else "NaT", dtype)
            values = [gap if value is None else value for value in values]
        return np.asarray(values, dtype).reshape((count, *layout.shape))
    return [text_of(value) for value in values]


def _common(one: Layout, other: Layout) -> Layout:
    """Return the layout that takes the rows of both."""
    if one == other:
        return one
    if one.kind == other.kind == "numbers" and one.shape == other.shape:
        try:
            dtype = np.result_type(one.dtype, other.dtype)
        except TypeError:
            return Layout("json", "<U1")
        if {np.dtype(one.dtype).kind, np.dtype(other.dtype).kind} == {"i", "u"}:
            dtype = dtype if dtype.kind == "i" else np.dtype(np.uint64)  # unless one is negative
        return replace(one, dtype=dtype.str)
    return Layout("json", "<U1")
