"""The ingestion: from the logs into the offline DB (``python -m p06bs.services.archive FILE``).

A process of its own, so that it never delays a reader of live data. It may be killed at any
time and started again; one archive has one.
"""

import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from p06bs import config
from p06bs.bus.service import Service, Surroundings
from p06bs.config.server import Access, Archive
from p06bs.services._host import REFUSED, on_signals

if TYPE_CHECKING:
    from p06bs.server.files.roots import FileRoots


class ArchiveDefinition(config.Definition, Archive):
    """The table of an ingestion."""

    assets: tuple[Path, ...] = Field((), description="as in [server]")
    access: Access | None = Field(None, description="as in [server]")


class ArchiveService(Service[ArchiveDefinition]):
    """The ingestion into one offline DB."""

    Definition = ArchiveDefinition

    def __init__(self, name: str, definition: ArchiveDefinition, here: Surroundings) -> None:
        super().__init__(name, definition, here)
        self._stop = threading.Event()

    def run(self, ready: Callable[[], None]) -> None:
        """Ingest until it is told to stop."""
        from p06bs.server.files.roots import roots_of
        from p06bs.server.gate import redact
        from p06bs.services._ingesting import serve

        redact.install()
        roots = roots_of(self.definition)
        serve(self.here.log, self.definition, roots, self._stop, ready=ready)

    def stop(self) -> None:
        """Have it end after the run at hand."""
        self._stop.set()


def run(
    file: Annotated[Path, typer.Argument(help="configuration (TOML) with [server.archive]")],
    *,
    once: Annotated[bool, typer.Option("--once", help="end when all is ingested")] = False,
    patience: Annotated[
        float | None,
        typer.Option(help="seconds without a document until a run counts as left; 60", min=0),
    ] = None,
) -> None:
    """Ingest runs until SIGTERM or SIGINT."""
    from p06bs.server.archive.database import UnavailableError
    from p06bs.server.archive.intake import PATIENCE
    from p06bs.server.archive.schema import SchemaError
    from p06bs.server.archive.storage import ArchiveLockedError
    from p06bs.server.gate import redact
    from p06bs.services._ingesting import serve

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    redact.install()
    stop = threading.Event()
    on_signals(stop.set)
    try:
        configuration = config.load(file)
        documents = configuration.bus.log

        def ready() -> None:
            print(f"archive ready: ingesting {documents}", flush=True)

        serve(
            documents,
            *section(configuration),
            stop,
            ready=ready,
            once=once,
            patience=PATIENCE if patience is None else patience,
        )
    except config.ConfigurationError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(REFUSED) from None
    except (ArchiveLockedError, SchemaError, UnavailableError, OSError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None


def section(configuration: config.Configuration) -> tuple[Archive, "FileRoots"]:
    """Return the configuration's archive, and where detector files may lie.

    Raises
    ------
    ConfigurationError
        If it has no archive.
    """
    from p06bs.server.files.roots import roots_of

    server = configuration.server
    if server is None or server.archive is None:
        raise config.ConfigurationError(
            "the configuration has no [server.archive]: there is no archive to look after"
        )
    return server.archive, roots_of(server)


def main() -> None:
    """Start from the command line."""
    typer.run(run)


if __name__ == "__main__":
    main()
