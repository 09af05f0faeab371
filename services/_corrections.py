"""What else is recorded of a scan that says where the rows of its runs lie."""

import logging
from collections.abc import Iterator

from p06bs.bus.framing import LogError
from p06bs.bus.log import DocumentLog
from p06bs.model.documents import Document, NamedDocument, is_derived
from p06bs.model.positions import corrects, is_valid_correction

log = logging.getLogger(__name__)

SLACK = 3600.0
"""Clocks of hosts may differ by so many seconds."""


class Corrections:
    """Find the derived runs that correct positions in a directory of logs."""

    def __init__(self, documents: DocumentLog) -> None:
        self._documents = documents
        self._known: set[str] = set()
        self._runs: dict[str, list[str]] = {}  # uid of the raw run -> runs that correct it

    def look(self, since: float) -> None:
        """Look at logs that are new, of those written since a Unix time."""
        for run in self._documents.runs(self._known, since=since - SLACK):
            try:
                first = next(self._documents.entries(run), None)
            except (LogError, OSError):  # whoever reads it says so
                continue
            if first is not None:
                self._known.add(run)
                if root := corrects(first.document):
                    self._runs.setdefault(root, []).append(run)

    def of(self, start: Document) -> tuple[str, bool]:
        """Return the run that corrects the positions of a run, and whether it has ended.

        Of several it is the newest that has not failed; "" if there is none.
        """
        if corrects(start):
            return "", True
        root = str(start["original_run_uid"] if is_derived(start) else start["uid"])
        found = []
        for run in self._runs.get(root, ()):
            try:
                first, last = self._documents.ends(run)
                stop = last.document if last is not None and last.name == "stop" else None
                if first is not None and is_valid_correction(first.document, stop):
                    found.append((float(first.document["time"]), run, stop is not None))
            except (LogError, OSError, ValueError, KeyError, TypeError) as error:
                log.info("run %s does not say where rows lie: %r", run, error)
        return max(found)[1:] if found else ("", True)

    def beside(self, start: Document, correction: str) -> Iterator[NamedDocument]:
        """Yield the documents of the raw run of a derived run, and of a correction."""
        raw = str(start["original_run_uid"]) if is_derived(start) else ""
        for run in filter(None, (raw, correction)):
            try:
                yield from self._documents.read(run)
            except (LogError, OSError, ValueError) as error:
                log.info("run %s does not say where rows lie: %s", run, error)
