"""Maps from the documents of runs, raw and derived, as they come or recorded.

`maps_of` makes them of recorded documents, `Maps` keeps them up to date while documents
come. Server, LaVue, ``p06bs show`` and NeXus files have the same maps, by the same code: rows
are placed by corrected positions if there are any, else by measured ones, else by their
numbers on the raster that the start document declares; spirals and scattered positions get
a grid that is fitted to them. For one column by hand: `grid_map` (by number) and
`regular_map` (by position).
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any

from p06bs.model.collected import ReadRows
from p06bs.model.collected_runs import CollectedRuns
from p06bs.model.documents import Document, NamedDocument
from p06bs.model.gridding import GrowingMap
from p06bs.model.map_columns import Streams, described, points_of, values_of
from p06bs.model.mapped import ODD, Mapped, mapped
from p06bs.model.picture import Picture
from p06bs.model.placement import Placement, placement_of
from p06bs.model.raster import (
    Extents,
    Grid,
    Map,
    axis,
    grid_map,
    grid_of,
    nearest,
    newest,
    pixels,
    regular_map,
)
from p06bs.model.run_streams import Run
from p06bs.model.scan import of_scan
from p06bs.model.units import canonical

__all__ = [
    "Extents",
    "Grid",
    "Map",
    "Maps",
    "NamedMaps",
    "RunMaps",
    "axis",
    "grid_map",
    "grid_of",
    "maps_of",
    "nearest",
    "newest",
    "pixels",
    "regular_map",
]

logger = logging.getLogger(__name__)

SCANS = 10
"""Scans whose columns are kept, by default."""


class NamedMaps(dict[str, Picture]):
    """Maps of a scan by ``SOURCE.NAME``; a name that only one of them has finds it, too."""

    def __missing__(self, name: str) -> Picture:
        found = [full for full in self if full.partition(".")[2] == name]
        if len(found) == 1:
            return self[found[0]]
        near = found or get_close_matches(name, self) or list(self)
        raise KeyError(f"no map is {name!r}; is it one of {', '.join(near) or 'none'}?")


def maps_of(documents: Iterable[NamedDocument], *, read: ReadRows | None = None) -> NamedMaps:
    """Return the maps of a scan from the documents of its runs.

    Parameters
    ----------
    documents : iterable of (name, document)
        Of a raw run, of runs derived from it, or of both, one after the other or mixed. The
        raw run may say where the rows of the derived ones lie, and so may the derived run
        that corrects the positions. Of several scans the last one counts.
    read : callable, optional
        Reads columns that lie in files, ``Frames(final=True)`` of `p06bs.bus.frames`; without it
        there are no maps of them, and no positions from them.

    Returns
    -------
    dict
        ``SOURCE.NAME`` -> map, such as ``xrf.Fe_K`` or ``raw.i0``; see `Maps.scan`.
    """
    maps = Maps(read=read, scans=1)
    for name, document in documents:
        maps(name, document)
    return maps.scan()


class RunMaps:
    """The maps of one run: where its rows lie, and the sums in each pixel.

    Only rows that are new are read when it is asked again.
    """

    def __init__(self) -> None:
        self._placements: dict[tuple[Any, ...], Placement] = {}
        self._growing: dict[tuple[Any, ...], GrowingMap] = {}

    def of(
        self, start: Document, streams: Streams, others: Mapping[str, tuple[Document, Streams]]
    ) -> dict[str, tuple[Mapped, Callable[[], Picture]]]:
        """Return by their names which maps there are, and what makes each, up to the newest row.

        Parameters
        ----------
        start : mapping
        streams : mapping
            Streams by name.
        others : mapping
            The runs that may say where the rows lie: ``raw``, of a derived run, and
            ``corrected``, the derived run that corrects the positions.
        """
        run = described(start, streams), streams
        beside = {of: (described(*other), other[1]) for of, other in others.items()}
        raw, corrected = (beside.get(of, (None,))[0] for of in ("raw", "corrected"))
        try:
            known = mapped(run[0], raw, corrected=corrected)
        except ODD as error:
            logger.warning("run %s has no maps: its metadata are odd: %r", start["uid"], error)
            return {}
        return {name: (one, partial(self._map, one, run, beside)) for name, one in known.items()}

    def _map(
        self, one: Mapped, run: tuple[Run, Streams], beside: Mapping[str, tuple[Run, Streams]]
    ) -> Picture:
        where = (one.streams, one.where)
        if where not in self._placements:
            self._placements[where] = placement_of(one.where)
        what = (*where, one.column, canonical(one.unit))
        growing = self._growing.setdefault(what, GrowingMap())
        points, values = points_of(one, *run, beside), values_of(one, *run)
        return one.picture(growing.update(self._placements[where], points, values, (OSError,)))


class Maps:
    """Make maps of runs while their documents come: a ``(name, document)`` callable.

    ``RE.subscribe(maps)`` gives it the raw runs, ``callback(Counters(), maps)`` the derived
    ones. From one thread at a time.

    Parameters
    ----------
    read : callable, optional
        See `maps_of`.
    scans : int
        So many of the newest scans are kept.
    """

    def __init__(self, *, read: ReadRows | None = None, scans: int = SCANS) -> None:
        self._collected = CollectedRuns(read=read, scans=scans)
        self._maps: dict[str, RunMaps] = {}

    def __call__(self, name: str, document: Document) -> None:
        """Take a document; those of runs whose start did not come, or that are let go, are left."""
        self._collected(name, document)
        if name == "start":
            runs = self._collected.runs
            self._maps = {uid: self._maps.get(uid) or RunMaps() for uid in runs}

    def of(self, run: str) -> dict[str, Picture]:
        """Return the maps of a run by their names, the most important first.

        They are what a server has under ``run["maps"]``.

        Raises
        ------
        KeyError
            If there is no such run.
        """
        one = self._collected.runs[run]
        found = self._maps[run].of(one.start, one.streams, self._collected.beside(one.start))
        return {name: make() for name, (_, make) in found.items()}

    def scan(self, run: str | None = None) -> NamedMaps:
        """Return the maps of all runs of a scan, the newest scan's by default.

        The source in a name ``SOURCE.NAME`` is that of the modality, or ``raw``, as
        ``p06bs show`` and LaVue have it.

        Raises
        ------
        KeyError
            If there is no such run.
        """
        starts = self._collected.scan(run)
        found = of_scan(starts, lambda uid: self.of(uid).items())
        return NamedMaps({f"{source}.{name}": picture for _, source, (name, picture) in found})
