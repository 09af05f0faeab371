"""What LaVue is offered, and what is sent when: decisions only, without a socket or a clock."""

import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

END = "|"
"""Ends every topic, so that none is the beginning of another."""
FORBIDDEN = re.compile(r"[/,:;|\s\x00-\x1f\x7f]+")
"""What LaVue, its command line, or the end of topics takes for something else."""
RESERVED = "datasources"
"""What the list of topics is sent under."""


@dataclass(frozen=True, slots=True)
class Show:
    """Something that can be shown.

    Attributes
    ----------
    scan : str
        The raw run that it is of.
    began : float
        When that began, Unix time, s.
    source : str
        What made it; a scan after it has the same sources.
    name : str
        Unique in what its source made of the scan.
    rank : int
        The lowest comes first.
    key : hashable
        For whoever sends it.
    """

    scan: str
    began: float
    source: str
    name: str
    rank: int = 0
    key: Hashable = None


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be sent now.

    Attributes
    ----------
    topics : tuple of str
        Whose pictures.
    listing : bool
        Whether the list of topics is, too.
    """

    topics: tuple[str, ...] = ()
    listing: bool = False


class Programme:
    """Keep the list of topics, and the times of what is sent.

    The newest scan is shown until there is something of a newer one. A topic means the same in
    each scan, so that whoever looks at iron goes on to look at iron: what a source made of the
    scan before stays until it has made something of the newest one, for `patience` at most.

    Parameters
    ----------
    rate : float
        Pictures per second and topic.
    list_seconds : float
        Seconds between two lists.
    patience : float
        Seconds.
    """

    def __init__(
        self, rate: float = 3.0, list_seconds: float = 1.2, patience: float = 30.0
    ) -> None:
        self.topics: tuple[str, ...] = ()
        self.shows: dict[str, Show] = {}
        self._interval = 1 / rate
        self._list_seconds = list_seconds
        self._patience = patience
        self._newest: tuple[float, str] | None = None
        self._waits_until = float("-inf")
        self._wishes: set[bytes] = set()
        self._next: dict[str, float] = {}  # when the picture of a topic is due again
        self._list_at = float("-inf")

    def offer(self, shows: Iterable[Show], now: float) -> None:
        """Take what can be shown at present; of one rank, what comes first is first."""
        offered = list(shows)
        if offered:
            newest = max((one.began, one.scan) for one in offered)
            if newest != self._newest:
                before, self._newest = self._newest, newest
                self._waits_until = now + self._patience if before else now
        chosen: dict[str, tuple[float, str]] = {}
        for one in offered:
            scan = (one.began, one.scan)
            if scan == self._newest or now < self._waits_until:
                chosen[one.source] = max(scan, chosen.get(one.source, scan))
        shown = [one for one in offered if chosen.get(one.source) == (one.began, one.scan)]
        shown.sort(key=lambda one: ((one.began, one.scan) != self._newest, one.rank))
        self.shows = {}
        for one in shown:
            self.shows[self._topic(one)] = one
        self.topics = tuple(self.shows)
        self._next = {topic: at for topic, at in self._next.items() if topic in self.shows}

    def want(self, beginning: bytes) -> None:
        """Note that somebody wants all topics that begin like this; they come at once."""
        self._wishes.add(beginning)
        for topic in [topic for topic in self._next if topic.encode().startswith(beginning)]:
            del self._next[topic]

    def unwant(self, beginning: bytes) -> None:
        """Note that nobody wants these any more."""
        self._wishes.discard(beginning)

    def due(self, now: float) -> Due:
        """Return what is to be sent now; it counts as sent."""
        wanted = self._wanted()
        topics = tuple(topic for topic, at in wanted.items() if at <= now)
        for number, topic in enumerate(topics):
            # Evenly over time from now on: of many at once most would be dropped on their way.
            self._next[topic] = now + self._interval * (1 + number / len(wanted))
        listing = bool(self.topics) and self._list_at <= now  # of nothing LaVue would want all
        if listing:
            self._list_at = now + self._list_seconds
        return Due(topics, listing)

    def wake_at(self, now: float) -> float:
        """Return when something will be due, if nothing else happens; inf if never."""
        lists = [self._list_at] if self.topics else []
        return min([*lists, *self._wanted().values()], default=float("inf"))

    def _wanted(self) -> dict[str, float]:
        """Return the topics that somebody wants, and when they are due."""
        return {
            topic: self._next.get(topic, float("-inf"))
            for topic in self.topics
            if any(topic.encode().startswith(beginning) for beginning in self._wishes)
        }

    def _topic(self, one: Show) -> str:
        name = FORBIDDEN.sub("_", f"{one.source}.{one.name}")
        if name.startswith(RESERVED):
            name = f"_{name}"
        number, topic = 1, f"{name}{END}"
        while topic in self.shows:
            number += 1
            topic = f"{name}~{number}{END}"
        return topic
