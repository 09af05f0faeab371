"""The sink as a Tiled tree: run / stream / column, laid out as bluesky's TiledWriter does.

One-dimensional columns are in one table per stream, which a client reads in one
consistent request; each of them is an array under its own name, too. Arrays and
external data are arrays. Clients with bluesky-tiled-plugins get runs as their
BlueskyRun, the same as from a catalog.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any

from fastapi import HTTPException
from tiled.adapters.mapping import iter_child_metadata
from tiled.queries import Like, QueryValueError
from tiled.structures.core import Spec
from tiled.utils import OneShotCachedMap

from p06bs.metadata import folder_of, value_at
from p06bs.server.access.policy import Viewer, Visible
from p06bs.server.sink.columns import View
from p06bs.server.sink.sink import RunView, Sink
from p06bs.server.sink.stream import TABLE, StreamView
from p06bs.server.tree.arrays import DEFAULT_SHARES, ColumnAdapter, Touch
from p06bs.server.tree.cursor import Child
from p06bs.server.tree.distinct import DistinctMap
from p06bs.server.tree.live import Live, Watched, numbered
from p06bs.server.tree.table import TableAdapter
from p06bs.server.tree.written import folder_in
from p06bs.server.tree.written_nodes import WrittenContainer, adapter_of, create_top


class StreamAdapter(Watched, DistinctMap):
    """Serve a stream; columns that are listed in the table are reached by name, too."""

    def __init__(self, *args: Any, columns: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._columns = columns or {}

    def __getitem__(self, key: str) -> Any:
        found = self._mapping[key] if key in self._mapping else self._columns[key]
        return self.handing(key, found)

    def children(self) -> Mapping[str, Child]:
        """Return table and arrays, numbered from 1 in the order of the listing."""
        return {key: Child(number) for number, key in enumerate(self._mapping, 1)}


class RunAdapter(Watched, DistinctMap):
    """Serve a run: its streams, and what else is made of them.

    Attributes
    ----------
    folder : str or None
        The beamtime folder; who may read it may see the run.
    """

    def __init__(self, *args: Any, folder: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.folder = folder
        self.finished = "stop" in self._metadata

    def new_variation(self, *args: Any, **kwargs: Any) -> Any:
        """Return the run with other children."""
        return super().new_variation(*args, folder=self.folder, **kwargs)

    def __getitem__(self, key: str) -> Any:
        return self.handing(key, super().__getitem__(key))

    def children(self) -> Mapping[str, Child]:
        """Return the children by the times of their documents; without one, of the run's."""
        begun = self._metadata["start"]
        found = {}
        for key in self._mapping:
            metadata = self[key].metadata()
            changes = metadata.get("_config_updates")
            found[key] = numbered({**begun, **metadata}, changes and changes[-1].get("time"))
        return found


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
        return self.handing(key, super().__getitem__(key))

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
            If the query compares what cannot be compared.
        """
        if isinstance(query, Visible):
            return self._visible_to(query.viewer)
        try:
            return _like(query, self) if isinstance(query, Like) else super().search(query)
        except TypeError as error:
            raise QueryValueError(f"cannot compare with that value: {error}") from error

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


def is_like(text: str, pattern: str) -> bool:
    """Return whether a text is as SQL's LIKE says: ``%`` is any text, ``_`` any character.

    Takes at most the product of the lengths; a regular expression takes much longer.
    """
    at = t = 0
    star, resume = -1, 0
    while t < len(text):
        if at < len(pattern) and pattern[at] == "%":
            star, resume = at, t
            at += 1
        elif at < len(pattern) and pattern[at] in ("_", text[t]):
            at, t = at + 1, t + 1
        elif star >= 0:
            at, resume = star + 1, resume + 1
            t = resume
        else:
            return False
    return not pattern[at:].strip("%")


def _like(query: Like, tree: RunsAdapter) -> RunsAdapter:
    """Select by SQL's LIKE: % is any text, _ any character (partial uids come this way)."""
    if query.key == "start.uid":  # what was written has its key only
        terms = ((key, value, key) for key, value in tree.items())
    else:
        terms = iter_child_metadata(query.key, tree)
    found = {
        key: value
        for key, value, term in terms
        if isinstance(term, str) and is_like(term, query.pattern)
    }
    matching: RunsAdapter = tree.new_variation(mapping=found)
    return matching


Children = Mapping[str, Callable[[], Any]]
"""What makes each child of a run, by its name."""

Extra = Callable[[RunView], Children]
"""Says which children a run has beside its streams."""


def _nothing_more(run: RunView) -> Children:
    return {}


class _Runs(Mapping[str, RunAdapter]):
    """The sink as a mapping; each look finds what is there at that moment."""

    def __init__(self, sink: Sink, extra: Extra) -> None:
        self._sink = sink
        self._extra = extra

    def __getitem__(self, uid: str) -> Any:
        run = self._sink.view(uid)
        if run.written is not None:
            return adapter_of(run.written.top)
        return run_adapter(run, self._extra)

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
        self._runs = runs
        self._viewer = viewer

    def __getitem__(self, uid: str) -> RunAdapter:
        run = self._runs[uid]
        if not self._viewer.may_see(run.folder):
            raise KeyError(uid)
        return run

    def __iter__(self) -> Iterator[str]:
        return iter(self.folders())

    def __len__(self) -> int:
        return len(self.folders())

    def folders(self) -> dict[str, str | None]:
        """Return the beamtime folder of each run that may be seen, in order."""
        folders = _folders(self._runs)
        named = {folder for folder in folders.values() if folder is not None}
        visible = self._viewer.visible(named) if named else frozenset()
        rest = None in folders.values() and self._viewer.may_see(None)
        return {
            uid: folder
            for uid, folder in folders.items()
            if (rest if folder is None else folder in visible)
        }


def _folders(runs: Mapping[str, RunAdapter]) -> dict[str, str | None]:
    if isinstance(runs, _Runs | _Visible):
        return runs.folders()
    return {uid: run.folder for uid, run in runs.items()}


def runs_adapter(
    sink: Sink,
    extra: Extra = _nothing_more,
    live: Live | None = None,
    taken: Callable[[str], bool] = lambda uid: False,
) -> RunsAdapter:
    """Return the tree of all runs of the sink.

    `extra` says which children a run has beside its streams; where it names one as a
    stream is named, the stream stays. Nodes can be subscribed to where there is `live`.
    `taken` says of a uid whether it is that of a run, in memory or not.
    """
    runs = RunsAdapter(
        _Runs(sink, extra),
        specs=[Spec("CatalogOfBlueskyRuns", version="3.0")],
        create=partial(create_top, sink, taken),
    )
    runs.live = live
    return runs


def run_adapter(run: RunView, extra: Extra = _nothing_more) -> RunAdapter:
    """Return the tree of one run; its children are made when asked for."""
    streams = {name: partial(_stream_of, view, run.touch) for name, view in run.streams.items()}
    return RunAdapter(
        OneShotCachedMap({**extra(run), **streams}),
        metadata=dict(run.metadata),
        specs=[Spec("BlueskyRun", version="3.0")],
        folder=folder_of(run.metadata["start"]),
    )


def _stream_of(view: Callable[[], StreamView], touch: Touch) -> StreamAdapter:
    stream = view()
    shares = DEFAULT_SHARES if stream.stream is None else stream.stream.shares

    def array(name: str) -> ColumnAdapter:
        return ColumnAdapter(stream.columns[name], touch, stream.description(name), shares)

    table = {
        name: column
        for name, column in stream.columns.items()
        if name not in stream.external and _fits_table(name, column)
    }
    listed: dict[str, Callable[[], Any]] = {}
    if table:
        listed[TABLE] = partial(TableAdapter, table, stream.read, array, touch, shares)
    listed.update((name, partial(array, name)) for name in stream.columns if name not in table)
    return StreamAdapter(
        OneShotCachedMap(listed),
        metadata=dict(stream.metadata),
        specs=[Spec("BlueskyEventStream", version="3.0"), Spec("composite")],
        columns=OneShotCachedMap({name: partial(array, name) for name in table}),
    )


def _fits_table(name: str, column: View) -> bool:
    """Tiled reserves leading underscores; Arrow has no complex numbers."""
    return not column.shape and not name.startswith("_") and column.dtype.kind in "biufmMU"


def _rank(metadata: Mapping[str, Any], key: str) -> tuple[int, float, str]:
    """Order numbers before text before what is neither or not there."""
    value = value_at(metadata, key)
    if isinstance(value, int | float):
        return 0, value, ""
    return (1, 0.0, value) if isinstance(value, str) else (2, 0.0, "")
