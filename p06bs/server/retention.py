"""Which runs leave the memory of the server when they need more than their budget."""

from dataclasses import dataclass


@dataclass(slots=True)
class _Held:
    nbytes: int
    used: tuple[float, int]
    finished: bool = False


class Retention:
    """Decide which runs leave: finished ones first, the longest untouched first.

    No clock and no I/O: the caller says what happened and when, and evicts what
    it is told to. A running run leaves only when no finished one is left, so the
    budget is never exceeded after the caller has done as told. Of two runs used
    at the same time the one that came first leaves first.

    Parameters
    ----------
    budget : int
        Bytes that all runs together may hold.

    Raises
    ------
    ValueError
        If the budget is not positive.
    """

    def __init__(self, budget: int) -> None:
        if budget <= 0:
            raise ValueError(f"the budget must be a positive number of bytes, not {budget}")
        self.budget = budget
        self.nbytes = 0
        self._held: dict[str, _Held] = {}
        self._turn = 0

    def added(self, run: str, nbytes: int, now: float) -> list[str]:
        """Note that `run`, new or known, holds `nbytes` more; return the runs to evict, in order.

        Growth is no use: a run that only grows ages like one that nobody reads.
        """
        held = self._held.get(run)
        if held is None:
            held = self._held[run] = _Held(0, self._now(now))
        held.nbytes += nbytes
        self.nbytes += nbytes
        if self.nbytes <= self.budget:
            return []
        evicted = []
        for name in sorted(self._held, key=self._order):
            evicted.append(name)
            self.nbytes -= self._held.pop(name).nbytes
            if self.nbytes <= self.budget:
                break
        return evicted

    def touched(self, run: str, now: float) -> None:
        """Note that somebody read data of `run`."""
        if run in self._held:
            self._held[run].used = self._now(now)

    def finished(self, run: str) -> None:
        """Note that `run` is complete."""
        if run in self._held:
            self._held[run].finished = True

    def __contains__(self, run: object) -> bool:
        return run in self._held

    def __len__(self) -> int:
        return len(self._held)

    def _now(self, now: float) -> tuple[float, int]:
        self._turn += 1
        return now, self._turn

    def _order(self, run: str) -> tuple[bool, tuple[float, int]]:
        held = self._held[run]
        return not held.finished, held.used
