"""Run one service: ``python -m p06bs.services FILE NAME``."""

import argparse
import sys
from pathlib import Path

from p06bs.services import _host


def main() -> None:
    """Run one service of a configuration until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m p06bs.services", description=main.__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="configuration (TOML)")
    parser.add_argument("name", metavar="NAME", help="name of the service in it")
    said = parser.parse_args()
    sys.exit(_host.run(said.file, said.name))


if __name__ == "__main__":
    main()
