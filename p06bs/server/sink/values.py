"""Values of a page as arrays of numbers or as text, and whether a change of type keeps them."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class ShapeError(ValueError):
    """Numbers, but rows of another shape than those of the column."""


class Rows(Protocol):
    """Rows that lie somewhere else, of one dtype and shape; read when they are copied."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...

    def into(self, target: Array, start: int) -> None:
        """Copy rows from `start` on to all of `target`."""

    def whole(self) -> Array:
        """Return all rows."""


EXACT = 1 << 53
"""Floats of 64 bits hold all integers up to this."""

DEEPEST = 128
"""Levels of a document: JSON for clients takes 254, the answer around it included."""

LEAST, MOST = -(1 << 63), (1 << 64) - 1
"""Integers that JSON and msgpack for clients take."""

NUMBERS = "biufcmM"
"""Kinds of dtypes that a column of numbers has."""


def values_of(values: Sequence[Any] | Array) -> Array | list[str]:
    """Return what a page holds of one column as an array, or as text.

    Text stays text; None among numbers, or arrays of them, is NaN; what is no rectangle
    of numbers (dicts, lists of unequal length) becomes JSON.

    Raises
    ------
    ValueError
        If integers would lose digits beside None or floating-point numbers.
    """
    if isinstance(values, np.ndarray):
        array = values
    elif any(value is None for value in values):
        array = _with_gaps(values)
    else:
        try:
            array = array_of(values)
        except (OverflowError, ValueError):  # lists of unequal length
            array = np.empty(0, object)
        large = array.dtype in (np.float64, np.complex128) and np.any(np.abs(array) >= EXACT)
        if large and has_wide(values):
            raise ValueError("integers beside floating-point numbers would lose digits")
    if array.dtype.kind in NUMBERS:
        return array
    if array.dtype.kind == "U" and array.ndim == 1:
        texts: list[str] = array.tolist()
        return texts
    return [text_of(value) for value in values]


def array_of(values: Sequence[Any]) -> Array:
    """Return values as an array; unsigned, where that holds integers that signed ones do not.

    Beside smaller integers numpy makes floats of them.

    Raises
    ------
    OverflowError, ValueError
        If they are lists of unequal length, or integers of more than 64 bits.
    """
    array = np.asarray(values)
    if array.dtype == np.float64 and np.any(array >= 1 << 63):
        items = np.array(values, object)
        if all(isinstance(item, int | np.integer) and item >= 0 for item in items.flat):
            return items.astype(np.uint64)
    return array


def is_ragged(values: Any) -> bool:
    """Return whether all that is in lists in lists is numbers: an array, if not a rectangle."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values.dtype.kind in NUMBERS
    if isinstance(values, list | tuple | np.ndarray):
        return all(map(is_ragged, values))
    return values is None or isinstance(values, int | float | complex | np.number)


def text_of(value: Any) -> str:
    r"""Return text as it is, bytes as UTF-8 or \xff, and anything else as JSON.

    Raises
    ------
    ValueError
        If it is nested too deeply, or in itself.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    try:
        return json.dumps(value, default=_plain)
    except RecursionError:
        raise ValueError("it is nested too deeply to be written as JSON") from None


def plain(value: Any, levels: int = DEEPEST) -> Any:
    """Return a document with lists and numbers in place of numpy's: metadata is compared.

    Raises
    ------
    ValueError
        If it is nested deeper than `levels`, or has integers that clients are not sent.
    """
    if levels < 0:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels: metadata are flat")
    if isinstance(value, Mapping):
        return {key: plain(item, levels - 1) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item, levels - 1) for item in value]
    if isinstance(value, int) and not LEAST <= value <= MOST:
        raise ValueError("an integer has more than 64 bits")
    return value


def time_of(document: Mapping[str, Any]) -> float:
    """Return the time of a document, Unix time in s.

    Raises
    ------
    KeyError
        If it has none.
    ValueError
        If that is no finite number.
    """
    time = document["time"]
    if not isinstance(time, int | float | np.number) or not math.isfinite(time):
        raise ValueError(f"the time is {str(time)[:80]!r}: a finite number of seconds is needed")
    return float(time)


def size_of(value: Any) -> int:
    """Return about how many bytes a document takes in memory."""
    size = sys.getsizeof(value)
    if isinstance(value, Mapping):
        size += sum(size_of(key) + size_of(item) for key, item in value.items())
    elif isinstance(value, list):
        size += sum(map(size_of, value))
    return size


def are_gaps(values: Any) -> bool:
    """Return whether no row of a page has a value."""
    if not isinstance(values, list) or (values and values[0] is not None):
        return False
    return all(value is None for value in values)


def gaps(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return what stands for numbers that are missing: NaN, or NaT."""
    if dtype.kind in "mM":
        return np.full(shape, "NaT", dtype)
    return np.full(shape, np.nan, dtype if dtype.kind in "fc" else np.float64)


def _with_gaps(values: Sequence[Any]) -> Array:
    there = [value for value in values if value is not None]
    array = values_of(there) if there else np.empty(0)
    if isinstance(array, list):
        return np.empty(0, object)  # no numbers
    found = gaps((len(values), *array.shape[1:]), array.dtype)
    exact = exactly(array, found.dtype)
    if exact is None:
        raise ValueError("integers beside None would lose digits as floating-point numbers")
    found[[value is not None for value in values]] = exact
    return found


def exactly(array: Array, dtype: np.dtype[Any]) -> Array | None:
    """Return `array` as `dtype` if no value changes by that, else None.

    Integers with more digits than floats hold are no floats, whatever their last digits are.
    """
    if array.dtype == dtype:
        return array
    if array.dtype.kind in "mM" or dtype.kind in "mM":
        return array.astype(dtype) if np.can_cast(array.dtype, dtype, "safe") else None
    if dtype.kind in "fc" and has_wide(array):
        return None  # numpy calls int64 to float64 safe
    if np.can_cast(array.dtype, dtype, "safe"):
        return array.astype(dtype)
    if array.dtype.kind == "c" and dtype.kind != "c":
        return None
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
        back = cast.astype(array.dtype)
        # Both ways: a negative number survives the way through an unsigned type and back.
        same = (back == array) & (cast == array)
    if array.dtype.kind in "fc":
        same |= np.isnan(array) & (dtype.kind in "fc")
    return cast if bool(np.all(same)) else None


def as_type(array: Array, dtype: np.dtype[Any]) -> Array:
    """Return `array` as `dtype`, which holds its values; no copy where it is that type."""
    if array.dtype.kind == "c" and dtype.kind != "c":
        array = array.real
    return array.astype(dtype, copy=False)


def has_wide(values: Any) -> bool:
    """Return whether an integer in an array, or in lists in lists, has digits beyond `EXACT`."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        if values.dtype.kind not in "iu" or values.dtype.itemsize < 8 or not values.size:
            return False
        return bool(values.max() > EXACT or values.min() < -EXACT)
    if isinstance(values, list | tuple | np.ndarray):
        return any(map(has_wide, values))
    return isinstance(values, int | np.integer) and not -EXACT <= values <= EXACT


def has_negative(values: Any) -> bool:
    """Return whether a number in an array, or an integer in lists in lists, is less than 0."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values.dtype.kind in "if" and bool(np.any(values < 0))
    if isinstance(values, list | tuple | np.ndarray):
        return any(map(has_negative, values))
    return isinstance(values, int | np.integer) and bool(values < 0)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
