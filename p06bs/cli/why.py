"""``p06bs why``: what the pipelines make of a run, and why."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from p06bs.cli.errors import UsageError
from p06bs.cli.registered import (
    HEARD_SECONDS,
    LISTED_SECONDS,
    TopologyAddress,
    asking,
    bus_keys,
    topology_address,
)
from p06bs.cli.terminal import SHOWN, AsJson, console, print_json, remark

if TYPE_CHECKING:
    from p06bs.bus.curve import Keys
    from p06bs.bus.topology import Service

SECONDS = 5.0
"""How long a service is waited for."""
SHORT_SECONDS = 1.5
"""How long the Topology Manager is waited for where all can be computed without it."""
COLOURS = {
    "works": "green",
    "done": "green",
    "done before": "green",
    "waits": "yellow",
    "stands by": "cyan",
    "left": "red",
    "refused": "red",
}


@dataclass
class _Answers:
    """What services say of one run."""

    run: dict[str, Any] = field(default_factory=dict)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    offered: set[str] = field(default_factory=set)  # pipelines that services host


def why(
    run: Annotated[
        str,
        typer.Argument(
            help="uid of a raw run, or its beginning; -1 is the newest, -2 the one before"
        ),
    ] = "-1",
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="configuration; says where services and logs are, and what is missing",
        ),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="directory of logs; that of the configuration by default")
    ] = None,
    topology: TopologyAddress = None,
    as_json: AsJson = False,
) -> None:
    """Say what each pipeline makes of a run, and why it takes or leaves it.

    Of pipelines that no service answers for, what they would do is computed from the run's log
    and --file.
    """
    if run.startswith("--"):
        raise UsageError(f"no such option: {run}; see p06bs why --help")
    answers = _asked(run, file, topology)
    if file is not None:
        _compute(run, file, log, answers)
    if not answers.run:
        known = "; ".join(answers.remarks)
        hint = "" if file else "; with --file FILE it is computed from the run's log"
        raise UsageError(f"nobody knows of run {run} ({known}){hint}")
    _check_names(answers)
    if as_json:
        print_json({**answers.run, "pipelines": answers.decisions, "remarks": answers.remarks})
        return
    for text in answers.remarks:
        remark(text)
    _show(answers)


def _asked(run: str, file: Path | None, topology: str | None) -> _Answers:
    """Return what the services say that host pipelines."""
    answers = _Answers()
    address, keys = topology_address(file, topology), bus_keys(file)
    try:
        with asking(address, keys, LISTED_SECONDS if file is None else SHORT_SECONDS) as peers:
            if file is None:  # else what nobody answers for is computed
                peers.wait_heard(lambda services: any(map(_hosts, services)), HEARD_SECONDS)
            hosts = [one for one in peers.services if _hosts(one)]
    except UsageError as error:
        answers.remarks.append(str(error))
        return answers
    if not hosts:
        answers.remarks.append("no service with pipelines is up")
    answers.offered = {name for host in hosts for name in host.offers}
    said = dict(_ask_all(hosts, run, keys, answers.remarks))
    if not said:
        return answers
    # -1 is another run for a service that has not seen the newest one yet.
    newest = max(said.values(), key=lambda one: one["time"] or 0.0)
    late = [host for host in hosts if host.name in said and said[host.name]["run"] != newest["run"]]
    said |= dict(_ask_all(late, newest["run"], keys, answers.remarks))
    answers.run = {key: value for key, value in newest.items() if key != "pipelines"}
    for name, one in said.items():
        if one["run"] == newest["run"]:
            answers.decisions += [{**each, "service": name} for each in one["pipelines"]]
    return answers


def _hosts(service: "Service") -> bool:
    return service.kind == "pipelines"


def _ask_all(
    hosts: "Iterable[Service]", run: str, keys: "Keys | None", remarks: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    from p06bs.bus.control import RefusedError, ask

    for host in hosts:
        try:
            yield (
                host.name,
                ask(host.addresses["control"], "why", seconds=SECONDS, keys=keys, run=run),
            )
        except (RefusedError, TimeoutError) as error:
            remarks.append(f"{host.name}: {error}")


def _compute(run: str, file: Path, log: Path | None, answers: _Answers) -> None:
    """Add what pipelines of a file would do that no service answered for."""
    from p06bs import config
    from p06bs.bus.log import DocumentLog
    from p06bs.bus.reader import LogError
    from p06bs.pipeline.decisions import Decision, State
    from p06bs.pipeline.foreseen import find_raw, foresee
    from p06bs.services.pipelines import declared, sections

    configuration = config.load(file)
    directory = log or configuration.bus.log
    answered = {one["pipeline"] for one in answers.decisions}
    offered = answered | answers.offered
    pipelines = sections(config.definitions(configuration).values())
    if not directory.is_dir():
        answers.remarks.append(f"{directory} does not exist: nothing can be computed")
        return
    with DocumentLog(directory) as documents:
        try:
            uid = answers.run.get("run") or find_raw(documents, run)
            start = next(documents.entries(uid)).document
        except (ValueError, OSError, LogError) as error:
            answers.remarks.append(f"in {directory}: {error}")
            return
        keys = ("scan_id", "plan_name", "time", "analysis")
        answers.run = answers.run or {"run": uid, **{key: start.get(key) for key in keys}}
        for name, section in pipelines.items():
            try:
                pipeline = declared(section)
            except ValueError as error:
                found = Decision(name, section.modality, State.REFUSED, str(error), computed=True)
            else:
                if pipeline.name in answered:
                    continue
                settings = directory / "settings"
                hosted = pipeline.name in offered
                found = foresee(pipeline, documents, uid, settings, hosted=hosted)
            answers.decisions.append({**found.plain(), "service": None})


def _check_names(answers: _Answers) -> None:
    """Say which names in the run's wishes are nobody's."""
    from p06bs.metadata import ANALYSIS, Analysis

    wanted = Analysis.of(answers.run)
    answers.remarks += [f"run: {problem}; that is not followed" for problem in wanted.problems]
    known = {name for one in answers.decisions for name in (one["pipeline"], one["modality"])}
    strange = sorted({*(wanted.only or ()), *wanted.skip} - known)
    if strange:
        answers.remarks.append(
            f"run: {ANALYSIS} names {', '.join(strange)}, which no pipeline here is called"
        )


def _show(answers: _Answers) -> None:
    run = answers.run
    ago = "" if run["time"] is None else f", began {time.ctime(run['time'])}"
    plan = f" {run['plan_name']}" if run["plan_name"] else ""
    scan = f", scan {run['scan_id']}" if run["scan_id"] is not None else ""
    console.print(escape(f"run {run['run']}{scan}{plan}{ago}"), soft_wrap=True)
    if not answers.decisions:
        console.print("no pipeline is known; give --file to see what its pipelines would do")
    several = len({one["service"] for one in answers.decisions}) > 1
    for one in sorted(answers.decisions, key=lambda one: (one["pipeline"], one["service"] or "")):
        _show_one(one, several)


def _show_one(one: dict[str, Any], several: bool) -> None:
    """Print one line of what matters, and what belongs to it below."""
    state = one["state"]
    who = one["pipeline"]
    who += f" ({one['modality']})" if one["modality"] not in ("", one["pipeline"]) else ""
    who += f" @ {one['service']}" if several and one["service"] else ""
    how_many = f"{one['events']} events, {one['invalid']} invalid" if one["events"] else ""
    said = "; ".join(filter(None, (one["why"], how_many)))
    computed = " [dim](computed now, not remembered)[/]" if one["computed"] else ""
    line = f"[bold]{escape(who)}[/] [{COLOURS[state]}]{state}[/]{computed}"
    console.print(f"{line}: {escape(said)}" if said else line, soft_wrap=True)
    below = []
    if one["derived"]:
        below.append(f"derived run {one['derived']}")
    if one["inputs"]:
        fed = ", ".join(f"{name} from {where}" for name, where in one["inputs"].items())
        below.append(f"inputs: {fed}")
    if one["settings"]:
        below.append(f"settings: {_settings(one['settings'])}")
    below += [f"warning: {text}" for text in one["warnings"]]
    for text in below:
        console.print(f"    {escape(text)}", soft_wrap=True)


def _settings(settings: dict[str, Any]) -> str:
    preset = f", preset {settings['preset']}" if settings["preset"] else ""
    who = f", by {settings['changed_by']}" if settings["changed_by"] else ""
    return f"change {settings['change']}{preset}{who}, digest {settings['digest'][:SHOWN]}"
