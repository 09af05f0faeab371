"""Watch one service for its Tango device: what it is like, its settings, its metrics."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from tango import EnsureOmniThread

from p06bs.adapters import tango_attributes
from p06bs.adapters.tango_attributes import Attribute
from p06bs.adapters.tango_condition import Condition, Process, Sight
from p06bs.bus.control import RefusedError, ask
from p06bs.bus.curve import Keys
from p06bs.bus.membership import Membership
from p06bs.bus.topology import Service

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 2.0
"""How long a service is waited for; Tango's clients wait 3 s."""


class Processes(Protocol):
    """Who starts services on this host.

    Each raises RuntimeError, with a text for whoever asked, if it cannot do what it is told.
    """

    def look(self, name: str) -> Process | None:
        """Return how the process of a service is doing; None if nobody here starts it."""

    def start(self, name: str) -> None:
        """Have a service started."""

    def stop(self, name: str) -> None:
        """Have a service ended in good order."""

    def restart(self, name: str) -> None:
        """Have a service ended in good order, and started again."""


@dataclass(frozen=True, slots=True)
class Report:
    """What Tango shows of a service.

    Attributes
    ----------
    when : float
        Seconds since 1970.
    state, status : str
    values : mapping of Attribute to value
        None where there is none at present.
    """

    when: float
    state: str = "INIT"
    status: str = "has not been looked at yet"
    values: Mapping[Attribute, Any] = field(default_factory=dict)


class Watch:
    """Look at one service again and again, in a thread of its own, and tell a device.

    Parameters
    ----------
    name : str
        The service.
    peers : Membership
    processes : Processes
    keys : Keys, optional
    interval : float
        Seconds between two looks.

    Attributes
    ----------
    report : Report
        The last one.
    tell : callable
        Called with each report, in this object's thread.
    """

    def __init__(
        self,
        name: str,
        peers: Membership,
        processes: Processes,
        keys: Keys | None = None,
        interval: float = 1.0,
    ) -> None:
        self.name = name
        self.report = Report(time.time())
        self.tell: Callable[[Report], None] = _nobody
        self._peers = peers
        self._processes = processes
        self._keys = keys
        self._interval = interval
        self._condition = Condition()
        self._reached: Service | None = None  # the service, if it is there
        self._changes = 0  # of settings, from here
        self._lock = threading.Lock()  # guards these, and the report
        self._looked = threading.Event()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"watch-{name}", daemon=True)

    def begin(self) -> None:
        """Begin to look."""
        self._thread.start()

    def wait_looked(self) -> None:
        """Wait until it has been looked at once."""
        self._looked.wait()

    def close(self) -> None:
        """Look no more."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def start(self) -> None:
        """Have the service started.

        Raises
        ------
        RuntimeError
            If that cannot be; says why.
        """
        self._command(self._processes.start)

    def stop(self) -> None:
        """Have the service ended in good order: by who starts it, or else by itself.

        Raises
        ------
        RuntimeError, ValueError, TimeoutError
            If that cannot be; says why.
        """
        if self._processes.look(self.name) is not None:
            self._command(self._processes.stop)
            return
        service = self._service()
        if service is None:
            raise RuntimeError(f"{self.name} is not registered at {self._peers.address}")
        self._ask(service, "stop")
        with self._lock:
            self._condition.told_to_end(service)
        self._wake.set()

    def restart(self) -> None:
        """Have the service ended in good order, and started again.

        Raises
        ------
        RuntimeError
            If that cannot be; says why.
        """
        self._command(self._processes.restart)

    def change(self, attribute: Attribute, value: Any, by: str) -> Report:
        """Change a setting; return what it is like afterwards.

        Raises
        ------
        RefusedError, RuntimeError, TimeoutError
            If it is refused, or nobody is there; says why.
        """
        with self._lock:
            service = self._reached
        if service is None:
            raise RuntimeError(f"{attribute.name} cannot be changed: {self.report.status}")
        of, wanted = attribute.pipeline, {attribute.setting: attribute.meant(value)}
        record = self._ask(service, "change", of=of, values=wanted, by=by)
        changed = tango_attributes.settings({of: record})
        with self._lock:
            self._changes += 1
            known = {a: v for a, v in changed.items() if a in self.report.values}
            values = {**self.report.values, **known}
            self.report = replace(self.report, when=time.time(), values=values)
            return self.report

    def _command(self, action: Callable[[str], None]) -> None:
        service = self._service()
        action(self.name)
        with self._lock:
            self._condition.told_to_end(service)
        self._wake.set()

    def _service(self) -> Service | None:
        return next((one for one in self._peers.services if one.name == self.name), None)

    def _ask(self, service: Service, verb: str, **arguments: Any) -> Any:
        address = service.addresses["control"]
        return ask(address, verb, seconds=ANSWER_SECONDS, keys=self._keys, **arguments)

    def _run(self) -> None:
        with EnsureOmniThread():  # events are pushed from here
            while not self._closing:
                self._wake.clear()
                try:
                    before = self._changes
                    report = self._look()
                    with self._lock:
                        if self._changes != before:  # it may show what was before the change
                            continue
                        self.report = report
                    self.tell(report)
                except Exception:  # whatever one look meets, the next may not
                    logger.exception("%s cannot be shown", self.name)
                self._looked.set()
                self._wake.wait(self._interval)

    def _look(self) -> Report:
        service = self._service()
        process = self._seen()
        health: Any = None
        values: dict[Attribute, Any] = {}
        here = service is not None and process is not None and process.pid == service.pid
        reached = service if here or process is None else None
        if reached is not None:
            health, values = self._answers(reached)
        with self._lock:
            self._reached = reached
            sight = Sight(self._peers.listed, service, process, health)
            state, status = self._condition.judge(sight)
            # What was there stays, without a value: clients keep what they subscribed to.
            replaced = {a.name.lower() for a in values}
            gone = (a for a in self.report.values if a.name.lower() not in replaced)
            values.update(dict.fromkeys(gone))
        return Report(time.time(), state, f"{self.name}: {status}", values)

    def _seen(self) -> Process | None:
        try:
            return self._processes.look(self.name)
        except RuntimeError as error:
            logger.warning("%s: %s", self.name, error)
            return None

    def _answers(self, service: Service) -> tuple[Any, dict[Attribute, Any]]:
        """Return health, settings and metrics as far as the service answers."""
        health: Any = None
        values: dict[Attribute, Any] = {}
        try:
            health = self._ask(service, "health")
            values |= tango_attributes.metrics(self._ask(service, "metrics"))
            if service.offers:
                values |= tango_attributes.settings(self._ask(service, "settings", of=None))
        except TimeoutError:
            pass  # the condition says so, if it concerns its health
        except RefusedError as error:
            logger.debug("%s: %s", self.name, error)
        return health, values


def _nobody(report: Report) -> None:
    """Take a report for nobody."""
