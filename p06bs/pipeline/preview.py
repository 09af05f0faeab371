"""The overload policy ``thin``: a preview of runs that workers cannot keep up with."""

from collections.abc import Callable

from p06bs.pipeline.run import RunPipeline
from p06bs.pipeline.sampler import Sampler

BEGINS = 5.0
"""Seconds that all workers would take for what is queued, from which on there is a preview."""
ENDS = 1.0
"""Seconds of the same, below which there is none any more."""


class Overload:
    """Decide whether a pipeline is overloaded. Decides only."""

    def __init__(self, begins: float = BEGINS, ends: float = ENDS) -> None:
        self.begins, self.ends = begins, ends
        self.active = False

    def decide(self, seconds: float) -> bool:
        """Return whether it is, if its workers would take so long for what is queued."""
        self.active = seconds > (self.ends if self.active else self.begins)
        return self.active


class Preview:
    """Make a second derived run, of every n-th batch, while a pipeline cannot keep up.

    It is marked as a preview and ends with the raw run. The pipeline's own derived run is
    made as ever, in order and complete: with the time that the preview leaves, and after
    the scan with all of it.

    Parameters
    ----------
    whole : RunPipeline
        Makes the pipeline's own derived run.
    sample : RunPipeline
        Makes the preview; held until it is needed. Fed elsewhere, as `whole` is.
    exists : callable
        Whether the log has a derived run with a uid: then an earlier process has begun it.
    """

    def __init__(
        self, whole: RunPipeline, sample: RunPipeline, exists: Callable[[str], bool]
    ) -> None:
        self.whole = whole
        self.sample = sample
        self.overload = Overload()
        self._exists = exists
        self._looked = False
        self._passed = 0  # rows passed over before it began

    def tick(self, seconds: float) -> None:
        """Begin, go on or pause; `seconds` is how long workers would take for the queue."""
        whole, sample = self.whole, self.sample
        if sample.over or (whole.work is None and not whole.over):
            return
        ends = whole.over or whole.raw.stop is not None
        active = self.overload.decide(seconds) and not ends
        if sample.held:
            if active or self._is_begun():
                sample.release(whole.initial)
            elif ends:
                sample.left = "there was no need of a preview"
            elif whole.raw.rows is not None and sample.raw.rows is not None:
                self._passed += sample.raw.rows.skip(whole.raw.rows.taken - self._passed)
        work = sample.going
        if work is None or not isinstance(work.master, Sampler):
            return
        change = whole.asked.change
        if change > sample.asked.change and change not in sample.refusals:
            sample.revise(whole.asked)
        work.master.active = active
        work.master.seen = max(work.master.seen, self._passed)
        if whole.raw.rows is not None:
            work.master.follow(whole.raw.rows.taken)

    def _is_begun(self) -> bool:
        """Whether an earlier process has begun it; looked for once, before rows are passed over."""
        if self._looked or self.sample.raw.binding is None:
            return False
        self._looked = True
        uid = self.sample.derived_run(self.whole.initial, self.sample.raw.binding).uid
        return self._exists(uid)
