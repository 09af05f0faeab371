"""The lane: lease batches of all pipelines of a process to one pool of workers over 0MQ."""

import logging
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import zmq

from p06bs.bus.curve import Keys
from p06bs.bus.log import DocumentLog
from p06bs.bus.reader import LogError
from p06bs.bus.sockets import HERE, bind
from p06bs.model.derived import PREVIEW
from p06bs.pipeline import lane
from p06bs.pipeline.briefing import Briefing
from p06bs.pipeline.lag import Lag
from p06bs.pipeline.late import Late
from p06bs.pipeline.leases import Leases
from p06bs.pipeline.master import Batch
from p06bs.pipeline.measures import Reading
from p06bs.pipeline.run import RunPipeline
from p06bs.pipeline.sampler import Sampler
from p06bs.pipeline.scaling import Demand
from p06bs.pipeline.tally import Tally
from p06bs.pipeline.work import Work

log = logging.getLogger(__name__)

SILENCE = 2.5
"""Seconds without a sign of life after which a worker's batches go to others."""

HANG = 120.0
"""Seconds that a worker may compute one batch before it is replaced."""

PREPARE = 1800.0
"""Seconds that a worker may make a modality ready before it is replaced."""

MUTE = 20.0
"""Seconds after which a worker that fell silent is replaced: it may never speak again."""

BatchKey = tuple[str, int]  # key of the run in its pipeline, batch number


class Pool:
    """Lease batches to the workers that joined, and take results.

    Not thread-safe: one thread polls `socket` and calls everything here.

    Parameters
    ----------
    address : str
        Where workers connect to; port ``*`` takes a free one. Beyond this host only with keys,
        then ``tcp://*:*`` is all interfaces.
    keys : Keys, optional
        With them only workers with a certificate of their own are served.

    Raises
    ------
    ValueError
        If the address is beyond this host and there are no keys, or one cannot bind with them.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        documents: DocumentLog,
        deadline: float,
        *,
        address: str = HERE,
        keys: Keys | None = None,
    ) -> None:
        self.epoch = uuid.uuid4().hex
        self.documents = documents
        self.late: Late[BatchKey] = Late(deadline)
        self.socket = context.socket(zmq.ROUTER)
        self.socket.linger = 500
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.sndhwm = self.socket.rcvhwm = 10_000
        self.address = bind(self.socket, address, keys)
        self.hang_after = HANG
        self.restart: Callable[[str], None] = lambda worker: None
        self.leases: Leases[BatchKey] = Leases(SILENCE)
        self._runs: dict[str, RunPipeline] = {}
        self._turn = 0
        self._briefing = Briefing()
        self._silent: dict[str, float] = {}  # workers that fell silent, and when
        self._draining: set[str] = set()  # workers that are to end
        self._unclear: Counter[str] = Counter()
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)  # by pipeline
        self._lags: dict[str, Lag] = {}

    def add(self, key: str, run: RunPipeline) -> None:
        """Serve a run; `key` is ``pipeline:run``, unique in the process."""
        self._runs[key] = run
        self._lags[key] = Lag()

    def arrived(self, key: str, when: float) -> None:
        """Note that a document of a run came whose events are of `when` (Unix time, s)."""
        run = self._runs.get(key)
        if run is not None and run.raw.rows is not None:
            self._lags[key].arrived(run.raw.rows.taken + run.raw.rows.available, when)

    def remove(self, key: str) -> None:
        """Stop serving a run that is over."""
        run = self._runs.pop(key, None)
        self._lags.pop(key, None)
        for worker in self._briefing.forget_run(key):
            self._send(worker.encode(), lane.FORGET, key)
        if run is not None and run.work is not None:
            self._tally(key).invalid += run.work.derived.invalid
            batches = {(key, number) for number in run.work.master.out}
            self.late.leave(batches)
            for batch in batches:
                self.leases.forget(batch)

    def receive(self, limit: int = 256) -> bool:
        """Take what workers have sent; return whether there was anything."""
        for taken in range(limit):
            try:
                identity, *parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return taken > 0
            try:
                data, *more = parts
                self._take(identity, lane.decode(data), more)
            except Exception as error:  # whatever a peer sends, the others go on
                kind = type(error).__name__
                self._unclear[kind] += 1
                if self._unclear[kind] == 1:
                    log.warning("a message on the lane is dropped: %s", error)
        return True

    def _take(self, identity: bytes, message: lane.Message, more: list[bytes]) -> None:
        now = time.monotonic()
        kind = message[0]
        if kind == lane.ALIVE:
            worker, busy, preparing = str(message[1]), float(message[2]), bool(message[3])
            known = self.leases.heard(worker, now)
            self._send(identity, lane.BEAT, self.epoch, known)
            if known and worker in self._draining and not self.leases.load(worker):
                self._send(worker.encode(), lane.STOP)  # the first one may have been lost
            if known and busy > (PREPARE if preparing else self.hang_after):
                log.error("worker %s is at one batch for %.0f s; it is replaced", worker, busy)
                self.gone(worker)
                self.restart(worker)
            return
        worker = identity.decode()
        if kind == lane.JOIN:
            self._silent.pop(worker, None)
            self._briefing.forget_worker(worker)
            for batch in self.leases.join(worker, int(message[1]), now):
                self._retry(batch)
            if worker in self._draining:  # it was stopped in its sleep, or before it began
                self.drain(worker)
        elif not self.leases.heard(worker, now):
            return  # a stranger, or one whose batches went to others; it will join anew
        elif kind == lane.BYE:
            self._briefing.forget_worker(worker)
            for batch in self.leases.leave(worker):
                self._retry(batch)
        elif kind in (lane.PAGE, lane.COLUMNS):
            self._result(worker, *message, more=more)
        elif kind in (lane.NEED, lane.UNREAD, lane.REFUSED, lane.LATE, lane.READY):
            self._returned(worker, now, *message)

    def _result(
        self,
        worker: str,
        kind: str,
        key: str,
        number: int,
        attempt: int,
        *said: Any,
        more: list[bytes],
    ) -> None:
        self._briefing.ready(key)
        run_key = key.rpartition("/")[0]
        batch = (run_key, number)
        self.leases.end(batch, worker, attempt)
        run = self._runs.get(run_key)
        work = None if run is None else run.going
        out = None if work is None else work.master.batch_out(number)
        if run is None or work is None or out is None:
            return  # it came before, from another worker
        try:
            if kind == lane.PAGE:
                count, invalid, seconds, parts = said
                work.composed(number, count, invalid, lane.packed_page(more), parts)
            else:
                reasons, columns, seconds, parts = said
                work.result(number, lane.decode_result(reasons, columns, parts, len(out.rows)))
            work.master.took(len(out.rows), float(seconds))
            self._tally(key).took(len(out.rows), float(seconds))
        except LogError as error:
            run.abandon(f"its derived run cannot be written: {error}")
        except Exception as error:  # a result that does not fit, whatever is wrong with it
            if work.master.batch_out(number) is None:
                run.abandon(f"{type(error).__name__}: {error}")
            else:
                self._tally(run_key).retries += 1
                work.lost(number)
                raise
        self.leases.forget(batch)
        self.late.done(batch)

    def _returned(
        self,
        worker: str,
        now: float,
        kind: str,
        key: str,
        number: int,
        attempt: int,
        reason: str = "",
        progress: Any = None,
    ) -> None:
        """Take a batch back that a worker could not begin."""
        run_key = key.rpartition("/")[0]
        if not self.leases.end((run_key, number), worker, attempt):
            return  # it is no longer this worker's
        run = self._runs.get(run_key)
        work = None if run is None else run.going
        if run is None or work is None:
            return
        if kind == lane.REFUSED:
            refused = self._briefing.refuse(worker, key)
            everybody = refused.issuperset(self.leases.workers)
            self._guarded(run, partial(work.refused, number, reason, len(refused), everybody))
        elif kind == lane.READY:
            self._briefing.ready(key)
            work.master.again(number)
        elif kind == lane.LATE:
            self._briefing.ready(key)
            self.late.report((run_key, number), reason, progress, now)
        else:
            self._briefing.untold(worker, key)  # send what it needs with the next batch
            if kind == lane.UNREAD and self._briefing.blind(worker, run_key):
                log.warning("worker %s cannot read the log (%s); it gets columns", worker, reason)
            work.master.again(number)

    def _guarded(self, run: RunPipeline, action: Callable[[], None]) -> None:
        """Do something to a run; if that fails it must not end the others."""
        try:
            action()
        except LogError as error:
            run.abandon(f"its derived run cannot be written: {error}")
        except Exception as error:
            log.debug("run %s", run.raw.uid, exc_info=True)
            run.abandon(f"{type(error).__name__}: {error}")

    def drain(self, worker: str) -> None:
        """Have a worker return what it has, and end; also one that has yet to join."""
        self._draining.add(worker)
        self.leases.drain(worker)
        self._send(worker.encode(), lane.STOP)

    def gone(self, worker: str) -> None:
        """Drop a worker whose Dask worker has left."""
        self._silent.pop(worker, None)
        self._draining.discard(worker)
        preparing = self._briefing.prepares(worker)
        self._briefing.forget_worker(worker)
        for place, (key, number) in enumerate(self.leases.leave(worker)):
            work = self._work(key)
            if work is None:
                continue
            self._tally(key).retries += 1
            batch = work.master.batch_out(number)
            setup = "" if batch is None else f"{key}/{batch.revision}"
            if setup in preparing:
                refused = self._briefing.refuse(worker, setup)
                reason = "the worker died while it made the modality ready"
                action = partial(work.refused, number, reason, len(refused), False)
                self._guarded(self._runs[key], action)
            elif place == 0:  # the one that it computed, and may have died of
                self._guarded(self._runs[key], partial(work.lost, number))
            else:
                work.master.again(number)

    def expire(self) -> None:
        """Drop workers that were silent too long; have those replaced that stay silent."""
        now = time.monotonic()
        for worker, lost in self.leases.expire(now).items():
            log.warning("worker %s is silent; %d batches go to others", worker, len(lost))
            self._briefing.forget_worker(worker)
            self._silent[worker] = now
            for place, (key, number) in enumerate(lost):
                work = self._work(key)
                if work is None:
                    continue
                self._tally(key).retries += 1
                # It may be slow, or stopped, through no fault of its first batch. But a batch
                # over which several fall silent keeps them from speaking.
                if place == 0 and work.master.silenced(number):
                    self._guarded(self._runs[key], partial(work.lost, number))
                else:
                    work.master.again(number)
        for worker in [w for w, since in self._silent.items() if now - since > MUTE]:
            log.error("worker %s stays silent; it is replaced", worker)
            del self._silent[worker]
            self.restart(worker)

    @property
    def backlog(self) -> int:
        """Rows of all runs that wait to be cut into batches."""
        going = (run.raw.rows for run in self._runs.values() if run.going is not None)
        return sum(rows.available for rows in going if rows is not None)

    def demand(self) -> Demand:
        """Return what all runs ask of the workers now."""
        held: Counter[str] = Counter()
        for key, number in self.late.held():
            work = self._work(key)
            batch = None if work is None else work.master.batch_out(number)
            held[key] += 0 if batch is None else len(batch.rows)
        demand = Demand()
        for key, run in self._runs.items():
            if run.going is not None and run.reprocessing != PREVIEW:
                rows = run.going.master.computable - held[key]
                demand += Demand(rows, rows * self._tally(key).row_seconds)
        return demand

    def seconds(self, key: str) -> float:
        """Return how long all workers would take for what a run has queued, s."""
        work = self._work(key)
        queued = 0 if work is None else work.master.queued
        return queued * self._tally(key).row_seconds / max(1, len(self.leases.workers))

    def readings(self, now: float) -> dict[str, Reading]:
        """Return what there is to say of each pipeline; `now` is Unix time, s."""
        late = Counter(self._pipeline(key) for key, _ in self.late.held())
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
        for key, run in self._runs.items():
            work, name = run.going, self._pipeline(key)
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

    @staticmethod
    def _pipeline(key: str) -> str:
        return key.rpartition(":")[0]

    def _tally(self, key: str) -> Tally:
        """Return what the pipeline of a run has done."""
        return self.tallies[self._pipeline(key)]

    def _work(self, key: str) -> Work | None:
        """Return the work of a run that is served and under way."""
        run = self._runs.get(key)
        return None if run is None else run.going

    def _again(self, batch: BatchKey) -> None:
        """Give a batch to others, through no fault of its own."""
        key, number = batch
        work = self._work(key)
        if work is not None:
            work.master.again(number)

    def _retry(self, batch: BatchKey) -> None:
        """Give a batch to others because its worker did not return it."""
        self._tally(batch[0]).retries += 1
        self._again(batch)

    def lease(self) -> None:
        """Lease batches as long as there are work and idle workers, run by run in turn."""
        for due in self.late.due(time.monotonic()):
            self._again(due)
        workers = len(self.leases.workers)
        barred: set[str] = set()  # workers that may have nothing of what there is
        for worker in self.leases.idle(barred):
            withheld = False
            for key in self._in_turn():
                run = self._runs[key]
                work = run.going
                if work is None:
                    continue
                leased = False

                def offer(work: Work = work, key: str = key, worker: str = worker) -> None:
                    nonlocal leased, withheld
                    batch = work.next_batch(workers)
                    if batch is not None:
                        leased = self._lease(worker, key, work, batch)
                        withheld = withheld or not leased

                self._guarded(run, offer)
                if leased:
                    break
            else:
                if not withheld:
                    return
                barred.add(worker)

    def _in_turn(self) -> Iterator[str]:
        """Yield the runs, beginning with another one each time; what is computed again is last.

        Previews are first: they are for now, and leave room for the others.
        """
        keys = list(self._runs)
        self._turn += 1
        first = self._turn % max(1, len(keys))
        yield from sorted(
            keys[first:] + keys[:first], key=lambda key: min(1, self._runs[key].reprocessing)
        )

    def _lease(self, worker: str, key: str, work: Work, batch: Batch) -> bool:
        """Lease a batch; return False if it has to wait for a worker of its own, or another."""
        suspect = work.master.suspect(batch.number)
        setup_key = f"{key}/{batch.revision}"
        if (suspect and self.leases.load(worker)) or not self._briefing.may_have(worker, setup_key):
            work.master.again(batch.number)
            return False
        news = self._briefing.tell(worker, setup_key)
        # Nothing is to wait in a worker behind a batch that may kill it, or a slow `prepare`.
        lease = self.leases.grant((key, batch.number), worker, alone=suspect or news)
        path = self.documents.path(work.raw.uid)
        setup, stream = work.setups[batch.revision], work.derived.stream(batch.revision)
        sent = self._send(
            worker.encode(),
            lane.BATCH,
            setup_key,
            batch.number,
            lease.attempt,
            lane.encode_rows(batch.rows),
            batch.resources(work.raw.resources),
            self.late.is_final((key, batch.number)),
            lane.setup_record(setup, stream, path) if news else None,
            lane.carried(path, batch.rows) if self._briefing.is_blind(worker, key) else None,
        )
        if not sent:
            self.gone(worker)
        return True

    def _send(self, identity: bytes, *message: Any) -> bool:
        try:
            self.socket.send_multipart([identity, lane.encode(*message)], zmq.NOBLOCK)
        except (zmq.Again, zmq.ZMQError) as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            return False
        return True

    def stop_workers(self, seconds: float) -> None:
        """Tell the loops to end, and wait for their goodbyes."""
        for worker in self.leases.workers:
            self.drain(worker)
        until = time.monotonic() + seconds
        while self.leases.workers and time.monotonic() < until:
            if self.socket.poll(50):
                self.receive()

    def close(self) -> None:
        """Close the lane."""
        self.socket.close()
