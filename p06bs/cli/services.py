"""``p06bs up``, ``down``, ``restart`` and ``ls``: what starts, stops and shows services."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from p06bs.cli.errors import UsageError
from p06bs.cli.keys import KEYS_VARIABLE
from p06bs.cli.terminal import (
    AsJson,
    console,
    folded,
    progress_bar,
    remark,
    remarks,
    stoppable,
)

if TYPE_CHECKING:
    from p06bs.bus.curve import Keys
    from p06bs.bus.membership import Membership
    from p06bs.bus.topology import Service
    from p06bs.services.supervision import Supervision
    from p06bs.services.supervisord import Status

TOPOLOGY = "P06BS_TOPOLOGY"
LISTED_SECONDS = 5.0
"""How long the Topology Manager is waited for."""
HEARD_SECONDS = 8.0
"""Services register again within 5 s after it was started anew."""
SHOWN = 3
"""So many names of services that are waited for."""

File = Annotated[Path, typer.Argument(help="configuration, for example services/sim.toml")]


TopologyAddress = Annotated[
    str | None,
    typer.Option(
        "--topology",
        help=f"address of the Topology Manager; without FILE that of ${TOPOLOGY} by default",
    ),
]


def complete_service(context: typer.Context, beginning: str) -> list[str]:
    """Return the names of services in the file that is on the command line already."""
    from p06bs import config

    try:
        found = config.definitions(config.load(context.params["file"]))
    except (ValueError, KeyError, TypeError):
        return []
    return [name for name in found if name.startswith(beginning)]


Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="services; all replicas of one that has some; all, if none is named",
        autocompletion=complete_service,
    ),
]


def up(
    file: File,
    names: Names = None,
    *,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="return once all are ready; p06bs down ends them")
    ] = False,
    logs: Annotated[
        Path | None, typer.Option(help="directory of the services' logs; services beside the log")
    ] = None,
) -> None:
    """Start this host's services of a configuration file; Ctrl-C or p06bs down stops them.

    Where they are up already, what does not run or is new in the file is started, and what the
    file has no more is stopped.
    """
    from p06bs.services.supervision import Supervision

    services = Supervision(file, logs)
    if services.is_up():
        _reload(services, names or ())
        return
    lines = services.lines()
    width = max(map(len, services.definitions), default=0)

    def show() -> None:
        for name, line in lines:
            print(f"{name:>{width}} | {line}", flush=True)

    stays = killed = False
    codes: dict[str, int] = {}
    with stoppable() as stopping:
        started = services.start(names or ())
        try:
            if _wait(services, stopping, started):
                if detach:
                    stays = True
                    remark(f"{len(started)} services are up; p06bs down stops them")
                    return
                services.watch()
                print("all services are up; Ctrl-C stops them", flush=True)
            while not stopping() and services.is_up():
                show()
                time.sleep(0.2)
            killed = not stopping() and services.status != 0
        finally:
            if not stays:
                codes = _stop(services)
                show()
    if killed:
        raise UsageError("supervisord was killed, and the services ended with it")
    _complain(codes)


def down(file: File, names: Names = None) -> None:
    """Stop the services of a configuration file, those that others need last."""
    from p06bs.services.supervision import Supervision

    services = Supervision(file)
    if not services.is_up():
        services.stop()  # what one leaves that was killed
        remark(f"no services of {file} are up")
        return
    if names:
        with remarks.status("stopping services"):
            remark(f"{', '.join(services.halt(names))} ended; the others go on")
        return
    codes = _stop(services)
    _complain(codes)
    remark(f"{len(codes)} services have ended")


def restart(file: File, names: Names = None) -> None:
    """Stop services in good order, and start them again."""
    from p06bs.services.supervision import Supervision

    services = Supervision(file)
    if not services.is_up():
        raise UsageError(f"no services of {file} are up; p06bs up {file} starts them")
    with stoppable() as stopping:
        with remarks.status("stopping services"):
            restarted = services.restart(names or ())
        _wait(services, stopping, restarted)


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
        if watch:
            with Live(console=console, auto_refresh=False) as live:
                while not stopping():
                    live.update(_table(peers.services, fold=True), refresh=True)
                    time.sleep(0.5)
            return
        if not peers.wait_heard(lambda services: False, 0.0):
            remark("the Topology Manager has just begun: others may be up that it has not heard of")
        if as_json:
            print(json.dumps([_plain(one) for one in peers.services], indent=2))
        else:
            console.print(_table(peers.services))


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


def _reload(services: "Supervision", names: Sequence[str]) -> None:
    with stoppable() as stopping:
        with remarks.status("starting services"):
            started, stopped = services.reload(names)
        if started:
            _wait(services, stopping, started)
    remark(
        f"services were up; started {', '.join(started) or 'none'}, "
        f"stopped {', '.join(stopped) or 'none'}"
    )


def _wait(services: "Supervision", stopping: Callable[[], bool], names: Sequence[str]) -> bool:
    """Wait until services are ready, and show for which; say of each that fails why, once."""
    said: set[str] = set()
    with progress_bar() as progress:
        task = progress.add_task("services", total=None)

        def show(late: "Sequence[Status]", all: int) -> None:
            names = ", ".join(status.name for status in late[:SHOWN])
            more = f" and {len(late) - SHOWN} more" if len(late) > SHOWN else ""
            text = f"waiting for {names}{more}" if late else "services"
            progress.update(task, description=text, completed=all - len(late), total=all)
            for status in late:
                if status.state == "BACKOFF" and status.name not in said:
                    said.add(status.name)
                    remark(f"{status.name} does not start yet: {status.last_words}")

        return services.wait_ready(stopping, show, names)


def _stop(services: "Supervision") -> dict[str, int]:
    with remarks.status("stopping services"):
        return services.stop()


def _complain(codes: dict[str, int]) -> None:
    bad = [f"{name} ({code})" for name, code in codes.items() if code]
    if bad:
        raise UsageError(
            f"did not end in good order, with statuses: {', '.join(bad)}; see the logs"
        )


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
