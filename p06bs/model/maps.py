"""Maps from the documents of runs, raw and derived, as they come or recorded.

`maps_of` makes them of recorded documents, `Maps` keeps them up to date while documents
come. Server, LaVue, ``p06bs show`` and NeXus files have the same maps, by the same code: rows
are placed by corrected positions if there are any, else by measured ones, else by their
numbers on the raster that the start document declares; spirals and scattered positions get
a grid that is fitted to them. For one column by hand: `grid_map` (by number) and
`regular_map` (by position).
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from p06bs.model.collected import CollectedStream, ReadRows, page_of
from p06bs.model.documents import Document, NamedDocument, is_derived
from p06bs.model.gridding import GrowingMap
from p06bs.model.map_columns import Streams, described, points_of, values_of
from p06bs.model.mapped import ODD, Mapped, mapped
from p06bs.model.picture import Picture
from p06bs.model.placement import Placement, placement_of
from p06bs.model.positions import LARGEST, Where, corrects
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
        Reads columns that lie in files, ``FrameReader()`` of `p06bs.bus.frames`; without it
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


@dataclass(slots=True)
class Collected:
    """What is known of a run."""

    start: Document
    streams: dict[str, CollectedStream] = field(default_factory=dict)
    failed: bool = False


class RunMaps:
    """The maps of one run: where its rows lie, and the sums in each pixel.

    Only rows that are new are read when it is asked again.
    """

    def __init__(self) -> None:
        self._placements: dict[tuple[Any, ...], Placement] = {}
        self._growing: dict[tuple[Any, ...], GrowingMap] = {}

    def update(
        self,
        start: Document,
        streams: Streams,
        others: Mapping[str, tuple[Document, Streams]],
        largest: int = LARGEST,
    ) -> dict[str, tuple[Mapped, Picture]]:
        """Return the maps by their names, up to the newest row.

        Parameters
        ----------
        start : mapping
        streams : mapping
            Streams by name.
        others : mapping
            The runs that may say where the rows lie: ``raw``, of a derived run, and
            ``corrected``, the derived run that corrects the positions.
        largest : int
            Pixels that a map may have.
        """
        run = described(start, streams)
        beside = {of: (described(*other), other[1]) for of, other in others.items()}
        raw, corrected = (beside.get(of, (None,))[0] for of in ("raw", "corrected"))
        try:
            known = mapped(run, raw, largest, corrected)
        except ODD as error:
            logger.warning("run %s has no maps: its metadata are odd: %r", start["uid"], error)
            return {}
        found: dict[str, tuple[Mapped, Picture]] = {}
        for name, one in known.items():
            points = points_of(one, run, streams, beside)
            placement = self._placement(one.streams, one.where)
            key = (one.streams, one.where, one.column, canonical(one.unit))
            growing = self._growing.setdefault(key, GrowingMap())
            seen = growing.update(placement, points, values_of(one, run, streams), (OSError,))
            found[name] = one, one.picture(seen)
        return found

    def _placement(self, streams: tuple[str, ...], where: Where) -> Placement:
        key = (streams, where)
        if key not in self._placements:
            self._placements[key] = placement_of(where)
        return self._placements[key]


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
        self._read = read
        self._scans = scans
        self._runs: dict[str, Collected] = {}
        self._of_scan: dict[str, list[str]] = {}  # uid of the raw run -> runs, as they came
        self._maps: dict[str, RunMaps] = {}
        self._streams: dict[str, tuple[str, CollectedStream]] = {}  # descriptor -> run, stream
        self._resources: dict[str, Document] = {}

    def __call__(self, name: str, document: Document) -> None:
        """Take a document; those of runs whose start did not come, or that are let go, are left."""
        match name:
            case "start":
                self._start(document)
            case "descriptor":
                self._describe(document)
            case "event" | "event_page":
                if document["descriptor"] in self._streams:
                    page = page_of(document) if name == "event" else document
                    self._streams[document["descriptor"]][1].add(page)
            case "stream_resource":
                self._resources[document["uid"]] = document
            case "stream_datum":
                resource = self._resources.get(document["stream_resource"])
                if resource is not None and document["descriptor"] in self._streams:
                    self._streams[document["descriptor"]][1].announce(resource, document)
            case "stop" if document["run_start"] in self._runs:
                self._runs[document["run_start"]].failed = document.get("exit_status") == "fail"

    def of(self, run: str) -> dict[str, Picture]:
        """Return the maps of a run by their names, the most important first.

        They are what a server has under ``run["maps"]``.

        Raises
        ------
        KeyError
            If there is no such run.
        """
        collected = self._runs[run]
        root = _root(collected.start)
        others: dict[str, tuple[Document, Streams]] = {}
        if root != run and root in self._runs:
            others["raw"] = self._runs[root].start, self._runs[root].streams
        if not corrects(collected.start):
            for uid in reversed(self._of_scan[root]):
                other = self._runs[uid]
                if corrects(other.start) == root and not other.failed:
                    others["corrected"] = other.start, other.streams
                    break
        found = self._maps[run].update(collected.start, collected.streams, others)
        return {name: picture for name, (_, picture) in found.items()}

    def scan(self, run: str | None = None) -> NamedMaps:
        """Return the maps of all runs of a scan, the newest scan's by default.

        The source in a name ``SOURCE.NAME`` is that of the modality, or ``raw``, as
        ``p06bs show`` and LaVue have it.

        Raises
        ------
        KeyError
            If there is no such run.
        """
        if run is None:
            run = next(reversed(self._of_scan), None)
            if run is None:
                return NamedMaps()
            uids = self._of_scan[run]
        else:
            uids = self._of_scan[_root(self._runs[run].start)]
        found = of_scan([self._runs[uid].start for uid in uids], lambda uid: self.of(uid).items())
        return NamedMaps({f"{source}.{name}": picture for _, source, (name, picture) in found})

    def _start(self, start: Document) -> None:
        uid, root = start["uid"], _root(start)
        self._runs[uid] = Collected(start)
        self._maps[uid] = RunMaps()
        self._of_scan.setdefault(root, []).append(uid)
        while len(self._of_scan) > self._scans:
            self._forget(next(iter(self._of_scan)))

    def _forget(self, root: str) -> None:
        for uid in self._of_scan.pop(root):
            del self._runs[uid], self._maps[uid]
        self._streams = {d: known for d, known in self._streams.items() if known[0] in self._runs}

    def _describe(self, descriptor: Document) -> None:
        run = self._runs.get(descriptor["run_start"])
        if run is None:
            return
        name = descriptor.get("name", "primary")
        if name in run.streams:
            run.streams[name].describe(descriptor)
        else:
            run.streams[name] = CollectedStream(descriptor, self._read)
        self._streams[descriptor["uid"]] = descriptor["run_start"], run.streams[name]


def _root(start: Document) -> str:
    return str(start["original_run_uid"] if is_derived(start) else start["uid"])
