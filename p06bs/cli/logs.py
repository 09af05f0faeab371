"""``p06bs log``: look into document logs."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.markup import escape
from rich.table import Column, Table

from p06bs.cli.errors import UsageError, one_line
from p06bs.cli.runs import LogPath, RunOption, runs_of
from p06bs.cli.terminal import AsJson, console, folded, print_json, remark


def complete_name(incomplete: str) -> Iterator[str]:
    """Yield the names of documents that begin like this."""
    from p06bs.model.documents import Name

    yield from (name for name in get_args(Name) if name.startswith(incomplete))


def ls(
    directory: Annotated[Path, typer.Argument(help="directory of logs")] = Path("var/log"),
    as_json: AsJson = False,
) -> None:
    """List the runs of a log directory."""
    from p06bs.bus.reader import LogError
    from p06bs.offline import describe

    rows = []
    uids = runs_of(directory, "", raw_only=False)[1]
    for uid in uids:
        try:
            rows.append(describe(directory, uid))
        except (LogError, OSError) as reason:
            remark(f"run {uid} left out: {one_line(reason)}")
    if as_json:
        print_json(rows)
    else:
        _show_runs(rows)
    if len(rows) < len(uids):
        raise UsageError(f"{len(uids) - len(rows)} of {len(uids)} runs could not be read")


def show(
    log: LogPath,
    run: RunOption = "",
    name: Annotated[
        str, typer.Option(help="only documents of this name", autocompletion=complete_name)
    ] = "",
    limit: Annotated[int, typer.Option(min=0, help="at most so many documents; 0 is all")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show a run's documents, one a line with --json."""
    from p06bs.bus.log import DocumentLog

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
                print_json([kind, document])
            else:
                console.print(f"[bold]{kind}[/]", escape(_short(document)), soft_wrap=True)


def _show_runs(rows: list[dict[str, Any]]) -> None:
    table = Table(
        Column("run", no_wrap=True),
        *folded("scan", "plan or modality", "of run", "documents", "events", "status"),
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


def _short(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, default=_brief)
    return text if len(text) < 1000 else text[:1000] + " …"


def _brief(value: Any) -> Any:
    import numpy as np

    if isinstance(value, np.ndarray) and value.size > 8:
        return f"<{value.dtype} array {list(value.shape)}>"
    return _plain(value)


def _plain(value: Any) -> Any:
    import numpy as np

    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
