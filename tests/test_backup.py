"""Backup and restore: the commands of the how-to as they are written, on both databases."""

import contextlib
import json
import os
import shutil
import subprocess

import httpx
import pytest

from p06bs.bus.log import DocumentLog
from tests.archives import running_postgres  # noqa: F401
from tests.documents import raw_run
from tests.markdown_pages import Page
from tests.postgres import POSTGRES
from tests.server_process import ServerProcess

PAGE = Page("docs/how-to/look-after-the-archive.md")
NAMES = ("p06bs", "p06bs_tokens")

CONFIGURATION = """
[server]
port = 0
[server.archive]
database = "%s"
storage = "{0}/var/archive/runs"
[server.authentication]
database = "%s"
secret_key_file = "{0}/var/secret-key"
[server.access]
roots = ["{0}"]
rights = "mode-bits"
"""


def commands(section, sqlite):
    """Return a section's commands for SQLite, or for PostgreSQL."""
    blocks = [t.content for t in PAGE.sections()[section] if t.type == "fence"]
    (found,) = [block for block in blocks if ("pg_" in block) is not sqlite]
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path, running_postgres):  # noqa: F811
    """Databases as the page calls them; what runs commands there, and their URIs."""
    missing = [tool for tool in ("sqlite3", "rsync") if not shutil.which(tool)]
    if missing or (request.param == "postgresql" and running_postgres is None):
        pytest.skip(f"BACKUP IS NOT TESTED: {missing or 'PostgreSQL'} is not on this machine")
    environment = dict(os.environ)
    uris = [f"sqlite:///{tmp_path}/var/{name}.db" for name in ("archive/catalog", "tokens")]
    if request.param == "postgresql":
        environment |= {
            "PGHOST": str(running_postgres.directory), "PGUSER": POSTGRES,
            "PATH": f"{running_postgres.bin}:{environment['PATH']}",
        }  # fmt: skip
        uris = [running_postgres.uri(name) for name in NAMES]

    def bash(script):
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment, check=True
        )

    if request.param == "postgresql":
        bash("createdb p06bs; createdb p06bs_tokens")
    yield request.param == "sqlite", bash, uris
    if request.param == "postgresql":
        bash("dropdb --if-exists p06bs; dropdb --if-exists p06bs_tokens")


@pytest.mark.slow
def test_what_is_lost_comes_back(place, tmp_path, run):
    sqlite, bash, uris = place
    config = ["--config", str(tmp_path / "services.toml")]
    server = ServerProcess(tmp_path, CONFIGURATION % tuple(uris))
    with contextlib.closing(server):
        uids = []

        def scan():
            documents = raw_run({"x": [1.0, 2.0]})
            with DocumentLog(tmp_path / "log") as log:
                for name, document in documents:
                    log.append(name, document)
            uids.append(documents[0][1]["uid"])
            assert run("archive", "ingest", *config, "--patience", "0")[0] == 0

        def make(service):
            status, out, _ = run("token", "create", "--service", service, *config, "--json")
            assert status == 0
            return {"Authorization": f"Apikey {json.loads(out)['secret']}"}

        scan()
        before = make("before")
        signed_by = (tmp_path / "var/secret-key").read_text()
        bash(commands("Back it up", sqlite))  # while the server runs
        scan()
        after = make("after")
    shutil.rmtree(tmp_path / "var")
    if sqlite:
        (tmp_path / "var/archive").mkdir(parents=True)
        for name in ("archive/catalog", "tokens"):
            (tmp_path / f"var/{name}.db-wal").write_bytes(b"of a database that is gone")
    else:
        (tmp_path / "var").mkdir()
        bash("dropdb p06bs; createdb p06bs")
    bash(commands("Restore it", sqlite))
    assert (tmp_path / "var/secret-key").read_text() == signed_by
    assert (tmp_path / "var/secret-key").stat().st_mode & 0o077 == 0
    assert run("archive", "ingest", *config, "--patience", "0")[0] == 0
    server = ServerProcess(tmp_path, CONFIGURATION % tuple(uris))
    with contextlib.closing(server), httpx.Client(base_url=server.url, timeout=60) as http:
        found = http.get("/api/v1/search/archive", headers=before).json()["data"]
        assert sorted(node["id"] for node in found) == sorted(uids)
        for uid in uids:
            path = f"/api/v1/array/full/archive/{uid}/primary/x"
            read = http.get(path, headers={**before, "Accept": "application/json"})
            assert read.json() == [1.0, 2.0]
        assert http.get("/api/v1/search/archive", headers=after).status_code == 401
    for file in (tmp_path / "backup").glob("*.*"):
        assert file.stat().st_mode & 0o077 == 0
