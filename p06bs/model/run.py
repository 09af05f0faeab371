"""Follow one raw run for one modality: what it is, what feeds the inputs, which rows there are."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from p06bs.model.binding import Binding, BindingError, aligned_streams, bind
from p06bs.model.documents import Document
from p06bs.model.modality import Modality
from p06bs.model.rows import Rows, Source

HELD_DOCUMENTS = 10_000
"""How many documents wait for the descriptors of the announced streams before they go unheard."""


class RawRun:
    """Take the documents of one raw run and make rows of them as soon as the inputs are bound.

    The inputs are bound when the first row of any stream arrives and every
    stream announced in ``aligned_streams`` has its descriptor, at the latest at
    the stop document. Until then documents are held, at most `HELD_DOCUMENTS`.

    Raises
    ------
    BindingError
        From `add`, at the stop document or when too many documents wait, if the
        run does not have what the modality needs.
    """

    def __init__(self, modality: Modality, start: Document) -> None:
        self.modality = modality
        self.start = start
        self.uid: str = start["uid"]
        self.stop: Document | None = None
        self.descriptors: dict[str, Document] = {}
        self.resources: dict[str, Document] = {}
        self.binding: Binding | None = None
        self.rows: Rows | None = None
        self._held: list[tuple[str, Document, Any]] = []
        self._orphans: defaultdict[str, list[tuple[str, Document, Any]]] = defaultdict(list)
        self._tried = 0

    def add(self, name: str, document: Document, where: Any = None) -> None:
        """Take one document; `where` says where its columns can be read again."""
        match name:
            case "descriptor":
                if document["uid"] not in self.descriptors:
                    self.descriptors[document["uid"]] = document
                    self._adopt(document["uid"])
            case "stream_resource":
                self.resources[document["uid"]] = document
                self._adopt(document["uid"])
            case "event" | "event_page" | "stream_datum":
                self._row(name, document, where)
            case "stop" if self.stop is None:
                self.stop = document
                if self.rows is None:
                    self._bind(final=True)
                if self.rows is not None:
                    self.rows.finish()
            case _:
                pass

    def _row(self, name: str, document: Document, where: Any) -> None:
        if self.rows is not None:
            self._enter(name, document, where)
            return
        self._held.append((name, document, where))
        final = len(self._held) > HELD_DOCUMENTS
        news = len(self.descriptors) > self._tried and self._announced()
        if final or news:
            self._tried = len(self.descriptors)
            self._bind(final=final)

    def _announced(self) -> bool:
        """Return whether each stream announced as aligned has its descriptor."""
        there = {d.get("name", "primary") for d in self.descriptors.values()}
        return there.issuperset(aligned_streams(self.start))

    def _bind(self, *, final: bool) -> None:
        try:
            self.binding = bind(self.modality, self.start, self.descriptors.values())
        except BindingError:
            if final:
                self._held.clear()
                raise
            return
        self.rows = Rows(self.binding)
        held, self._held = self._held, []
        for name, document, where in held:
            self._enter(name, document, where)

    def _enter(self, name: str, document: Document, where: Any) -> None:
        assert self.rows is not None
        descriptor = self.descriptors.get(document["descriptor"])
        if descriptor is None:
            self._orphans[document["descriptor"]].append((name, document, where))
            return
        key = None
        if name == "stream_datum":
            resource = self.resources.get(document["stream_resource"])
            if resource is None:
                self._orphans[document["stream_resource"]].append((name, document, where))
                return
            key = resource["data_key"]
        self.rows.add(Source(descriptor.get("name", "primary"), key), name, document, where)

    def _adopt(self, uid: str) -> None:
        """Enter the documents that came before the descriptor or resource they name."""
        for name, document, where in self._orphans.pop(uid, ()):
            self._row(name, document, where)

    @property
    def orphans(self) -> int:
        """Documents that name a descriptor or stream resource which never came."""
        return sum(map(len, self._orphans.values()))

    @property
    def counts(self) -> Mapping[str, int]:
        """Highest seq_num per source, to be compared at the end of the run."""
        return self.rows.counts if self.rows else {}
