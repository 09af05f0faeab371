"""Which derived runs feed which pipelines of one process, in each raw run."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping

from p06bs.bus.log import DocumentLog
from p06bs.bus.reader import Entry, LogError
from p06bs.model.documents import is_derived, pipeline_of, worked_on
from p06bs.pipeline.adjustments import Adjustments
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.feeding import UpstreamFeeding

log = logging.getLogger(__name__)

MOST_IDLE = 10_000
"""Raw runs that are not worked on, or not yet, of which derived runs are remembered."""


class Chains:
    """Know the derived runs that have begun, and hand out what reads them.

    Parameters
    ----------
    documents : DocumentLog
    adjustments : Adjustments
        Says which derived runs the pipelines of this process have begun before.
    """

    def __init__(self, documents: DocumentLog, adjustments: Adjustments) -> None:
        self._documents = documents
        self._adjustments = adjustments
        self._feedings: defaultdict[str, dict[str, UpstreamFeeding]] = defaultdict(dict)
        # Raw run -> the derived runs of it that feed others, by the names of their pipelines. They
        # may come before it, and it may be that nobody here works on it.
        self._begun: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._raw: dict[str, str] = {}  # such a derived run -> its raw run

    def take(self, entry: Entry) -> bool:
        """Take note of a document if it is of a derived run; return whether it is."""
        if entry.name == "start" and is_derived(entry.document):
            raw = self._raw[entry.run] = worked_on(entry.document)
            self._begun[raw].setdefault(pipeline_of(entry.document), entry.run)
            if len(self._begun) > MOST_IDLE + len(self._feedings):
                self._forget(next(uid for uid in self._begun if uid not in self._feedings))
        if entry.run not in self._raw:
            return False
        for feeding in self._feedings.get(self._raw[entry.run], {}).values():
            feeding.wake(entry.run)
        return True

    def after(self, pipeline: Pipeline, raw: str) -> tuple[str, ...]:
        """Return the pipelines that may feed one in a raw run: as before, if it has begun."""
        before = self._before(pipeline.name, raw) if pipeline.after else None
        return tuple(pipeline.after) if before is None else tuple(before)

    def begin(self, pipeline: Pipeline, raw: str, left: Callable[[str], str]) -> None:
        """Have a pipeline fed in a raw run.

        Parameters
        ----------
        left : callable
            Returns why the pipeline of that name makes no derived run of it; "" if it may.
        """
        before = self._before(pipeline.name, raw)

        def begun() -> Mapping[str, str]:
            return self._begun[raw] if before is None else before

        feeding = UpstreamFeeding(self._documents, pipeline.wait, begun, left)
        self._feedings[raw][pipeline.name] = feeding

    def feeding(self, name: str, raw: str) -> UpstreamFeeding | None:
        """Return what feeds a pipeline in a raw run; None if others do not."""
        return self._feedings.get(raw, {}).get(name)

    def as_before(self, name: str, raw: str) -> UpstreamFeeding:
        """Return what feeds a pipeline in a raw run that is computed again."""
        before = self._before(name, raw) or {}
        return UpstreamFeeding(self._documents, 0.0, lambda: before)

    def end(self, raw: str) -> None:
        """Forget a raw run that is over."""
        self._feedings.pop(raw, None)
        self._forget(raw)

    def _forget(self, raw: str) -> None:
        for derived in self._begun.pop(raw, {}).values():
            self._raw.pop(derived, None)

    def _before(self, name: str, raw: str) -> dict[str, str] | None:
        """Return what feeds the derived run that a pipeline began of a raw run; None if none has.

        Uids by the names of pipelines: it must be fed by the same again, or would be another one.
        """
        uid = self._adjustments[name].derived_of(raw)
        first = None
        try:
            if uid is not None and self._documents.path(uid).exists():
                first, _ = self._documents.ends(uid)
        except (OSError, LogError) as error:
            log.warning("the log of derived run %s cannot be read: %s", uid, error)
        if first is None or not is_derived(first.document):
            return None
        bound = first.document["process"]["inputs"].values()
        return {one["pipeline"]: one["run"] for one in bound if "run" in one}
