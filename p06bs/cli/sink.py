"""``p06bs sink``: what the server holds in memory, run by run; pin and unpin."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from p06bs.cli.errors import UsageError
from p06bs.cli.server import (
    DEFAULT_KEY_FILE,
    DEFAULT_SERVER,
    KeyFileOption,
    ServerOption,
    api_key,
)
from p06bs.cli.terminal import SHOWN, AsJson, console, print_json
from p06bs.http_api import SINK

if TYPE_CHECKING:
    import httpx

SECONDS = 30.0

Run = Annotated[str, typer.Argument(help="uid (or its beginning) of a run that is held")]

app = typer.Typer(help="Show what the server holds in memory, run by run; keep runs there.")


@app.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    server: ServerOption = DEFAULT_SERVER,
    api_key_file: KeyFileOption = DEFAULT_KEY_FILE,
    as_json: AsJson = False,
) -> None:
    """Show what the server holds in memory, run by run; keep runs there."""
    context.obj = (server, api_key_file)
    if context.invoked_subcommand is not None:
        return
    held = _ask("GET", "", server, api_key_file)
    if as_json:
        print_json(held, indent=2)
        return
    heads = [
        Column("run", no_wrap=True),
        Column("scan", no_wrap=True),
        Column("plan", overflow="fold"),
        Column("state", no_wrap=True),
        *(Column(name, justify="right", no_wrap=True) for name in ("rows", "memory", "idle")),
        Column("", no_wrap=True),
    ]
    table = Table(*heads, box=None)
    for run in held["runs"]:
        table.add_row(
            escape(run["uid"][:SHOWN]),
            escape(str(run["scan_id"] or "")),
            escape(run["plan"] or ""),
            run["state"],
            f"{run['rows']:,}",
            _bytes(run["bytes"]),
            _age(run["idle"]),
            "pinned" if run["pinned"] else "",
        )
    console.print(table)
    console.print(
        f"{len(held['runs'])} runs; {_bytes(held['bytes'])} held of {_bytes(held['limit'])}, "
        f"budget {_bytes(held['budget'])}"
    )
    for kind, count in held["refused"].items():
        console.print(f"refused {count:,} documents: {escape(kind)}")


@app.command()
def pin(context: typer.Context, run: Run) -> None:
    """Keep a run in memory until it is unpinned, or the server restarts."""
    _set(context, run, "pin")


@app.command()
def unpin(context: typer.Context, run: Run) -> None:
    """Let a run leave memory when its turn comes."""
    _set(context, run, "unpin")


def _set(context: typer.Context, beginning: str, what: str) -> None:
    from p06bs.pipeline.decisions import named

    server, api_key_file = context.obj
    held = _ask("GET", "", server, api_key_file)
    found = named(beginning, [run["uid"] for run in held["runs"]])
    if len(found) != 1:
        raise UsageError(f"{len(found)} runs that are held begin with {beginning!r}")
    _ask("POST", f"/{found[0]}/{what}", server, api_key_file)
    console.print(f"{what}ned {escape(found[0])}")


def _ask(method: str, path: str, server: str, api_key_file: Path) -> Any:
    """Return what the server answers.

    Raises
    ------
    UsageError
        If it cannot be asked, or refuses; says why.
    """
    import httpx

    url = f"{server.rstrip('/')}{SINK}{path}"
    headers = {"Authorization": f"Apikey {api_key(api_key_file)}"}
    try:
        answer = httpx.request(method, url, headers=headers, timeout=SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UsageError(f"{server} does not answer: {error}") from None
    if answer.status_code != httpx.codes.OK:
        raise UsageError(f"{server} refuses ({answer.status_code}): {_detail(answer)}")
    return answer.json()


def _detail(answer: "httpx.Response") -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, LookupError, TypeError):
        return answer.reason_phrase


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


def _age(seconds: float) -> str:
    for unit, length in (("s", 60.0), ("min", 60.0), ("h", 24.0)):
        if seconds < length:
            return f"{seconds:.0f} {unit}"
        seconds /= length
    return f"{seconds:.0f} d"
