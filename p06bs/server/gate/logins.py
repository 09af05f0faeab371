"""Failed logins: so many a minute for each user and each address, then none for a while."""

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable

WINDOW = 60.0
"""Seconds that a failure counts."""

KEPT = 10_000
"""Users and addresses that are remembered: who guesses from many addresses costs no memory."""


class FailedLogins:
    """Count failures and say who has to wait. Has no clock: times are arguments, seconds.

    Parameters
    ----------
    per_minute : int
        Failures that a user or an address may have within a minute.
    kept : int
        Users and addresses that are remembered; the one that failed longest ago is forgotten.
    """

    def __init__(self, per_minute: int, kept: int = KEPT) -> None:
        self._limit = per_minute
        self._kept = kept
        self._failures: OrderedDict[Hashable, deque[float]] = OrderedDict()
        self.total = 0

    def wait(self, now: float, who: Iterable[Hashable]) -> float:
        """Return the seconds until the next try of any of these; 0 is at once."""
        waits = [0.0]
        for one in who:
            failures = self._failures.get(one, ())
            if len(failures) >= self._limit:
                waits.append(failures[-self._limit] + WINDOW - now)
        return max(waits)

    def failed(self, now: float, who: Iterable[Hashable]) -> None:
        """Count a failure of all of these."""
        self.total += 1
        for one in who:
            failures = self._failures.setdefault(one, deque(maxlen=self._limit))
            failures.append(now)
            self._failures.move_to_end(one)
        while len(self._failures) > self._kept:
            self._failures.popitem(last=False)

    def forget(self, one: Hashable) -> None:
        """Forget the failures of somebody who has logged in."""
        self._failures.pop(one, None)


class Seen:
    """Digests of the secrets that have been seen lately, so many of them."""

    def __init__(self, kept: int = 1000) -> None:
        self._kept = kept
        self._digests: OrderedDict[bytes, None] = OrderedDict()

    def add(self, digest: bytes) -> None:
        """Remember a secret."""
        self._digests[digest] = None
        self._digests.move_to_end(digest)
        if len(self._digests) > self._kept:
            self._digests.popitem(last=False)

    def discard(self, digest: bytes) -> None:
        """Forget a secret."""
        self._digests.pop(digest, None)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._digests


class Seats:
    """Places that are taken and left, so many for each."""

    def __init__(self, each: int) -> None:
        self._each = each
        self._taken: dict[Hashable, int] = {}
        self.total = 0

    def take(self, who: Hashable) -> bool:
        """Take a place; False if all of theirs are taken."""
        taken = self._taken.get(who, 0)
        if taken >= self._each:
            return False
        self._taken[who] = taken + 1
        self.total += 1
        return True

    def leave(self, who: Hashable) -> None:
        """Leave a place that was taken."""
        self.total -= 1
        left = self._taken[who] - 1
        if left:
            self._taken[who] = left
        else:
            del self._taken[who]
