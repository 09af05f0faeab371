"""What a member asks the Topology Manager, when, and what it knows from the answers.

Decisions only: answers in, questions out, the time is an argument. No socket, no clock,
no thread.
"""

from typing import Any

from p06bs.bus import enquiry
from p06bs.bus.errors import WireError
from p06bs.bus.topology import Renewal, Service

RETRY_SECONDS = 1.0
"""Interval at which what got no answer is asked again, and at which an observer looks."""
RENEWALS = 3
"""So many times is a lease renewed while it lasts."""


class Enrolment:
    """Keep one service registered, and its list of all services up to date.

    Parameters
    ----------
    service : Service or None
        Who registers; None for one that only looks.

    Attributes
    ----------
    services : tuple of Service
        Who is there, as far as is known. While the Topology Manager is away, or has just
        begun and may not have heard of everybody, those known before are kept.
    listed : bool
        Whether it has ever answered.
    settled : bool
        Whether it has answered when everybody had had the time to register with it.
    superseded : bool
        Whether a newer instance has the service's name.
    refused : bool
        Whether that was so from the beginning.
    """

    def __init__(self, service: Service | None = None) -> None:
        self.services: tuple[Service, ...] = ()
        self.listed = False
        self.settled = False
        self.superseded = self.refused = False
        self._accepted = False  # has had a lease
        self._unclear: frozenset[str] = frozenset()  # what is wrong with services that are listed
        self._service = service
        self._registered = False
        self._interval = RETRY_SECONDS
        self._due = 0.0  # when to register or renew
        self._look = 0.0  # when to ask for the list
        self._revision: int | None = None
        self._there: tuple[Service, ...] = ()  # as last listed
        self._runs: tuple[str, ...] = ()
        self._told: tuple[str, ...] = ()  # runs, as the Topology Manager knows them

    def enrol(self, service: Service) -> None:
        """Register a service, or the same one with other addresses."""
        self._service, self._registered, self._due = service, False, 0.0

    def work_on(self, runs: tuple[str, ...]) -> None:
        """Have it known which runs the service works on."""
        self._runs = runs[-enquiry.MOST_RUNS :]

    def hurry(self, now: float) -> None:
        """Look soon, because somebody waits for a service that is not there."""
        self._look = min(self._look, now + RETRY_SECONDS / 2)

    def next(self) -> float:
        """Return when there will be a question at the latest."""
        due = self._due if self._service is not None and not self.superseded else self._look
        return min(due, self._look)

    def questions(self, now: float) -> list[list[Any]]:
        """Return what is to be asked now."""
        asked: list[list[Any]] = []
        service = self._service
        if service is not None and not self.superseded:
            if now >= self._due:
                self._due = now + (self._interval if self._registered else RETRY_SECONDS)
                if self._registered:
                    asked.append(["renew", service.name, service.instance])
                else:
                    said = enquiry.plain(service)
                    asked.append(["register", {**said, "runs": self._runs}])
                    self._told = self._runs
            if self._registered and self._told != self._runs:
                asked.append(["runs", service.name, service.instance, list(self._runs)])
                self._told = self._runs
        if now >= self._look:
            self._look = now + RETRY_SECONDS
            asked.append(["list", self._revision if self.listed else None])
        return asked

    def release(self) -> list[list[Any]]:
        """Return what a service says that ends."""
        service, self._service = self._service, None
        if service is None or not self._registered:
            return []
        return [["release", service.name, service.instance]]

    def answer(self, answer: list[Any], now: float) -> None:
        """Take an answer.

        Raises
        ------
        WireError
            If it is none, says that a question was refused, or lists a service that is none:
            that one is left out, and told of once.
        """
        match answer:
            case ["listed", int() as revision, bool() as settled, list() as said]:
                unclear = self._take(said)
                self._list(revision, settled)
                if unclear:
                    raise WireError(f"a service that is listed is left out: {unclear}")
                return
            case ["listed", int() as revision, bool() as settled, None]:
                self._list(revision, settled)
                return
            case [str() as status, int() as revision, int() | float() as ttl]:
                self._interval = ttl / RENEWALS
                self._due = now + self._interval
            case [str() as status, int() as revision]:
                pass
            case ["refused", str() as reason]:
                raise WireError(f"the Topology Manager refuses: {reason}")
            case _:
                raise WireError(f"no answer of a Topology Manager: {str(answer)[:80]}")
        if revision != self._revision:
            self._look = now
        if self._service is None or status == "ok":
            return
        self._registered = status == Renewal.RENEWED
        self._accepted = self._accepted or self._registered
        self.superseded = status == Renewal.SUPERSEDED
        self.refused = self.superseded and not self._accepted
        if status == Renewal.UNKNOWN:
            self._due = now

    def _take(self, said: list[Any]) -> str:
        """Take the services that are listed; return what is newly wrong with others."""
        there: list[Service] = []
        unclear: set[str] = set()
        for one in said:
            try:
                there.append(enquiry.parsed(one))
            except WireError as error:
                unclear.add(str(error))
        news = "; ".join(sorted(unclear - self._unclear))
        self._there, self._unclear = tuple(there), frozenset(unclear)
        return news

    def _list(self, revision: int, settled: bool) -> None:
        self._revision, self.listed, self.settled = revision, True, settled
        if settled:
            self.services = self._there
        else:
            everybody = {service.name: service for service in (*self.services, *self._there)}
            self.services = tuple(everybody[name] for name in sorted(everybody))
        if settled and self._registered:
            self._look = float("inf")  # renewals say when the revision moves
