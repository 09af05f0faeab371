"""``p06bs ls``: the services that are registered at the Topology Manager."""

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from p06bs.cli.registered import TopologyAddress, asking, bus_keys, topology_address
from p06bs.cli.terminal import AsJson, console, folded, print_json, remark, stoppable

if TYPE_CHECKING:
    from p06bs.bus.topology import Service


def ls(
    file: Annotated[
        Path | None,
        typer.Argument(help="configuration, which says where the Topology Manager is"),
    ] = None,
    *,
    topology: TopologyAddress = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="show it until Ctrl-C")] = False,
    as_json: AsJson = False,
) -> None:
    """List the services that are registered at the Topology Manager."""
    address = topology_address(file, topology)
    with stoppable() as stopping, asking(address, bus_keys(file)) as peers:
        if watch and as_json:
            before = None
            while not stopping():
                if (services := peers.services) != before:
                    before = services
                    print_json([_plain(one) for one in services])
                    sys.stdout.flush()
                time.sleep(0.5)
            return
        if watch:
            with Live(console=console, auto_refresh=False) as live:
                while not stopping():
                    live.update(_table(peers.services, fold=True), refresh=True)
                    time.sleep(0.5)
            return
        if not peers.wait_heard(lambda services: False, 0.0):
            remark("the Topology Manager has just begun: others may be up that it has not heard of")
        if as_json:
            print_json([_plain(one) for one in peers.services], indent=2)
        else:
            console.print(_table(peers.services))


def _plain(service: "Service") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(service)


def _table(services: "tuple[Service, ...]", *, fold: bool = False) -> Table:
    """Return a table of services; those that differ by their number alone in one row, if folded."""
    rows: dict[Any, list[Service]] = {}
    for one in sorted(services, key=lambda one: _natural(one.name)):
        base, _, number = one.name.rpartition("-")
        alike = fold and base and number.isdecimal()
        rows.setdefault((base, one.kind, one.host) if alike else one.name, []).append(one)
    table = Table(*folded("name", "kind", "host", "pid", "addresses", "offers", "runs", "version"))
    for row in rows.values():
        one, last = row[0], row[-1]
        several = len(row) > 1
        found = {what: where for what, where in one.addresses.items() if what != "control"}
        runs = dict.fromkeys(uid[:8] for each in row for uid in each.runs)
        cells = (
            f"{one.name} … {last.name.rpartition('-')[2]}" if several else one.name,
            one.kind,
            one.host,
            f"{len(row)} processes" if several else str(one.pid),
            "" if several else "\n".join(f"{what} {where}" for what, where in found.items()),
            ", ".join(dict.fromkeys(name for each in row for name in each.offers)),
            ", ".join(runs),
            one.version,
        )
        table.add_row(*map(escape, cells))
    table.caption = f"{len(services)} services"
    return table


def _natural(name: str) -> list[tuple[str, int]]:
    """Return by what names are sorted: worker-2 comes before worker-10."""
    parts = re.split(r"(\d+)", name)
    return [(part, 0) if not part.isdecimal() else ("", int(part)) for part in parts]
