"""An archive and its database: what that refuses of a run, and when it is away."""

import random
import string

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from p06bs.bus.log import DocumentLog
from p06bs.server.archive.catalog import LONGEST_URI, Log, logs, put_logs
from p06bs.server.archive.database import Database, UnavailableError
from p06bs.server.archive.ingest import Ingestion, catch_up
from p06bs.server.gate import errors
from tests.archives import DATABASES, KEY, place, running_postgres  # noqa: F401
from tests.documents import raw_run
from tests.live_server import serving


@pytest.fixture(params=DATABASES)
def here(request, tmp_path, running_postgres):  # noqa: F811
    return place(request.param, tmp_path, running_postgres)


class Limited:
    """An archive whose user of the database can be kept out of it."""

    def __init__(self, cluster, directory):
        self._cluster = cluster
        self.place = place("postgresql", directory, cluster)
        self._name = make_url(self.place.database).database
        self.sql(f"CREATE ROLE u{self._name} LOGIN", f"ALTER DATABASE {self._name} OWNER TO {self}")
        self.place.database = self.place.database.replace("p06bs@", f"{self}@")

    def __str__(self):
        return f"u{self._name}"

    def sql(self, *statements):
        arguments = [argument for statement in statements for argument in ("-c", statement)]
        self._cluster("psql", "-q", *arguments, self._name)

    def shut(self):
        ours = f"pg_stat_activity WHERE usename = '{self}'"
        self.sql(
            f"ALTER ROLE {self} CONNECTION LIMIT 0",
            f"SELECT pg_terminate_backend(pid) FROM {ours}",
        )

    def open(self):
        self.sql(f"ALTER ROLE {self} CONNECTION LIMIT -1")


@pytest.fixture
def limited(tmp_path, running_postgres):  # noqa: F811
    if running_postgres is None:
        pytest.skip("NO POSTGRESQL: initdb is not on this machine (Debian: postgresql)")
    return Limited(running_postgres, tmp_path)


def with_file(uri):
    run = raw_run({"x": [1]})
    uid = run[0][1]["uid"]
    (descriptor,) = (document for name, document in run if name == "descriptor")
    descriptor["data_keys"]["f"] = {
        "dtype": "array", "shape": [2, 2], "source": "f", "external": "STREAM:",
        "dtype_numpy": "<f8",
    }  # fmt: skip
    resource = {
        "uid": f"r{uid}", "run_start": uid, "data_key": "f", "mimetype": "application/x-hdf5",
        "uri": uri, "parameters": {"dataset": "/d", "chunk_shape": [1, 2, 2]},
    }  # fmt: skip
    at = [name for name, _ in run].index("descriptor") + 1
    return [*run[:at], ("stream_resource", resource), *run[at:]]


def test_what_a_database_does_not_take_costs_no_other_run(here):
    incompressible = "".join(random.Random(1).choices(string.ascii_letters, k=4000))
    folder = here.write(raw_run({"x": [1]}, beamtime_folder=f"/{incompressible}"))
    name = "/".join(["d" * 200] * 6)
    assert len(name) > LONGEST_URI
    file = here.write(with_file(f"file://localhost/{name}"))
    with DocumentLog(here.logs) as log:
        log.append("start", {"uid": "nul", "time": 1.0})
        keys = {"x\0y": {"dtype": "number", "shape": [], "source": "x"}}
        log.append("descriptor", {"uid": "d", "run_start": "nul", "time": 1.0, "data_keys": keys})
        page = {
            "descriptor": "d", "seq_num": [1, 2], "time": [1.0, 2.0], "uid": ["a", "b"],
            "data": {"x\0y": [1]}, "timestamps": {},
        }  # fmt: skip
        log.append("event_page", page)
    good = here.write(raw_run({"x": [1]}))
    result = here.ingest()
    assert {run: log.state for run, log in result.items()} == {
        folder: "quarantined", file: "complete", "nul": "incomplete", good: "complete",
    }  # fmt: skip
    assert "has more than 2000 bytes" in result[folder].reason
    assert "column x\ufffdy has 1 rows, its page has 2" in result["nul"].reason
    assert here.ingest() == result
    with here.client() as client:
        assert client[file].primary["x"].read().tolist() == [1]


def test_a_run_that_the_database_refuses_is_left_out_alone(limited):
    here = limited.place
    here.ingest()
    limited.sql("ALTER TABLE p06bs_runs ADD CHECK (scan_id <> 3)")
    uids = [here.write(raw_run({"x": [1]}, scan_id=n)) for n in (2, 3, 4)]
    result = here.ingest()
    assert [result[uid].state for uid in uids] == ["complete", "quarantined", "complete"]
    assert 'violates check constraint "p06bs_runs_scan_id_check"' in result[uids[1]].reason


@pytest.mark.logs_errors
def test_a_log_that_the_database_refuses_stops_nobody(limited):
    here = limited.place
    here.write(raw_run({"x": [1]}))
    here.ingest()
    limited.sql("ALTER TABLE p06bs_logs ADD CHECK (state <> 'quarantined')")
    (here.logs / "bad.doclog").write_bytes(b"nonsense" * 10)
    good = here.write(raw_run({"x": [1]}))
    result = here.ingest()
    assert (result[good].state, "bad" in result) == ("complete", False)


def test_texts_of_any_characters_are_noted(here):
    here.ingest()
    strange = Log("run", "quarantined", 1, 1, 0, "a\0b \udcff" + 5000 * "x")
    with Database(here.database) as database:
        database(put_logs, [strange])
        (found,) = database(logs)
    assert found.reason[:5] == "a\ufffdb ?"
    assert len(found.reason) == 2000


def test_an_outage_quarantines_no_run(limited):
    here = limited.place
    here.ingest()
    uid = here.write(raw_run({"x": [1]}))
    shut = iter([limited.shut])

    def stopping():  # while the log is read
        next(shut, lambda: None)()
        return False

    with Database(here.database) as database:
        ingestion = Ingestion(
            here.logs, database, here.storage, here.roots, stopping=stopping, patience=0.0
        )
        for _ in range(2):
            with pytest.raises(UnavailableError, match="too many connections for role"):
                catch_up(ingestion)
        limited.open()
        assert catch_up(ingestion) == 1
        assert {log.run: log.state for log in database(logs)} == {uid: "complete"}


def test_a_server_whose_database_is_away_says_try_again(limited):
    here = limited.place
    uid = here.write(raw_run({"x": [1]}))
    here.ingest()

    with here.served() as url:

        def status():
            return httpx.get(
                f"{url}/api/v1/metadata/archive/{uid}", headers={"Authorization": f"Apikey {KEY}"}
            ).status_code

        assert status() == 200
        limited.shut()
        assert status() == 503  # too many connections
        limited.open()
        assert status() == 200
        limited.sql(f"ALTER ROLE {limited} SET statement_timeout = 1")
        limited.shut()
        limited.open()
        limited.sql("ALTER TABLE p06bs_runs RENAME TO kept")
        limited.sql(
            "CREATE VIEW p06bs_runs AS SELECT kept.* FROM kept, (SELECT pg_sleep(0.1)) AS slow",
            f"ALTER VIEW p06bs_runs OWNER TO {limited}",
        )
        assert status() == 503  # canceled


@pytest.mark.logs_errors
def test_only_databases_that_are_away_are_asked_for_again():
    async def ask(uri, statement):
        engine = create_async_engine(uri)
        try:
            async with engine.connect() as connection:
                await connection.execute(text(statement))
        finally:
            await engine.dispose()

    app = FastAPI()
    app.add_api_route("/ask", ask)

    @app.get("/file")
    async def missing():
        raise FileNotFoundError("/no/such/file")

    errors.install(app)
    with serving(app) as url, httpx.Client(base_url=url) as client:

        def status(uri, statement="SELECT 1"):
            return client.get("/ask", params={"uri": uri, "statement": statement}).status_code

        assert status("postgresql+asyncpg://nobody@127.0.0.1:9/none") == 503
        assert status("postgresql+asyncpg://nobody@/none?host=/no/such/directory") == 503
        assert status("sqlite+aiosqlite:////no/such/directory/x.db") == 503
        assert client.get("/file").status_code == 500
