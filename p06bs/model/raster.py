"""Maps from columns: rows that survive a rewind, acquisition order to grid, positions to grid.

Axis 0 of a map is the slow axis (y), axis 1 the fast one (x), as in the
``shape`` and ``extents`` of bluesky's start documents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]
Map = npt.NDArray[np.float64]
Extents = tuple[tuple[float, float], tuple[float, float]]
"""Centres of the first and last pixel: ((y_first, y_last), (x_first, x_last))."""


@dataclass(frozen=True)
class Grid:
    """The raster of a scan, as its start document says it.

    Parameters
    ----------
    shape : (int, int)
        Pixels along the slow and the fast axis.
    snaking : bool
        Whether odd rows are acquired backwards.
    extents : Extents, optional
        None where nobody says where the pixels are.
    motors : (str, str), optional
        Names of the slow and the fast axis.
    """

    shape: tuple[int, int]
    snaking: bool = False
    extents: Extents | None = None
    motors: tuple[str, str] | None = None


def grid_of(start: Mapping[str, Any]) -> Grid | None:
    """Return the raster that a start document declares; None if the run is no raster.

    Reads ``shape``, ``snaking`` (one flag, or bluesky's one per axis, of which
    the last counts), ``extents`` and ``motors``. bluesky's square spiral has a
    shape, too, but another order; its grid of listed positions says neither its
    spacing nor, in a readable way, its snaking: neither counts as a raster.
    """
    shape, extents, motors = (start.get(key) for key in ("shape", "extents", "motors"))
    plan = str(start.get("plan_name", ""))
    if not _is_pair(shape) or not all(_is_count(n) for n in shape):
        return None
    if "spiral" in plan or "list_" in plan:
        return None
    snaking = start.get("snaking", False)
    if isinstance(snaking, Sequence | np.ndarray):
        snaking = len(snaking) > 0 and bool(snaking[-1])
    return Grid(
        shape=(int(shape[0]), int(shape[1])),
        snaking=bool(snaking),
        extents=_extents(extents) if _is_pair(extents) and all(map(_is_pair, extents)) else None,
        motors=(str(motors[0]), str(motors[1])) if _is_pair(motors) else None,
    )


def newest(raw_seq_num: npt.ArrayLike) -> Indices:
    """Return the rows that survive a rewind, in the order of `raw_seq_num`.

    Of the rows with the same number the last one survives.

    Parameters
    ----------
    raw_seq_num : array_like of int, shape (events,)
        Numbers in acquisition order.
    """
    numbers = np.asarray(raw_seq_num)
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    last = np.ones(len(ordered), bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    return order[last]


def pixels(index: npt.ArrayLike, shape: tuple[int, int], snaking: bool) -> Indices:
    """Return the flat pixel (C order) of the points 0, 1, 2, ... of a raster scan.

    Parameters
    ----------
    index : array_like of int
        Points in acquisition order, each in ``range(ny * nx)``.
    shape : (int, int)
        ``(ny, nx)``.
    snaking : bool
        Whether odd rows run backwards.
    """
    row, column = np.divmod(np.asarray(index, np.intp), shape[1])
    if snaking:
        column = np.where(row % 2 == 1, shape[1] - 1 - column, column)
    return np.asarray(row * shape[1] + column, np.intp)


def grid_map(
    values: npt.ArrayLike,
    raw_seq_num: npt.ArrayLike,
    shape: tuple[int, int],
    snaking: bool = False,
    valid: npt.ArrayLike | None = None,
) -> Map:
    """Put values on the raster by their numbers; NaN where nothing valid is.

    Of several rows with one number the last counts, even if it is invalid.
    Numbers outside ``1 ... ny * nx`` (extra triggers) are left out.

    Parameters
    ----------
    values : array_like, shape (events,)
        Real numbers in acquisition order.
    raw_seq_num : array_like of int, shape (events,)
        1 is the first point of the raster.
    shape : (int, int)
        ``(ny, nx)``.
    snaking : bool
        Whether odd rows were acquired backwards.
    valid : array_like of bool, shape (events,), optional
        False where a value means nothing.

    Returns
    -------
    ndarray of float64, shape (ny, nx)

    Raises
    ------
    ValueError
        If the columns differ in length.
    """
    column = np.asarray(values)
    numbers = np.asarray(raw_seq_num)
    _check_lengths(values=column, raw_seq_num=numbers)
    rows = newest(numbers)
    rows = rows[(numbers[rows] >= 1) & (numbers[rows] <= shape[0] * shape[1])]
    if valid is not None:
        flags = np.asarray(valid, bool)
        _check_lengths(values=column, valid=flags)
        rows = rows[flags[rows]]
    flat = np.full(shape[0] * shape[1], np.nan)
    flat[pixels(numbers[rows] - 1, shape, snaking)] = column[rows]
    return flat.reshape(shape)


def regular_map(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    values: npt.ArrayLike,
    shape: tuple[int, int],
    extents: Extents,
) -> Map:
    """Put values on the raster by measured positions: the mean of each pixel's own values.

    A value belongs to the pixel with the nearest centre. Values outside of all
    pixels, and those with a NaN value or position, are left out. Along an axis
    of one pixel every position belongs to it. After a rewind pass the rows of
    `newest` only.

    Parameters
    ----------
    x, y : array_like, shape (events,)
        Positions along the fast and the slow axis, in the unit of `extents`.
    values : array_like, shape (events,)
    shape : (int, int)
        ``(ny, nx)``.
    extents : Extents
        Centres of the first and last pixel, slow axis first.

    Returns
    -------
    ndarray of float64, shape (ny, nx)
        NaN where no value lies.

    Raises
    ------
    ValueError
        If the columns differ in length, or an axis of several pixels has no extent.
    """
    columns = {"x": np.asarray(x, float), "y": np.asarray(y, float)}
    column = np.asarray(values, float)
    _check_lengths(values=column, **columns)
    pixel = nearest(columns["x"], columns["y"], shape, extents)
    inside = (pixel >= 0) & ~np.isnan(column)
    total = np.zeros(shape[0] * shape[1])
    count = np.zeros(shape[0] * shape[1])
    with np.errstate(over="ignore", invalid="ignore"):  # of infinities
        np.add.at(total, pixel[inside], column[inside])
    np.add.at(count, pixel[inside], 1.0)
    mean = np.full(shape[0] * shape[1], np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean.reshape(shape)


def nearest(
    x: npt.ArrayLike, y: npt.ArrayLike, shape: tuple[int, int], extents: Extents
) -> Indices:
    """Return the flat pixel (C order) with the nearest centre, -1 outside of all pixels.

    Along an axis of one pixel every finite position belongs to it.

    Parameters
    ----------
    x, y : array_like, shape (events,)
        Positions along the fast and the slow axis, in the unit of `extents`.
    shape : (int, int)
        ``(ny, nx)``.
    extents : Extents
        Centres of the first and last pixel, slow axis first.

    Raises
    ------
    ValueError
        If an axis of several pixels has no extent.
    """
    row = _nearest(np.asarray(y, float), shape[0], extents[0], "y")
    along = _nearest(np.asarray(x, float), shape[1], extents[1], "x")
    inside = (row >= 0) & (along >= 0)
    return np.where(inside, row * shape[1] + along, -1)


def axis(count: int, extent: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Return the centres of `count` pixels, the first and the last at the extent's ends."""
    return np.linspace(extent[0], extent[1], count)


def _nearest(
    position: npt.NDArray[np.float64], count: int, extent: tuple[float, float], name: str
) -> Indices:
    """Return the pixel of each position, -1 for those outside of all pixels."""
    finite = np.isfinite(position)
    if count == 1:
        return np.where(finite, 0, -1).astype(np.intp)
    step = (extent[1] - extent[0]) / (count - 1)
    if step == 0:
        raise ValueError(f"axis {name} has {count} pixels, but both ends lie at {extent[0]}")
    pixel = np.full(len(position), -1.0)
    np.divide(position - extent[0], step, out=pixel, where=finite)
    inside = finite & (pixel >= -0.5) & (pixel <= count - 0.5)
    rounded = np.floor(np.where(inside, pixel, -1.0) + 0.5).astype(np.intp)
    return np.minimum(rounded, count - 1)


def _check_lengths(**columns: npt.NDArray[Any]) -> None:
    shapes = {name: column.shape for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or any(len(s) != 1 for s in shapes.values()):
        said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"columns must be one-dimensional and equally long, not {said}")


def _is_pair(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, list | tuple | np.ndarray) and len(value) == 2


def _is_count(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) > 0


def _extents(extents: Sequence[Sequence[float]]) -> Extents:
    (y_first, y_last), (x_first, x_last) = extents
    return (float(y_first), float(y_last)), (float(x_first), float(x_last))
