"""What is asked for with a change of the settings: to compute rows of a run again."""

from dataclasses import dataclass
from typing import Any

from p06bs.model.revisions import Revision

Entry = dict[str, Any]
"""What is kept of a decision; JSON can hold it."""


@dataclass(frozen=True)
class Again:
    """Rows of a run that are to be computed again.

    Attributes
    ----------
    run : str
        Uid of the raw run.
    revision : Revision
        The settings.
    number : int
        Number of the reprocessing of that run, from 1.
    rows : int or None
        How many rows from the first on; None for all of them.
    resolved : bool
        Whether `rows` is known already.
    """

    run: str
    revision: Revision
    number: int
    rows: int | None = None
    resolved: bool = False

    def resolve(self, rows: int | None) -> Entry:
        """Return the entry that says how many rows are to be computed again."""
        return {"again": self.revision.change, "run": self.run, "rows": rows}

    def finish(self, why: str = "") -> Entry:
        """Return the entry that the run needs not be computed again any more."""
        return {"done": self.revision.change, "run": self.run, "why": why}
