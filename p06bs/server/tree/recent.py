"""Which of the things that can be made again are kept: the most recently used ones."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Kept(Generic[V]):
    value: V
    nbytes: int


class Recent(Generic[K, V]):
    """Keep values of at most `limit` bytes together; the longest unused leave first.

    A value that is larger than the limit is not kept. No clock and no lock.

    Parameters
    ----------
    limit : int

    Attributes
    ----------
    nbytes : int
        Of all values, as `keep` was told.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._kept: OrderedDict[K, _Kept[V]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return a value that is kept, and note its use."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._kept.move_to_end(key)
        return kept.value

    def keep(self, key: K, value: V, nbytes: int) -> None:
        """Keep a value, new or known, which has `nbytes` now."""
        self.drop(key)
        self._kept[key] = _Kept(value, nbytes)
        self.nbytes += nbytes
        while self.nbytes > self.limit:
            self.drop(next(iter(self._kept)))

    def forget(self, which: Callable[[K], bool]) -> None:
        """Let the values go whose keys `which` names."""
        for key in [key for key in self._kept if which(key)]:
            self.drop(key)

    def drop(self, key: K) -> None:
        """Let a value go, if it is there."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.nbytes -= kept.nbytes

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)
