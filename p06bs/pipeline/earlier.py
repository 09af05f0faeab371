"""What pipeline processes that have ended left in the logs: derived runs, whole or unfinished."""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from p06bs.bus.log import DocumentLog
from p06bs.bus.reader import Entry, LogError
from p06bs.model.documents import (
    Document,
    NamedDocument,
    goes_with_scan,
    is_derived,
    is_snapshots,
    pipeline_of,
    worked_on,
)
from p06bs.model.modality import Modality
from p06bs.model.revisions import Revision, recorded

log = logging.getLogger(__name__)

Made = Callable[[Document, str], bool]


@dataclass
class Earlier:
    """What an earlier writer of a derived run has left in its log."""

    start: Document = field(default_factory=dict)
    descriptors: list[Document] = field(default_factory=list)
    pages: list[tuple[str, list[str]]] = field(default_factory=list)  # descriptor, reasons
    snapshots: dict[str, int] = field(default_factory=dict)  # stream -> events
    finals: set[str] = field(default_factory=set)  # streams whose last snapshot is there
    streams: dict[str, str] = field(default_factory=dict)  # descriptors of snapshots
    last_raw_uid: str | None = None
    ended: bool = False

    @property
    def rows(self) -> int:
        """Number of rows that are in the log."""
        return len(self.reasons)

    @property
    def reasons(self) -> list[str]:
        """Why each row is invalid; "" for valid ones."""
        return [reason for _, reasons in self.pages for reason in reasons]

    def revisions(self, modality: Modality) -> dict[str, tuple[Revision, int, str]]:
        """Return what its descriptors record: by their uids the settings, and the first row and
        raw event that they are in force for.

        Raises
        ------
        SettingsError
            If the modality refuses them now.
        """
        found: dict[str, tuple[Revision, int, str]] = {}
        for document in self.descriptors:
            data = recorded(document, modality.name)
            revision = Revision(
                data["revision"],
                modality.validate(json.loads(data["settings"])),
                data["changed_by"],
                data["changed_at"],
                data.get("change", 0),  # logs of earlier versions have none, and no presets
                data.get("preset", ""),
            )
            found[document["uid"]] = (revision, data["first_row"], data["first_raw_uid"])
        return found

    @classmethod
    def read(cls, documents: Iterable[NamedDocument]) -> "Earlier | None":
        """Return what the documents of a derived run's log say; None if there are none."""
        earlier: Earlier | None = None
        for name, document in documents:
            if earlier is not None:
                earlier.take(name, document)
            elif name == "start":
                earlier = cls(document)
            else:
                return None
        return earlier

    def take(self, name: str, document: Document) -> None:
        """Take the next document of the log."""
        if name == "start":
            self.start = document
        elif name == "descriptor" and is_snapshots(document):
            self.streams[document["uid"]] = document["name"]
            self.snapshots[document["name"]] = 0
        elif name == "descriptor":
            self.descriptors.append(document)
        elif name == "event":
            stream = self.streams[document["descriptor"]]
            self.snapshots[stream] += 1
            if document["data"]["final"]:
                self.finals.add(stream)
        elif name == "event_page":
            data = document["data"]
            reasons = [
                "" if valid else str(reason) or "unknown"
                for valid, reason in zip(data["valid"], data["invalid_reason"], strict=True)
            ]
            self.pages.append((document["descriptor"], reasons))
            self.last_raw_uid = data["raw_uid"][-1]
        elif name == "stop":
            self.ended = True


class EarlierRuns:
    """Say which runs still have to be worked on: a restart must not read them all.

    Parameters
    ----------
    documents : DocumentLog
    made : sequence of callable
        One for each pipeline: says whether a derived run's process, and its raw run's uid,
        are of a derived run that it has made.
    since : float
        Unix time, s: logs last written before it are left out.
    feeding : collection of str
        Names of the pipelines whose derived runs feed others.
    """

    def __init__(
        self,
        documents: DocumentLog,
        made: Sequence[Made],
        since: float,
        feeding: Collection[str] = (),
    ) -> None:
        self._documents = documents
        self._made = made
        self._feeding = feeding
        self._done: defaultdict[str, list[Document]] = defaultdict(list)  # by raw run
        for uid in documents.runs(since=since):
            first, last = self._ends(uid)
            if first is not None and last is not None and last.name == "stop":
                start = first.document
                if is_derived(start):
                    self._done[worked_on(start)].append(start["process"])

    def is_wanted(self, uid: str) -> bool:
        """Return whether to follow a run.

        Not raw runs that have ended and whose derived runs have ended. Derived runs only if
        they feed others, and their raw run is wanted.
        """
        first, last = self._ends(uid)
        if first is None:
            return True
        if is_derived(first.document):
            return self._feeds(first.document) and self.is_wanted(worked_on(first.document))
        ended = last is not None and last.name == "stop"
        done = self._done.get(uid, [])
        return not ended or not all(any(made(d, uid) for d in done) for made in self._made)

    def _feeds(self, start: Document) -> bool:
        return goes_with_scan(start) and pipeline_of(start) in self._feeding

    def _ends(self, uid: str) -> tuple[Entry | None, Entry | None]:
        """Return the ends of a log; one that cannot be read is for the follower to complain of."""
        try:
            return self._documents.ends(uid)
        except (OSError, LogError) as error:
            log.warning("the log of run %s cannot be read: %s", uid, error)
            return None, None
