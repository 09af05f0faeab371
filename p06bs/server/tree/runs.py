"""The runs of the sink as a Tiled tree, in the order of their start times."""

from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any

from fastapi import HTTPException
from tiled.structures.core import Spec

from p06bs.metadata import found_at
from p06bs.server.access.policy import Viewer, Visible
from p06bs.server.sink.sink import Sink
from p06bs.server.tree.arrays import SIZES, Sizes
from p06bs.server.tree.cursor import Child
from p06bs.server.tree.distinct import DistinctMap
from p06bs.server.tree.listing import Listing, Runs, SomeRuns, VisibleRuns
from p06bs.server.tree.live import Live, Watched
from p06bs.server.tree.search import condition
from p06bs.server.tree.tree import Extra, nothing_more
from p06bs.server.tree.written import folder_in
from p06bs.server.tree.written_nodes import WrittenContainer, create_top


class RunsAdapter(Watched, DistinctMap):
    """Serve the runs of the sink, in the order of their start times.

    Attributes
    ----------
    viewer : Viewer or None
        Who looks, where a `Visible` query has filtered the runs.
    """

    writable = True
    context = WrittenContainer.context

    def __init__(
        self,
        *args: Any,
        viewer: Viewer | None = None,
        create: Callable[..., Awaitable[Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._mapping: Listing
        self.viewer = viewer
        self._create = create

    def new_variation(self, *args: Any, **kwargs: Any) -> Any:
        """Return other runs, or another order, for the same viewer."""
        same = {"viewer": self.viewer, "create": self._create}
        if "mapping" in kwargs and not isinstance(kwargs["mapping"], Listing):
            kwargs["mapping"] = SomeRuns(self._mapping, kwargs["mapping"])
        return super().new_variation(*args, **{**same, **kwargs})

    async def create_node(self, **what: Any) -> Any:
        """Add what a service writes over HTTP; see `create_top`.

        Raises
        ------
        HTTPException
            4xx if it cannot be kept here, 403 if the token is not for its beamtime folder.
        """
        if self._create is None:
            raise HTTPException(405, "Nothing is written here.")
        if self.viewer is not None and not self.viewer.may_see(folder_in(what["metadata"])):
            raise HTTPException(403, "The token is not for this beamtime folder.")
        return await self._create(**what)

    def folders(self) -> frozenset[str]:
        """Return the beamtime folders of the runs."""
        return frozenset(folder for folder in self._mapping.folders().values() if folder)

    def __getitem__(self, key: str) -> Any:
        run = self.handing(key, super().__getitem__(key))
        run.ask = partial(self._ask, lambda: {run.folder} - {None})
        return run

    async def ask(self, anew: bool) -> None:
        """Ask for the rights to the folders of all runs, those that are not visible, too."""
        await self._ask(
            lambda: frozenset(filter(None, _all(self._mapping).folders().values())), anew
        )

    async def _ask(self, folders: Callable[[], Iterable[str]], anew: bool) -> None:
        if self.viewer is not None:
            await self.viewer.ask(folders(), anew)

    def again(self) -> "RunsAdapter":
        """Return the runs: each look finds what is there."""
        return self

    def children(self) -> Mapping[str, Child]:
        """Return the runs by the times of their start and stop documents."""
        return {uid: run.listed for uid, run in self.summaries()}

    def state(self) -> Hashable:
        """Return what is equal as long as `children` are."""
        return self._mapping.state()

    def summaries(self) -> Iterator[tuple[str, Any]]:
        """Yield what is known of each run without its adapter."""
        return self._mapping.summaries()

    def search(self, query: Any) -> Any:
        """Return the runs whose metadata match, or that somebody may see.

        Raises
        ------
        QueryValueError
            If the query cannot be asked.
        """
        if isinstance(query, Visible):
            return self._visible_to(query.viewer)
        holds = condition(query)
        return self._some(uid for uid, run in self.summaries() if holds(uid, run))

    def _visible_to(self, viewer: Viewer) -> "RunsAdapter":
        shown: RunsAdapter = self.new_variation(
            mapping=VisibleRuns(self._mapping, viewer), viewer=viewer
        )
        return shown

    def _some(self, uids: Iterable[str], **kwargs: Any) -> "RunsAdapter":
        some: RunsAdapter = self.new_variation(mapping=SomeRuns(self._mapping, uids), **kwargs)
        return some

    def sort(self, sorting: Any) -> "RunsAdapter":
        """Return the runs sorted by metadata (``start.time``), "" and "_" being the given order.

        As in the archive equal ones are in the direction of the last key, and runs without a
        value come last.
        """
        keys: list[tuple[str, int]] = []
        given = 1
        for name, direction in sorting:
            key = name.removeprefix("metadata.")
            given = direction
            if key == "start.time":
                break  # the given order; nothing behind it matters
            if key not in ("", "_"):
                keys.append((key, direction))
        runs = list(self.summaries())
        if given < 0:
            runs.reverse()
        for key, direction in reversed(keys):
            runs = _sorted(runs, key, reverse=direction < 0)
        return self._some((uid for uid, _ in runs), sorting=sorting)

    def _keys_slice(
        self, start: int, stop: int | None, direction: int, page_size: int | None = None
    ) -> Iterator[str]:
        return islice(self._mapping if direction > 0 else reversed(self._mapping), start, stop)

    def _items_slice(
        self, start: int, stop: int | None, direction: int, page_size: int | None = None
    ) -> Iterator[tuple[str, Any]]:
        for uid in self._keys_slice(start, stop, direction, page_size):
            try:
                run = self._mapping[uid]
            except KeyError:
                continue  # left the sink since the keys were listed
            yield uid, run


def _all(runs: Listing) -> Listing:
    """Return the runs of which some may be seen."""
    return _all(runs.runs) if isinstance(runs, VisibleRuns) else runs


def runs_adapter(
    sink: Sink,
    extra: Extra = nothing_more,
    live: Live | None = None,
    taken: Callable[[str], bool] = lambda uid: False,
    sizes: Sizes = SIZES,
) -> RunsAdapter:
    """Return the tree of all runs of the sink.

    Nodes can be subscribed to where there is `live`. `taken` says of a uid whether it is
    that of a run, in memory or not. `extra` and `sizes` are as for `run_adapter`.
    """
    runs = RunsAdapter(
        Runs(sink, extra, sizes),
        specs=[Spec("CatalogOfBlueskyRuns", version="3.0")],
        create=partial(create_top, sink, taken, sizes.of(sink.shares)),
    )
    runs.live = live
    return runs


def _sorted(runs: Iterable[tuple[str, Any]], key: str, *, reverse: bool) -> list[tuple[str, Any]]:
    """Return runs in the order of a value; numbers before text before what is not there."""
    there, missing = [], []
    for uid, run in runs:
        value = found_at(run.metadata(), key)
        if isinstance(value, int | float):
            there.append(((0, value, ""), uid, run))
        elif isinstance(value, str):
            there.append(((1, 0.0, value), uid, run))
        else:
            missing.append((uid, run))
    there.sort(key=itemgetter(0), reverse=reverse)
    return [(uid, run) for _, uid, run in there] + missing
