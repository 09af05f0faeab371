"""What every service shares: how it is made, known, asked, measured and ended."""

import logging
import os
import platform
import socket
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from p06bs.bus import topology
from p06bs.bus.control import Control
from p06bs.bus.curve import Keys
from p06bs.bus.membership import Membership
from p06bs.bus.metrics import Measure, Metrics
from p06bs.bus.sockets import HERE

logger = logging.getLogger(__name__)

D = TypeVar("D")
Check = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a service finds around it.

    Attributes
    ----------
    peers : Membership
        Who else is there; the service itself is registered by `host`.
    log : Path
        Directory of the document logs.
    inbound, outbound : callable
        Return where the proxy takes documents, and gives them, as it is known at present; None
        if it is not.
    keys : Keys or None
        With which sockets bind and connect.
    listen : str
        Where to bind a socket whose address is registered.
    file : Path or None
        The configuration that describes it, if it is described by one.
    """

    peers: Membership
    log: Path
    inbound: Callable[[], str | None]
    outbound: Callable[[], str | None]
    keys: Keys | None = None
    listen: str = HERE
    file: Path | None = None


class Service(ABC, Generic[D]):
    """One process of the beamline.

    A subclass says what may stand in its table of the configuration (`Definition`, a
    pydantic model), and works in `run` until `stop` is called. `host` does the rest. It is
    found by its kind in the entry-point group ``p06bs.services``; what is heavy is imported
    in `run`, since whoever starts services imports their classes, too.

    Parameters
    ----------
    name : str
        As it is registered.
    definition : Definition
        Its table of the configuration.
    here : Surroundings

    Raises
    ------
    ValueError
        If what is configured cannot be used; says what. The service is not started again.
    """

    Definition: ClassVar[type[Any]]

    def __init__(self, name: str, definition: D, here: Surroundings) -> None:
        self.name = name
        self.definition = definition
        self.here = here

    @classmethod
    def check(cls, definition: D) -> None:
        """Refuse what the model of the table cannot see, before any service is started.

        Raises
        ------
        ValueError
            If what is configured cannot be used; says what.
        """

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where others reach it, by what they find there; known once it is ready."""
        return {}

    @property
    def offers(self) -> tuple[str, ...]:
        """Names of what it hosts that others ask for by name, like pipelines."""
        return ()

    @property
    def checks(self) -> Mapping[str, Check]:
        """What must hold as long as it is of use, by name."""
        return {}

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What Prometheus is told; asked once it is ready."""
        return ()

    @property
    def verbs(self) -> Mapping[str, Callable[..., Any]]:
        """What it can be asked for beside ``describe``, ``health``, ``metrics`` and ``stop``.

        Called from a thread of its own; see `Control`.
        """
        return {}

    @abstractmethod
    def run(self, ready: Callable[[], None]) -> None:
        """Work until `stop` is called; call `ready` once it can be used."""

    @abstractmethod
    def stop(self) -> None:
        """Have `run` end soon and in good order: called from other threads, perhaps twice."""


def host(
    service: Service[Any], kind: str, version: str, ready: Callable[[], None] = lambda: None
) -> None:
    """Run a service: answer what it is asked, and have it registered while it can be used.

    Returns when it has ended, because it was told to or somebody newer has its name.

    Parameters
    ----------
    service : Service
    kind, version : str
        As they are registered.
    ready : callable
        Called when it can be used.
    """
    began = time.time()
    usable = threading.Event()
    instance = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    here = socket.gethostname()
    about = {
        "name": service.name,
        "kind": kind,
        "version": version,
        "host": here,
        "pid": os.getpid(),
        "began": began,
        "python": platform.python_version(),
    }

    def health() -> dict[str, Any]:
        failed = [name for name, check in service.checks.items() if not check()]
        return {"healthy": not failed, "ready": usable.is_set(), "failed": failed}

    def exposition() -> str:
        with closing(Metrics(measures() if usable.is_set() else ())) as metrics:
            return metrics.exposition()

    def measures() -> tuple[Measure, ...]:
        return service.measures if keys is None else (*service.measures, _refused(keys))

    verbs = {
        "describe": lambda: {**about, "addresses": dict(service.addresses)},
        "health": health,
        "metrics": exposition,
        "stop": service.stop,
        **service.verbs,
    }
    peers = service.here.peers
    peers.on_superseded(service.stop)
    keys = service.here.keys
    with Control(verbs, service.here.listen, keys) as control:

        def register() -> None:
            usable.set()
            peers.enrol(
                topology.Service(
                    service.name,
                    kind,
                    instance,
                    here,
                    os.getpid(),
                    {**service.addresses, "control": control.address},
                    version,
                    service.offers,
                )
            )
            ready()

        service.run(register)


def _refused(keys: Keys) -> Measure:
    return Measure(
        "peers_refused",
        "Connections that were refused for their keys",
        lambda: dict(keys.refused),
        "counter",
        "reason",
    )
