"""``p06bs units``: services under systemd."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from p06bs.cli.errors import UsageError
from p06bs.cli.terminal import remark


def units(
    file: Annotated[Path, typer.Argument(help="configuration, for example services/p06.toml")],
    *,
    user: Annotated[
        bool, typer.Option("--user", help="for your own systemd, instead of that of the system")
    ] = False,
    directory: Annotated[
        Path | None,
        typer.Option(help="write them there, for example /etc/systemd/system; printed if absent"),
    ] = None,
) -> None:
    """Make systemd units of this host's services, and p06bs.target, which starts them all.

    Relative paths in the file begin where this is called.
    """
    from p06bs import config
    from p06bs.services import units as systemd

    definitions = config.of_this_host(config.definitions(config.load(file)))
    if not definitions:
        raise UsageError(f"{file} describes no service for this host")
    file = file.resolve()
    made = systemd.units(
        file, definitions, directory=Path.cwd(), user=user, version=_systemd_version()
    )
    if directory is None:
        for name, text in made.items():
            print(f"# {name}\n{text}")
        return
    for name in systemd.write(made, directory, file):
        remark(f"removed {name}, which the file does not describe any more")
    own = " --user" if user else ""
    remark(
        f"wrote {len(made)} units; systemctl{own} daemon-reload and "
        f"systemctl{own} enable --now {systemd.TARGET} start the services"
    )


def _systemd_version() -> int:
    """Return the version of this host's systemd; 0 without one."""
    if not shutil.which("systemctl"):
        return 0
    said = subprocess.run(["systemctl", "--version"], check=False, capture_output=True, text=True)
    found = re.match(r"systemd (\d+)", said.stdout)
    return int(found[1]) if found else 0
