"""The command line: ``p06bs --help``."""

import json
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from p06bs import DocumentLog, Publisher, config
from p06bs.bus.reader import LogError
from p06bs.cli_common import (
    AsJson,
    LogPath,
    UsageError,
    console,
    errors,
    progress_bar,
    run_of,
    runs_of,
    show_result,
    stoppable,
)
from p06bs.cli_logs import logs
from p06bs.model.binding import BindingError
from p06bs.model.modality import SettingsError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Online analysis for Bluesky: ordered derived runs while the scan runs.",
)
app.add_typer(logs, name="log")

Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks and debug messages")]


EXPECTED = (
    UsageError,
    config.ConfigurationError,
    SettingsError,
    BindingError,
    LogError,
    OSError,
    RuntimeError,
    ValueError,
)
"""Errors whose message says enough."""


@app.callback()
def _global(debug: Debug = False) -> None:
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING)


@app.command()
def up(
    file: Annotated[Path, typer.Argument(help="configuration, for example services/sim.toml")],
) -> None:
    """Start the services of a configuration file; Ctrl-C stops them."""
    from p06bs.services.up import Services, commands

    configuration = config.load(file)
    services = Services(
        commands(configuration, file), lambda name, line: print(f"{name:>9} | {line}")
    )
    with stoppable() as stopping:
        services.start()
        try:
            services.wait_ready(60)
            for name, pid in services.pids.items():
                print(f"{name:>9} : process {pid}")
            print("all services are up; Ctrl-C stops them", flush=True)
            while not stopping():
                services.look()
                time.sleep(0.1)
        finally:
            codes = services.stop()
    bad = {name: code for name, code in codes.items() if code}
    if bad:
        raise UsageError(f"services ended with {bad}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="directory for logs, files and summary.json")] = Path(
        "demo-out"
    ),
    once: Annotated[
        bool, typer.Option("--once", help="end by itself; status 0 only if all held")
    ] = False,
    phantom: Annotated[Path | None, typer.Option(help=".npz of weight maps, 0..1")] = None,
    seed: Annotated[int, typer.Option(help="seed of all random numbers")] = 0,
    nx: Annotated[int, typer.Option(min=2, help="points per row")] = 41,
    ny: Annotated[int, typer.Option(min=2, help="rows")] = 41,
    rate: Annotated[float, typer.Option(min=1, help="points per second")] = 200.0,
    workers: Annotated[int, typer.Option(min=1, help="worker processes")] = 2,
) -> None:
    """Scan a simulated sample, and see its maps come while it is scanned."""
    from p06bs.services.demo import Demo, run

    job = Demo(
        out=out.absolute(),
        once=once,
        phantom=phantom,
        seed=seed,
        nx=nx,
        ny=ny,
        rate=rate,
        workers=workers,
    )
    # SIGTERM ends the demo as Ctrl-C does: whatever it started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if not run(job, console):
        raise typer.Exit(1)


@app.command("process")
def process_command(
    log: LogPath,
    modality: Annotated[
        str,
        typer.Option(
            help="name of a modality (p06bs modalities), or module:Class; that of --like if absent"
        ),
    ] = "",
    settings: Annotated[
        list[str], typer.Option(help="key=value, repeatable; values are JSON")
    ] = [],
    inputs: Annotated[list[str], typer.Option(help="input=data_key, repeatable")] = [],
    run: Annotated[str, typer.Option(help="uid (or its beginning) of one run of a directory")] = "",
    like: Annotated[
        str,
        typer.Option(
            help="derived run in the same directory to make again: its raw run, modality, inputs "
            "and settings history, except for what other options say"
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="directory for the derived log and NeXus file")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="events per batch")] = 256,
    as_json: AsJson = False,
) -> None:
    """Compute a modality on recorded runs, with the same code and numbers as online."""
    from p06bs.offline import Like, process_run

    made = config.parse_settings(settings)
    bindings = {k: str(v) for k, v in config.parse_settings(inputs).items()}
    history: list[tuple[str, dict[str, Any]]] = []
    reprocessing = 0
    if like:
        directory = log.parent if log.is_file() else log
        same = Like.read(directory, run_of(directory, like))
        history = [(uid, {**changed, **made}) for uid, changed in same.history]
        made = {**same.settings, **made}
        bindings = {**same.inputs, **bindings}
        modality = modality or same.modality
        reprocessing = same.reprocessing
        run = run or same.raw
    if not modality:
        raise UsageError("say which modality with --modality, or which derived run with --like")
    directory, uids = runs_of(log, run)
    chosen = config.make_modality(modality, made, bindings)
    results = []
    with progress_bar() as progress:
        for uid in progress.track(uids, description=chosen.name):
            try:
                results.append(
                    process_run(
                        chosen,
                        directory,
                        uid,
                        history=history,
                        out=out,
                        batch_size=batch_size,
                        reprocessing=reprocessing,
                    )
                )
            except BindingError as reason:
                if len(uids) == 1:
                    raise
                errors.print(f"run {uid} left out: {reason}", soft_wrap=True, markup=False)
    if not results:
        raise UsageError(f"no run in {log} has what {chosen.name} needs")
    if as_json:
        print(json.dumps(results, indent=2))
        return
    for result in results:
        show_result(result)


@app.command()
def replay(
    log: LogPath,
    address: Annotated[
        str, typer.Option(help="where the proxy takes documents")
    ] = "tcp://127.0.0.1:5567",
    to: Annotated[Path, typer.Option(help="log directory to publish through")] = Path("var/log"),
    run: Annotated[str, typer.Option(help="uid (or its beginning) of one run of a directory")] = "",
    speed: Annotated[
        float, typer.Option(min=0, help="times real time; 0 is as fast as it goes")
    ] = 0.0,
    keep_uid: Annotated[
        bool, typer.Option(help="keep the run's uid instead of making a new one")
    ] = False,
) -> None:
    """Publish a recorded run's documents again, as a new run."""
    from p06bs.offline import replayed

    directory, uids = runs_of(log, run)
    with Publisher(address, to) as publish, progress_bar() as progress:
        for uid in uids:
            documents = list(DocumentLog(directory).read(uid))
            task = progress.add_task(f"replay {uid[:8]}", total=len(documents))
            for name, document in replayed(documents, keep_uid=keep_uid, speed=speed):
                publish(name, document)
                progress.advance(task)
                if name == "start":
                    print(document["uid"])


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="name of a modality, or module:Class")],
    settings: Annotated[
        list[str], typer.Option(help="key=value, repeatable; values are JSON")
    ] = [],
    as_json: AsJson = False,
) -> None:
    """Test whether a modality keeps what the framework relies on."""
    from p06bs.model.conformance import Finding, made_up_columns
    from p06bs.model.conformance import check as conformance
    from p06bs.offline import import_problem

    found = config.find_modality(name)
    example = None if settings else found.example()
    if example is None:
        modality = config.make_modality(name, config.parse_settings(settings))
        columns = made_up_columns(modality)
    else:
        modality, columns = example[0], dict(example[1])
    findings = list(conformance(modality, columns))
    path = f"{found.__module__}:{found.__qualname__}"
    problem = import_problem(found.__module__)
    findings.append(Finding("importable in a fresh process", problem))
    problems = [f for f in findings if f.problem]
    if as_json:
        print(json.dumps({"modality": path, "findings": {f.checked: f.problem for f in findings}}))
    else:
        for finding in findings:
            mark = "[red]fails[/]" if finding.problem else "[green]ok[/]"
            console.print(
                f"{mark:>6} {finding.checked}", finding.problem and f": {escape(finding.problem)}"
            )
    if problems:
        raise typer.Exit(1)


@app.command()
def modalities(as_json: AsJson = False) -> None:
    """List the installed modalities."""
    found = config.modalities()
    if as_json:
        print(json.dumps(found))
        return
    for name, path in found.items():
        console.print(f"[bold]{name}[/]  {path}")


@app.command()
def schema() -> None:
    """Print the JSON schema of a configuration file."""
    print(json.dumps(config.schema(), indent=2))


def main() -> None:
    """Run the command line; an error is one line, and a traceback only with --debug."""
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        said = " ".join(str(error).split())
        if not isinstance(error, EXPECTED):
            said = f"{type(error).__name__}: {said} (p06bs --debug shows where)"
        print(f"p06bs: {said}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
