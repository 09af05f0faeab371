"""The raw runs that the pipelines of one process work on, from their first document to the last."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial

from p06bs.bus.locks import is_locked
from p06bs.bus.log import DocumentLog
from p06bs.bus.publish import Publisher
from p06bs.bus.reader import Entry, LogError
from p06bs.metadata import Analysis
from p06bs.model.documents import Document
from p06bs.pipeline.adjustments import Adjustments
from p06bs.pipeline.again import Reprocessing
from p06bs.pipeline.beginnings import Beginnings, key_of
from p06bs.pipeline.chains import Chains
from p06bs.pipeline.decisions import Decision, Decisions, decision
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.elastic import ElasticPool
from p06bs.pipeline.feeding import Feeding
from p06bs.pipeline.lag import time_of
from p06bs.pipeline.preview import Preview
from p06bs.pipeline.run import RunPipeline

log = logging.getLogger(__name__)

DEAD = 24 * 3600.0
"""Seconds without a document after which it is looked whether anybody writes a run."""


class UnderWay:
    """Begin with raw runs in each pipeline, feed them, and let go of them in the end.

    One run, and one pipeline, never ends the others. Not thread-safe but for `going`.

    Parameters
    ----------
    adjustments : Adjustments
        The settings of the pipelines.
    documents : DocumentLog
    publisher : Publisher
        Takes the documents of the derived runs.
    pools : mapping of str to ElasticPool
        By the name of the pipeline.
    decisions : Decisions
        Told of each run, and what is made of it.
    later : callable
        Has something done soon by the thread that calls everything here. Any thread.
    """

    def __init__(
        self,
        adjustments: Adjustments,
        documents: DocumentLog,
        publisher: Publisher,
        pools: Mapping[str, ElasticPool],
        decisions: Decisions,
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        self.adjustments = adjustments
        self.documents = documents
        self.decisions = decisions
        self._chains = Chains(documents, adjustments)
        self._begun = Beginnings(
            adjustments, documents, publisher, pools, self._chains.after, later
        )
        self.reprocessing = Reprocessing(
            adjustments, documents, self._begun.begin, self._begun.let_go, self._chains.as_before
        )
        self._pools = pools
        self._runs: dict[str, dict[str, RunPipeline]] = {}
        self._previews: dict[str, dict[str, Preview]] = {}
        # Of those that stand by, or did, and those that others feed: their names wait in the log,
        # not in memory.
        self._from_log: defaultdict[str, dict[str, Feeding]] = defaultdict(dict)
        self._heard: dict[str, float] = {}  # when the last document of a raw run came

    @property
    def uids(self) -> tuple[str, ...]:
        """Uids of the raw runs that are worked on."""
        again = (uid for name in self.adjustments.names for uid, _ in self.reprocessing.going(name))
        return tuple(dict.fromkeys((*self._runs, *again)))

    def going(self, name: str) -> list[tuple[str, RunPipeline]]:
        """Return the runs that a pipeline works on as they come. Any thread."""
        live = [(uid, runs[name]) for uid, runs in list(self._runs.items()) if name in runs]
        return [(uid, run) for uid, run in live if not run.over]

    def revise(self, name: str) -> None:
        """Put the settings of a pipeline that are in force now into its runs."""
        for _, run in self.going(name):
            revision = self.adjustments.wanted(name, run)
            if revision is not run.asked:
                run.attempt(partial(run.revise, revision))
        self.reprocessing.take(name)

    def take(self, entry: Entry) -> None:
        """Take a document of a raw run, or of a derived run that feeds others."""
        if self._chains.take(entry):
            return
        if entry.name == "start":
            self._runs[entry.run] = self._begin_all(entry.document)
            for pipeline in self.adjustments.pipelines.values():
                if self._runs[entry.run][pipeline.name].raw.after:
                    self._feed_from_logs(pipeline, entry)
            self._previews[entry.run] = {
                p.name: Preview(
                    self._runs[entry.run][p.name],
                    self._begun.begin(p, entry.document, preview=True),
                    lambda uid: self.documents.path(uid).exists(),
                )
                for p in self.adjustments.pipelines.values()
                if p.overload == "thin"
            }
        if entry.run in self._runs:
            self._heard[entry.run] = time.monotonic()
        from_log = self._from_log.get(entry.run, {})
        for name, run in self._runs.get(entry.run, {}).items():
            if name in from_log:
                from_log[name].wake()
                continue
            self._feed(name, run, entry)
            if run.stands_by:
                reader = self.documents.reader(entry.run, arrays=False)
                reader.advance(entry)
                self._from_log[entry.run][name] = Feeding(reader)

    def _feed_from_logs(self, pipeline: Pipeline, start: Entry) -> None:
        """Have a run that begins fed by its log, and by those of derived runs."""
        reader = self.documents.reader(start.run, arrays=False)
        reader.advance(start)
        self._from_log[start.run][pipeline.name] = Feeding(reader)

        def left(name: str) -> str:
            other = self._runs[start.run].get(name)
            return "" if other is None else other.left or ""

        self._chains.begin(pipeline, start.run, left)

    def _feed(self, name: str, run: RunPipeline, entry: Entry) -> None:
        where = (entry.offset, entry.nbytes)
        run.add(entry.name, entry.document, where)
        preview = self._previews.get(entry.run, {}).get(name)
        if preview is not None:
            preview.sample.add(entry.name, entry.document, where)
        when = time_of(entry.document, time.time())
        self._pools[name].pool.load.arrived(key_of(name, entry.run, 0), when)

    def _begin_all(self, start: Document) -> dict[str, RunPipeline]:
        """Begin with a raw run in each pipeline that it wants."""
        runs = {p.name: self._begun.begin(p, start) for p in self.adjustments.pipelines.values()}
        wanted = Analysis.of(start)
        for problem in wanted.problems:
            log.warning("run %s: %s; that is not followed", start["uid"], problem)
        for name, run in runs.items():
            run.left = wanted.refusal(name, run.modality.name) or None
        self.decisions.begin(
            start, {name: partial(self._decide, name, run) for name, run in runs.items()}
        )
        return runs

    def _decide(self, name: str, run: RunPipeline) -> Decision:
        held_up = self._pools[name].held_up(key_of(name, run.raw.uid, 0))
        return decision(name, run, held_up)

    def go_on(self) -> bool:
        """Do a little of what waits in logs; return whether there was any.

        That is what others left, what others feed, and what is computed again.
        """
        busy = False
        for uid, feedings in self._from_log.items():
            for name, feeding in feedings.items():
                run = self._runs[uid][name]
                upstream = self._chains.feeding(name, uid)
                try:
                    fed = [] if upstream is None else upstream.feed(run)
                    entries = feeding.entries(run)
                except (OSError, LogError) as error:
                    run.abandon(f"a log that feeds it cannot be read: {error}")
                    continue
                for derived, entry in fed:
                    self._feed_upstream(name, run, derived, entry)
                for entry in entries:
                    self._feed(name, run, entry)
                if upstream is not None:
                    upstream.give_up(run)
                busy = busy or bool(entries or fed)
        self.reprocessing.go_on(self._runs)
        return busy

    def _feed_upstream(self, name: str, run: RunPipeline, derived: str, entry: Entry) -> None:
        where = (entry.offset, entry.nbytes, derived)
        preview = self._previews.get(run.raw.uid, {}).get(name)
        for one in (run,) if preview is None else (run, preview.sample):
            one.feed(derived, entry.name, entry.document, where)

    def thin(self) -> None:
        """Let previews begin and pause as the load of their pipelines is."""
        for previews in self._previews.values():
            for name, preview in previews.items():
                pool = self._pools[name].pool
                workers = len(pool.leases.workers)
                seconds = pool.load.seconds(key_of(name, preview.whole.raw.uid, 0), workers)
                preview.sample.attempt(partial(preview.tick, seconds))

    def tidy(self) -> None:
        """Let go of runs that are over in every pipeline."""
        for uid, runs in list(self._runs.items()):
            samples = {name: p.sample for name, p in self._previews.get(uid, {}).items()}
            if all(run.over for run in (*runs.values(), *samples.values())):
                for name, run in (*runs.items(), *samples.items()):
                    self._begun.let_go(name, run)
                self.decisions.end(uid)
                del self._runs[uid]
                self._heard.pop(uid, None)
                self._previews.pop(uid, None)
                self._from_log.pop(uid, None)
                self._chains.end(uid)

    def give_up(self) -> None:
        """Leave runs that nobody will end: their writer has died, and was not heard of for long."""
        for uid, when in self._heard.items():
            if time.monotonic() - when > DEAD and not is_locked(self.documents.path(uid)):
                for run in self._runs[uid].values():
                    if not run.over:
                        run.abandon("nobody writes it any more, and it has no stop document")

    def take_over(self) -> None:
        """Go on with what other processes made that have ended."""
        for runs in list(self._runs.values()):
            for run in runs.values():
                run.attempt(run.take_over)
        for previews in self._previews.values():
            for preview in previews.values():
                preview.sample.attempt(preview.sample.take_over)
        self.reprocessing.take_over()
