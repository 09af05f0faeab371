"""What the commands share: how runs are named on the command line, how results are shown."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from p06bs.bus.log import DocumentLog
from p06bs.bus.reader import SUFFIX

console = Console()
errors = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
LogPath = Annotated[Path, typer.Argument(help="a run's log file, or a directory of logs")]


class UsageError(Exception):
    """Something the user can mend; shown in one line."""


def runs_of(log: Path, run: str, *, raw_only: bool = True) -> tuple[Path, list[str]]:
    """Return the directory and the runs that a path and the beginning of a uid name."""
    if log.is_file():
        if log.suffix != SUFFIX:
            raise UsageError(f"{log} is no document log (their names end with {SUFFIX})")
        return log.parent, [log.stem]
    if not log.is_dir():
        raise UsageError(f"{log} does not exist")
    documents = DocumentLog(log)
    if run:
        return log, [run_of(log, run)]
    uids = documents.runs()
    if raw_only:
        uids = [u for u in uids if "original_run_uid" not in next(documents.read(u), ("", {}))[1]]
    if not uids:
        raise UsageError(f"there is no run in {log}")
    return log, uids


def run_of(directory: Path, beginning: str) -> str:
    """Return the one run of a directory whose uid begins like this."""
    found = [u for u in DocumentLog(directory).runs() if u.startswith(beginning)]
    if len(found) != 1:
        raise UsageError(f"{len(found)} runs in {directory} begin with {beginning!r}")
    return found[0]


def progress_bar() -> Progress:
    """Return a progress bar that is there only if somebody sees it."""
    return Progress(console=errors, transient=True, disable=not errors.is_terminal)


def show_result(result: dict[str, Any]) -> None:
    """Print what became of a run as a table."""
    console.print(
        f"[bold]{result['modality']}[/] of run {result['raw']}: derived run {result['derived']}, "
        f"{result['events']} events, {result['invalid']} invalid"
    )
    table = Table("column", "unit", "sum", "mean", "minimum", "maximum")
    for name, column in result["columns"].items():
        numbers = (f"{column[k]:.6g}" for k in ("sum", "mean", "min", "max"))
        table.add_row(escape(name), column["unit"] or "", *numbers)
    console.print(table)
    for file in result["files"]:
        console.print(f"wrote {escape(file)}", soft_wrap=True)


@contextmanager
def stoppable() -> Iterator[Any]:
    """Turn SIGTERM and SIGINT into a flag."""
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
