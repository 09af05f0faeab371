"""Sets of Dask workers: what the engine knows of them.

It places worker loops on a `Cluster` and knows no more of it. Adapters give others, for
example jobs of SLURM.
"""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from p06bs.pipeline.found import Found
from p06bs.pipeline.local import Local
from p06bs.pipeline.needs import ANYTHING, Needs


class Cluster(Protocol):
    """A set of Dask workers. All but `scale` is called from one thread, the engine's.

    Workers come and go in units: a unit is what is started and ended as one, a process
    of this host or a job of a batch system with one or several workers.
    """

    scales: bool
    """False if the workers are somebody else's; then `scale` and `retire` do nothing."""
    prompt: bool
    """False if workers may wait for long before they join, in a queue of a batch system."""

    def open(self) -> Any:
        """Start, and return a Dask client; workers may join later."""

    def scale(self, workers: int) -> None:
        """Wish for so many workers. Any thread.

        Missing ones are started, and units that have not joined yet are taken back. Those
        that have joined are ended by `retire` only, so that they can be drained before.
        """

    def tend(self) -> Mapping[str, str]:
        """Mend what is missing; return the workers that are there, address -> unit.

        Called several times a second; does not wait for workers.
        """

    def due(self) -> Collection[str]:
        """Return the units that end by themselves soon, and should be retired before."""

    def retire(self, unit: str) -> None:
        """End a unit, whose loops have ended; another replaces it if it is missing then."""

    def restart(self, workers: Collection[str]) -> None:
        """Have the processes of workers that hang replaced."""

    def close(self) -> None:
        """End what was started. Idempotent."""


def cluster_of(
    on: str, workers: int, needs: Needs = ANYTHING, among: Collection[Needs] = (ANYTHING,)
) -> Cluster:
    """Return the cluster that ``"local"`` or a scheduler's address names.

    Parameters
    ----------
    needs : Needs
        What its workers must have.
    among : collection of Needs
        What the workers of all pools on it must have.
    """
    return Local(workers, needs) if on == "local" else Found(lambda: (on, None), needs, among)
