"""Who is there: services under leases, and a revision that moves when something changes.

Decisions only: events in, actions out, the time is an argument. No socket, no
clock, no thread.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Service:
    """What a service says of itself.

    Attributes
    ----------
    name : str
        Unique on the beamline, for example ``pipelines-xrf``.
    kind : str
        What it is asked for by: ``proxy``, ``server``, ``pipelines``, ...
    instance : str
        Another one for each start of the process; sorts by age.
    addresses : mapping of str to str
        Where others reach it, by what they find there: ``inbound``, ``http``, ...
    offers : tuple of str
        Names of what it hosts, for example of its pipelines.
    runs : tuple of str
        Uids of the runs that it works on.
    """

    name: str
    kind: str
    instance: str
    host: str
    pid: int
    addresses: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    offers: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()


class Renewal(StrEnum):
    """What the renewal of a lease brings."""

    RENEWED = "renewed"
    UNKNOWN = "unknown"
    """There is no such lease (any more): register again."""
    SUPERSEDED = "superseded"
    """A newer instance has the name: it is registered, and this one is not."""


@dataclass(slots=True)
class _Lease:
    service: Service
    ends: float


class Topology:
    """Leases of services under a revision.

    The newest instance of a name has its lease: a service that was killed and started again
    need not wait until its former lease ends.

    Parameters
    ----------
    ttl : float
        Seconds after which a lease that nobody renews ends.
    now : float
        When this begins, s.
    revision : int
        The first one. Choose larger ones for each life, so that who knew the last one
        looks again.
    """

    def __init__(self, ttl: float, now: float, revision: int = 0) -> None:
        self.ttl = ttl
        self._revision = revision
        self._services: tuple[Service, ...] | None = ()  # None if they are to be sorted anew
        self._settles = now + ttl
        self._leases: dict[str, _Lease] = {}  # the longest not renewed first

    @property
    def revision(self) -> int:
        """Moves when a service comes, goes or says something else of itself."""
        return self._revision

    @property
    def services(self) -> tuple[Service, ...]:
        """The services whose leases are in force, in the order of their names."""
        if self._services is None:
            self._services = tuple(self._leases[name].service for name in sorted(self._leases))
        return self._services

    def settled(self, now: float) -> bool:
        """Return whether everybody has had the time to register since this began.

        Before, nobody may conclude that a service which is not listed is gone.
        """
        return now >= self._settles

    def register(self, service: Service, now: float) -> Renewal:
        """Give a service a lease, unless a newer instance has its name."""
        former = self._leases.get(service.name)
        if former is not None and former.service.instance > service.instance:
            return Renewal.SUPERSEDED
        self._leases.pop(service.name, None)
        self._leases[service.name] = _Lease(service, now + self.ttl)
        if former is None or former.service != service:
            self._move()
        return Renewal.RENEWED

    def renew(self, name: str, instance: str, now: float) -> Renewal:
        """Renew a lease."""
        lease = self._leases.get(name)
        if lease is None:
            return Renewal.UNKNOWN
        if lease.service.instance != instance:
            return Renewal.SUPERSEDED
        del self._leases[name]  # to the end of the order
        lease.ends = now + self.ttl
        self._leases[name] = lease
        return Renewal.RENEWED

    def work_on(self, name: str, instance: str, runs: tuple[str, ...]) -> Renewal:
        """Note which runs a service works on. It is no renewal."""
        lease = self._leases.get(name)
        if lease is None:
            return Renewal.UNKNOWN
        if lease.service.instance != instance:
            return Renewal.SUPERSEDED
        if lease.service.runs != runs:
            lease.service = replace(lease.service, runs=runs)
            self._move()
        return Renewal.RENEWED

    def release(self, name: str, instance: str) -> bool:
        """End a lease; return False if that instance has none."""
        lease = self._leases.get(name)
        if lease is None or lease.service.instance != instance:
            return False
        del self._leases[name]
        self._move()
        return True

    def expire(self, now: float) -> list[Service]:
        """End the leases that nobody renewed; return whose they were."""
        ended: list[Service] = []
        for lease in self._leases.values():
            if lease.ends > now:
                break
            ended.append(lease.service)
        for service in ended:
            del self._leases[service.name]
        if ended:
            self._move()
        return ended

    def _move(self) -> None:
        self._revision += 1
        self._services = None

    def __len__(self) -> int:
        return len(self._leases)
