"""The NXdata groups that viewers open: maps of what goes over an area, curves of any other run."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from p06bs.bus.frames import Frames
from p06bs.model.collected_runs import CollectedRuns
from p06bs.model.documents import Document, NamedDocument
from p06bs.model.map_columns import Streams, described
from p06bs.model.mapped import ODD, Mapped
from p06bs.model.maps import RunMaps
from p06bs.model.page import BOOKKEEPING
from p06bs.model.picture import Picture
from p06bs.model.raster import newest
from p06bs.model.run_streams import Run
from p06bs.writers._columns import Column
from p06bs.writers._errors import Errors
from p06bs.writers._h5 import Array, Names, group
from p06bs.writers._shown import shown
from p06bs.writers._streams import Stream

log = logging.getLogger(__name__)

Maps = Mapping[str, tuple[Mapped, Callable[[], Picture]]]
"""By name: which map it is, and what makes it."""


def write_plots(
    entry: h5py.Group, start: Document, streams: Sequence[Stream], beside: Iterable[NamedDocument]
) -> bool:
    """Write an NXdata group for all maps on the same pixels, or one of curves of each primary
    stream; name the first as the entry's default.

    Parameters
    ----------
    beside : iterable of (name, document)
        Of other runs of the scan, which may say where rows lie.

    Returns
    -------
    bool
        Whether there is something to show.
    """
    with Frames(final=True) as read:
        others = CollectedRuns(read=read, positions_only=True)
        for name, document in beside:
            try:
                others(name, document)
            except ODD as error:
                log.warning("run %s: %s document of another: %r", start["uid"], name, error)
        own, scan = shown(streams, read), others.beside(start)
        found = RunMaps().of(start, own, scan)
        placing = {of: (described(*other), other[1]) for of, other in scan.items()}
        families: dict[tuple[str, ...], dict[str, tuple[Mapped, Callable[[], Picture]]]] = {}
        for name, one in found.items():
            families.setdefault(one[0].streams, {})[name] = one
        names, made = Names(["bluesky", "instrument", "sample", "process"]), []
        for family, maps in families.items():
            made.append(names("maps" if family[0] == "primary" else f"maps_{family[0]}"))
            hinted = {key for stream in streams if stream.name in family for key in _hinted(stream)}
            home = group(entry, made[-1], "NXdata")
            _maps(home, maps, hinted, placing, Errors((described(start, own), own), placing))
    if not made:
        for stream in streams:
            dimensions = _dimensions(start, stream)
            signals = _signals(stream, {*dimensions, *(start.get("motors") or ())})
            if signals and (stream.name == "primary" or stream.name.startswith("primary_r")):
                made.append(names("data" + stream.node.removeprefix("primary")))
                _curves(group(entry, made[-1], "NXdata"), stream, signals, dimensions)
    if made:
        entry.attrs["default"] = made[0]
    return bool(made)


def _hinted(stream: Stream) -> list[str]:
    """Return the data keys that hints name."""
    hints = (stream.descriptors[0].get("hints") or {}).values()
    return [key for hint in hints for key in (hint or {}).get("fields") or ()]


def _signals(stream: Stream, axes: set[str]) -> dict[str, Column]:
    """Return the columns to show: hinted numbers that are no axes; without hints all numbers."""
    numbers = {
        key: column
        for key, column in stream.data.items()
        if column.is_scalar_number and key not in BOOKKEEPING
    }
    for wanted in (_hinted(stream), list(numbers)):
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
    home: h5py.Group,
    maps: Maps,
    hinted: set[str],
    placing: Mapping[str, tuple[Run, Streams]],
    errors: Errors,
) -> None:
    """Write maps on the same pixels: those that hints name, else all; of axes only if need be."""
    where = next(iter(maps.values()))[0].where
    axes = {axis.name for axis in where.axes}
    if where.measured is not None:
        axes |= {where.measured.y, where.measured.x}
    values = [name for name, (one, _) in maps.items() if one.column not in axes]
    chosen = [name for name in values if maps[name][0].column in hinted] or values or list(maps)
    names = Names()
    called = [names(axis.name) for axis in where.axes]
    placed = []
    for name in chosen:
        placed.append(names(name))
        one, make = maps[name]
        seen = make()
        _map(home, placed[-1], one, seen.values)
        # NXdata's name for the uncertainty of a signal is <signal>_errors.
        if f"{name}_sigma" in maps:
            sigma, make = maps[f"{name}_sigma"]
            # By number each pixel has one row; by position it is a mean.
            error = make().values if where.measured is None else errors.of(one, sigma)
            _map(home, names(f"{placed[-1]}_errors"), sigma, error)
    for name, axis, count in zip(called, (seen.y, seen.x), seen.values.shape, strict=True):
        units = {"units": axis.unit} if axis.unit else {}
        _dataset(home, name, axis.places(count), axis.name, units)
    _describe(home, placed, called)
    home.attrs["placed"] = where.kind
    if where.measured is not None and where.measured.of:
        home.attrs["positions_run"] = placing[where.measured.of][0].start["uid"]


def _map(home: h5py.Group, name: str, one: Mapped, values: Array) -> None:
    units = {"units": one.unit} if one.unit else {}
    _dataset(home, name, values, one.column, {**units, "interpretation": "image"})


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
