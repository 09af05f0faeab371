"""Archives for tests: logs, the ingestion, and a real server over them."""

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiled.client import from_uri

from p06bs.bus.log import DocumentLog
from p06bs.model.documents import NamedDocument
from p06bs.server.app import build_app
from p06bs.server.archive.archived import Archive
from p06bs.server.archive.catalog import Log, logs
from p06bs.server.archive.database import Database, initialize
from p06bs.server.archive.ingest import Ingestion, catch_up
from p06bs.server.archive.storage import StorageLock
from p06bs.server.files.roots import FileRoots
from p06bs.server.sink.sink import Sink
from tests.live_server import serving
from tests.postgres import Cluster, binaries, cluster

KEY = "k3y"

DATABASES = ["sqlite", "postgresql"]


@pytest.fixture(scope="session")
def running_postgres() -> Iterator[Cluster | None]:
    """A PostgreSQL for the session, or None."""
    if binaries() is None:
        yield None
        return
    with cluster() as running:
        yield running


def new_database(kind: str, directory: Path, postgres: Cluster | None) -> str:
    """Return the URI of an empty database; skip, loudly, where there is no PostgreSQL."""
    if kind == "sqlite":
        return f"sqlite:///{directory}/catalog.db"
    if postgres is None:
        pytest.skip("NO POSTGRESQL: initdb is not on this machine (Debian: postgresql)")
    return postgres.database()


@dataclass
class Place:
    """Logs, an archive, and their configuration.

    Attributes
    ----------
    root : Path
        Directory of everything.
    database : str
        URI.
    """

    root: Path
    database: str
    roots: FileRoots
    initialized: bool = False

    @property
    def logs(self) -> Path:
        return self.root / "log"

    @property
    def storage(self) -> Path:
        return self.root / "runs"

    def write(self, documents: Sequence[NamedDocument]) -> str:
        """Write a run's log; return its uid."""
        with DocumentLog(self.logs) as log:
            for name, document in documents:
                log.append(name, document)
        uid: str = documents[0][1]["uid"]
        return uid

    def ingest(self, **options: Any) -> dict[str, Log]:
        """Ingest in this process what is due; return what became of every log."""
        self.logs.mkdir(exist_ok=True)
        if not self.initialized:
            initialize(self.database)
            self.initialized = True
        with StorageLock(self.storage), Database(self.database) as database:
            ingestion = Ingestion(
                self.logs, database, self.storage, self.roots, **{"patience": 0.0, **options}
            )
            catch_up(ingestion)
            return {log.run: log for log in database(logs)}

    def configuration(self) -> Path:
        """Write a configuration file; return it."""
        file = self.root / "archive.toml"
        assets = [str(path) for path in self.roots.paths or ()]
        file.write_text(
            f'[bus]\nlog = "{self.logs}"\n[server]\nassets = {assets}\n'
            f'[server.archive]\ndatabase = "{self.database}"\nstorage = "{self.storage}"\n'
        )
        return file

    @contextlib.contextmanager
    def served(self, policy: Any = None, sink: Sink | None = None) -> Iterator[str]:
        """Serve the archive as ``/archive``, and a sink as ``/live``; yield the URL."""
        archive = Archive(self.database, self.storage, self.roots)
        sink = sink or Sink(10_000_000)
        with DocumentLog(self.logs) as log:
            app = build_app(sink, KEY, policy=policy, archive=archive, log=log)
            with serving(app) as url:
                yield url

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """Yield a stock client of the archive."""
        with self.served() as url, connected(url) as client:
            yield client


@contextlib.contextmanager
def connected(url: str) -> Iterator[Any]:
    """Yield a stock client of the archive that is served there."""
    client = from_uri(url, api_key=KEY)
    try:
        yield client["archive"]
    finally:
        client.context.close()


def place(
    kind: str, directory: Path, postgres: Cluster | None, roots: FileRoots | None = None
) -> Place:
    """Return an archive to be, in a directory of its own."""
    root = directory / uuid.uuid4().hex[:8]
    root.mkdir(parents=True)
    return Place(root, new_database(kind, root, postgres), roots or FileRoots())
