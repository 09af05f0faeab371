"""Runs in memory as far as their maps are concerned, and which of them belong together."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from p06bs.model.candidates import candidates
from p06bs.model.collected import CollectedStream, ReadRows, page_of
from p06bs.model.documents import Document, is_derived
from p06bs.model.map_columns import Streams
from p06bs.model.plan_axes import plan_axes
from p06bs.model.positions import corrects, is_valid_correction


@dataclass(slots=True)
class Collected:
    """What is known of a run."""

    start: Document
    streams: dict[str, CollectedStream] = field(default_factory=dict)
    stop: Document | None = None


class CollectedRuns:
    """Collect the numbers of runs from their documents: a ``(name, document)`` callable.

    Parameters
    ----------
    read : callable, optional
        Reads columns that lie in files; without it there are none.
    scans : int
        So many of the newest scans are kept.
    positions_only : bool
        Whether of all columns only those are kept that say where rows lie.

    Attributes
    ----------
    runs : dict
        By uid.
    """

    def __init__(
        self, *, read: ReadRows | None = None, scans: int = 1, positions_only: bool = False
    ) -> None:
        self.runs: dict[str, Collected] = {}
        self._read = read
        self._most = scans
        self._positions_only = positions_only
        self._scans: dict[str, list[str]] = {}  # uid of the raw run -> runs, as they came
        self._streams: dict[str, tuple[str, CollectedStream]] = {}  # descriptor -> run, stream
        self._resources: dict[str, Document] = {}

    def __call__(self, name: str, document: Document) -> None:
        """Take a document; those of runs whose start did not come, or that are let go, are left."""
        match name:
            case "start":
                self._start(document)
            case "descriptor" if document["run_start"] in self.runs:
                self._describe(document)
            case "event" | "event_page" if document["descriptor"] in self._streams:
                page = page_of(document) if name == "event" else document
                self._streams[document["descriptor"]][1].add(page)
            case "stream_resource":
                self._resources[document["uid"]] = document
            case "stream_datum" if document["descriptor"] in self._streams:
                resource = self._resources.get(document["stream_resource"])
                if resource is not None:
                    self._streams[document["descriptor"]][1].announce(resource, document)
            case "stop" if document["run_start"] in self.runs:
                self.runs[document["run_start"]].stop = document

    def scan(self, run: str | None = None) -> list[Document]:
        """Return the start documents of a scan, the newest scan's by default, as they came.

        Raises
        ------
        KeyError
            If there is no such run.
        """
        root = next(reversed(self._scans), "") if run is None else _root(self.runs[run].start)
        return [self.runs[uid].start for uid in self._scans.get(root, ())]

    def beside(self, start: Document) -> dict[str, tuple[Document, Streams]]:
        """Return the runs that may say where the rows of a run lie, with their streams.

        They are ``raw``, of a derived run, and ``corrected``, the newest derived run that
        corrects the positions of the scan (see `is_valid_correction`).
        """
        root, uid = _root(start), start["uid"]
        found: dict[str, Collected] = {}
        if root != uid and root in self.runs:
            found["raw"] = self.runs[root]
        if not corrects(start):
            for one in map(self.runs.__getitem__, self._scans.get(root, ())):
                if corrects(one.start) == root and is_valid_correction(one.start, one.stop):
                    found["corrected"] = one
        return {of: (one.start, one.streams) for of, one in found.items()}

    def _start(self, start: Document) -> None:
        self.runs[start["uid"]] = Collected(start)
        self._scans.setdefault(_root(start), []).append(start["uid"])
        if len(self._scans) > self._most:
            for uid in self._scans.pop(next(iter(self._scans))):
                del self.runs[uid]
            self._streams = {d: of for d, of in self._streams.items() if of[0] in self.runs}
            self._resources = {
                uid: one
                for uid, one in self._resources.items()
                if one.get("run_start", start["uid"]) in self.runs
            }

    def _describe(self, descriptor: Document) -> None:
        run = self.runs[descriptor["run_start"]]
        if self._positions_only:
            descriptor = _of_positions(run.start, descriptor)
        name = descriptor.get("name", "primary")
        if name in run.streams:
            run.streams[name].describe(descriptor)
        else:
            run.streams[name] = CollectedStream(descriptor, self._read)
        self._streams[descriptor["uid"]] = descriptor["run_start"], run.streams[name]


def _of_positions(start: Document, descriptor: Document) -> Document:
    """Return a descriptor with those data keys only that say where rows lie."""
    wanted = {"raw_seq_num", *plan_axes(start)}
    wanted |= {c.data_key for c in candidates(start, [descriptor]) if _is_place(c.role)}
    described: Mapping[str, object] = descriptor["data_keys"]
    return {**descriptor, "data_keys": {k: described[k] for k in described if k in wanted}}


def _is_place(role: str | None) -> bool:
    return role is not None and (role.startswith("position_") or role == "rotation")


def _root(start: Document) -> str:
    return str(start["original_run_uid"] if is_derived(start) else start["uid"])
