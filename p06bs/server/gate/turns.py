"""Whose response is made next, and how long its client may take. No clock and no I/O here."""

from collections import Counter
from collections.abc import Hashable

Ticket = object


class Turns:
    """Let so many go at a time, fair between clients.

    Of those that wait the client goes next that has the fewest going, and of these the
    one that waits longest. What one client asks for goes in the order of its asking.

    Parameters
    ----------
    count : int
        That go at a time.
    each : int
        Of one client that go at a time: the rest is for others, however many it asks for.
    """

    def __init__(self, count: int, each: int) -> None:
        self._count = count
        self._each = each
        self._waiting: dict[Ticket, Hashable] = {}  # in the order of asking
        self._going: dict[Ticket, Hashable] = {}

    def ask(self, ticket: Ticket, client: Hashable) -> list[Ticket]:
        """Wait for a turn; return the tickets that go now, perhaps this one."""
        self._waiting[ticket] = client
        return self._next()

    def leave(self, ticket: Ticket) -> list[Ticket]:
        """End a turn, or wait no more; return the tickets that go now."""
        self._waiting.pop(ticket, None)
        self._going.pop(ticket, None)
        return self._next()

    def _next(self) -> list[Ticket]:
        found: list[Ticket] = []
        has = Counter(self._going.values())
        while len(self._going) < self._count:
            may = [t for t, client in self._waiting.items() if has[client] < self._each]
            if not may:
                break
            ticket = min(may, key=lambda t: has[self._waiting[t]])
            client = self._waiting.pop(ticket)
            self._going[ticket] = client
            has[client] += 1
            found.append(ticket)
        return found


class Allowance:
    """Say how long a client may still take to take what it is sent.

    Only the time counts in which it is waited for.

    Parameters
    ----------
    grace : float
        Seconds for a response of no length.
    rate : float
        Bytes a second that a client takes at least.
    """

    def __init__(self, grace: float, rate: float) -> None:
        self._left = grace
        self._rate = rate

    def more(self, nbytes: int) -> float:
        """Return the seconds for the next message, which has `nbytes` bytes."""
        self._left += nbytes / self._rate
        return self._left

    def took(self, seconds: float) -> None:
        """Note how long the client took for a message."""
        self._left -= seconds
