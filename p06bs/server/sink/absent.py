"""What is known of the rows of a column of numbers that are not in memory."""

from typing import Any

import numpy as np

from p06bs.server.sink.values import Array, exactly, has_negative, has_wide


class AbsentRows:
    """Rows that cannot be looked at any more: which type may the column become?

    Attributes
    ----------
    wide, integral, negative : bool
        Whether integers among them may have more digits than floats hold, whether all floats
        among them are integers, and whether a number among them may be less than 0.
    """

    def __init__(self) -> None:
        self.wide, self.integral, self.negative = False, True, False

    def note(self, values: Array) -> None:
        """Note rows that leave memory, or were never there."""
        self.negative = self.negative or has_negative(values)
        if values.dtype.kind in "iu":
            self.wide = self.wide or has_wide(values)
        elif values.dtype.kind == "f" and self.integral:
            self.integral = exactly(values, np.dtype(np.int64)) is not None

    def note_unseen(self) -> None:
        """Note rows that nobody has looked at."""
        self.wide, self.integral, self.negative = True, False, True

    def note_gaps(self) -> None:
        """Note rows that have no values."""
        self.integral = False

    def allow(self, old: np.dtype[Any], new: np.dtype[Any]) -> bool:
        """Return whether none of them changes where a column of type `old` becomes `new`."""
        if np.can_cast(old, new, "safe"):
            return not self.wide
        if new == np.uint64 and self.negative:
            return False
        integral = old.kind == "i" or (old.kind == "f" and self.integral)
        return integral and new in (np.int64, np.uint64)
