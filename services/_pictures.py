"""What can be shown of the runs in a sink: maps, and the curves among results, by importance."""

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import HTTPException

from p06bs.model.curves import Curve, curves
from p06bs.model.documents import SNAPSHOTS, is_derived
from p06bs.model.map_columns import Streams, described
from p06bs.model.mapped import ODD, Columns, Mapped
from p06bs.model.picture import Picture, PictureAxis
from p06bs.model.run_streams import REVISION, Run
from p06bs.model.units import canonical, unit_scale
from p06bs.server.sink.held import RunView
from p06bs.server.sink.places import RowsLostError
from p06bs.server.sink.sink import Sink
from p06bs.server.sink.views import StreamView
from p06bs.server.tree.maps import Maps

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
LARGEST = 1 << 22
"""Values of a result that is shown, at most."""
BESIDE = re.compile(
    r"(.+_)?(sigma|flags?|limit|half_width|source|offset|valid|n_invalid|n_saturated)"
)
"""Names of what goes with a result: its uncertainty, and what is doubtful about it."""
UNREADABLE = (*ODD, OSError, RowsLostError, HTTPException)
"""What looking may raise: the run has left, its rows cannot be read (yet), or its documents say
what nobody could expect.
"""


class Rank(IntEnum):
    """How important something is: the first is shown first."""

    RESULT = 0
    CURVE = 1
    RAW = 2
    FURTHER = 3
    FURTHER_RAW = 4
    POSITION = 5
    BESIDE = 6


@dataclass(frozen=True, slots=True)
class Showable:
    """What can be shown of a run.

    Attributes
    ----------
    name : str
        Unique in its run.
    rank : Rank
    look : callable
        Returns it as it is now. Raises what is `UNREADABLE` if it cannot be read (any more).
    """

    name: str
    rank: Rank
    look: Callable[[], Picture]


class Pictures:
    """Find what can be shown of the runs in a sink.

    Parameters
    ----------
    sink : Sink
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._maps = Maps(sink.view)

    def of(self, uid: str) -> list[Showable]:
        """Return what can be shown of a run, the most important first; nothing without rows.

        Of a derived run that goes on under other settings it is what these make.

        Raises
        ------
        KeyError
            If the run is not in the sink; or whatever else is `UNREADABLE`.
        """
        run = self._sink.view(uid)
        streams = {name: view() for name, view in run.streams.items()}
        if not any(column.rows for view in streams.values() for column in view.columns.values()):
            return []
        found = {
            name: Showable(name, _map_rank(run, streams, one), partial(self._map, uid, name, one))
            for name, one in self._maps.of(run).items()
            if one.streams[-1] in one.having
        }
        if not found:
            for name, curve in self._curves(uid).items():
                if curve.streams[-1] in curve.having:
                    rank = _rank(run, streams, curve, {curve.along.name}, set())
                    found[name] = Showable(name, rank, partial(self._curve, uid, name))
        for stream, column in _results(run, streams):
            name = column if column not in found else f"{stream}.{column}"
            rank = Rank.BESIDE if BESIDE.fullmatch(column) else Rank.CURVE
            look = partial(self._result, uid, stream, column)
            found.setdefault(name, Showable(name, rank, look))
        return sorted(found.values(), key=lambda one: one.rank)

    def forget(self, uid: str) -> None:
        """Let go what is kept of a run that has left the sink."""
        self._maps.forget(uid)

    def _map(self, uid: str, name: str, one: Mapped) -> Picture:
        run = self._sink.view(uid)
        try:
            seen = self._maps.look(run, one)
        except KeyError:  # the run that had the positions failed or left: now others count
            one = self._maps.of(run)[name]
            seen = self._maps.look(run, one)
        return one.picture(seen)

    def _seen(self, uid: str) -> tuple[Run, Streams]:
        view = self._sink.view(uid)
        streams = {name: view() for name, view in view.streams.items()}
        return described(view.metadata["start"], streams), streams

    def _raw(self, uid: str) -> tuple[Run, Streams] | None:
        start = self._sink.view(uid).metadata["start"]
        if is_derived(start):
            with suppress(KeyError):  # it is not here
                return self._seen(str(start["original_run_uid"]))
        return None

    def _curves(self, uid: str) -> dict[str, Curve]:
        raw = self._raw(uid)
        try:
            return curves(self._seen(uid)[0], raw and raw[0])
        except ODD as error:
            logger.info("run %s has no curves: its metadata are odd: %r", uid, error)
            return {}

    def _curve(self, uid: str, name: str) -> Picture:
        return self._curves(uid)[name].picture(*self._seen(uid), self._raw(uid))

    def _result(self, uid: str, stream: str, column: str) -> Picture:
        streams = {name: view() for name, view in self._sink.view(uid).streams.items()}
        view = streams[stream]
        values = _newest(view, column)
        dims = _dims(view, column)
        if len(dims) != values.ndim:
            dims = [f"axis {number}" for number in range(values.ndim)]
        places = [
            _places(streams, stream, column, dim, count)
            for dim, count in zip(dims, values.shape, strict=True)
        ]
        axes = [axis for axis, _ in places]
        rows = view.columns[column].rows
        if stream.partition("_r")[0] == SNAPSHOTS and "rows" in view.columns:
            rows = int(view.columns["rows"].read(rows - 1, rows).reshape(()))
        unit = view.description(column).get("units")
        if values.ndim == 1:
            none = PictureAxis("", None, 0.0, 0.0)
            return Picture("curve", values[None], unit, none, axes[0], rows, places[0][1])
        return Picture("image", values, unit, axes[0], axes[1], rows)


def _map_rank(run: RunView, streams: Mapping[str, StreamView], one: Mapped) -> Rank:
    names = {axis.name for axis in one.where.axes}
    if one.where.measured is not None:
        names |= {one.where.measured.y, one.where.measured.x}
    units = {canonical(axis.unit) for axis in one.where.axes} - {None}
    return _rank(run, streams, one, names, units)


def _rank(
    run: RunView,
    streams: Mapping[str, StreamView],
    one: Columns,
    names: Collection[str],
    units: Collection[str | None],
) -> Rank:
    """Return how important a column is; `names` and `units` are those of axes."""
    if BESIDE.fullmatch(one.column):
        return Rank.BESIDE
    if one.column in names or canonical(one.unit) in units or _is_length(one.unit):
        return Rank.POSITION
    hints = streams[one.streams[-1]].metadata.get("hints") or {}
    hinted = any(one.column in ((hint or {}).get("fields") or ()) for hint in hints.values())
    if is_derived(run.metadata["start"]):
        return Rank.RESULT if hinted else Rank.FURTHER
    return Rank.RAW if hinted else Rank.FURTHER_RAW


def _is_length(unit: str | None) -> bool:
    # What says no unit ("arb.") can be converted to any.
    return canonical(unit) is not None and unit_scale(unit, "m") is not None


def _results(run: RunView, streams: Mapping[str, StreamView]) -> Iterator[tuple[str, str]]:
    """Yield stream and column of the results of one or two axes, but for axes themselves."""
    if not is_derived(run.metadata["start"]):
        return
    newest: dict[str, tuple[int, str]] = {}
    for name in streams:
        found = REVISION.fullmatch(name)
        base, revision = (found[1], int(found[2])) if found else (name, -1)
        newest[base] = max(newest.get(base, (revision, name)), (revision, name))
    for _, name in newest.values():
        view = streams[name]
        for column, values in view.columns.items():
            if _is_result(values) and not _is_axis(view, column):
                yield name, column


def _is_result(column: Any) -> bool:
    numbers = column.dtype.kind in "biuf" and 1 <= len(column.shape) <= 2 and column.rows > 0
    return bool(numbers and 1 < np.prod(column.shape) <= LARGEST)


def _dims(view: StreamView, column: str) -> list[str]:
    return list(map(str, view.description(column).get("dims") or ()))


def _is_axis(view: StreamView, column: str) -> bool:
    """Return whether a column says where the values of others lie: it has the name of its axis,
    or its values rise (or fall) all along an axis that others have, too.
    """
    dims = _dims(view, column)
    if len(dims) != 1 or not _is_result(view.columns[column]):
        return False
    if dims == [column]:
        return True
    if not any(dims[0] in _dims(view, other) for other in view.columns if other != column):
        return False
    steps = np.diff(_newest(view, column))
    return bool(np.all(steps > 0) or np.all(steps < 0))


def _newest(view: StreamView, column: str) -> Array:
    values = view.columns[column]
    return np.asarray(values.read(values.rows - 1, values.rows)[0], float)


def _places(
    streams: Mapping[str, StreamView], stream: str, column: str, dim: str, count: int
) -> tuple[PictureAxis, Array | None]:
    """Return an axis of a result, and its places if they are not equally spaced."""
    for name in (stream, *streams):
        view = streams[name]
        for other, values in view.columns.items():
            if other == column or values.shape != (count,) or _dims(view, other) != [dim]:
                continue
            if _is_axis(view, other):
                places = _newest(view, other)
                unit = view.description(other).get("units")
                axis = PictureAxis(other, unit, float(places[0]), float(places[-1]))
                even = np.linspace(axis.first, axis.last, count)
                close = np.allclose(places, even, atol=1e-3 * abs(axis.step(count)), rtol=0)
                return axis, None if close else places
    return PictureAxis(dim, None, 0.0, count - 1.0), None
