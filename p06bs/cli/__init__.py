"""The command line: ``p06bs --help``.

What is heavy is imported by the command that needs it, so that help and
completion answer at once.
"""

import logging
import sys
from typing import Annotated

import typer

from p06bs.cli import (
    archive,
    demo,
    keys,
    lavue,
    logs,
    ls,
    modalities,
    recorded,
    services,
    settings,
    show,
    sink,
    tango,
    token,
    units,
    why,
    workers,
)
from p06bs.cli.errors import one_line, wrong_usage

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Online analysis for Bluesky: ordered derived runs while the scan runs.",
)
app.command()(services.up)
app.command()(services.down)
app.command()(services.restart)
app.command()(ls.ls)
app.command()(units.units)
app.command()(settings.settings)
app.command(context_settings={"ignore_unknown_options": True})(why.why)  # -1 is a run
app.command(context_settings={"ignore_unknown_options": True})(show.show)
app.command()(lavue.lavue)
app.command()(demo.demo)
app.command()(recorded.process)
app.command()(recorded.replay)
app.command()(modalities.check)
app.command()(modalities.modalities)
app.command()(modalities.schema)

log = typer.Typer(no_args_is_help=True, help="Look into document logs.")
log.command()(logs.ls)
log.command()(logs.show)
app.add_typer(log, name="log")

tokens = typer.Typer(
    no_args_is_help=True, help="Make, list and revoke tokens, on the server's host."
)
tokens.command()(token.create)
tokens.command("list")(token.list_tokens)
tokens.command()(token.revoke)
app.add_typer(tokens, name="token")

key = typer.Typer(no_args_is_help=True, help="Make, list and revoke the keys of the bus.")
key.command()(keys.create)
key.command()(keys.add)
key.command("list")(keys.list_keys)
key.command()(keys.revoke)
app.add_typer(key, name="keys")

archives = typer.Typer(no_args_is_help=True, help="Look after the offline DB.")
for command in (
    archive.init,
    archive.upgrade,
    archive.status,
    archive.ls,
    archive.retry,
    archive.ingest,
):
    archives.command()(command)
app.add_typer(archives, name="archive")
app.add_typer(sink.app, name="sink")
app.add_typer(workers.app, name="workers")
app.add_typer(tango.app, name="tango")

Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks and debug messages")]


@app.callback()
def _global(debug: Debug = False) -> None:
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING)


def main() -> None:
    """Run the command line; an error is one line, and a traceback only with --debug."""
    try:
        status = app(prog_name="p06bs", standalone_mode=False)
    except typer.Abort:
        status = 130
    except Exception as error:
        said, status = wrong_usage(error) or (one_line(error), 1)
        if status == 1 and "--debug" in sys.argv:
            raise
        if said:
            print(f"p06bs: {said}", file=sys.stderr)
    raise SystemExit(status)
