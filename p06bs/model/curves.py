"""Which columns of a run become curves, where it goes along a line, or through time.

A run has maps (`p06bs.model.mapped`) or, if it goes over no area, one curve per scalar number:
over the only dimension that its plan names, else over the numbers of its points.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from p06bs.model.map_columns import Chain, Streams, numbers_of, valid_of, values_of
from p06bs.model.mapped import Columns, columns_of, named
from p06bs.model.picture import Picture, PictureAxis
from p06bs.model.plan_axes import line_of
from p06bs.model.points import NewestRows
from p06bs.model.positions import may_have_maps
from p06bs.model.raster import newest
from p06bs.model.run_streams import Run, families

Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

TIME = "time"
NOTHING = PictureAxis("", None, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Along:
    """What the points of a curve lie along.

    Attributes
    ----------
    name : str
        Name of a column; ``time``, counted from the first point; or "" for the points' numbers.
    unit : str or None
    streams : tuple of str
        Where the column is, one after the other.
    raw : bool
        Whether that is in the raw run, whose rows are found by number.
    """

    name: str = ""
    unit: str | None = None
    streams: tuple[str, ...] = ()
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Curve(Columns):
    """One curve: its column, and what it goes along."""

    along: Along

    def picture(self, run: Run, streams: Streams, raw: tuple[Run, Streams] | None) -> Picture:
        """Return the curve up to the newest row: the newest row of each point, in their order.

        Parameters
        ----------
        run, streams
            The run, and its columns.
        raw : (Run, Streams), optional
            The raw run of a derived one.
        """
        numbers, _ = numbers_of(run, streams, self.streams)
        column = values_of(self, run, streams)
        count = min(numbers.rows, column.rows)
        points = np.asarray(numbers.read(0, count), np.int64)
        rows = newest(points)
        values = np.asarray(column.read(0, count), float)[rows]
        valid = valid_of(run, streams, self.streams)
        if valid is not None:
            values[~valid.read(0, count)[rows].astype(bool)] = np.nan
        name, unit, places = self._places(run, streams, raw, points[rows], rows)
        ends = (float(places[0]), float(places[-1])) if count else (0.0, 0.0)
        axis = PictureAxis(name, unit, *ends)
        even = axis.places(len(places))
        close = np.allclose(places, even, atol=1e-3 * abs(axis.step(len(places))), rtol=0)
        return Picture(
            "curve", values[None], self.unit, NOTHING, axis, count, None if close else places
        )

    def _places(
        self,
        run: Run,
        streams: Streams,
        raw: tuple[Run, Streams] | None,
        points: Numbers,
        rows: Numbers,
    ) -> tuple[str, str | None, Floats]:
        """Return name and unit of the axis, and where points lie: by number if not all are known.

        `rows` are those of the points in the run's own streams.
        """
        along = self.along
        if along.name:
            home = raw if along.raw and raw is not None else (run, streams)
            numbers, lengths = numbers_of(*home, along.streams)
            columns = [home[1][name].columns[along.name] for name in along.streams]
            column = Chain(list(zip(columns, lengths, strict=True)))
            if along.raw:
                joined = NewestRows()
                joined.update(numbers, min(numbers.rows, column.rows))
                rows = joined.find(points)
            if len(rows) and rows.min() >= 0 and rows.max() < column.rows:
                places = np.asarray(column.read(0, int(rows.max()) + 1), float)[rows]
                if np.isfinite(places).all():
                    start = places[0] if along.name == TIME else 0.0
                    return along.name, along.unit, places - start
        return "point", None, points.astype(float)


def curves(run: Run, raw: Run | None = None) -> dict[str, Curve]:
    """Return the curves of a run by their names, what hints name first; nothing if it has an area.

    Parameters
    ----------
    run : Run
    raw : Run, optional
        The raw run of a derived one: it may have what the points lie along.
    """
    found: dict[str, Curve] = {}
    if may_have_maps(run.start, run.streams):
        return found
    for streams in families(run):
        along = _along(run, raw, streams)
        for one in columns_of(run, streams, {along.name, *line_of(run.start)}):
            curve = Curve(one.streams, one.having, one.column, one.unit, along)
            found.setdefault(named(curve, found), curve)
    return found


def _along(run: Run, raw: Run | None, streams: tuple[str, ...]) -> Along:
    dimension = line_of((raw or run).start)
    if dimension == [TIME]:
        return Along(TIME, "s", streams)
    for other in (run, raw):
        if other is None or not dimension:
            continue
        for family in [streams] if other is run else families(other):
            columns = [other.streams[name].column(dimension[0]) for name in family]
            if columns[0] is not None and len({*columns}) == 1:
                unit = other.streams[family[0]].unit(columns[0])
                return Along(columns[0], unit, family, other is not run)
    return Along()
