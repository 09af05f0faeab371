"""``p06bs up``, ``down``, ``restart`` and ``ls``: what starts, stops and shows services."""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.table import Table

from p06bs.cli.errors import UsageError
from p06bs.cli.keys import KEYS_VARIABLE
from p06bs.cli.terminal import AsJson, console, progress_bar, remark, stoppable

if TYPE_CHECKING:
    from p06bs.bus.curve import Keys
    from p06bs.bus.topology import Service
    from p06bs.services.supervision import Supervision

File = Annotated[Path, typer.Argument(help="configuration, for example services/sim.toml")]


def up(
    file: File,
    *,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="return once all are ready; p06bs down ends them")
    ] = False,
    logs: Annotated[
        Path | None, typer.Option(help="directory of the services' logs; services beside the log")
    ] = None,
) -> None:
    """Start the services of a configuration file; Ctrl-C or p06bs down stops them.

    Where they are up already, what the file describes anew or otherwise is started, and what it
    does not any more is stopped.
    """
    from p06bs.services.supervision import Supervision

    services = Supervision(file, logs)
    if services.is_up():
        _reload(services)
        return
    lines = services.lines()
    with stoppable() as stopping:
        stays = False
        try:
            services.start()
            with progress_bar() as progress:
                task = progress.add_task("services", total=None)
                ready = services.wait_ready(
                    stopping, lambda n, all: progress.update(task, completed=n, total=all)
                )
            if ready:
                _say(services)
                if detach:
                    remark(f"all services are up; p06bs down {file} stops them")
                    stays = True
                    return
                print("all services are up; Ctrl-C stops them", flush=True)
            while not stopping() and services.is_up():
                for name, line in lines:
                    print(f"{name:>9} | {line}", flush=True)
                time.sleep(0.2)
        finally:
            codes = {} if stays or not services.is_up() else services.stop()
            for name, line in lines:
                print(f"{name:>9} | {line}", flush=True)
    bad = {name: code for name, code in codes.items() if code}
    if bad:
        raise UsageError(f"services ended with {bad}")


def down(file: File) -> None:
    """Stop the services of a configuration file, those that others need last."""
    from p06bs.services.supervision import Supervision

    services = Supervision(file)
    if not services.is_up():
        remark(f"no services of {file} are up")
        return
    with console.status("stopping services"):
        codes = services.stop()
    bad = {name: code for name, code in codes.items() if code}
    if bad:
        raise UsageError(f"services ended with {bad}")
    remark(f"{len(codes)} services have ended")


def restart(
    file: File,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="services; all replicas of one that has some; all, if none is named"),
    ] = None,
) -> None:
    """Stop services in good order, and start them again."""
    from p06bs.services.supervision import Supervision

    services = Supervision(file)
    if not services.is_up():
        raise UsageError(f"no services of {file} are up; p06bs up {file} starts them")
    services.restart(names or list(services.definitions))
    with stoppable() as stopping, console.status("starting services"):
        services.wait_ready(stopping)


def ls(
    file: Annotated[
        Path | None,
        typer.Argument(help="configuration; its [bus] says where the Topology Manager is"),
    ] = None,
    *,
    topology: Annotated[
        str | None,
        typer.Option(help="address of the Topology Manager", envvar="P06BS_TOPOLOGY"),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="show it until Ctrl-C")] = False,
    as_json: AsJson = False,
) -> None:
    """List the services that are registered at the Topology Manager."""
    from p06bs.bus.membership import Membership

    address = topology_address(file, topology)
    with stoppable() as stopping, Membership(address, bus_keys(file)) as peers:
        if not peers.wait_listed(5.0):
            raise UsageError(f"no Topology Manager answers at {address}; are services up?")
        if as_json:
            print(json.dumps([_plain(one) for one in peers.services], indent=2))
        elif watch:
            with Live(_table(peers.services), console=console, auto_refresh=False) as live:
                while not stopping():
                    live.update(_table(peers.services), refresh=True)
                    time.sleep(0.5)
        else:
            console.print(_table(peers.services))


def topology_address(file: Path | None, address: str | None) -> str:
    """Return where the Topology Manager is: as given, as a file says, or its usual place."""
    from p06bs import config

    if address is not None:
        return address
    return (config.Configuration() if file is None else config.load(file)).bus.topology


def bus_keys(file: Path | None) -> "Keys | None":
    """Return the keys of the bus: as a file says, or those in $P06BS_KEYS."""
    from p06bs import config
    from p06bs.bus.curve import Keys

    if file is not None:
        return config.load(file).bus.open_keys()
    directory = os.environ.get(KEYS_VARIABLE)
    return Keys(directory) if directory else None


def _reload(services: "Supervision") -> None:
    started, stopped = services.reload()
    with stoppable() as stopping, console.status("starting services"):
        services.wait_ready(stopping)
    remark(
        f"services were up; started {', '.join(started) or 'none'}, "
        f"stopped {', '.join(stopped) or 'none'}"
    )


def _say(services: "Supervision") -> None:
    for name, status in services.statuses().items():
        print(f"{name:>9} : process {status.pid}")


def _plain(service: "Service") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(service)


def _table(services: "tuple[Service, ...]") -> Table:
    table = Table("name", "kind", "host", "pid", "addresses", "offers", "runs", "version")
    for one in services:
        found = {what: where for what, where in one.addresses.items() if what != "control"}
        table.add_row(
            one.name,
            one.kind,
            one.host,
            str(one.pid),
            "\n".join(f"{what} {where}" for what, where in found.items()),
            ", ".join(one.offers),
            ", ".join(uid[:8] for uid in one.runs),
            one.version,
        )
    table.caption = f"{len(services)} services"
    return table
