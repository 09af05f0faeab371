"""How runs are named on the command line: a path, and the beginning of a uid."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p06bs.cli.errors import UsageError

if TYPE_CHECKING:
    from p06bs.bus.log import DocumentLog

LogPath = Annotated[Path, typer.Argument(help="a run's log file, or a directory of logs")]


def complete_run(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Yield the runs of the directory on the command line, the newest log first."""
    from p06bs.bus.log import DocumentLog

    # Typer has not sorted the words into arguments yet when an option is being completed.
    words = [ctx.params.get("source"), *ctx.args, ctx.params.get("log")]
    for directory in [path for path in map(Path, filter(None, words)) if path.is_dir()][:1]:
        uids = reversed(DocumentLog(directory).runs())
        yield from (uid for uid in uids if uid.startswith(incomplete))


RunOption = Annotated[
    str,
    typer.Option(
        help="uid (or its beginning) of one run of a directory", autocompletion=complete_run
    ),
]


def runs_of(log: Path, run: str, *, raw_only: bool = True) -> tuple[Path, list[str]]:
    """Return the directory and the runs that a path and the beginning of a uid name.

    Raises
    ------
    UsageError, RunError
        If there is none.
    """
    from p06bs.bus.log import DocumentLog
    from p06bs.bus.reader import SUFFIX
    from p06bs.recorded import LogDirectory

    if log.is_file():
        if log.suffix != SUFFIX:
            raise UsageError(f"{log} is no document log (their names end with {SUFFIX})")
        return log.parent, [log.stem]
    if not log.is_dir():
        raise UsageError(f"{log} does not exist")
    if run:
        return log, [LogDirectory(log).find(run)]
    documents = DocumentLog(log)
    uids = documents.runs()
    if raw_only:
        uids = [u for u in uids if not _is_derived(documents, u)]
    if not uids:
        raise UsageError(f"there is no {'raw ' if raw_only else ''}run in {log}")
    return log, uids


def _is_derived(documents: "DocumentLog", uid: str) -> bool:
    """Return whether a run is derived; what cannot be read counts as raw, its reader complains."""
    from p06bs.bus.reader import LogError
    from p06bs.model.documents import is_derived

    try:
        _, start = next(documents.read(uid), ("", {}))
    except (LogError, OSError):
        return False
    return is_derived(start)
