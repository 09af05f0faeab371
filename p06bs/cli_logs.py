"""``p06bs log``: look into document logs."""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Column, Table

from p06bs.bus.log import DocumentLog
from p06bs.cli_common import AsJson, LogPath, console, runs_of
from p06bs.model.documents import Document

logs = typer.Typer(no_args_is_help=True, help="Look into document logs.")


@logs.command("ls")
def log_ls(
    directory: Annotated[Path, typer.Argument(help="directory of logs")] = Path("var/log"),
    as_json: AsJson = False,
) -> None:
    """List the runs of a log directory."""
    from p06bs.offline import describe

    rows = [describe(directory, uid) for uid in runs_of(directory, "", raw_only=False)[1]]
    if as_json:
        typer.echo(json.dumps(rows))
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
            escape(row["what"]),
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
    directory, uids = runs_of(log, run, raw_only=False)
    shown = 0
    for uid in uids:
        for kind, document in DocumentLog(directory).read(uid):
            if name and kind != name:
                continue
            shown += 1
            if limit and shown > limit:
                return
            if as_json:
                typer.echo(json.dumps([kind, document], default=_plain))
            else:
                console.print(f"[bold]{kind}[/]", escape(_short(document)), soft_wrap=True)


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
