"""The runs of a pool: what they ask of its workers, and what was done for them."""

from collections import Counter, defaultdict
from dataclasses import replace

from p06bs.model.derived import PREVIEW
from p06bs.pipeline.lag import Lag
from p06bs.pipeline.late import Late
from p06bs.pipeline.measures import Reading
from p06bs.pipeline.run import RunPipeline
from p06bs.pipeline.sampler import Sampler
from p06bs.pipeline.scaling import Demand
from p06bs.pipeline.tally import Tally
from p06bs.pipeline.work import Work

BatchKey = tuple[str, int]
"""Key of the run in its pipeline, batch number."""


def pipeline_of(key: str) -> str:
    """Return the name of the pipeline in the key of a run."""
    return key.rpartition(":")[0]


class Load:
    """Keep the runs that a pool serves, and add up what there is to do and was done.

    Parameters
    ----------
    late : Late
        Batches that nobody can compute yet.

    Attributes
    ----------
    runs : dict of str to RunPipeline
        By ``pipeline:run``, unique in the process.
    tallies : dict of str to Tally
        By pipeline.
    """

    def __init__(self, late: Late[BatchKey]) -> None:
        self.runs: dict[str, RunPipeline] = {}
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self._lags: dict[str, Lag] = {}
        self._late = late

    def add(self, key: str, run: RunPipeline) -> None:
        """Serve a run."""
        self.runs[key] = run
        self._lags[key] = Lag()

    def arrived(self, key: str, when: float) -> None:
        """Note that a document of a run came whose events are of `when` (Unix time, s)."""
        run = self.runs.get(key)
        if run is not None and run.raw.rows is not None:
            rows = run.raw.rows
            self._lags[key].arrived(rows.taken + rows.available + rows.waiting, when)

    def remove(self, key: str) -> RunPipeline | None:
        """Stop serving a run that is over, and return it."""
        run = self.runs.pop(key, None)
        self._lags.pop(key, None)
        if run is not None and run.work is not None:
            self.tally(key).invalid += run.work.derived.invalid
        return run

    def tally(self, key: str) -> Tally:
        """Return what the pipeline of a run has done."""
        return self.tallies[pipeline_of(key)]

    def work(self, key: str) -> Work | None:
        """Return the work of a run that is served and under way."""
        run = self.runs.get(key)
        return None if run is None else run.going

    def again(self, batch: BatchKey) -> None:
        """Give a batch to others, through no fault of its own."""
        key, number = batch
        work = self.work(key)
        if work is not None:
            work.master.again(number)

    def retry(self, batch: BatchKey) -> None:
        """Give a batch to others because its worker did not return it."""
        self.tally(batch[0]).retries += 1
        self.again(batch)

    @property
    def backlog(self) -> int:
        """Rows of live runs whose names wait in memory; the others' wait in their logs."""
        live = (run for run in self.runs.values() if run.reprocessing <= 0 and not run.held)
        rows = (run.raw.rows for run in live if not run.over and not run.stands_by)
        return sum(each.available for each in rows if each is not None)

    def demand(self) -> Demand:
        """Return what all runs ask of the workers now."""
        held: Counter[str] = Counter()
        for key, number in self._late.held():
            work = self.work(key)
            batch = None if work is None else work.master.batch_out(number)
            held[key] += 0 if batch is None else len(batch.rows)
        demand = Demand()
        for key, run in self.runs.items():
            if run.going is not None and run.reprocessing != PREVIEW:
                rows = run.going.master.computable - held[key]
                demand += Demand(rows, rows * self.tally(key).row_seconds)
        return demand

    def seconds(self, key: str, workers: int) -> float:
        """Return how long so many workers would take for what a run has queued, s."""
        work = self.work(key)
        queued = 0 if work is None else work.master.queued
        return queued * self.tally(key).row_seconds / max(1, workers)

    def readings(self, now: float) -> dict[str, Reading]:
        """Return what there is to say of each pipeline; `now` is Unix time, s."""
        late = Counter(pipeline_of(key) for key, _ in self._late.held())
        found = {
            name: Reading(
                late=late[name],
                events=tally.events,
                batches=tally.batches,
                retries=tally.retries,
                invalid=tally.invalid,
                seconds=tally.seconds,
            )
            for name, tally in self.tallies.items()
        }
        for key, run in self.runs.items():
            work, name = run.going, pipeline_of(key)
            reading = found.get(name, Reading())
            if run.reprocessing == PREVIEW:
                shown = work is not None and isinstance(work.master, Sampler) and work.master.active
                found[name] = replace(reading, previews=reading.previews + shown)
                continue
            if run.work is not None:
                reading = replace(reading, invalid=reading.invalid + run.work.derived.invalid)
            if not run.over:
                reading = replace(reading, runs=reading.runs + 1)
            if work is not None:
                reading = replace(reading, queued=reading.queued + work.master.queued)
                since = self._lags[key].since(work.fan_in.next)
                reading = replace(
                    reading,
                    lag=reading.lag + self._lags[key].events(work.fan_in.next),
                    age=max(reading.age, 0.0 if since is None else now - since),
                )
            found[name] = reading
        return found
