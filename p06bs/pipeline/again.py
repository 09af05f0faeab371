"""Earlier events of runs computed again under new settings, when nothing else is to be done."""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial

from p06bs.bus.log import DocumentLog
from p06bs.bus.reader import LogError
from p06bs.model.documents import Document, is_snapshots
from p06bs.model.revisions import recorded
from p06bs.pipeline.adjustments import Adjustments
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.feeding import Feeding, UpstreamFeeding
from p06bs.pipeline.run import RunPipeline
from p06bs.settings import Again, PipelineSettings

log = logging.getLogger(__name__)

ASK = 0.05
"""Seconds after which it is asked again where the new settings begin."""
GIVE_UP = 3600.0
"""Seconds after which nobody will end a derived run that is not made here."""

Make = Callable[[Document, Again], RunPipeline]


class Reprocess:
    """One run of which the events so far are computed again.

    They end where the new settings begin in the derived run that is made live. When that is
    known it is kept, so that a restart computes the same rows.

    Parameters
    ----------
    again : Again
    store : PipelineSettings
    documents : DocumentLog
    make : callable
        Returns the `RunPipeline` for a raw start document, which is served then.
    upstream : UpstreamFeeding
        The derived runs that feed it, as they fed the one that is made live.

    Attributes
    ----------
    pipeline : RunPipeline or None
        None until it is known how many rows there are.
    over : bool
        Whether nothing is left to do.
    """

    def __init__(
        self,
        again: Again,
        store: PipelineSettings,
        documents: DocumentLog,
        make: Make,
        upstream: Callable[[], UpstreamFeeding],
    ) -> None:
        self.again = again
        self.store = store
        self.documents = documents
        self.make = make
        self.pipeline: RunPipeline | None = None
        self.over = False
        self._resolved, self._rows = again.resolved, again.rows
        self._feeding = Feeding(documents.reader(again.run, arrays=False))  # workers read them
        self._make_upstream = upstream
        self._upstream: UpstreamFeeding | None = None
        self._ask_at = 0.0
        self._give_up_at = time.monotonic() + GIVE_UP

    def go_on(self, live: RunPipeline | None) -> None:
        """Do a little; `live` is the pipeline that works on the raw run now, if any does."""
        try:
            if not self._resolved:
                self._resolve(live)
            elif self._rows == 0:
                self._finish("there were no events yet")
            elif self.pipeline is None or self.pipeline.raw.ending is None:
                self._feed()
            if self.pipeline is not None and self.pipeline.over:
                self._finish(self.pipeline.left or "")
        except (OSError, LogError) as error:
            self._finish(f"its log cannot be read: {error}")

    def _resolve(self, live: RunPipeline | None) -> None:
        """Find out how many rows there were before the new settings."""
        if time.monotonic() < self._ask_at:
            return
        self._ask_at = time.monotonic() + ASK
        change = self.again.revision.change
        now = self.store.now(self.again)
        if now is None:
            self._finish(f"change {change} of the settings was taken back")
            return
        if now.resolved:  # by another process that hosts the pipeline
            self._resolved, self._rows = True, now.rows
            return
        if live is not None and live.work is not None:
            rows = live.work.first_row(change)
            known = rows is not None or live.work.ended
        elif live is not None and live.left is not None:
            self._finish(live.left)
            return
        else:
            rows, known = self._recorded(change)
            if not known and time.monotonic() > self._give_up_at:
                self._finish("its derived run is not there, or has no end")
                return
        if known:
            self.store.resolve(self.again, rows)
            self._resolved, self._rows = True, rows

    def _recorded(self, change: int) -> tuple[int | None, bool]:
        """Return how many rows a derived run that has ended has before a change; None is all."""
        uid = self.store.derived_of(self.again.run)
        if uid is None or not self.documents.path(uid).exists():
            return None, False
        last = self.documents.ends(uid)[1]
        if last is None or last.name != "stop":
            return None, False
        for entry in self.documents.reader(uid, arrays=False).read():
            if entry.name == "descriptor" and not is_snapshots(entry.document):
                data = recorded(entry.document, self.store.modality.name)
                if data.get("change", 0) >= change:
                    return data["first_row"], True
        return None, True

    def _feed(self) -> None:
        for entry in self._feeding.entries(self.pipeline):
            if self.pipeline is None:
                self.pipeline = self.make(entry.document, self.again_with_rows)
                self._upstream = self._make_upstream()
            self.pipeline.add(entry.name, entry.document, (entry.offset, entry.nbytes))
            if self._is_fed(self.pipeline):
                return
        if self.pipeline is not None and self._upstream is not None:
            for uid, entry in self._upstream.feed(self.pipeline):
                where = (entry.offset, entry.nbytes, uid)
                self.pipeline.feed(uid, entry.name, entry.document, where)
                if self._is_fed(self.pipeline):
                    return
            self._upstream.give_up(self.pipeline)
        if self.pipeline is None and not self.documents.path(self.again.run).exists():
            self._finish("its log is not there")

    def _is_fed(self, pipeline: RunPipeline) -> bool:
        """Return whether the raw run has ended, or all is there that is to be computed."""
        rows = pipeline.raw.rows
        if rows is not None and rows.full and pipeline.raw.stop is None:
            pipeline.add("stop", _end(self.again.run), None)
        return pipeline.raw.stop is not None and pipeline.raw.ending is not None

    @property
    def again_with_rows(self) -> Again:
        """What is to be computed, now that it is known."""
        again = self.again
        return Again(again.run, again.revision, again.number, self._rows, resolved=True)

    def _finish(self, why: str) -> None:
        if why:
            log.warning("run %s is not computed again: %s", self.again.run, why)
        self.store.finish(self.again, why)
        self.over = True


class Reprocessing:
    """All that is computed again in one process.

    Parameters
    ----------
    adjustments : Adjustments
    documents : DocumentLog
    begin : callable
        Returns a `RunPipeline` that is served, for a pipeline and a raw start document.
    let_go : callable
        Ends that.
    upstream : callable
        Returns what feeds a pipeline's derived run of a raw run, as it was fed before.
    """

    def __init__(
        self,
        adjustments: Adjustments,
        documents: DocumentLog,
        begin: Callable[[Pipeline, Document, Again], RunPipeline],
        let_go: Callable[[str, RunPipeline], None],
        upstream: Callable[[str, str], UpstreamFeeding],
    ) -> None:
        self._adjustments = adjustments
        self._documents = documents
        self._begin = begin
        self._let_go = let_go
        self._upstream = upstream
        self._jobs: dict[tuple[str, str, int], Reprocess] = {}

    def take(self, name: str) -> None:
        """Take what is asked for of a pipeline, and not begun yet."""
        store = self._adjustments[name]
        begin = partial(self._begin, self._adjustments.pipelines[name])
        for again in store.again():
            key = (name, again.run, again.number)
            if key not in self._jobs:
                upstream = partial(self._upstream, name, again.run)
                self._jobs[key] = Reprocess(again, store, self._documents, begin, upstream)

    def going(self, name: str) -> list[tuple[str, RunPipeline]]:
        """Return the runs that a pipeline computes again. Any thread."""
        jobs = [job for key, job in list(self._jobs.items()) if key[0] == name]
        return [(job.again.run, job.pipeline) for job in jobs if job.pipeline is not None]

    def take_over(self) -> None:
        """Go on with what other processes made that have ended."""
        for job in self._jobs.values():
            if job.pipeline is not None:
                job.pipeline.attempt(job.pipeline.take_over)

    def go_on(self, live: Mapping[str, Mapping[str, RunPipeline]]) -> None:
        """Do a little; `live` has what is computed as it comes, by raw run and pipeline."""
        for key, job in list(self._jobs.items()):
            name, run, _ = key
            job.go_on(live.get(run, {}).get(name))
            if job.over:
                del self._jobs[key]
                if job.pipeline is not None:
                    self._let_go(name, job.pipeline)


def _end(run: str) -> Document:
    """Return the end of a raw run as far as it is computed again: it may still go on."""
    return {"run_start": run, "exit_status": "success", "reason": ""}
