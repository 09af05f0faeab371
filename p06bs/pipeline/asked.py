"""Which settings one run was asked to have."""

import logging

from p06bs.model.revisions import Revision
from p06bs.pipeline.keeper import Keeper
from p06bs.pipeline.setups import Setups

log = logging.getLogger(__name__)


class Asked:
    """Keep the settings that a run may begin with, the best first; then those that it began with
    and those that it was asked to change to since.

    Parameters
    ----------
    run : str
        Uid of the raw run.
    keeper : Keeper
    default : Revision
        In force if the keeper has none.

    Attributes
    ----------
    begun : bool
        Whether it is decided with which settings the run begins.
    refusals : dict of int to str
        Number of a change -> why this run refuses it.
    """

    def __init__(self, run: str, keeper: Keeper, default: Revision) -> None:
        self.begun = keeper.begun
        self.refusals: dict[int, str] = {}
        self._run = run
        self._keeper = keeper
        self._revisions = list(keeper.candidates) or [default]

    @property
    def first(self) -> Revision:
        """The settings at the first row, or the best to begin with."""
        return self._revisions[0]

    @property
    def last(self) -> Revision:
        """The settings that were asked for last."""
        return self._revisions[-1]

    def choose(self, setups: Setups) -> Revision | None:
        """Return the first of the candidates that fits; None while one is being tried.

        If none does, it is not the settings: the best stay in force, and say why it fails.
        """
        unfit: list[tuple[Revision, str]] = []
        for asked in self._revisions if len(self._revisions) > 1 else ():
            trial = setups.trial(asked)
            if not trial.done():
                return None
            problem = trial.exception()
            if problem is None:
                said = f"{setups.modality.name} does not begin with settings that do not fit it"
                for revision, why in unfit:
                    log.error("run %s: %s: %s", self._run, said, why)
                    self.judge(revision, why)
                self._keeper.judged(asked, "")
                break
            unfit.append((asked, str(problem) or type(problem).__name__))
        return self.first

    def begin(self, initial: Revision, derived: str) -> Revision:
        """Take note of what the derived run begins with; return that, or what others decided.

        Raises
        ------
        OSError
            If it cannot be kept.
        """
        self.only(self._keeper.began(initial, derived))
        self.begun = True
        return self.first

    def only(self, revision: Revision) -> None:
        """Take these settings instead of all others."""
        self._revisions = [revision]

    def prefer(self, revision: Revision) -> None:
        """Take settings to begin with that are better than the others."""
        self._revisions.insert(0, revision)

    def add(self, revision: Revision) -> None:
        """Take the settings that are asked for now."""
        self._revisions.append(revision)

    def judge(self, revision: Revision, problem: str) -> None:
        """Take settings back that do not fit this run; those before them hold."""
        if problem:
            self._revisions = [asked for asked in self._revisions if asked is not revision]
            self.refusals[revision.change] = problem
        self._keeper.judged(revision, problem)
