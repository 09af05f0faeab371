"""Run one service: ``python -m p06bs.services FILE NAME``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from p06bs.services import _host


def main(
    file: Annotated[Path, typer.Argument(help="configuration (TOML)")],
    name: Annotated[str, typer.Argument(help="name of the service in it; see p06bs ls --file")],
) -> None:
    """Run one service of a configuration until SIGTERM or SIGINT."""
    sys.exit(_host.run(file, name))


if __name__ == "__main__":
    typer.run(main)
