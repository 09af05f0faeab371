"""The NXdata groups that viewers open: maps of a raster scan, curves of any other."""

import logging
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

from p06bs.model.documents import Document
from p06bs.model.raster import Grid, axis, grid_map, grid_of, newest
from p06bs.model.page import BOOKKEEPING
from p06bs.model.plan_axes import axis_units
from p06bs.writers._columns import Column
from p06bs.writers._h5 import Array, Names, group
from p06bs.writers._streams import Stream

log = logging.getLogger(__name__)


def write_plots(entry: h5py.Group, start: Document, streams: Sequence[Stream]) -> bool:
    """Write an NXdata group per primary stream, and name the first as the entry's default.

    Returns
    -------
    bool
        Whether there is something to show.
    """
    grid = grid_of(start)
    for stream in streams:
        if stream.name != "primary" and not stream.name.startswith("primary_r"):
            continue
        name = ("maps" if grid else "data") + stream.node.removeprefix("primary")
        dimensions = _dimensions(start, stream)
        signals = _signals(stream, {*dimensions, *(start.get("motors") or ())})
        if not signals:
            continue
        if grid:
            _maps(group(entry, name, "NXdata"), grid, start, stream, signals)
        else:
            _curves(group(entry, name, "NXdata"), stream, signals, dimensions)
        if "default" not in entry.attrs:
            entry.attrs["default"] = name
    return "default" in entry.attrs


def _signals(stream: Stream, axes: set[str]) -> dict[str, Column]:
    """Return the columns to show: hinted numbers that are no axes; without hints all numbers."""
    numbers = {
        key: column
        for key, column in stream.data.items()
        if column.is_scalar_number and key not in BOOKKEEPING
    }
    hinted = [
        key
        for hint in (stream.descriptors[0].get("hints") or {}).values()
        for key in (hint or {}).get("fields") or ()
    ]
    for wanted in (hinted, list(numbers)):
        found = {key: numbers[key] for key in wanted if key in numbers and key not in axes}
        if found:
            return found
    return {}


def _dimensions(start: Document, stream: Stream) -> list[str]:
    """Return the data keys along which the run goes, as ``hints["dimensions"]`` says."""
    named = (start.get("hints") or {}).get("dimensions") or ()
    pairs = (pair for pair in named if len(pair) == 2)
    return [str(key) for fields, where in pairs if where == stream.name for key in fields]


def _units(column: Column) -> dict[str, str]:
    units = column.described.get("units")
    return {"units": str(units)} if units else {}


def _dataset(
    home: h5py.Group, name: str, values: Array, key: str, attributes: dict[str, Any]
) -> None:
    options = {"compression": "gzip", "shuffle": True} if values.ndim > 1 else {}
    made = home.create_dataset(name, data=values, **options)
    made.attrs.update(attributes)
    made.attrs["data_key"] = made.attrs["long_name"] = key


def _maps(
    home: h5py.Group, grid: Grid, start: Document, stream: Stream, signals: dict[str, Column]
) -> None:
    numbers = stream.numbers()
    outside = int(((numbers < 1) | (numbers > grid.shape[0] * grid.shape[1])).sum())
    if outside:
        log.warning("run %s: %d rows lie outside of the grid %s", start["uid"], outside, grid)
    valid = _column(stream.data.get("valid"))
    names = Names()
    axes = [names(motor) for motor in grid.motors or ("y", "x")]
    placed: dict[str, str] = {}
    for key, column in signals.items():
        placed[key] = name = names(key)
        values = grid_map(_column(column), numbers, grid.shape, grid.snaking, valid)
        _dataset(home, name, values, key, {**_units(column), "interpretation": "image"})
        # NXdata's name for the uncertainty of a signal is <signal>_errors.
        sigma = stream.data.get(f"{key}_sigma")
        if sigma is not None and sigma.is_scalar_number:
            errors = grid_map(_column(sigma), numbers, grid.shape, grid.snaking, valid)
            _dataset(home, names(f"{name}_errors"), errors, f"{key}_sigma", _units(sigma))

    def unit_of(motor: str) -> str | None:
        return _units(stream.data[motor]).get("units") if motor in stream.data else None

    units = axis_units(start, grid, unit_of)
    for i, name in enumerate(axes):
        centres = np.arange(grid.shape[i], dtype=float)
        unit: str | None = "pixel"
        if grid.extents is not None:
            centres, unit = axis(grid.shape[i], grid.extents[i]), units[i]
        key = grid.motors[i] if grid.motors else name
        _dataset(home, name, centres, key, {"units": unit} if unit else {})
    _describe(home, list(placed.values()), axes)


def _curves(
    home: h5py.Group, stream: Stream, signals: dict[str, Column], dimensions: list[str]
) -> None:
    numbers = stream.numbers()
    rows = newest(numbers)
    as_they_are = np.array_equal(rows, np.arange(len(numbers)))
    along = next(((k, stream.data[k]) for k in dimensions if k in stream.data), None)
    if along is None or not along[1].is_scalar_number:
        named = "raw_seq_num" if "raw_seq_num" in stream.data else "seq_num"
        along = (
            ("time", stream.time)
            if dimensions[:1] == ["time"]
            else (named, stream.data.get("raw_seq_num", stream.seq_num))
        )
    names = Names()
    placed = []
    for key, column in [along, *signals.items()]:
        placed.append(names(key))
        if as_they_are:
            home[placed[-1]] = column.dataset
        else:
            _dataset(home, placed[-1], _column(column)[rows], key, _units(column))
    _describe(home, placed[1:], placed[:1])


def _column(column: Column | None) -> Any:
    return None if column is None or column.dataset is None else column.dataset[...]


def _describe(home: h5py.Group, signals: list[str], axes: list[str]) -> None:
    home.attrs["signal"] = signals[0]
    if signals[1:]:
        home.attrs["auxiliary_signals"] = signals[1:]
    home.attrs["axes"] = axes
    for i, name in enumerate(axes):
        home.attrs[f"{name}_indices"] = i
