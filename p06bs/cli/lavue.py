"""``p06bs lavue``: the command that starts LaVue."""

import os
from pathlib import Path
from typing import Annotated

import typer

from p06bs.cli.errors import UsageError
from p06bs.cli.registered import TopologyAddress, bus_keys, registered, topology_address

FileOption = Annotated[
    Path | None,
    typer.Argument(help="configuration of the services; says where the Topology Manager is"),
]


def lavue(file: FileOption = None, topology: TopologyAddress = None) -> None:
    """Print the command that starts LaVue, connected to the bridge that is up.

    LaVue's configuration for it is in ~/.config/p06bs/lavue, and is made where there is none.
    """
    from p06bs.adapters.lavue import command, configure

    address, keys = topology_address(file, topology), bus_keys(file)
    bridges = [
        one
        for one in registered(address, keys, lambda one: "lavue" in one.addresses)
        if "lavue" in one.addresses
    ]
    if not bridges:
        raise UsageError(
            "no bridge to LaVue is up: write [services.lavue] into the file of the services"
        )
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    directory = Path(home) / "p06bs" / "lavue"
    configure(directory)
    for one in bridges:
        print(command(one.addresses["lavue"], directory))
