"""``p06bs tango``: what Tango's Starter needs to start services."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from p06bs.cli.errors import UsageError
from p06bs.cli.terminal import remark

SCRIPT = """\
#!{python}
\"\"\"Run a service with its Tango device: {server} NAME. Written by p06bs tango script.\"\"\"

import os
import sys
from pathlib import Path

from p06bs.services.tango import run_with_device

os.chdir({here!a})  # where relative paths of the configuration begin
sys.exit(run_with_device(Path({file!a}), sys.argv[1]))
"""

app = typer.Typer(no_args_is_help=True, help="Have Tango's Starter run services.")


@app.callback()
def _group() -> None:
    """Make `script` a word of its own, although it is the only command."""


@app.command()
def script(
    file: Annotated[Path, typer.Argument(help="configuration (TOML)")],
    directory: Annotated[Path, typer.Argument(help="one of the Starter's StartDsPath")],
) -> None:
    """Write the program by which Tango's Starter runs any service of a configuration.

    The Starter's servers are then called p06bs/NAME.
    """
    from p06bs import config
    from p06bs.services.tango import SERVER, require

    require()
    config.definitions(config.load(file))
    if " " in sys.executable:
        raise UsageError(f"a script cannot begin with #!{sys.executable}: it has a space")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / SERVER
    text = SCRIPT.format(
        python=sys.executable, file=str(file.resolve()), here=str(Path.cwd()), server=SERVER
    )
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    remark(f"wrote {path}; the Starter's servers are {SERVER}/NAME")
