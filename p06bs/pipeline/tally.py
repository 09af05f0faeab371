"""What one pipeline has done since its process began."""

import math
from dataclasses import dataclass

from p06bs.pipeline.batch import WORTH


@dataclass
class Tally:
    """Count what workers did for one pipeline.

    Attributes
    ----------
    events, batches : int
        That were computed.
    seconds : float
        For which workers computed them.
    retries : int
        Batches that were handed out again because a worker died, hung or sent nonsense.
    invalid : int
        Invalid events of runs that are over.
    row_seconds : float
        How long one event takes, averaged over the last batches; a guess before the first.
    """

    events: int = 0
    batches: int = 0
    seconds: float = 0.0
    retries: int = 0
    invalid: int = 0
    row_seconds: float = WORTH

    def took(self, rows: int, seconds: float) -> None:
        """Count a batch that came back."""
        if rows > 0 and 0 <= seconds < math.inf:
            each = seconds / rows
            self.row_seconds += (each - self.row_seconds) / (4 if self.batches else 1)
            self.events += rows
            self.batches += 1
            self.seconds += seconds
