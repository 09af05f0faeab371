"""Where in the storage the directories of runs are, and what is said where one is missing."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from fastapi import HTTPException

from p06bs.bus.framing import SUFFIX

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Location:
    """Where the directories of runs are.

    Attributes
    ----------
    storage : Path
        The archive's directory.
    """

    storage: Path

    def run(self, uid: str) -> Path:
        """Return the directory of all generations of a run."""
        return self.storage / uid[:2] / uid

    def generation(self, uid: str, generation: int) -> Path:
        """Return the directory of one generation of a run."""
        return self.run(uid) / str(generation)

    def log(self, uid: str, generation: int) -> Path:
        """Return the file with a run's documents."""
        return self.generation(uid, generation) / f"{uid}{SUFFIX}"

    def newest(self, uid: str) -> int | None:
        """Return the last generation of a run whose directory is whole; None if none is."""
        return _newest(self.run(uid))


def missing(directory: Path) -> HTTPException:
    """Return what is answered where the directory of a generation, or a file in it, is missing.

    503 if the run was ingested anew since it was looked up, else 409: Tiled's client takes 410
    for a broken link and shows no reason.
    """
    if _newest(directory.parent) not in (None, int(directory.name)):
        return HTTPException(503, "The run has just been written anew: try again.")
    logger.warning("%s is missing, or files in it", directory)
    return HTTPException(
        409,
        "Files of this run are missing in the archive's storage. Its log brings them back: "
        f"p06bs archive retry {directory.parent.name}",
    )


def _newest(run: Path) -> int | None:
    try:
        names = os.listdir(run)
    except FileNotFoundError:
        return None
    return max((int(name) for name in names if name.isdecimal()), default=None)
