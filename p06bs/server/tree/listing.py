"""The runs of the sink as mappings: all, those that somebody may see, those that were found.

A run's adapter is made when it is asked for. What decides whether a run is listed, its
folder and its documents, is looked at without one: there may be many thousands.
"""

from abc import abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

from tiled.structures.core import StructureFamily

from p06bs.server.access.policy import Viewer
from p06bs.server.sink.sink import Sink
from p06bs.server.tree.arrays import Sizes
from p06bs.server.tree.cursor import Child
from p06bs.server.tree.live import numbered
from p06bs.server.tree.tree import RUN_SPECS, Extra, run_adapter
from p06bs.server.tree.written_nodes import adapter_of

Folders = Mapping[str, str | None]
"""The beamtime folder of each run, in order."""


class Summary:
    """What a run is searched and sorted by, without its adapter."""

    structure_family = StructureFamily.container
    specs = RUN_SPECS

    def __init__(self, documents: Mapping[str, Any]) -> None:
        self._documents = documents

    def metadata(self) -> Mapping[str, Any]:
        """Return the start and stop documents."""
        return self._documents

    @property
    def listed(self) -> Child:
        """The times of the start and stop documents."""
        documents = self._documents
        return numbered(documents["start"], documents.get("stop", {}).get("time"))


class Listing(Mapping[str, Any]):
    """Runs, in the order of their folders; each look finds what is there at that moment."""

    @abstractmethod
    def folders(self) -> Folders:
        """Return the beamtime folder of each run, in order."""

    @abstractmethod
    def summary(self, uid: str) -> Any:
        """Return what is known of a run without its adapter: a `Summary`, or what is like one.

        Raises
        ------
        KeyError
            If the run is not there (any more).
        """

    def state(self) -> Hashable:
        """Return what is equal as long as the same runs with the same documents are listed."""
        return object()

    def summaries(self) -> Iterator[tuple[str, Any]]:
        """Yield the runs with their summaries."""
        for uid in self:
            try:
                yield uid, self.summary(uid)
            except KeyError:
                continue  # left the sink since it was listed

    def __iter__(self) -> Iterator[str]:
        return iter(self.folders())

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self.folders()))

    def __len__(self) -> int:
        return len(self.folders())


class Runs(Listing):
    """All runs of a sink."""

    def __init__(self, sink: Sink, extra: Extra, sizes: Sizes) -> None:
        self._sink = sink
        self._extra = extra
        self._sizes = sizes

    def __getitem__(self, uid: str) -> Any:
        run = self._sink.view(uid)
        if run.written is not None:
            return adapter_of(run.written.top)
        return run_adapter(run, self._extra, sizes=self._sizes)

    def folders(self) -> Folders:
        return self._sink.folders()

    def summary(self, uid: str) -> Any:
        documents, written = self._sink.documents(uid)
        return Summary(documents) if written is None else adapter_of(written.top)

    def state(self) -> Hashable:
        return self._sink.version


class VisibleRuns(Listing):
    """The runs of another listing that somebody may see; asks once per listing."""

    def __init__(self, runs: Listing, viewer: Viewer) -> None:
        self.runs = runs
        self._viewer = viewer

    def __getitem__(self, uid: str) -> Any:
        run = self.runs[uid]
        if not self._viewer.may_see(run.folder):
            raise KeyError(uid)
        return run

    def folders(self) -> Folders:
        folders = self.runs.folders()
        visible = self._visible(folders)
        if visible.issuperset(folders.values()):
            return folders
        return {uid: folder for uid, folder in folders.items() if folder in visible}

    def summary(self, uid: str) -> Any:
        return self.runs.summary(uid)

    def state(self) -> Hashable:
        state = self.runs.state()  # before the rights, which may change meanwhile
        return state, self._visible(self.runs.folders())

    def _visible(self, folders: Folders) -> frozenset[str | None]:
        """Return those of the folders that may be seen; None is that of runs without one."""
        there = frozenset(folders.values())
        named = frozenset(folder for folder in there if folder is not None)
        visible: frozenset[str | None] = self._viewer.visible(named) if named else frozenset()
        return visible | {None} if None in there and self._viewer.may_see(None) else visible


class SomeRuns(Listing):
    """Some runs of another listing, in an order of their own."""

    def __init__(self, runs: Listing, uids: Iterable[str]) -> None:
        self.runs = runs
        folders = runs.folders()
        self._folders = {uid: folders[uid] for uid in uids if uid in folders}

    def __getitem__(self, uid: str) -> Any:
        if uid not in self._folders:
            raise KeyError(uid)
        return self.runs[uid]

    def folders(self) -> Folders:
        return self._folders

    def summary(self, uid: str) -> Any:
        return self.runs.summary(uid)
