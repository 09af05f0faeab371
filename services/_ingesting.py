"""Ingest: from the logs into the offline DB, as long as it takes."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from p06bs.config.server import Archive
from p06bs.server.archive.database import Database, UnavailableError, initialize
from p06bs.server.archive.ingest import Ingestion, StoppedError, catch_up
from p06bs.server.archive.intake import PATIENCE
from p06bs.server.archive.schema import check
from p06bs.server.archive.storage import StorageLock
from p06bs.server.files.roots import FileRoots

log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks at the directory of logs."""
LONGEST_PAUSE = 60.0
"""Seconds between two attempts while database or storage fail, at most."""
NICE = 5
"""Readers of live data go first."""


def serve(
    documents: Path,
    archive: Archive,
    roots: FileRoots,
    stop: threading.Event,
    *,
    ready: Callable[[], None],
    once: bool = False,
    patience: float = PATIENCE,
) -> None:
    """Ingest the logs of a directory until `stop` is set.

    Parameters
    ----------
    documents : Path
        Directory of the document logs.
    archive : Archive
    roots : FileRoots
        Where detector files may lie.
    stop : threading.Event
    ready : callable
        Called when it begins.
    once : bool
        End when all is ingested.
    patience : float
        Seconds without a document until a run counts as left.

    Raises
    ------
    ArchiveLockedError, SchemaError, UnavailableError, OSError
        If the archive cannot be used now; says why.
    """
    with StorageLock(archive.storage):
        os.nice(NICE)
        initialize(archive.database)
        with Database(archive.database) as database:
            database(check)
            documents.mkdir(parents=True, exist_ok=True)
            ingestion = Ingestion(
                documents,
                database,
                archive.storage,
                roots,
                stopping=stop.is_set,
                patience=patience,
            )
            ready()
            ingest(ingestion, stop, once)


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
