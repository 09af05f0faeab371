"""What a run asks of whoever keeps the settings of its pipeline, and what it tells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p06bs.model.revisions import Revision

Judged = Callable[[Revision, str], None]
"""Told of settings that were tried on a run, and why they do not fit it; "" if they do."""


def ignore(revision: Revision, problem: str) -> None:
    """Do nothing about settings that were tried."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """Keep the settings of a pipeline for one run.

    Attributes
    ----------
    candidates : sequence of Revision
        Settings to begin with, the best first; the modality's own if there are none. The first
        that fits the run holds, or the best if none does. A single one is not tried before.
    begun : bool
        An earlier process has begun the derived run, with the one candidate.
    began : callable
        Told of those that hold, and of the derived run's uid, before it begins; returns the
        settings that it begins with, if that was decided before.
    newest : callable
        Says which settings a run that an earlier process has begun is to have by now.
    judged : callable
        Told of settings that were tried on this run.
    """

    candidates: Sequence[Revision] = ()
    begun: bool = False
    began: Callable[[Revision, str], Revision] = lambda revision, derived: revision
    newest: Callable[[], Revision | None] = lambda: None
    judged: Judged = ignore


ALONE = Keeper()
"""Nobody keeps any."""
