"""How the sink's budget is divided: what runs hold, and what is in flight beside it."""

from dataclasses import dataclass

KIB, MIB = 1 << 10, 1 << 20
_PAGE = 4096
_ALL_HELD = 8_000_000


@dataclass(frozen=True, slots=True)
class Shares:
    """Sizes that follow from the budget, bytes.

    A quarter of what the budget has beyond 8 MB is kept back for what is in flight:
    pages on their way in, and responses that are being made. What runs hold never
    exceeds the rest.

    Parameters
    ----------
    budget : int
        All of it.

    Raises
    ------
    ValueError
        If the budget is not positive.
    """

    budget: int

    def __post_init__(self) -> None:
        if self.budget <= 0:
            raise ValueError(f"the budget must be a positive number of bytes, not {self.budget}")

    @property
    def held(self) -> int:
        """What all runs together may hold."""
        return self.budget - self.maps - max(0, self.budget - _ALL_HELD) // 4

    @property
    def maps(self) -> int:
        """What is kept of maps, so that they need not be made anew."""
        return self.budget // 16

    @property
    def pinned(self) -> int:
        """What pinned runs together may hold when one is pinned."""
        return self.held // 2

    @property
    def response(self) -> int:
        """What a response that is made as a whole may take, of which four are made at a time."""
        return _between(512 * KIB, (self.budget - _ALL_HELD) // 16, self.budget)

    @property
    def whole(self) -> int:
        """What such a response may read: itself, and as much again that is made of it."""
        return self.response // 2

    @property
    def partition(self) -> int:
        """The partitions of tables, as clients see them."""
        return _between(64 * KIB, self.budget // 128, 16 * MIB)

    @property
    def piece(self) -> int:
        """The pieces in which large arrays leave."""
        return _between(64 * KIB, self.budget // 256, MIB)

    @property
    def chunk(self) -> int:
        """A chunk of an array, as clients see it."""
        return _between(64 * KIB, self.budget // 64, MIB)

    @property
    def block(self) -> int:
        """A block in which a column is held and let go: whole pages."""
        return _between(32 * KIB, self.budget // 1024 // _PAGE * _PAGE, MIB)


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))
