"""Which columns of a run become maps.

Every scalar number of the streams that go along the scan does, if there is a grid
for them (`p06bs.model.positions`).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from p06bs.model.gridding import Gridded
from p06bs.model.page import BOOKKEEPING
from p06bs.model.picture import Picture, PictureAxis
from p06bs.model.plan_axes import fields_of
from p06bs.model.positions import LARGEST, Where, where
from p06bs.model.run_streams import Run, families
from p06bs.model.units import canonical

ODD = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What comes of metadata in which anything may be."""


@dataclass(frozen=True, slots=True)
class Columns:
    """A column of streams that continue each other.

    Attributes
    ----------
    streams : tuple of str
        The streams whose rows count, one after the other: ``primary``, ``primary_r2``...
    having : frozenset of str
        Those of them that have the column in this unit; rows of the others count as NaN.
    column : str
    unit : str or None
    """

    streams: tuple[str, ...]
    having: frozenset[str]
    column: str
    unit: str | None


@dataclass(frozen=True, slots=True)
class Mapped(Columns):
    """One map: a column, and where its rows lie."""

    where: Where

    def picture(self, seen: Gridded) -> Picture:
        """Return the map as it is shown, with its axes."""
        assert seen.values is not None
        y, x = (
            PictureAxis(axis.name, axis.unit, *extent)
            for axis, extent in zip(self.where.axes, seen.extents, strict=True)
        )
        return Picture("map", seen.values, self.unit, y, x, seen.rows, placed=self.where.kind)


def mapped(
    run: Run, raw: Run | None = None, largest: int = LARGEST, corrected: Run | None = None
) -> dict[str, Mapped]:
    """Return the maps of a run by their names, what hints name first, axes last.

    A map has the name of its column. Where a derived run goes on in a stream
    ``<name>_r<revision>`` its map does, too, unless the unit changed. A further
    column of the same name is ``<stream>.<column>``.

    Parameters
    ----------
    run : Run
    raw : Run, optional
        The raw run of a derived one: it may have the positions.
    largest : int
        Pixels that a map may have.
    corrected : Run, optional
        The derived run of the same raw run that corrects the positions.
    """
    maps: dict[str, Mapped] = {}
    for streams in families(run):
        place = where(run, raw, streams, largest, corrected)
        if place is None:
            continue
        axes = {axis.name for axis in place.axes} | {*fields_of(run.start)}
        if place.measured is not None:
            axes |= {place.measured.y, place.measured.x}
        for one in columns_of(run, streams, axes):
            found = Mapped(one.streams, one.having, one.column, one.unit, place)
            maps.setdefault(named(found, maps), found)
    return maps


def named(one: Columns, taken: Collection[str]) -> str:
    """Return what a column is called, where some names are taken."""
    further = f"{min(one.having, key=one.streams.index)}.{one.column}"
    return further if one.column in taken else one.column


def columns_of(run: Run, streams: tuple[str, ...], axes: Collection[str]) -> Iterator[Columns]:
    """Yield the columns of streams that continue each other, hinted ones first, `axes` last."""
    having: dict[tuple[str, str | None], list[str]] = {}
    units: dict[tuple[str, str | None], str | None] = {}
    hinted: set[str] = set()
    for stream in streams:
        described = run.streams[stream]
        for hint in (described.descriptor.get("hints") or {}).values():
            hinted.update((hint or {}).get("fields") or ())
        for column, said in described.numbers.items():
            if said and column not in BOOKKEEPING:
                unit = described.unit(column)
                having.setdefault((column, canonical(unit)), []).append(stream)
                units.setdefault((column, canonical(unit)), unit)
    for key in sorted(having, key=lambda key: (key[0] in axes, key[0] not in hinted)):
        yield Columns(streams, frozenset(having[key]), key[0], units[key])
