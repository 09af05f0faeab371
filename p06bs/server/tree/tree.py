"""A run as a Tiled tree: run / stream / column, laid out as bluesky's TiledWriter does.

One-dimensional columns are in one table per stream, which a client reads in one
consistent request; each of them is an array under its own name, too. Arrays and
external data are arrays. Clients with bluesky-tiled-plugins get runs as their
BlueskyRun, the same as from a catalog.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tiled.structures.core import Spec
from tiled.utils import OneShotCachedMap

from p06bs.metadata import folder_of
from p06bs.server.sink.held import RunView
from p06bs.server.sink.names import TABLE
from p06bs.server.sink.views import StreamView
from p06bs.server.tree.arrays import SIZES, ColumnAdapter, Sizes, Touch
from p06bs.server.tree.cursor import Child
from p06bs.server.tree.distinct import DistinctMap
from p06bs.server.tree.live import Watched, numbered
from p06bs.server.tree.table import TableAdapter, table_of

RUN_SPECS = [Spec("BlueskyRun", version="3.0")]


class StreamAdapter(Watched, DistinctMap):
    """Serve a stream; columns that are listed in the table are reached by name, too.

    `numbers` are those of the columns, in the order in which they came.
    """

    def __init__(
        self,
        *args: Any,
        columns: Mapping[str, Any] | None = None,
        numbers: Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._columns = columns or {}
        self._numbers = numbers or {}

    def __getitem__(self, key: str) -> Any:
        found = self._mapping[key] if key in self._mapping else self._columns[key]
        return self.handing(key, found)

    def children(self) -> Mapping[str, Child]:
        """Return table and arrays in the order in which they came, the table first."""
        return {key: Child(1 + self._numbers.get(key, 0)) for key in self._mapping}


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


Children = Mapping[str, Callable[[], Any]]
"""What makes each child of a run, by its name."""

Extra = Callable[[RunView], Children]
"""Says which children a run has beside its streams."""


def nothing_more(run: RunView) -> Children:
    """Return no children."""
    return {}


def run_adapter(
    run: RunView,
    extra: Extra = nothing_more,
    make: Callable[..., RunAdapter] = RunAdapter,
    sizes: Sizes = SIZES,
) -> RunAdapter:
    """Return the tree of one run; its children are made when asked for.

    Parameters
    ----------
    extra : callable
        Says which children the run has beside its streams; where it names one as a
        stream is named, the stream stays.
    make : callable
        Makes the run's adapter.
    sizes : Sizes
        How much is read at a time.
    """
    streams = {
        name: partial(_stream_of, view, run.touch, sizes) for name, view in run.streams.items()
    }
    return make(
        OneShotCachedMap({**extra(run), **streams}),
        metadata=dict(run.metadata),
        specs=list(RUN_SPECS),
        folder=folder_of(run.metadata["start"]),
    )


def _stream_of(view: Callable[[], StreamView], touch: Touch, sizes: Sizes) -> StreamAdapter:
    stream = view()
    if stream.stream is not None:
        sizes = sizes.of(stream.stream.shares)

    def array(name: str) -> ColumnAdapter:
        return ColumnAdapter(stream.columns[name], touch, stream.description(name), sizes)

    table = table_of(stream)
    listed: dict[str, Callable[[], Any]] = {}
    if table:
        listed[TABLE] = partial(TableAdapter, table, stream.read, array, touch, sizes)
    listed.update((name, partial(array, name)) for name in stream.columns if name not in table)
    return StreamAdapter(
        OneShotCachedMap(listed),
        metadata=dict(stream.metadata),
        specs=[Spec("BlueskyEventStream", version="3.0"), Spec("composite")],
        columns=OneShotCachedMap({name: partial(array, name) for name in table}),
        numbers=None if stream.stream is None else stream.stream.numbers,
    )
