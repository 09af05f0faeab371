"""The parts of a server, as its configuration describes them."""

import os

from sqlalchemy import select

from p06bs.bus.metrics import Measure
from p06bs.config import Server
from p06bs.config.server import Authentication
from p06bs.server.access.policy import FolderAccess
from p06bs.server.access.rights import rights_of
from p06bs.server.access.viewers import Viewers
from p06bs.server.archive import schema
from p06bs.server.archive.archived import Archive
from p06bs.server.archive.database import initialize
from p06bs.server.files.roots import roots_of
from p06bs.server.gate.gate import Gate, Guard
from p06bs.server.login.authentication import Door, providers_of, several_users, single_user
from p06bs.server.login.private import make_secret
from p06bs.server.sink.feed import Feed
from p06bs.server.sink.sink import Sink


def memory() -> int:
    """Return the memory of this machine, bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def login(server: Server, key: str) -> tuple[Door, FolderAccess | None]:
    """Return who may come in, and who may see what; None where there is one user, who may."""
    if server.authentication is None:
        return single_user(key or make_secret(server.api_key_file, "the API key")), None
    assert server.access is not None  # the section says so
    viewers = Viewers(rights_of(server.access.rights, server.access.roots), server.access.seconds)
    return (
        several_users(server.authentication),
        FolderAccess(viewers, providers_of(server.authentication)),
    )


def archive_of(server: Server) -> Archive | None:
    """Return the offline DB, None where there is none; its tables are made where they are not."""
    if server.archive is None:
        return None
    initialize(server.archive.database)
    storage = server.archive.storage
    return Archive(server.archive.database, storage, roots_of(server))


async def archive_answers(archive: Archive) -> bool:
    """Return True if the database can be read; what it raises says that it cannot."""
    await archive.fetch(select(schema.FOLDERS.c.id).limit(1))
    return True


def guard_of(server: Server) -> Guard:
    """Return what the gate is told."""
    users = server.authentication or Authentication()
    return Guard(
        body=server.limits.request,
        body_seconds=server.limits.request_seconds,
        upload=server.limits.upload,
        sockets=server.limits.sockets,
        failed_logins=users.failed_logins_per_minute,
        origins=server.allow_origins,
        headers=server.headers,
        proxy=server.behind_proxy,
    )


def measures_of(sink: Sink, feed: Feed, gate: Gate) -> tuple[Measure, ...]:
    """Return what Prometheus is told of a server."""
    return (
        Measure("sink_bytes", "What runs hold in memory", lambda: sink.nbytes),
        Measure("sink_budget_bytes", "What the sink may take", lambda: sink.budget),
        Measure("sink_runs", "Runs in memory", lambda: len(sink)),
        Measure("sink_evicted_runs", "Runs that left memory", lambda: sink.evicted, "counter"),
        Measure(
            "sink_dropped_rows",
            "Rows that left memory while their run stayed",
            lambda: sink.dropped,
            "counter",
        ),
        Measure("documents", "Documents that came", lambda: feed.documents, "counter"),
        Measure(
            "documents_refused",
            "Documents that did not fit what came before",
            lambda: dict(sink.refused),
            "counter",
            "kind",
        ),
        Measure("websockets", "Open WebSockets", lambda: gate.sockets),
        Measure("failed_logins", "Logins that failed", lambda: gate.failed_logins, "counter"),
    )
