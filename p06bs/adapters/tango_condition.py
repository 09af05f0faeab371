"""What Tango is told of a service: a state and a sentence, from what is seen of it.

Decisions only: what is seen in, state and sentence out. No socket, no clock, no thread.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from p06bs.bus.topology import Service


class Phase(StrEnum):
    """How the process of a service is doing, as who starts it knows."""

    STOPPED = "stopped"
    """On purpose."""
    STARTING = "starting"
    """Or running; whether it can be used, it says itself."""
    STOPPING = "stopping"
    FAILED = "failed"
    """It ends as soon as it starts, or cannot use what is configured."""


@dataclass(frozen=True, slots=True)
class Process:
    """The process of a service.

    Attributes
    ----------
    phase : Phase
    pid : int
        0 if there is none.
    words : str
        The last that it said.
    """

    phase: Phase
    pid: int = 0
    words: str = ""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of a service at one moment.

    Attributes
    ----------
    listed : bool
        Whether the Topology Manager has ever answered.
    service : Service or None
        As it is registered.
    process : Process or None
        None if nobody on this host starts it.
    health : mapping or None
        What it answers to ``health``; None if it does not.
    """

    listed: bool
    service: Service | None
    process: Process | None = None
    health: Mapping[str, Any] | None = None


class Condition:
    """The state of one service, in Tango's words, and a sentence that gives the reason.

    It remembers whether the service was up and was told to end: what is missing for no reason
    is a fault, also while somebody starts it again.
    """

    def __init__(self) -> None:
        self._up = 0  # pid of the process that was last seen at work
        self._told = ""  # instance that was told to end

    def told_to_end(self, service: Service | None) -> None:
        """Take note that somebody told the service to end, or to start again."""
        self._up = 0
        self._told = "" if service is None else service.instance

    def judge(self, sight: Sight) -> tuple[str, str]:
        """Return state and sentence."""
        service, process = sight.service, sight.process
        if process is not None and process.phase in (Phase.STOPPED, Phase.STOPPING):
            self._up = 0
        if service is not None and (process is None or process.pid == service.pid):
            return self._registered(service, process, sight.health)
        if process is None:
            if not sight.listed:
                return "UNKNOWN", "no Topology Manager has answered yet"
            return ("OFF", "was told to end") if self._told else ("FAULT", "is not registered")
        return self._unregistered(process)

    def _registered(
        self, service: Service, process: Process | None, health: Mapping[str, Any] | None
    ) -> tuple[str, str]:
        where = f"process {service.pid} on {service.host}"
        ending = process is not None and process.phase is Phase.STOPPING
        if ending or self._told == service.instance:
            return "MOVING", f"{where} is ending"
        self._up, self._told = service.pid, ""
        if health is None:
            return "FAULT", f"{where} does not answer"
        if health["failed"]:
            return "FAULT", f"{where} is of no use now: {', '.join(health['failed'])}"
        if service.runs:
            runs = ", ".join(uid[:8] for uid in service.runs)
            return "RUNNING", f"{where} works on {len(service.runs)} runs: {runs}"
        return "ON", f"{where}, version {service.version}"

    def _unregistered(self, process: Process) -> tuple[str, str]:
        said = f": {process.words}" if process.words else ""
        match process.phase:
            case Phase.STOPPED:
                return "OFF", "has been stopped"
            case Phase.STOPPING:
                return "MOVING", f"process {process.pid} is ending"
            case Phase.FAILED:
                return "FAULT", f"cannot run{said}"
        if self._up:
            return "FAULT", f"process {self._up} was lost; it is being started again{said}"
        return "INIT", f"is starting{said}"
