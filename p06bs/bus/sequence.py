"""Order and exactly-once within one run: what to do with a document, by its place.

No I/O here: the log's reader asks whether a frame may come next, the follower
what to do with a message.
"""

from dataclasses import dataclass
from enum import Enum


class Action(Enum):
    """What a follower does with a message."""

    DELIVER = "deliver"
    DROP = "drop"
    """It was delivered before, or a writer that has been replaced sent it."""
    FILL = "fill"
    """Something is missing before it, or its writer is not known yet: read the log."""


@dataclass(slots=True)
class Sequence:
    """How far one run has been delivered.

    Attributes
    ----------
    epoch : int
        Writer of the last document, 0 before the first.
    index : int
        Index of the next document.
    complete : bool
        Whether the stop document was delivered.
    """

    epoch: int = 0
    index: int = 0
    complete: bool = False

    def offer(self, epoch: int, index: int) -> Action:
        """Return what to do with a message.

        A message is delivered only if it is the next one of the writer whose
        documents the log showed last. A new writer's first message sends the
        follower to the log, which alone knows where the new epoch began.
        """
        if self.complete or index < self.index or epoch < self.epoch:
            return Action.DROP
        if index == self.index and epoch == self.epoch > 0:
            return Action.DELIVER
        return Action.FILL

    def may_follow(self, epoch: int, index: int) -> bool:
        """Return whether a frame of the log may come next: no gap, no earlier writer."""
        return not self.complete and index == self.index and epoch >= max(self.epoch, 1)

    def take(self, epoch: int, index: int, name: str) -> None:
        """Note that a document was delivered."""
        self.epoch = epoch
        self.index = index + 1
        self.complete = self.complete or name == "stop"
