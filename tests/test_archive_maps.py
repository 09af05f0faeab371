"""Maps in the archive: those of /live, known without a look into files."""

import shutil

import numpy as np
import pytest
from sqlalchemy import select
from tiled.client import from_uri
from tiled.client.utils import ClientError

from p06bs import process
from p06bs.callbacks.positions import Positions
from p06bs.model.documents import is_derived
from p06bs.server.archive.catalog import ask_retry
from p06bs.server.archive.database import Database, upgrade
from p06bs.server.archive.filling import maps_in
from p06bs.server.archive.location import Location
from p06bs.server.archive.schema import RUNS
from p06bs.server.sink.sink import Sink
from tests.archives import DATABASES, KEY, connected, place, running_postgres  # noqa: F401
from tests.documents import raw_run
from tests.techniques import Scale

# Tiled's alembic.ini is older than alembic.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")

NY, NX = 4, 6


@pytest.fixture(params=DATABASES)
def here(request, tmp_path, running_postgres):  # noqa: F811
    return place(request.param, tmp_path, running_postgres)


def positioned(**start):
    """Return a raw run whose columns, and not its start document, say where it was."""
    y, x = np.indices((NY, NX)).reshape(2, -1) + 0.01
    devices = {"stage": {"roles": {"px": "position_x", "py": "position_y"}}}
    documents = raw_run(
        {"px": x, "py": y, "det": x + 10 * y}, page=7, units={"px": "mm", "py": "mm"},
        devices=devices, **start,
    )  # fmt: skip
    documents[1][1]["object_keys"] = {"stage": ["px", "py"], "det": ["det"]}
    return documents


def derived(raw, factor=2.0, **start):
    documents = process(Scale(inputs={"x": "det"}, factor=factor), raw)
    documents[0][1].update(start)
    assert is_derived(documents[0][1])
    return documents


def take(here, sink, documents):
    for name, document in documents:
        sink(name, document)
    return here.write(documents)


def maps_of(run):
    if "maps" not in run:
        return None
    return {name: (node.read().tolist(), node.metadata) for name, node in run["maps"].items()}


def decided(here):
    with Database(here.database) as database:
        return dict(
            map(tuple, database(lambda c: c.execute(select(RUNS.c.uid, RUNS.c.maps)).all()))
        )


def test_a_derived_run_has_the_maps_that_it_has_live(here):
    sink = Sink(50_000_000)
    scan = positioned()
    gridded = raw_run({"det": np.arange(24.0)}, shape=[NY, NX], extents=[[0, 3], [0, 5]])
    plain = raw_run({"det": [1.0, 2.0]})
    runs = [
        scan, derived(scan), gridded, derived(gridded), plain, derived(plain),
        # Who may see the derived run need not see the raw one: live has no maps of it.
        derived(scan, 3.0, beamtime_folder="/elsewhere"),
    ]  # fmt: skip
    uids = [take(here, sink, documents) for documents in runs]
    here.ingest()
    with here.served(sink=sink) as url, connected(url) as archive:
        client = from_uri(url, api_key=KEY)
        live = {uid: maps_of(client["live"][uid]) for uid in uids}
        assert {uid: maps_of(archive[uid]) for uid in uids} == live
        listed = {uid: "maps" in run for uid, run in archive.items()}
        client.context.close()
    assert listed == {uid: live[uid] is not None for uid in uids}
    assert [live[uid] is not None for uid in uids] == [True] * 4 + [False] * 3
    values, metadata = live[uids[1]]["y"]
    assert metadata["kind"] == "scattered"
    assert np.isfinite(values).sum() == NY * NX


def test_corrected_positions_place_rows_as_they_do_live(here):
    sink = Sink(50_000_000)
    scan = positioned()
    where = {"nominal_x": "py", "nominal_y": "px"}  # the axes were mixed up
    runs = [scan, derived(scan), process(Positions(inputs=where), scan)]
    uids = [take(here, sink, documents) for documents in runs]
    here.ingest()
    with here.served(sink=sink) as url, connected(url) as archive:
        client = from_uri(url, api_key=KEY)
        live, kept = ({u: maps_of(tree[u]) for u in uids} for tree in (client["live"], archive))
        client.context.close()
    for uid, names in zip(uids[:2], ({"det", "px", "py"}, {"y", "n"}), strict=True):
        assert set(kept[uid]) == set(live[uid]) == names
        for name, (values, metadata) in kept[uid].items():
            assert repr(live[uid][name]) == repr((values, metadata))
            places = [(axis["name"], axis["unit"], axis["last"]) for axis in metadata["axes"]]
            assert places == [("y", "um", 5000.0), ("x", "um", 3000.0)]


def test_positions_computed_again_count_once_they_are_whole(here):
    sink = Sink(50_000_000)
    scan = positioned()
    mixed = {"nominal_x": "py", "nominal_y": "px"}
    first = process(Positions(inputs=mixed), scan, reprocessing=2)
    again = process(Positions(inputs={"nominal_x": "px", "nominal_y": "py"}), scan, reprocessing=3)
    part = process(Positions(inputs=mixed), scan, reprocessing=4, rows=5)
    runs = [scan, again, first, part]  # the newest need not come last
    for time, documents in enumerate((first, again, part)):
        documents[0] = ("start", {**documents[0][1], "time": 2000.0 + time})
    uids = [take(here, sink, documents) for documents in runs]
    here.ingest()
    with here.served(sink=sink) as url, connected(url) as archive:
        client = from_uri(url, api_key=KEY)
        live, kept = (maps_of(tree[uids[0]]) for tree in (client["live"], archive))
        client.context.close()
    assert repr(live) == repr(kept)
    for _, metadata in kept.values():
        # Those of `again`: x is the fast axis, and not mixed up.
        places = [(axis["name"], axis["unit"], axis["last"]) for axis in metadata["axes"]]
        assert places == [("y", "um", 3000.0), ("x", "um", 5000.0)]


def test_a_derived_run_that_comes_before_its_raw_run_gets_maps_with_it(here):
    scan = positioned()
    uid = here.write(derived(scan))
    here.ingest()
    with here.client() as client:
        assert "maps" not in client[uid]
    here.write(scan)
    here.ingest()
    with here.client() as client:
        assert list(client[uid]["maps"]) == ["y", "n"]


def test_a_listing_opens_no_file_and_a_run_without_files_hides_no_other(here):
    scan = positioned()
    uids = [here.write(documents) for documents in (scan, derived(scan), raw_run({"x": [1]}))]
    here.ingest()
    whole = here.write(positioned())
    here.ingest()
    for uid in uids:
        shutil.rmtree(here.storage / uid[:2] / uid)
    with here.served() as url, connected(url) as client:
        assert set(client) == {*uids, whole}
        assert {run.start["uid"] for run in client.values()} == {*uids, whole}
        assert client[whole].primary["det"].read().shape == (NY * NX,)
        for uid in uids:
            run = client[uid]
            with pytest.raises(ClientError, match=f"p06bs archive retry {uid}"):
                run["primary"]
            with pytest.raises(ClientError, match=f"p06bs archive retry {uid}"):
                run.values().first()
            with pytest.raises(ClientError, match="log of this run is not there"):
                list(run.documents())


def test_files_that_are_gone_come_back_from_the_log(tmp_path):
    here = place("sqlite", tmp_path, None)
    uid = here.write(raw_run({"x": [1]}))
    here.ingest()
    shutil.rmtree(here.storage / uid[:2] / uid)
    with Database(here.database) as database:
        assert database(ask_retry, uid)
    here.ingest()
    with here.client() as client:
        assert client[uid].primary["x"].read().tolist() == [1]


def test_column_files_that_are_gone_are_said_to_be(tmp_path):
    here = place("sqlite", tmp_path, None)
    uid = here.write(raw_run({"x": [1, 2], "a": np.ones((2, 3))}))
    here.ingest()
    for file in (here.storage / uid[:2] / uid).rglob("*.arrow"):
        file.unlink()
    with here.client() as client:
        stream = client[uid].primary
        for read in (stream.read, stream["a"].read):
            with pytest.raises(ClientError, match=f"p06bs archive retry {uid}"):
                read()


def test_an_index_that_does_not_say_is_upgraded(here):
    scan = positioned()
    lost = here.write(positioned())
    uids = [here.write(documents) for documents in (scan, derived(scan), raw_run({"x": [1]}))]
    here.ingest()
    want = {**dict(zip(uids, (True, None, False), strict=True)), lost: False}
    assert decided(here) == {**want, lost: True}
    with Database(here.database) as database:
        database(lambda c: c.exec_driver_sql("ALTER TABLE p06bs_runs DROP COLUMN maps"))
        database(lambda c: c.exec_driver_sql("UPDATE p06bs_schema SET version = 1"))
    shutil.rmtree(here.storage / lost[:2] / lost)
    upgrade(here.database, maps_in(Location(here.storage)))
    assert decided(here) == want
    with here.client() as client:
        assert list(client[uids[1]]["maps"]) == ["y", "n"]
