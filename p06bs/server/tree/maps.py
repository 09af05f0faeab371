"""Maps of a run's columns in memory: made when they are asked for, then kept up to date."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from fastapi import HTTPException

from p06bs.metadata import folder_of
from p06bs.model.documents import is_derived
from p06bs.model.gridding import PIXEL_BYTES, Gridded, GrowingMap
from p06bs.model.map_columns import Streams, described, points_of, values_of
from p06bs.model.mapped import ODD, Mapped, mapped
from p06bs.model.placement import placement_of
from p06bs.model.positions import LARGEST, corrects, may_have_maps
from p06bs.model.run_streams import Run
from p06bs.model.units import canonical
from p06bs.server.sink.held import RunView
from p06bs.server.sink.places import RowsLostError
from p06bs.server.tree.map_nodes import MapsNode, maps_node
from p06bs.server.tree.recent import Recent

logger = logging.getLogger(__name__)

MAPS = "maps"
LIMIT = 1 << 26
"""Bytes of what maps keep, by default."""
KEPT_BYTES = 1024
"""What Python keeps about something that is kept, beside its arrays."""
LOCKS = 16

REMEMBERED = 10_000
"""Runs of which something is remembered."""

Key = tuple[Any, ...]


def _no_run(uid: str) -> RunView:
    raise KeyError(uid)


class Maps:
    """Make the child ``maps`` of runs: a callable for `p06bs.server.tree.tree.run_adapter`.

    What it keeps of a map is where rows lie and the sums in each pixel, so that only
    new rows are read when the map is asked for again. All of it can be made anew from
    the columns: it goes when it is too much, what was longest unused first. From any
    thread.

    Parameters
    ----------
    run_of : callable, optional
        Returns the view of a run by its uid (KeyError if there is none): the raw run of
        a derived one may have the positions.
    limit : int
        Bytes that are kept; a raster of which a map would need more has none.
    """

    def __init__(
        self,
        run_of: Callable[[str], RunView] = _no_run,
        *,
        limit: int = LIMIT,
    ) -> None:
        self._run_of = run_of
        self._largest = min(LARGEST, limit // PIXEL_BYTES)
        self._lock = threading.Lock()  # of what follows; nothing else is done with it
        self._kept: Recent[Key, Any] = Recent(limit)
        self._odd: Recent[str, bool] = Recent(REMEMBERED)
        self._decided: Recent[str, bool] = Recent(REMEMBERED)
        self._working = [threading.Lock() for _ in range(LOCKS)]  # a run's maps, one at a time

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return self._kept.nbytes

    def __call__(self, run: RunView) -> dict[str, Callable[[], MapsNode]]:
        """Return what makes the child ``maps``; nothing where no column can make a map.

        A run is asked for its streams only if its start document does not tell.
        """
        return self.children(run) if self._has(run) else {}

    def children(self, run: RunView) -> dict[str, Callable[[], MapsNode]]:
        """Return what makes the child ``maps`` of a run of which is known that it has maps."""
        return {} if MAPS in run.streams else {MAPS: partial(self._node, run)}

    def decide(self, run: RunView) -> bool | None:
        """Return whether a run that has ended has maps; None: if its raw run has positions."""
        known = self._declared(run)
        if known is not None:
            return known
        if self.of(run):
            return True
        return None if is_derived(run.metadata["start"]) else False

    def _declared(self, run: RunView) -> bool | None:
        """Return whether a run has maps as far as its start document says; None: it does not."""
        try:
            return may_have_maps(run.metadata["start"], run.streams, self._largest)
        except ODD:
            return None  # `of` says what is odd

    def _has(self, run: RunView) -> bool:
        start = run.metadata["start"]
        known = self._declared(run)
        if known is not None:
            return known
        with self._lock:
            decided = self._decided.get(start["uid"])
        if decided is None:
            decided = bool(self.of(run))
            if "stop" in run.metadata:
                with self._lock:
                    self._decided.keep(start["uid"], decided, 1)
        return decided

    def _node(self, run: RunView) -> MapsNode:
        return maps_node(run.metadata["start"], self.of(run), partial(self.look, run), run.touch)

    def of(self, run: RunView) -> dict[str, Mapped]:
        """Return which maps a run has, by their names.

        Metadata by which nothing can be decided are logged, once a run: then it has none.
        """
        try:
            described_run, _, others = self._looked_at(run)
            raw, corrected = (others.get(of, (None,))[0] for of in ("raw", "corrected"))
            return mapped(described_run, raw, self._largest, corrected)
        except ODD as error:
            uid = run.metadata["start"]["uid"]
            with self._lock:
                known = self._odd.get(uid)
                self._odd.keep(uid, True, 1)
            if not known:
                logger.warning("run %s has no maps: its metadata are odd: %r", uid, error)
            return {}

    def forget(self, uid: str) -> None:
        """Let all go that is kept of a run that is gone."""
        with self._lock:
            self._kept.forget(lambda key: key[0] == uid)
            self._odd.drop(uid)
            self._decided.drop(uid)

    def look(self, run: RunView, one: Mapped) -> Gridded:
        """Return a map of a run up to the newest row that it has.

        Raises
        ------
        KeyError
            If the run has left the memory.
        """
        uid = run.metadata["start"]["uid"]
        where: Key = (uid, one.streams, one.where)
        what: Key = (*where, one.column, canonical(one.unit))
        with self._working[hash(uid) % LOCKS]:
            run_, streams, others = self._looked_at(run)
            points = points_of(one, run_, streams, others)
            values = values_of(one, run_, streams)
            placement = self._get(where) or placement_of(one.where)
            growing = self._get(what) or GrowingMap()
            # Rows in files that cannot be read (yet): the map is shown without them.
            unreadable = (HTTPException, RowsLostError, OSError)
            gridded = growing.update(placement, points, values, unreadable)
            sizes = {where: (placement, placement.nbytes), what: (growing, growing.nbytes)}
        with self._lock:
            for key, (value, nbytes) in sizes.items():
                self._kept.keep(key, value, nbytes + KEPT_BYTES)
        return gridded

    def _get(self, key: Key) -> Any:
        with self._lock:
            return self._kept.get(key)

    def _looked_at(self, run: RunView) -> tuple[Run, Streams, dict[str, tuple[Run, Streams]]]:
        """Return a run, and those that may have its positions, as they are now."""
        start = run.metadata["start"]
        others: dict[str, RunView | None] = {}
        if is_derived(start):
            with suppress(KeyError):
                others["raw"] = self._run_of(str(start["original_run_uid"]))
        if not corrects(start):
            with suppress(KeyError):
                others["corrected"] = run.corrected()
        found: dict[str, tuple[Run, Streams]] = {}
        for of, other in others.items():
            # Who may see the one need not see the other.
            if other is not None and folder_of(other.metadata["start"]) == folder_of(start):
                streams = {name: view() for name, view in other.streams.items()}
                found[of] = described(other.metadata["start"], streams), streams
        streams = {name: view() for name, view in run.streams.items()}
        return described(start, streams), streams, found
