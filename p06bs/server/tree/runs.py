"""The runs of the sink as a Tiled tree, in the order of their start times."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from fastapi import HTTPException
from tiled.structures.core import Spec

from p06bs.metadata import value_at
from p06bs.server.access.policy import Viewer, Visible
from p06bs.server.sink.sink import Sink
from p06bs.server.tree.arrays import SIZES, Sizes
from p06bs.server.tree.cursor import Child
from p06bs.server.tree.distinct import DistinctMap
from p06bs.server.tree.live import Live, Watched, numbered
from p06bs.server.tree.tree import Extra, RunAdapter, nothing_more, run_adapter
from p06bs.server.tree.written import folder_in
from p06bs.server.tree.written_nodes import WrittenContainer, adapter_of, create_top


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
        self.viewer = viewer
        self._create = create

    def new_variation(self, *args: Any, **kwargs: Any) -> Any:
        """Return other runs, or another order, for the same viewer."""
        same = {"viewer": self.viewer, "create": self._create}
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
        return frozenset(folder for folder in _folders(self._mapping).values() if folder)

    def __getitem__(self, key: str) -> Any:
        run = self.handing(key, super().__getitem__(key))
        run.ask = partial(self._ask, lambda: {run.folder} - {None})
        return run

    async def ask(self, anew: bool) -> None:
        """Ask for the rights to the folders of all runs, those that are not visible, too."""
        await self._ask(
            lambda: frozenset(filter(None, _folders(_all(self._mapping)).values())), anew
        )

    async def _ask(self, folders: Callable[[], Iterable[str]], anew: bool) -> None:
        if self.viewer is not None:
            await self.viewer.ask(folders(), anew)

    def again(self) -> "RunsAdapter":
        """Return the runs: each look finds what is there."""
        return self

    def children(self) -> Mapping[str, Child]:
        """Return the runs by the times of their start and stop documents."""
        return {uid: _listed(run) for uid, run in self.items()}

    def search(self, query: Any) -> Any:
        """Return the runs whose metadata match, or that somebody may see.

        Raises
        ------
        QueryValueError
            If the query cannot be asked.
        """
        return (
            self._visible_to(query.viewer) if isinstance(query, Visible) else super().search(query)
        )

    def _visible_to(self, viewer: Viewer) -> "RunsAdapter":
        shown: RunsAdapter = self.new_variation(
            mapping=_Visible(self._mapping, viewer), viewer=viewer
        )
        return shown

    def sort(self, sorting: Any) -> "RunsAdapter":
        """Return the runs sorted by metadata (``start.time``), "" and "_" being the given order."""
        items = list(self.items())
        for key, direction in reversed(sorting):
            if key not in ("", "_"):
                items.sort(key=lambda item: _rank(item[1].metadata(), key), reverse=direction < 0)
            elif direction < 0:
                items.reverse()
        ordered: RunsAdapter = self.new_variation(mapping=dict(items), sorting=sorting)
        return ordered

    def _items_slice(
        self, start: int, stop: int | None, direction: int, page_size: int | None = None
    ) -> Iterator[tuple[str, Any]]:
        for uid in self._keys_slice(start, stop, direction, page_size):
            try:
                run = self._mapping[uid]
            except KeyError:
                continue  # left the sink since the keys were listed
            yield uid, run


def _listed(run: Any) -> Child:
    if isinstance(run, RunAdapter):
        documents = run.metadata()
        return numbered(documents["start"], documents.get("stop", {}).get("time"))
    listed: Child = run.listed
    return listed


class _Runs(Mapping[str, RunAdapter]):
    """The sink as a mapping; each look finds what is there at that moment."""

    def __init__(self, sink: Sink, extra: Extra, sizes: Sizes) -> None:
        self._sink = sink
        self._extra = extra
        self._sizes = sizes

    def __getitem__(self, uid: str) -> Any:
        run = self._sink.view(uid)
        if run.written is not None:
            return adapter_of(run.written.top)
        return run_adapter(run, self._extra, sizes=self._sizes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sink.runs())

    def __len__(self) -> int:
        return len(self._sink)

    def folders(self) -> dict[str, str | None]:
        """Return the beamtime folder of each run, in order."""
        return self._sink.folders()


class _Visible(Mapping[str, RunAdapter]):
    """The runs of another mapping that somebody may see; asks once per listing."""

    def __init__(self, runs: Mapping[str, RunAdapter], viewer: Viewer) -> None:
        self.runs = runs
        self._viewer = viewer

    def __getitem__(self, uid: str) -> RunAdapter:
        run = self.runs[uid]
        if not self._viewer.may_see(run.folder):
            raise KeyError(uid)
        return run

    def __iter__(self) -> Iterator[str]:
        return iter(self.folders())

    def __len__(self) -> int:
        return len(self.folders())

    def folders(self) -> dict[str, str | None]:
        """Return the beamtime folder of each run that may be seen, in order."""
        folders = _folders(self.runs)
        named = {folder for folder in folders.values() if folder is not None}
        visible = self._viewer.visible(named) if named else frozenset()
        rest = None in folders.values() and self._viewer.may_see(None)
        return {
            uid: folder
            for uid, folder in folders.items()
            if (rest if folder is None else folder in visible)
        }


def _all(runs: Mapping[str, RunAdapter]) -> Mapping[str, RunAdapter]:
    """Return the runs of which some may be seen."""
    return _all(runs.runs) if isinstance(runs, _Visible) else runs


def _folders(runs: Mapping[str, RunAdapter]) -> dict[str, str | None]:
    if isinstance(runs, _Runs | _Visible):
        return runs.folders()
    return {uid: run.folder for uid, run in runs.items()}


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
        _Runs(sink, extra, sizes),
        specs=[Spec("CatalogOfBlueskyRuns", version="3.0")],
        create=partial(create_top, sink, taken, sizes.limit),
    )
    runs.live = live
    return runs


def _rank(metadata: Mapping[str, Any], key: str) -> tuple[int, float, str]:
    """Order numbers before text before what is neither or not there."""
    value = value_at(metadata, key)
    if isinstance(value, int | float):
        return 0, value, ""
    return (1, 0.0, value) if isinstance(value, str) else (2, 0.0, "")
