"""The lane: lease batches of all pipelines of a process to one pool of workers over 0MQ."""

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import zmq

from p06bs.bus.curve import Keys
from p06bs.bus.log import DocumentLog
from p06bs.bus.sockets import HERE, bind
from p06bs.pipeline import lane
from p06bs.pipeline.batch import Batch
from p06bs.pipeline.briefing import Briefing
from p06bs.pipeline.late import Late
from p06bs.pipeline.leases import Leases
from p06bs.pipeline.load import BatchKey, Load
from p06bs.pipeline.returns import Returns
from p06bs.pipeline.work import Work

log = logging.getLogger(__name__)

WAITING = 10_000
"""Messages that may wait in either direction, for each worker."""

SILENCE = 2.5
"""Seconds without a sign of life after which a worker's batches go to others."""

HANG = 120.0
"""Seconds that a worker may compute one batch before it is replaced."""

PREPARE = 1800.0
"""Seconds that a worker may make a modality ready before it is replaced."""

MUTE = 20.0
"""Seconds after which a worker that fell silent is replaced: it may never speak again."""


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
        self.socket.sndhwm = self.socket.rcvhwm = WAITING
        self.address = bind(self.socket, address, keys)
        self.hang_after = HANG
        self.restart: Callable[[str], None] = lambda worker: None
        self.leases: Leases[BatchKey] = Leases(SILENCE)
        self.load = Load(self.late)
        self._turn = 0
        self._briefing = Briefing()
        self._returns = Returns(self.load, self.leases, self.late, self._briefing)
        self._silent: dict[str, float] = {}  # workers that fell silent, and when
        self._draining: set[str] = set()  # workers that are to end
        self._unclear: Counter[str] = Counter()

    def remove(self, key: str) -> None:
        """Stop serving a run that is over."""
        run = self.load.remove(key)
        for worker in self._briefing.forget_run(key):
            self._send(worker.encode(), lane.FORGET, key)
        if run is not None and run.work is not None:
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
                self.load.retry(batch)
            if worker in self._draining:  # it was stopped in its sleep, or before it began
                self.drain(worker)
        elif not self.leases.heard(worker, now):
            return  # a stranger, or one whose batches went to others; it will join anew
        elif kind == lane.BYE:
            self._briefing.forget_worker(worker)
            for batch in self.leases.leave(worker):
                self.load.retry(batch)
        elif kind in (lane.PAGE, lane.COLUMNS):
            self._returns.result(worker, *message, more=more)
        elif kind in (lane.NEED, lane.UNREAD, lane.REFUSED, lane.LATE, lane.READY):
            self._returns.returned(worker, now, *message)

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
            work = self.load.work(key)
            if work is None:
                continue
            self.load.tally(key).retries += 1
            batch = work.master.batch_out(number)
            setup = "" if batch is None else f"{key}/{batch.revision}"
            if setup in preparing:
                refused = self._briefing.refuse(worker, setup)
                reason = "the worker died while it made the modality ready"
                action = partial(work.refused, number, reason, len(refused), False)
                self.load.runs[key].attempt(action)
            elif place == 0:  # the one that it computed, and may have died of
                self.load.runs[key].attempt(partial(work.lost, number))
            else:
                work.master.again(number)

    def expire(self) -> None:
        """Drop workers that were silent too long; have those replaced that stay silent."""
        self.receive(WAITING)  # this thread may have been elsewhere while they spoke
        now = time.monotonic()
        for worker, lost in self.leases.expire(now).items():
            log.warning("worker %s is silent; %d batches go to others", worker, len(lost))
            self._briefing.forget_worker(worker)
            self._silent[worker] = now
            for place, (key, number) in enumerate(lost):
                work = self.load.work(key)
                if work is None:
                    continue
                self.load.tally(key).retries += 1
                # It may be slow, or stopped, through no fault of its first batch. But a batch
                # over which several fall silent keeps them from speaking.
                if place == 0 and work.master.silenced(number):
                    self.load.runs[key].attempt(partial(work.lost, number))
                else:
                    work.master.again(number)
        for worker in [w for w, since in self._silent.items() if now - since > MUTE]:
            log.error("worker %s stays silent; it is replaced", worker)
            del self._silent[worker]
            self.restart(worker)

    def lease(self) -> None:
        """Lease batches as long as there are work and idle workers, run by run in turn."""
        for due in self.late.due(time.monotonic()):
            self.load.again(due)
        workers = len(self.leases.workers)
        barred: set[str] = set()  # workers that may have nothing of what there is
        for worker in self.leases.idle(barred):
            withheld = False
            for key in self._in_turn():
                run = self.load.runs[key]
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

                run.attempt(offer)
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
        keys = list(self.load.runs)
        self._turn += 1
        first = self._turn % max(1, len(keys))
        yield from sorted(
            keys[first:] + keys[:first], key=lambda key: min(1, self.load.runs[key].reprocessing)
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
            self.leases.end((key, batch.number), worker, lease.attempt)
            work.master.again(batch.number)  # it cannot be why the worker has gone
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
