"""The tables of the archive: made, checked and upgraded."""

import json
import stat
import subprocess
import sys

import anyio
import pytest
from sqlalchemy import select, update
from tiled.queries import Key, KeyPresent

from p06bs.metadata import INDEXED, folder_of
from p06bs.server.archive import schema
from p06bs.server.archive.archived import Archive
from p06bs.server.archive.database import Database, initialize, upgrade
from p06bs.server.archive.filling import maps_in
from p06bs.server.archive.location import Location
from p06bs.server.archive.schema import ITEMS, RUNS, SCHEMA, SchemaError
from p06bs.server.archive.searchable import LARGE, searchable
from p06bs.server.files.roots import FileRoots
from tests.archives import DATABASES, Place, place, running_postgres  # noqa: F401
from tests.documents import raw_run

# Tiled's alembic.ini is older than alembic.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


@pytest.fixture(params=DATABASES)
def here(request, tmp_path, running_postgres):  # noqa: F811
    return place(request.param, tmp_path, running_postgres)


def rows(connection):
    tables = (RUNS, *ITEMS.values())
    return [sorted(map(str, connection.execute(select(table)).all())) for table in tables]


def fill(here):
    for number in range(5):
        sample = {"name": f"s{number}", "elements": ["Fe", "Cu"]}
        here.write(raw_run({"x": [number]}, scan_id=number, sample=sample))
    here.ingest()


def serve(here):
    """Start what serves the archive, and stop it."""

    async def run():
        archive = Archive(here.database, here.storage, FileRoots())
        try:
            await archive.startup()
        finally:
            await archive.shutdown()

    anyio.run(run)


def test_an_index_of_other_fields_is_made_again(here):
    fill(here)
    with Database(here.database) as database:
        before = database(rows)
        database(lambda c: c.execute(update(SCHEMA).values(indexed="[]")))
        database(lambda c: c.exec_driver_sql("DROP INDEX ix_p06bs_runs_scan_id"))
        database(lambda c: c.exec_driver_sql("ALTER TABLE p06bs_runs DROP COLUMN scan_id"))
        with pytest.raises(SchemaError, match="p06bs archive upgrade"):
            database(schema.check)
    with pytest.raises(SchemaError, match="p06bs archive upgrade"):
        serve(here)
    upgrade(here.database, maps_in(Location(here.storage)))
    serve(here)
    with Database(here.database) as database:
        assert database(rows) == before
        database(schema.check)


def test_a_newer_index_is_refused(here):
    initialize(here.database)
    initialize(here.database)
    with Database(here.database) as database:
        database(lambda c: c.execute(update(SCHEMA).values(version=99)))
        with pytest.raises(SchemaError, match="newer p06bs"):
            database(schema.check)
    with pytest.raises(SchemaError, match="newer p06bs"):
        upgrade(here.database, maps_in(Location(here.storage)))


@pytest.mark.slow
def test_several_processes_make_the_tables_at_once(here):
    code = (
        "import sys; from p06bs.server.archive.database import initialize; initialize(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, here.database]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said.decode()
    serve(here)


def test_numbers_of_any_size_hide_no_page(here):
    here.write(raw_run({"x": [1]}, flux=1e20, small=-1e300, count=2**63))
    fill(here)
    with here.client() as client:
        assert len(list(client.items())) == 6
        (run,) = client.search(KeyPresent("start.flux")).values()
        assert (run.start["flux"], run.start["small"]) == (1e20, -1e300)
        assert run.start["count"] == 2**63


def test_what_the_archive_says_of_runs_is_for_its_owner(tmp_path):
    here = place("sqlite", tmp_path, None)
    fill(here)
    assert stat.S_IMODE((here.root / "catalog.db").stat().st_mode) == 0o600
    assert stat.S_IMODE(here.storage.stat().st_mode) == 0o700


def test_a_stock_catalog_gets_our_tables(here):
    initialize(here.database)
    with Database(here.database) as database:
        for table in (SCHEMA, *ITEMS.values(), RUNS):
            database(lambda c, name=table.name: c.exec_driver_sql(f"DROP TABLE {name}"))
    with pytest.raises(SchemaError, match="p06bs archive init"):
        serve(here)
    initialize(here.database)
    serve(here)


def test_what_the_databases_take():
    large = searchable({"uid": "u", "time": 1.0, "notes": "x" * 400_000, "list": [1] * 10})
    assert large["notes"] == "(400002 bytes of JSON)"
    assert (large["uid"], large["list"]) == ("u", [1] * 10)
    odd = searchable({"a": float("nan"), "b": ("x\0", b"\x01"), "c": {1: float("inf")}})
    assert odd == {"a": None, "b": ["x\ufffd", "01"], "c": {"1": None}}


@pytest.mark.parametrize("others", [{f"k{n}": "word" for n in range(20_000)}, {"x": "y" * 400_000}])
def test_what_runs_are_found_by_is_not_abbreviated(here, others):
    start = {
        "beamtime_folder": "/b" * 1000, "plan_name": "p" * 512, "technique": "t" * 512,
        "scan_id": 3,
        "sample": {"name": "é" * 512, "elements": ["Fe"] * 200, **others}, "scan": {"kind": "grid"},
    }  # fmt: skip
    run = raw_run({"x": [1]}, **start, **others)
    uid = here.write(run)
    assert here.ingest()[uid].state == "complete"
    short = searchable(run[0][1])
    assert len(json.dumps(short)) <= LARGE
    for field in INDEXED:
        if field.key.startswith("start."):
            assert field.of({"start": short}) == field.of({"start": run[0][1]})
    assert folder_of(short) == start["beamtime_folder"]
    with here.client() as client:
        for query in (Key("start.sample.name") == "é" * 512, Key("start.scan.kind") == "grid"):
            assert list(client.search(query)) == [uid]
