"""What a pipeline process that has ended left in the log of a derived run."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from p06bs.model.documents import Document, NamedDocument


@dataclass
class Earlier:
    """What an earlier writer of a derived run has left in its log."""

    start: Document
    descriptors: list[Document] = field(default_factory=list)
    pages: list[tuple[str, list[bool]]] = field(default_factory=list)  # descriptor, valid
    last_raw_uid: str | None = None
    ended: bool = False

    @property
    def rows(self) -> int:
        """Number of rows that are in the log."""
        return sum(len(valid) for _, valid in self.pages)

    @classmethod
    def read(cls, documents: Iterable[NamedDocument]) -> "Earlier | None":
        """Return what the documents of a derived run's log say; None if there are none."""
        earlier: Earlier | None = None
        for name, document in documents:
            if name == "start":
                earlier = cls(document)
            elif earlier is None:
                return None
            elif name == "descriptor":
                earlier.descriptors.append(document)
            elif name == "event_page":
                valid = [bool(v) for v in document["data"]["valid"]]
                earlier.pages.append((document["descriptor"], valid))
                earlier.last_raw_uid = document["data"]["raw_uid"][-1]
            elif name == "stop":
                earlier.ended = True
        return earlier
