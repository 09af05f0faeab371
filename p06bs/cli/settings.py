"""``p06bs settings``: show and change the settings of pipelines while they run."""

import getpass
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from p06bs.cli.errors import UsageError
from p06bs.cli.registered import TopologyAddress, bus_keys, registered, topology_address
from p06bs.cli.settings_tables import show_all, show_one, show_presets
from p06bs.cli.terminal import SHOWN, AsJson, console, print_json, remark

if TYPE_CHECKING:
    from p06bs.bus.topology import Service

SECONDS = 5.0
"""How long a service is waited for."""
HOLDS_SECONDS = 3.0
"""How long is waited for the event from which on a change holds; a scan may be paused."""


class _Pipelines:
    """The pipelines that services offer, asked through the Topology Manager."""

    def __init__(self, file: Path | None, topology: str | None, of: str = "") -> None:
        address = topology_address(file, topology)
        self._keys = bus_keys(file)
        services = registered(
            address, self._keys, lambda one: of in one.offers if of else bool(one.offers)
        )
        self._services = [one for one in services if one.offers]

    @property
    def names(self) -> list[str]:
        return sorted({name for service in self._services for name in service.offers})

    def ask(self, verb: str, of: str, **arguments: Any) -> Any:
        """Ask the service that offers the pipeline `of`."""
        for service in self._services:
            if of in service.offers:
                return self._ask(service, verb, of=of, **arguments)
        known = ", ".join(self.names) or "none"
        raise UsageError(f"no service offers a pipeline {of!r}; there are: {known}")

    def all(self) -> dict[str, Any]:
        """Return the records of all pipelines of all services."""
        found: dict[str, Any] = {}
        for service in self._services:
            found |= self._ask(service, "settings")
        return found

    def _ask(self, service: "Service", verb: str, **arguments: Any) -> Any:
        from p06bs.bus.control import ask

        address = service.addresses["control"]
        try:
            return ask(address, verb, seconds=SECONDS, keys=self._keys, **arguments)
        except TimeoutError:
            of = arguments.get("of", "")
            late = (
                f"; the change may hold once it goes on: p06bs settings {of} shows it then"
                if verb == "change"
                else ""
            )
            raise UsageError(
                f"{service.name} (process {service.pid} on {service.host}) does not answer in "
                f"{SECONDS:g} s{late}"
            ) from None


def _completing(context: typer.Context) -> _Pipelines:
    """Return the pipelines for a command line that is not finished."""
    given = context.params
    return _Pipelines(given.get("file") or None, given.get("topology") or None)


def _complete_pipeline(context: typer.Context, incomplete: str) -> Iterator[str]:
    with suppress(Exception):  # nothing is up, or it is slow: nothing is completed
        found = _completing(context)
        yield from (name for name in found.names if name.startswith(incomplete))


def _complete_setting(context: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    with suppress(Exception):
        of = context.params["pipeline"]
        fields = _completing(context).ask("settings", of)[of]["schema"].get("properties", {})
        for name, field in fields.items():
            if name.startswith(incomplete):
                yield f"{name}=", field.get("description", "")


def settings(
    pipeline: Annotated[
        str,
        typer.Argument(help="pipeline; all, if none is named", autocompletion=_complete_pipeline),
    ] = "",
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY[=VALUE]]...",
            help="settings to show, or to change; a value is JSON, or else text; key.entry=value "
            "alters one entry of a table, and key.entry=null removes it",
            autocompletion=_complete_setting,
        ),
    ] = None,
    *,
    reprocess: Annotated[
        bool,
        typer.Option(
            "--reprocess",
            help="compute the events so far again under these settings, as a second derived run",
        ),
    ] = False,
    load: Annotated[str, typer.Option(metavar="NAME", help="load a preset")] = "",
    save: Annotated[
        str, typer.Option(metavar="NAME", help="keep the settings in force as a preset")
    ] = "",
    beamtime: Annotated[
        str, typer.Option(metavar="ID", help="with --save: its runs load the preset by themselves")
    ] = "",
    sample: Annotated[
        str,
        typer.Option(metavar="NAME", help="with --save: its runs load the preset by themselves"),
    ] = "",
    presets: Annotated[bool, typer.Option("--presets", help="list the presets")] = False,
    by: Annotated[str, typer.Option(help="who changes it; you by default")] = "",
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="configuration, which says where the Topology Manager is"
        ),
    ] = None,
    topology: TopologyAddress = None,
    as_json: AsJson = False,
) -> None:
    """Show the settings of pipelines, and change them while they run.

    A change holds from the next event on that no worker has yet, and for later runs.
    """
    from p06bs import config
    from p06bs.settings.values import value_at

    asked_for = [said for said in changes or () if "=" not in said]
    values = config.parse_settings([said for said in changes or () if "=" in said])
    if asked_for and (values or reprocess or load or save or presets):
        raise UsageError(
            f"{asked_for[0]} alone shows a setting; write key=value to change it, or show it alone"
        )
    if not pipeline and (values or reprocess or load or save or presets):
        raise UsageError("say of which pipeline")
    if (beamtime or sample) and not save:
        raise UsageError("--beamtime and --sample say whose a preset is; name it with --save")
    if "=" in pipeline:
        raise UsageError(f"{pipeline} is no pipeline; name it first: p06bs settings NAME key=value")
    if presets and (values or reprocess or load or save):
        raise UsageError("--presets lists presets and changes nothing; say it alone")
    found = _Pipelines(file, topology, pipeline)
    if presets:
        listed = found.ask("presets", pipeline)
        print_json(listed, indent=2) if as_json else show_presets(listed)
        return
    changing = bool(values or reprocess or load)
    asked: dict[str, Any] = {}
    if changing:
        asked = found.ask(
            "change",
            pipeline,
            values=values,
            by=by or f"{getpass.getuser()}@{socket.gethostname()}",
            reprocess=reprocess,
            preset=load,
        )
    if save:
        said = found.ask("save_preset", pipeline, preset=save, beamtime_id=beamtime, sample=sample)
        if not as_json:
            console.print(f"wrote {escape(said)}", soft_wrap=True)
    if not pipeline:
        records = found.all()
        print_json(records, indent=2) if as_json else show_all(records)
        return
    record = found.ask("settings", pipeline)[pipeline]
    until = time.monotonic() + (HOLDS_SECONDS if changing else 0.0)
    while any(r["state"] == "waiting" for r in record["runs"]) and time.monotonic() < until:
        time.sleep(0.1)
        record = found.ask("settings", pipeline)[pipeline]
    shown = {path: value_at(record["values"], path) for path in asked_for}
    if as_json:
        print_json(shown or {pipeline: record}, indent=2)
    elif changing or not save:
        changed = {key.partition(".")[0]: None for key in values}
        show_one(pipeline, record, shown or {key: record["values"][key] for key in changed})
    if reprocess:
        runs = ", ".join(run[:SHOWN] for run in asked["reprocess"])
        remark(f"computed again: run {runs}" if runs else "there is no run to compute again")
    if changing and record["revision"] < asked["revision"]:
        raise UsageError(_taken_back(asked["revision"], record["runs"]))


def _taken_back(change: int, runs: list[dict[str, Any]]) -> str:
    """Return why a change does not hold, though its values are allowed."""
    said = [
        f"run {run['run'][:SHOWN]} cannot be computed with it: {run['refused'][str(change)]}"
        for run in runs
        if str(change) in run["refused"]
    ]
    return f"change {change} was taken back; {'; '.join(said) or 'a run refused it'}"
