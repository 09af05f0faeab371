"""A real PostgreSQL for tests: a cluster in a temporary directory, reached by a Unix socket.

PostgreSQL refuses to run as root, so under root it runs as ``postgres`` or ``nobody``. It is no
child of the test process, because its own processes come and go as they like.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

POSTGRES = "p06bs"
"""The superuser of the cluster."""

PROGRAMS = ("initdb", "pg_ctl", "postgres", "createdb", "pg_dump", "pg_restore")


def binaries() -> Path | None:
    """Return the directory of PostgreSQL's programs, the newest; None where there are none."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: -float(p.parent.name))
    return next((p for p in places if all((p / name).exists() for name in PROGRAMS)), None)


class Cluster:
    """A running PostgreSQL.

    Attributes
    ----------
    bin : Path
        Directory of its programs.
    directory : Path
        Of its socket.
    """

    def __init__(self, bin: Path, directory: Path) -> None:
        self.bin = bin
        self.directory = directory

    def uri(self, name: str) -> str:
        """Return how a database of the cluster is named in a configuration."""
        return f"postgresql://{POSTGRES}@/{name}?host={self.directory}"

    def database(self) -> str:
        """Make an empty database; return its URI."""
        name = f"p{uuid.uuid4().hex[:12]}"
        self("createdb", name)
        return self.uri(name)

    def __call__(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs on the cluster; return what it prints."""
        where = ["-h", str(self.directory), "-U", POSTGRES]
        command = [str(self.bin / program), *where, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a PostgreSQL; it is gone afterwards."""
    bin = binaries()
    assert bin is not None
    user = None if os.getuid() else _unprivileged()
    directory = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    if user is not None:
        os.chown(directory, user.pw_uid, user.pw_gid)

    def run(program: str, *arguments: str) -> None:
        command = [str(bin / program), "-D", str(directory / "data"), *arguments]
        as_user = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid}
        subprocess.run(
            command,
            check=True,
            cwd=directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            extra_groups=None if user is None else [],
            **as_user,
        )

    try:
        run("initdb", "-U", POSTGRES, "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={directory} -c fsync=off"
        run("pg_ctl", "start", "-w", "-l", str(directory / "log"), "-o", options)
        try:
            yield Cluster(bin, directory)
        finally:
            run("pg_ctl", "stop", "-m", "immediate", "-w")
    finally:
        shutil.rmtree(directory)


def _unprivileged() -> pwd.struct_passwd:
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL for the session; skipped, loudly, where its programs are missing."""
    if binaries() is None:
        pytest.skip("NO POSTGRESQL: initdb is not on this machine (Debian: postgresql)")
    with cluster() as running:
        yield running
