"""Services of other files, or hosts, whose names or addresses a file would take."""

import socket
import time
from collections.abc import Mapping

from p06bs import config
from p06bs.bus.membership import Membership
from p06bs.bus.processes import runs
from p06bs.bus.topology import Service
from p06bs.services.supervisord import SupervisionError

LEFT_SECONDS = 5.0
"""Time for services to end whose supervisor was killed."""
LOOK_SECONDS = 0.2
ANSWER_SECONDS = 2.0
"""Time for a Topology Manager to answer."""
TOLD = 5
"""So many services are named."""


def refuse(bus: config.Bus, definitions: Mapping[str, config.Definition]) -> None:
    """Refuse to start services that would supersede others which run.

    Parameters
    ----------
    bus : Bus
    definitions : mapping of str to Definition
        What would be started on this host.

    Raises
    ------
    SupervisionError
        Says whose names or address they would take.
    """
    if any(one.kind == "topology" for one in definitions.values()):
        until = time.monotonic() + LEFT_SECONDS
        while _listens(bus.topology):
            if time.monotonic() > until:
                raise SupervisionError(
                    f"something listens at {bus.topology} already, where the Topology Manager of "
                    f"this file would: {_who(bus)}; stop that, or write topology = false, or "
                    "another address in [bus]"
                )
            time.sleep(LOOK_SECONDS)
        return
    taken = [one for one in _registered(bus) or () if one.name in definitions and _lives(one)]
    if taken:
        names = [f"{one.name} (process {one.pid} on {one.host})" for one in taken]
        raise SupervisionError(
            f"{_some(names)} run already: choose other names, or stop them; what was killed on "
            "another host is forgotten after a quarter of a minute"
        )


def _registered(bus: config.Bus) -> tuple[Service, ...] | None:
    with Membership(bus.topology, bus.open_keys()) as peers:
        return peers.services if peers.wait_listed(ANSWER_SECONDS) else None


def _who(bus: config.Bus) -> str:
    services = _registered(bus)
    if services is None:
        return "no Topology Manager that answers"
    return f"registered there are {_some([one.name for one in services]) or 'none'}"


def _some(names: list[str]) -> str:
    return ", ".join([*names[:TOLD], *(["…"] if len(names) > TOLD else [])])


def _lives(service: Service) -> bool:
    """Return whether a registered service may still run: of this host that is known."""
    if service.host != socket.gethostname():
        return True
    return runs(service.pid)


def _listens(address: str) -> bool:
    """Return whether somebody listens at a 0MQ address."""
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    try:
        if scheme == "ipc":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(rest)
        else:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
    except OSError:
        return False
    return True
