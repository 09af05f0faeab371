"""Who is registered at the Topology Manager, for commands that ask services."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p06bs.cli.errors import UsageError
from p06bs.cli.keys import KEYS_VARIABLE

if TYPE_CHECKING:
    from p06bs.bus.curve import Keys
    from p06bs.bus.membership import Membership
    from p06bs.bus.topology import Service

TOPOLOGY = "P06BS_TOPOLOGY"
LISTED_SECONDS = 5.0
"""How long the Topology Manager is waited for."""
HEARD_SECONDS = 8.0
"""Services register again within 5 s after it was started anew."""

TopologyAddress = Annotated[
    str | None,
    typer.Option(
        "--topology",
        help=f"address of the Topology Manager; without FILE that of ${TOPOLOGY} by default",
    ),
]


@contextmanager
def asking(
    address: str, keys: "Keys | None", seconds: float = LISTED_SECONDS
) -> "Iterator[Membership]":
    """Look who is registered at a Topology Manager.

    Raises
    ------
    UsageError
        If it does not answer in time.
    """
    from p06bs.bus.membership import Membership

    with Membership(address, keys) as peers:
        if not peers.wait_listed(seconds):
            hint = "" if keys else f" (where there are keys, show yours: FILE or ${KEYS_VARIABLE})"
            raise UsageError(f"no Topology Manager answers at {address}; are services up?{hint}")
        yield peers


def registered(
    address: str, keys: "Keys | None", wanted: "Callable[[Service], bool]"
) -> "tuple[Service, ...]":
    """Return the services that are registered; one that is wanted is waited for, as long as the
    Topology Manager may not have heard of it since it began.

    Raises
    ------
    UsageError
        If it does not answer in time.
    """
    with asking(address, keys) as peers:
        peers.wait_heard(lambda services: any(map(wanted, services)), HEARD_SECONDS)
        return peers.services


def topology_address(file: Path | None, address: str | None) -> str:
    """Return where the Topology Manager is: as given, as a file or $P06BS_TOPOLOGY says."""
    from p06bs import config

    if address is not None:
        return address
    if file is not None:
        return config.load(file).bus.topology
    return os.environ.get(TOPOLOGY) or config.Configuration().bus.topology


def bus_keys(file: Path | None) -> "Keys | None":
    """Return the keys of the bus: as a file says, or those in $P06BS_KEYS."""
    from p06bs import config
    from p06bs.bus.curve import Keys

    if file is not None:
        return config.load(file).bus.open_keys()
    directory = os.environ.get(KEYS_VARIABLE)
    return Keys(directory) if directory else None
