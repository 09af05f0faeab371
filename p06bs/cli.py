"""The command line: ``p06bs --help``."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from p06bs import DocumentLog, Publisher, config
from p06bs.bus.reader import SUFFIX, LogError
from p06bs.model.binding import BindingError
from p06bs.model.documents import Document
from p06bs.model.modality import SettingsError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Online analysis for Bluesky: ordered derived runs while the scan runs.",
)
logs = typer.Typer(no_args_is_help=True, help="Look into document logs.")
app.add_typer(logs, name="log")
console = Console()

Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks and debug messages")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
LogPath = Annotated[Path, typer.Argument(help="a run's log file, or a directory of logs")]


class UsageError(Exception):
    """Something the user can mend; shown in one line."""


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
    with _stoppable() as stopping:
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
        same = Like.read(directory, _one(directory, like))
        history = [(uid, {**changed, **made}) for uid, changed in same.history]
        made = {**same.settings, **made}
        bindings = {**same.inputs, **bindings}
        modality = modality or same.modality
        reprocessing = same.reprocessing
        run = run or same.raw
    if not modality:
        raise UsageError("say which modality with --modality, or which derived run with --like")
    directory, uids = _runs(log, run)
    chosen = config.make_modality(modality, made, bindings)
    results = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
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
                Console(stderr=True).print(f"run {uid} left out: {reason}", soft_wrap=True)
    if not results:
        raise UsageError(f"no run in {log} has what {chosen.name} needs")
    if as_json:
        print(json.dumps(results, indent=2))
        return
    for result in results:
        _show_result(result)


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

    directory, uids = _runs(log, run)
    with Publisher(address, to) as publish, Progress(console=Console(stderr=True)) as progress:
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

    found = config.find_modality(name)
    example = None if settings else found.example()
    if example is None:
        modality = config.make_modality(name, config.parse_settings(settings))
        columns = made_up_columns(modality)
    else:
        modality, columns = example[0], dict(example[1])
    findings = list(conformance(modality, columns))
    path = f"{found.__module__}:{found.__qualname__}"
    code = f"import importlib; importlib.import_module({found.__module__!r})"
    fresh = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    last = fresh.stderr.strip().splitlines()[-1:] or [""]
    findings.append(Finding("importable in a fresh process", last[0] if fresh.returncode else ""))
    problems = [f for f in findings if f.problem]
    if as_json:
        print(json.dumps({"modality": path, "findings": {f.checked: f.problem for f in findings}}))
    else:
        for finding in findings:
            mark = "[red]fails[/]" if finding.problem else "[green]ok[/]"
            console.print(
                f"{mark:>6} {finding.checked}", finding.problem and f": {finding.problem}"
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


@logs.command("ls")
def log_ls(
    directory: Annotated[Path, typer.Argument(help="directory of logs")] = Path("var/log"),
    as_json: AsJson = False,
) -> None:
    """List the runs of a log directory."""
    from p06bs.offline import describe

    rows = [describe(directory, uid) for uid in _runs(directory, "", raw_only=False)[1]]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table(
        Column("run", no_wrap=True),
        "scan",
        "plan or modality",
        "of run",
        "documents",
        "events",
        "status",
    )
    for row in rows:
        table.add_row(
            row["uid"],
            str(row["scan_id"] or ""),
            row["what"],
            (row["original_run_uid"] or "")[:8],
            str(row["documents"]),
            str(row["events"]),
            row["status"],
        )
    console.print(table)


@logs.command("show")
def log_show(
    log: LogPath,
    run: Annotated[str, typer.Option(help="uid (or its beginning) of one run of a directory")] = "",
    name: Annotated[str, typer.Option(help="only documents of this name")] = "",
    limit: Annotated[int, typer.Option(min=0, help="at most so many documents; 0 is all")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show a run's documents, one a line with --json."""
    directory, uids = _runs(log, run, raw_only=False)
    shown = 0
    for uid in uids:
        for kind, document in DocumentLog(directory).read(uid):
            if name and kind != name:
                continue
            shown += 1
            if limit and shown > limit:
                return
            if as_json:
                print(json.dumps([kind, document], default=_plain))
            else:
                console.print(f"[bold]{kind}[/]", _short(document), soft_wrap=True)


def _show_result(result: dict[str, Any]) -> None:
    console.print(
        f"[bold]{result['modality']}[/] of run {result['raw']}: derived run {result['derived']}, "
        f"{result['events']} events, {result['invalid']} invalid"
    )
    table = Table("column", "unit", "sum", "mean", "minimum", "maximum")
    for name, column in result["columns"].items():
        numbers = (f"{column[k]:.6g}" for k in ("sum", "mean", "min", "max"))
        table.add_row(name, column["unit"] or "", *numbers)
    console.print(table)
    for file in result["files"]:
        console.print(f"wrote {file}", soft_wrap=True)


def _runs(log: Path, run: str, *, raw_only: bool = True) -> tuple[Path, list[str]]:
    """Return the directory and the runs that a path and the beginning of a uid name."""
    if log.is_file():
        if log.suffix != SUFFIX:
            raise UsageError(f"{log} is no document log (their names end with {SUFFIX})")
        return log.parent, [log.stem]
    if not log.is_dir():
        raise UsageError(f"{log} does not exist")
    documents = DocumentLog(log)
    if run:
        return log, [_one(log, run)]
    uids = documents.runs()
    if raw_only:
        uids = [u for u in uids if "original_run_uid" not in next(documents.read(u), ("", {}))[1]]
    if not uids:
        raise UsageError(f"there is no run in {log}")
    return log, uids


def _one(directory: Path, beginning: str) -> str:
    found = [u for u in DocumentLog(directory).runs() if u.startswith(beginning)]
    if len(found) != 1:
        raise UsageError(f"{len(found)} runs in {directory} begin with {beginning!r}")
    return found[0]


def _short(document: Document) -> str:
    text = json.dumps(document, default=_brief)
    return text if len(text) < 1000 else text[:1000] + " …"


def _brief(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"<{value.dtype} array {list(value.shape)}>"
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)


@contextmanager
def _stoppable() -> Iterator[Any]:
    """Turn SIGTERM and SIGINT into a flag."""
    import signal

    flags: list[int] = []
    before = {
        n: signal.signal(n, lambda number, _: flags.append(number))
        for n in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield lambda: bool(flags)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
