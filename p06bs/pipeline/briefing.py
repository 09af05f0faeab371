"""Which worker knows what: who was told of a setup, who makes it ready, who could not.

Decisions only, no socket. A *setup key* is the key of a run and a revision, ``run/0``.
"""


class Briefing:
    """Keep what the workers of one pool know."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()  # (worker, setup key)
        self._preparing: dict[str, str] = {}  # setup key -> the first worker that was told
        self._refused: dict[str, set[str]] = {}  # setup key -> workers
        self._blind: set[tuple[str, str]] = set()  # (worker, run key)

    def may_have(self, worker: str, setup: str) -> bool:
        """Return whether a worker may have a batch with this setup now.

        Not while another one makes it ready for the first time, so that others go on
        with other runs meanwhile, and not if this one could not.
        """
        return self._preparing.get(setup, worker) == worker and worker not in self._refused.get(
            setup, ()
        )

    def tell(self, worker: str, setup: str) -> bool:
        """Note that a worker gets a batch with this setup; return whether it is new to it."""
        if (worker, setup) in self._told:
            return False
        if not any(known == setup for _, known in self._told):
            self._preparing[setup] = worker
        self._told.add((worker, setup))
        return True

    def prepares(self, worker: str) -> set[str]:
        """Return the setups that a worker is the first to make ready."""
        return {setup for setup, first in self._preparing.items() if first == worker}

    def ready(self, setup: str) -> None:
        """Note that somebody has made it ready."""
        self._preparing.pop(setup, None)

    def untold(self, worker: str, setup: str) -> None:
        """Note that a worker lacks a setup, although it was told."""
        self._preparing.pop(setup, None)
        self._told.discard((worker, setup))

    def refuse(self, worker: str, setup: str) -> set[str]:
        """Note that a worker could not make a setup ready; return all that could not."""
        self.untold(worker, setup)
        refused = self._refused.setdefault(setup, set())
        refused.add(worker)
        return refused

    def blind(self, worker: str, run: str) -> bool:
        """Note that a worker cannot read a run's log; return whether that is new."""
        new = (worker, run) not in self._blind
        self._blind.add((worker, run))
        return new

    def is_blind(self, worker: str, run: str) -> bool:
        """Return whether a worker cannot read a run's log."""
        return (worker, run) in self._blind

    def forget_worker(self, worker: str) -> None:
        """Forget a worker that is gone, or begins anew."""
        self._preparing = {k: w for k, w in self._preparing.items() if w != worker}
        self._told = {told for told in self._told if told[0] != worker}
        self._blind = {blind for blind in self._blind if blind[0] != worker}

    def forget_run(self, run: str) -> set[str]:
        """Forget a run that is over; return the workers that know it."""
        gone = {told for told in self._told if told[1].rpartition("/")[0] == run}
        self._told -= gone
        self._blind = {blind for blind in self._blind if blind[1] != run}
        for known in (self._preparing, self._refused):
            for setup in [setup for setup in known if setup.rpartition("/")[0] == run]:
                del known[setup]
        return {worker for worker, _ in gone}
