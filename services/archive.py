"""The ingestion: from the logs into the offline DB (``python -m p06bs.services.archive FILE``).

A process of its own, so that it never delays a reader of live data. It may be killed at any
time and started again; one archive has one.
"""

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from p06bs import config
from p06bs.config.server import Archive
from p06bs.server.archive.database import Database, UnavailableError, initialize
from p06bs.server.archive.ingest import Ingestion, StoppedError, catch_up
from p06bs.server.archive.intake import PATIENCE
from p06bs.server.archive.schema import SchemaError, check
from p06bs.server.archive.storage import ArchiveLockedError, StorageLock
from p06bs.server.files.roots import FileRoots, roots_of
from p06bs.server.gate import redact
from p06bs.services.up import REFUSED

log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks at the directory of logs."""
LONGEST_PAUSE = 60.0
"""Seconds between two attempts while database or storage fail, at most."""
NICE = 5
"""Readers of live data go first."""


def run(
    file: Annotated[Path, typer.Argument(help="configuration (TOML) with [server.archive]")],
    *,
    once: Annotated[bool, typer.Option("--once", help="end when all is ingested")] = False,
    patience: Annotated[
        float, typer.Option(help="seconds without a document until a run counts as left", min=0)
    ] = PATIENCE,
) -> None:
    """Ingest runs until SIGTERM or SIGINT."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    redact.install()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        configuration = config.load(file)
        archive, roots = section(configuration)
        lock = StorageLock(archive.storage)
    except config.ConfigurationError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(REFUSED) from None
    except (ArchiveLockedError, OSError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    os.nice(NICE)
    with lock:
        try:
            initialize(archive.database)
            with Database(archive.database) as database:
                database(check)
                configuration.bus.log.mkdir(parents=True, exist_ok=True)
                ingestion = Ingestion(
                    configuration.bus.log,
                    database,
                    archive.storage,
                    roots,
                    stopping=stop.is_set,
                    patience=patience,
                )
                print(f"archive ready: ingesting {configuration.bus.log}", flush=True)
                ingest(ingestion, stop, once)
        except (SchemaError, UnavailableError, OSError) as error:
            print(error, file=sys.stderr)
            raise typer.Exit(1) from None


def section(configuration: config.Configuration) -> tuple[Archive, FileRoots]:
    """Return the configuration's archive, and where detector files may lie.

    Raises
    ------
    ConfigurationError
        If it has no archive.
    """
    server = configuration.server
    if server is None or server.archive is None:
        raise config.ConfigurationError(
            "the configuration has no [server.archive]: there is no archive to look after"
        )
    return server.archive, roots_of(server)


def ingest(ingestion: Ingestion, stop: threading.Event, once: bool = False) -> None:
    """Ingest what is due, again and again; when database or storage fail, later and later."""
    pause = INTERVAL
    while not stop.is_set():
        try:
            count = catch_up(ingestion)
            if count:
                log.info("%d runs ingested", count)
            if once:
                return
            pause = INTERVAL
        except StoppedError:
            return
        except UnavailableError as error:
            if once:
                raise OSError(str(error)) from error
            pause = min(2 * pause, LONGEST_PAUSE)
            log.warning("%s; trying again in %g s", error, pause)
        stop.wait(pause)


def main() -> None:
    """Start from the command line."""
    typer.run(run)


if __name__ == "__main__":
    main()
