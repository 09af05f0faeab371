"""Who works on what: batches leased to workers, and given to others when a lease ends.

Decisions only: events in, actions out, the time is an argument. No socket, no
clock, no thread.
"""

from collections.abc import Hashable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Lease(Generic[Key]):
    """A batch is with a worker; `attempt` tells this lease from earlier ones."""

    batch: Key
    worker: str
    attempt: int


@dataclass
class _Worker(Generic[Key]):
    credit: int
    heard: float
    draining: bool = False
    alone: Key | None = None
    leases: dict[Key, int] = field(default_factory=dict)


class Leases(Generic[Key]):
    """Lease batches to workers with credit, and take them back.

    Parameters
    ----------
    silence : float
        Seconds without a sign of life after which a worker's leases end.
    """

    def __init__(self, silence: float) -> None:
        self.silence = silence
        self._workers: dict[str, _Worker[Key]] = {}
        self._attempts: dict[Key, int] = {}
        self._holders: dict[Key, set[str]] = {}

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of the workers that are known."""
        return tuple(self._workers)

    @property
    def leased(self) -> int:
        """Number of batches that are with a worker."""
        return len(self._holders)

    def join(self, worker: str, credit: int, now: float) -> list[Key]:
        """Register a worker that has no batches; return what it held in an earlier life."""
        lost = self.leave(worker)
        self._workers[worker] = _Worker(credit, now)
        return lost

    def heard(self, worker: str, now: float) -> bool:
        """Note a sign of life; return False if the worker is unknown and must join anew."""
        known = self._workers.get(worker)
        if known is None:
            return False
        known.heard = max(known.heard, now)
        return True

    def idle(self, barred: AbstractSet[str] = frozenset()) -> Iterator[str]:
        """Yield a worker for each batch that can be leased now, the least loaded first.

        Lease a batch, put the worker in `barred`, or stop iterating, after each one.
        """
        while True:
            free = [
                (len(w.leases), name)
                for name, w in self._workers.items()
                if name not in barred
                and len(w.leases) < w.credit
                and not w.draining
                and w.alone is None
            ]
            if not free:
                return
            yield min(free)[1]

    def load(self, worker: str) -> int:
        """Return how many batches a worker has."""
        return len(self._workers[worker].leases)

    def loads(self) -> list[tuple[str, int]]:
        """Return how many batches each worker has; the one that joined first comes first."""
        return [(name, len(known.leases)) for name, known in self._workers.items()]

    def grant(self, batch: Key, worker: str, *, alone: bool = False) -> Lease[Key]:
        """Lease a batch to a worker that `idle` named; `alone`: nothing else until it is back."""
        if alone:
            self._workers[worker].alone = batch
        attempt = self._attempts[batch] = self._attempts.get(batch, 0) + 1
        self._workers[worker].leases[batch] = attempt
        self._holders.setdefault(batch, set()).add(worker)
        return Lease(batch, worker, attempt)

    def end(self, batch: Key, worker: str, attempt: int) -> bool:
        """End a lease because its result came; return False if it is not in force any more."""
        known = self._workers.get(worker)
        if known is None or known.leases.get(batch) != attempt:
            return False
        self._release(batch, worker)
        return True

    def forget(self, batch: Key) -> None:
        """Forget a batch that is done, whoever else still holds it."""
        for worker in list(self._holders.get(batch, ())):
            self._release(batch, worker)
        self._attempts.pop(batch, None)

    def drain(self, worker: str) -> None:
        """Lease nothing more to a worker; it keeps what it has until it leaves."""
        if worker in self._workers:
            self._workers[worker].draining = True

    def leave(self, worker: str) -> list[Key]:
        """Drop a worker; return the batches that nobody holds any more, oldest first."""
        known = self._workers.get(worker)
        if known is None:
            return []
        held = list(known.leases)
        for batch in held:
            self._release(batch, worker)
        del self._workers[worker]
        return [batch for batch in held if batch not in self._holders]

    def expire(self, now: float) -> dict[str, list[Key]]:
        """Drop the workers that were silent too long; return what each one loses."""
        silent = [n for n, w in self._workers.items() if now - w.heard > self.silence]
        return {name: self.leave(name) for name in silent}

    def _release(self, batch: Key, worker: str) -> None:
        known = self._workers[worker]
        known.leases.pop(batch, None)
        if known.alone == batch:
            known.alone = None
        holders = self._holders[batch]
        holders.discard(worker)
        if not holders:
            del self._holders[batch]
