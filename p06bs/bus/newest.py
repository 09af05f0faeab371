"""Which logs are read at the start by who wants the newest ones only, and which rest."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple


class Found(NamedTuple):
    """A log in a listing: when it was written last (ns), its bytes, and its run."""

    written: int
    nbytes: int
    run: str


class NewestFirst:
    """Give out the logs of a listing, the one written last first; the others rest.

    Resting ones are looked at in turn, because one that grows is no old log any more.

    No clock and no I/O: the caller says how many it wants, and what it sees.

    Parameters
    ----------
    found : iterable of Found
        The listing.
    """

    def __init__(self, found: Iterable[Found]) -> None:
        self.over = False
        # The newest last. A plain dict is slow to find its first item where many before it went.
        self._nbytes = OrderedDict((log.run, log.nbytes) for log in sorted(found))

    def rest(self, log: Found) -> None:
        """Have a log rest that no listing before has shown; only when all that is left rests."""
        self._nbytes[log.run] = log.nbytes

    def take(self) -> str | None:
        """Return the run whose log is the newest that is left; None and `over` if none is."""
        if self._nbytes and not self.over:
            return self._nbytes.popitem()[0]
        self.over = True
        return None

    def stop(self) -> None:
        """Let all that is left rest."""
        self.over = True

    def discard(self, run: str) -> None:
        """Forget a run, which is read for another reason, or has no log any more."""
        self._nbytes.pop(run, None)

    def look(self, count: int) -> list[str]:
        """Return runs whose logs are to be looked at, `count` at most; all take turns."""
        if not self.over:
            return []
        due = list(islice(self._nbytes, count))
        for run in due:
            self._nbytes.move_to_end(run)
        return due

    def grew(self, run: str, nbytes: int) -> bool:
        """Return whether a log that rests has other bytes than in the listing."""
        return self._nbytes.get(run, nbytes) != nbytes

    def __iter__(self) -> Iterator[str]:
        return iter(self._nbytes)
