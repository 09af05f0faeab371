"""The last snapshot after a rewind: what batches of the rows that count contribute."""

from collections.abc import Mapping, Sequence
from typing import Any

from p06bs.model.compute import Setup
from p06bs.model.taken import Taken


class Refold:
    """Collect the parts of batches that are computed again, whose order is that of their rows.

    Parameters
    ----------
    again : sequence of (revision, Setup, Taken)
        What is computed again; nothing, if the results are right as they are.
    numbers : sequence of int
        Numbers of its batches.
    halved : mapping of int to (int, int)
        Batches that were given out in halves instead; filled meanwhile.
    """

    def __init__(
        self,
        again: Sequence[tuple[int, Setup, Taken]],
        numbers: Sequence[int],
        halved: Mapping[int, tuple[int, int]],
    ) -> None:
        self._again = list(again)
        self._numbers = list(numbers)
        self._halved = halved
        self._parts: dict[int, tuple[Any, ...]] = {}

    @property
    def complete(self) -> bool:
        """Whether all of it came."""
        return all(map(self._is_there, self._numbers))

    @property
    def parts(self) -> list[tuple[Setup, int, tuple[Any, ...]]] | None:
        """Setup, number of rows and parts of each batch in order; None if there is nothing."""
        if not self._again:
            return None
        return [
            (setup, len(rows), self._parts_of(number))
            for number, (_, setup, rows) in zip(self._numbers, self._again, strict=True)
        ]

    def take(self, number: int, parts: Sequence[Any]) -> None:
        """Take what a batch contributes."""
        self._parts[number] = tuple(parts)

    def _is_there(self, number: int) -> bool:
        halves = self._halved.get(number)
        return number in self._parts or (halves is not None and all(map(self._is_there, halves)))

    def _parts_of(self, number: int) -> tuple[Any, ...]:
        if number in self._parts:
            return self._parts[number]
        first, second = self._halved[number]
        return self._parts_of(first) + self._parts_of(second)
