"""How SQLite finds the runs of a page: in the index of what is asked, without sorting them."""

import uuid
from types import SimpleNamespace

import pytest
from sqlalchemy import create_engine, event, func, text
from tiled.queries import Eq

from p06bs.server.archive.catalog import Log, RunRecord, put_runs, tidy
from p06bs.server.archive.database import Database, initialize
from p06bs.server.archive.listing import Listing

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")

COUNT, FOLDERS = 2000, 40


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    directory = tmp_path_factory.mktemp("plans")
    uri = f"sqlite:///{directory}/catalog.db"
    initialize(uri)
    records = []
    for number in range(COUNT):
        folder = f"/gpfs/{number % FOLDERS}"
        start = {"uid": str(uuid.uuid4()), "time": float(number), "beamtime_folder": folder}
        start["plan_name"] = ("scan", "count")[number % 2]
        log = Log(start["uid"], "complete", 0, 0, 1)
        records.append(RunRecord(log, {"start": start}, ["primary"], False, directory))
    with Database(uri) as database:
        database(put_runs, records)
        database.run(tidy)
    engine = create_engine(uri)
    yield engine
    engine.dispose()


def asked(engine, statement):
    """Return the rows of a statement, and SQLite's plan for it."""
    said = []
    event.listen(engine, "before_cursor_execute", lambda *args: said.append(args[2:4]), once=True)
    with engine.connect() as connection:
        rows = connection.execute(statement).all()
        sql, values = said[0]
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values).all()
    return rows, " / ".join(row.detail for row in plan)


def listing(engine, *ids, **order):
    stock = SimpleNamespace(context=SimpleNamespace(engine=engine), conditions=[])
    return Listing(stock, folders=ids, **order)


@pytest.fixture(scope="module")
def folders(engine):
    with engine.connect() as connection:
        found = connection.execute(text("SELECT id FROM p06bs_folders ORDER BY id"))
        return [number for (number,) in found]


def test_a_page_of_all_folders_is_read_in_the_order_of_time(engine, folders):
    newest = listing(engine, *folders, sorting=(("start.time", -1),))
    rows, plan = asked(engine, newest.page().limit(21))
    assert len(rows) == 21
    assert "ix_p06bs_runs_time" in plan
    assert "TEMP B-TREE" not in plan


def test_a_field_is_looked_up_before_all_folders(engine, folders):
    scans = listing(engine, *folders).search(Eq("start.plan_name", "scan"))
    for statement in (scans.page().limit(21), scans.select(func.count())):
        rows, plan = asked(engine, statement)
        assert "ix_p06bs_runs_plan_name" in plan
        assert "TEMP B-TREE" not in plan
    assert rows == [(COUNT // 2,)]


def test_few_folders_are_looked_up_first(engine, folders):
    for some in ((folders[3],), (folders[3], folders[9])):
        rows, plan = asked(engine, listing(engine, *some).select(func.count()))
        assert rows == [(len(some) * COUNT // FOLDERS,)]
        assert "ix_p06bs_runs_folder" in plan
