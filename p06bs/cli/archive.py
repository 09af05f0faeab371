"""``p06bs archive``: look after the offline DB."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Column, Table

from p06bs.cli.errors import UsageError
from p06bs.cli.server import DEFAULT_CONFIG, ConfigOption
from p06bs.cli.terminal import SHOWN, AsJson, console, print_json, progress_bar, remark, stoppable

if TYPE_CHECKING:
    from p06bs.config.server import Archive
    from p06bs.server.archive.database import Database

Limit = Annotated[int, typer.Option(min=1, help="runs to show at most")]


def init(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Make the tables of the offline DB; what is there already stays."""
    from p06bs.server.archive.database import initialize

    archive = _archive(config)
    initialize(archive.database)
    archive.storage.mkdir(mode=0o700, parents=True, exist_ok=True)
    remark("the offline DB is ready")


def upgrade(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Bring the tables of the offline DB to this version; back the database up before."""
    from p06bs.server.archive.database import upgrade as upgrade_tables
    from p06bs.server.archive.filling import maps_in
    from p06bs.server.archive.location import Location
    from p06bs.server.archive.storage import StorageLock

    archive = _archive(config)
    with StorageLock(archive.storage):
        upgrade_tables(archive.database, maps_in(Location(archive.storage)))
    remark("the offline DB is of this version")


def status(config: ConfigOption = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show how many runs are in the archive, what was left out of it, and why."""
    from p06bs.server.archive.catalog import counts, logs, reduced
    from p06bs.server.archive.storage import ArchiveLockedError, StorageLock

    archive = _archive(config)
    try:
        StorageLock(archive.storage).close()
        running = False
    except ArchiveLockedError:
        running = True
    with _database(archive) as database:
        numbers = database(counts)
        left_out = database(logs, "quarantined", "retry")
        partly = database(reduced)
    if as_json:
        shown = {
            "ingesting": running,
            "runs": numbers,
            "left_out": [asdict(log) for log in left_out],
            "partly_left_out": [asdict(log) for log in partly],
        }
        print_json(shown)
        return
    console.print(f"ingestion: {'runs' if running else 'does not run'}")
    for state, number in sorted(numbers.items()):
        console.print(f"{state:>12}: {number}")
    for log in [*left_out, *partly]:  # by their whole uid, which `retry` takes
        console.print(f"\n{escape(log.run)}  {log.state}")
        console.print(Padding(escape(log.reason), (0, 0, 0, 2)))


def ls(
    config: ConfigOption = DEFAULT_CONFIG,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest runs of the archive, the newest last."""
    from p06bs.server.archive.catalog import newest

    with _database(_archive(config)) as database:
        rows = database(newest, limit)
    if as_json:
        print_json(rows)
        return
    heads = [
        *(Column(name, no_wrap=True) for name in ("run", "began", "scan")),
        Column("plan or process", overflow="fold"),
        *(Column(name, no_wrap=True) for name in ("of run", "status")),
    ]
    table = Table(*heads, box=None)
    for row in rows:
        table.add_row(
            row["uid"][:SHOWN],
            _began(row["time"]),
            str(row["scan_id"] or ""),
            escape(row["process_name"] or row["plan_name"] or ""),
            (row["original_run_uid"] or "")[:SHOWN],
            row["exit_status"] or "incomplete",
        )
    console.print(table)


def _began(time: float) -> str:
    try:
        return f"{datetime.fromtimestamp(time, UTC).astimezone():%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):  # no year of a calendar
        return f"{time:g}"


def retry(
    runs: Annotated[list[str], typer.Argument(help="uids of runs, or: all that were left out")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Let the ingestion try runs again."""
    from p06bs.server.archive.catalog import ask_retry, logs

    with _database(_archive(config)) as database:
        if runs == ["all"]:
            runs = [log.run for log in database(logs, "quarantined")]
        unknown = [run for run in runs if not database(ask_retry, run)]
    remark(f"{len(runs) - len(unknown)} runs will be tried again")
    if unknown:
        raise UsageError(f"not known to the archive: {', '.join(unknown)}")


def ingest(
    config: ConfigOption = DEFAULT_CONFIG,
    patience: Annotated[
        float, typer.Option(min=0, help="seconds without a document until a run counts as left")
    ] = 60.0,
) -> None:
    """Ingest what is missing, then end: for an archive without a running ingestion."""
    from p06bs import config as configurations
    from p06bs.server.archive.catalog import Log
    from p06bs.server.archive.ingest import Ingestion, StoppedError, catch_up
    from p06bs.server.archive.storage import StorageLock
    from p06bs.services.archive import section

    configuration = configurations.load(config)
    archive, roots = section(configuration)
    left_out: list[Log] = []
    partly: list[Log] = []
    with (
        stoppable() as stopping,
        StorageLock(archive.storage),
        _database(archive) as database,
        progress_bar() as progress,
    ):
        ingestion = Ingestion(
            configuration.bus.log,
            database,
            archive.storage,
            roots,
            stopping=stopping,
            patience=patience,
        )
        task = progress.add_task("runs", total=None)
        done = 0

        def show(log: Log | None, left: int) -> None:
            nonlocal done
            done += 1
            progress.update(task, total=done + left, completed=done)
            if log is not None and log.state == "quarantined":
                left_out.append(log)
            elif log is not None and log.reason:
                partly.append(log)

        try:
            catch_up(ingestion, show)
        except StoppedError:
            remark(f"stopped after {done} runs; what is missing comes the next time")
            raise typer.Exit(stopping.status) from None
    remark(f"{done - len(left_out)} runs ingested")
    if partly:
        remark(f"of {len(partly)} runs some documents were left out: see p06bs archive status")
    if left_out:
        raise UsageError(
            f"{len(left_out)} runs were left out; p06bs archive status says which and why"
        )


def _archive(file: Path) -> "Archive":
    from p06bs import config as configurations
    from p06bs.services.archive import section

    return section(configurations.load(file))[0]


@contextmanager
def _database(archive: "Archive") -> "Iterator[Database]":
    from p06bs.server.archive.database import Database
    from p06bs.server.archive.schema import check

    path = archive.database.removeprefix("sqlite:///")
    if path != archive.database and not Path(path).exists():
        raise UsageError(f"there is no database {path}: run p06bs archive init")
    with Database(archive.database) as database:
        database(check)
        yield database
