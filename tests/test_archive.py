"""The archive to unmodified clients: layout, search, order, pages, rights, what is refused."""

import itertools
import subprocess
import sys
import threading
from collections import Counter

import httpx
import numpy as np
import pytest
from bluesky_tiled_plugins import queries as bluesky_queries
from tiled.catalog.adapter import from_uri as stock_catalog
from tiled.client import from_uri
from tiled.client.utils import ClientError
from tiled.config import Authentication
from tiled.queries import (
    Comparison,
    Contains,
    Eq,
    FullText,
    In,
    Key,
    KeyPresent,
    KeysFilter,
    Like,
    NotEq,
    NotIn,
    Regex,
)
from tiled.server.app import build_app

from p06bs.metadata import INDEXED
from p06bs.server.access.policy import Visible
from p06bs.server.archive.catalog import RUN_MIMETYPE
from p06bs.server.archive.schema import COLUMNS, ITEMS, RUNS
from p06bs.server.archive.words import to_fts5, to_tsquery
from p06bs.server.tree.words import parse
from tests.archives import DATABASES, KEY, connected, place, running_postgres  # noqa: F401
from tests.documents import raw_run
from tests.live_server import serving

HEADERS = {"Authorization": f"Apikey {KEY}"}
COUNT = 40


def start_of(number):
    """Return metadata of a run, every indexed field among them in some."""
    return {
        "scan_id": number,
        "plan_name": ["scan", "count", "grid_scan"][number % 3],
        "beamtime_id": f"1100{number // 10}",
        "proposal_id": "I-1" if number % 2 else 17,  # of another type than is indexed
        "beamtime_folder": f"/gpfs/{number % 4}" if number % 5 else "",
        "sample": {
            "name": f"Sample {number % 4}",
            "uid": f"s{number}",
            "elements": [["Fe", "C"], ["Ca", "Cu"], ["Cr"]][number % 3],
        },
        "scan": {"kind": "fly" if number % 2 else "step"},
        "technique": "xrf",
        "note": f"wörd{number} common dark-field sample-{number % 4}",
        "temperature": number / 4,
    }


def timed(documents, time):
    """Return documents of a run that began at `time`."""
    (_, start), *rest = documents
    return [("start", {**start, "time": time}), *rest]


@pytest.fixture(scope="module", params=DATABASES)
def served(request, tmp_path_factory, running_postgres):  # noqa: F811
    here = place(request.param, tmp_path_factory.mktemp("archive"), running_postgres)
    uids = {}
    # Not written in the order of their times: the archive lists by time.
    for number in sorted(range(COUNT), key=lambda n: n * 7 % COUNT):
        documents = raw_run({"x": np.arange(5) + number}, **start_of(number))
        uids[number] = here.write(timed(documents, 1000.0 + number))
    here.ingest()
    with here.served() as url, connected(url) as client:
        yield url, client, uids


@pytest.fixture
def client(served):
    return served[1]


@pytest.fixture
def http(served):
    with httpx.Client(base_url=f"{served[0]}/api/v1", headers=HEADERS, timeout=30) as client:
        yield client


def scan_ids(runs):
    return [run.start["scan_id"] for run in runs.values()]


def test_clients_find_the_last_run_a_scan_id_and_a_uid(served):
    _, client, uids = served
    assert len(client) == COUNT
    assert client[-1].start["scan_id"] == COUNT - 1
    assert client[-3].start["scan_id"] == COUNT - 3
    assert client[7].start["uid"] == uids[7]
    assert client[uids[7]].start["scan_id"] == 7
    assert client[uids[7][:8]].start["scan_id"] == 7
    assert scan_ids(client) == list(range(COUNT))
    assert [r.start["scan_id"] for r in client.values().tail(3)] == [37, 38, 39]
    with pytest.raises(KeyError):
        client["0" * 36]
    with pytest.raises(KeyError):
        client[COUNT + 1]


DATABROKER = """
import sys
from tiled.client import from_uri
catalog = from_uri(sys.argv[1], api_key=sys.argv[2])["archive"]
assert catalog.v2[-1].primary.read()["x"].values.tolist() == [39, 40, 41, 42, 43]
header = catalog.v1[-1]
assert header.start["scan_id"] == 39
assert header.table()["x"].tolist() == [39, 40, 41, 42, 43]
assert [name for name, _ in header.documents()].count("event") == 5
assert [h.start["scan_id"] for h in catalog.v1(scan_id=5)] == [5]
"""


def test_databroker_reads_runs(served):
    # In a process of its own: using v2 once changes what all clients of a process get.
    subprocess.run([sys.executable, "-c", DATABROKER, served[0], KEY], check=True)


QUERIES = [
    (Eq("start.plan_name", "scan"), lambda s: s["plan_name"] == "scan"),
    (Eq("start.plan_name", "Scan"), lambda s: False),
    (Eq("start.scan_id", 3), lambda s: s["scan_id"] == 3),
    (Eq("start.scan_id", 3.0), lambda s: s["scan_id"] == 3),
    (Eq("start.scan_id", 3.5), lambda s: False),
    (Eq("start.scan_id", "3"), lambda s: False),
    (Eq("start.proposal_id", "I-1"), lambda s: s["proposal_id"] == "I-1"),
    (Eq("start.proposal_id", 17), lambda s: s["proposal_id"] == 17),
    (Eq("start.temperature", 2.5), lambda s: s["temperature"] == 2.5),
    (Eq("start.sample.name", "Sample 1"), lambda s: s["sample"]["name"] == "Sample 1"),
    (Eq("start.nothing.at.all", "x"), lambda s: False),
    (Eq("stop.exit_status", "success"), lambda s: True),
    (NotEq("start.plan_name", "scan"), lambda s: s["plan_name"] != "scan"),
    (NotEq("start.original_run_uid", "x"), lambda s: False),
    (Comparison("gt", "start.scan_id", 30), lambda s: s["scan_id"] > 30),
    (Comparison("le", "start.scan_id", 4.5), lambda s: s["scan_id"] <= 4.5),
    (Comparison("ge", "start.time", 1030), lambda s: s["scan_id"] >= 30),
    (Comparison("lt", "start.temperature", 2), lambda s: s["temperature"] < 2),
    (Comparison("ge", "start.plan_name", "grid"), lambda s: s["plan_name"] >= "grid"),
    (In("start.scan_id", [1, 2, 99]), lambda s: s["scan_id"] in (1, 2)),
    (In("start.scan_id", []), lambda s: False),
    (In("start.plan_name", ["scan", "count"]), lambda s: s["plan_name"] != "grid_scan"),
    (NotIn("start.plan_name", ["scan", "count"]), lambda s: s["plan_name"] == "grid_scan"),
    (NotIn("start.scan_id", []), lambda s: True),
    (Contains("start.sample.elements", "C"), lambda s: "C" in s["sample"]["elements"]),
    (Contains("start.sample.elements", "F"), lambda s: False),
    (Contains("start.sample.name", "ple 2"), lambda s: "ple 2" in s["sample"]["name"]),
    (Contains("start.note", "common"), lambda s: True),
    (Like("start.plan_name", "%scan"), lambda s: s["plan_name"].endswith("scan")),
    (Like("start.plan_name", "_can"), lambda s: s["plan_name"] == "scan"),
    (Like("start.plan_name", "SCAN"), lambda s: False),
    (Like("start.plan_name", "s*"), lambda s: False),
    (Like("start.plan_name", "scan\\"), lambda s: False),
    (KeyPresent("start.original_run_uid"), lambda s: False),
    (KeyPresent("start.original_run_uid", exists=False), lambda s: True),
    (KeyPresent("start.temperature"), lambda s: True),
    (KeyPresent("start.sample.elements"), lambda s: True),
    (FullText("wörd7"), lambda s: s["scan_id"] == 7),
    (FullText("COMMON wörd7"), lambda s: s["scan_id"] == 7),
    (FullText("wörd7 OR wörd8"), lambda s: s["scan_id"] in (7, 8)),
    (FullText("wörd7 | wörd8"), lambda s: s["scan_id"] in (7, 8)),
    (FullText("common -wörd7"), lambda s: s["scan_id"] != 7),
    (FullText('"sample-1"'), lambda s: s["scan_id"] % 4 == 1),
    (FullText("dark-field"), lambda s: True),
    (FullText("wörd3*"), lambda s: str(s["scan_id"]).startswith("3")),
    (FullText("nowhere"), lambda s: False),
]


@pytest.mark.parametrize(("query", "holds"), QUERIES, ids=[str(query) for query, _ in QUERIES])
def test_queries(client, query, holds):
    want = [number for number in range(COUNT) if holds(start_of(number))]
    found = client.search(query)
    assert scan_ids(found) == want
    assert len(found) == len(want)


def test_queries_together_and_bluesky_ones(client):
    found = client.search(Key("plan_name") == "scan").search(Key("temperature") > 5)
    assert scan_ids(found) == [n for n in range(COUNT) if n % 3 == 0 and n / 4 > 5]
    found = found.search(FullText("sample-3"))
    assert scan_ids(found) == [n for n in range(COUNT) if n % 12 == 3 and n / 4 > 5]
    assert scan_ids(client.search(bluesky_queries.ScanIDRange(5, 8))) == [5, 6, 7]
    since = bluesky_queries.TimeRange(since=1036.0)
    assert scan_ids(client.search(since)) == [36, 37, 38, 39]


def test_keys(served):
    _, client, uids = served
    found = client.search(KeysFilter([uids[3], uids[1], "x"]))
    assert scan_ids(found) == [1, 3]
    assert found[uids[3]].start["scan_id"] == 3
    with pytest.raises(KeyError):
        found[uids[2]]


@pytest.mark.parametrize(
    ("sorting", "key"),
    [
        ([("start.time", -1)], lambda n: -n),
        ([("start.scan_id", -1)], lambda n: -n),
        ([("start.plan_name", 1)], lambda n: (start_of(n)["plan_name"], n)),
        ([("start.plan_name", -1), ("start.scan_id", 1)], None),
        ([("start.temperature", -1)], lambda n: -n),
        ([("start.sample.name", 1), ("", -1)], lambda n: (n % 4, -n)),
    ],
)
@pytest.mark.parametrize("size", [7, 300])
def test_order_and_pages(client, sorting, key, size):
    if key is None:
        plans = {"scan": 0, "grid_scan": 1, "count": 2}
        want = sorted(range(COUNT), key=lambda n: (plans[start_of(n)["plan_name"]], n))
    else:
        want = sorted(range(COUNT), key=key)
    ordered = client.sort(*sorting)
    got = [r.start["scan_id"] for r in itertools.islice(ordered.values().page_size(size), 999)]
    assert got == want
    assert [r.start["scan_id"] for r in ordered.values()[10:13]] == want[10:13]
    if ("", -1) not in sorting:  # which stock clients do not reverse
        assert ordered.values().last().start["scan_id"] == want[-1]


def test_pages_by_cursor_and_offset_are_the_same(http):
    def page(url):
        answer = http.get(url).raise_for_status().json()
        return [item["id"] for item in answer["data"]], answer["links"]["next"]

    everything, _ = page("/search/archive?page[limit]=300")
    for sort in ("", "&sort=-start.time", "&sort=-"):
        order = everything[::-1] if "-" in sort else everything
        found, after = page(f"/search/archive?page[limit]=9{sort}")
        while after:
            assert "cursor" in after
            more, after = page(f"{after}{sort}")
            found += more
        assert found == order
        assert page(f"/search/archive?page[offset]=31&page[limit]=300{sort}")[0] == order[31:]
    assert page("/search/archive?page[offset]=40") == ([], None)
    assert page("/search/archive?page[limit]=0")[0] == []


def test_facets(client):
    starts = [start_of(number) for number in range(COUNT)]
    found = client.distinct(
        "start.plan_name", "start.sample.elements", "start.temperature", "start.endstation",
        counts=True, structure_families=True, specs=True,
    )  # fmt: skip
    metadata = {
        key: {item["value"]: item["count"] for item in items}
        for key, items in found["metadata"].items()
    }
    assert metadata["start.plan_name"] == Counter(s["plan_name"] for s in starts)
    elements = Counter(e for s in starts for e in s["sample"]["elements"])
    assert metadata["start.sample.elements"] == elements
    assert metadata["start.temperature"] == Counter(s["temperature"] for s in starts)
    assert metadata["start.endstation"] == {}
    assert [item["count"] for item in found["structure_families"]] == [COUNT]
    assert [item["count"] for item in found["specs"]] == [COUNT]
    some = client.search(Key("plan_name") == "scan").distinct("start.scan.kind")
    assert sorted(item["value"] for item in some["metadata"]["start.scan.kind"]) == ["fly", "step"]


WRONG = [
    Eq("start.scan_id", 2**70),
    Eq("start.scan_id", [1]),
    Eq("start.scan_id", {"a": 1}),
    Eq("start.scan_id", float("nan")),
    Eq("start.plan_name", "a\0b"),
    Eq('start."; DROP TABLE nodes; --', "x"),
    Eq("start.other", {"a": [1, None]}),
    In("start.scan_id", ["x", 2**70]),
    In("start.other", [{"a": 1}]),
    In("start.scan_id", list(range(1001))),
    NotIn("start.other", [None]),
    Like("start.plan_name", "\0"),
    Contains("start.other", {"a": 1}),
    Comparison("lt", "start.other", None),
    Comparison("lt", "start.scan_id", [1, 2]),
    FullText(""),
    FullText("-only"),
    FullText('"'),
    FullText("\0word"),
    FullText("word " * 300),
    Regex("start.plan_name", "("),
]


@pytest.mark.parametrize("query", WRONG, ids=[str(query)[:60] for query in WRONG])
def test_wrong_queries_are_the_clients_fault(client, query):
    # PostgreSQL compares JSON values of any kind, SQLite does not.
    any_kind = isinstance(getattr(query, "value", ""), list | dict | type(None))
    allowed = {400, 422, 200} if any_kind and "plan" not in query.key else {400, 422}
    assert _status(client.search(query)) in allowed


@pytest.mark.parametrize("key", ["start.scan_id", "start.plan_name", "start.sample.name"])
def test_nothing_equals_none_on_either_database(client, key):
    assert len(client.search(Eq(key, None))) == 0


def _status(found):
    try:
        found.values().head(2)
    except ClientError as error:
        return error.response.status_code
    return 200


@pytest.mark.parametrize(
    "url",
    [
        "/search/archive?page[offset]=99999999999999999999999",
        "/search/archive?page[cursor]=99999999999999999999999",
        "/search/archive?page[cursor]=999999",
        "/search/archive?sort=start.note&page[cursor]=3",
        "/search/archive?sort=.",
        "/search/archive?sort=-a..b",
        "/distinct/archive?metadata=",
        "/distinct/archive?metadata=a..b&counts=true",
        "/distinct/archive?metadata=%22",
        "/metadata/archive/%00",
        "/metadata/archive/x%00y/z",
        "/metadata/archive/" + "x" * 3000,
        "/container/full/archive",
        "/container/full/archive?format=application/x-hdf5",
        "/search-deep/archive",
    ],
)
def test_odd_requests_are_answered(http, url):
    assert http.get(url).status_code < 500


def test_nothing_is_written_over_http(served, http):
    _, _, uids = served
    node = {"structure_family": "container", "metadata": {}, "data_sources": [], "specs": []}
    for path in ("archive", f"archive/{uids[1]}", f"archive/{uids[1]}/primary"):
        before = http.get(f"/metadata/{path}").json()
        assert http.delete(f"/metadata/{path}").status_code in (404, 405)
        assert http.patch(f"/metadata/{path}", json={"metadata": {}}).status_code in (405, 422)
        assert http.put(f"/metadata/{path}", json={"metadata": {}}).status_code in (405, 422)
        assert http.get(f"/metadata/{path}").json() == before
    assert http.post("/register/archive", json=node).status_code in (403, 405)


class Viewer:
    """Somebody who may see the runs of some folders."""

    def __init__(self, *folders):
        self.folders = set(folders)

    async def ask(self, folders, anew=False):
        """It knows."""

    def may_see(self, folder):
        return folder in self.folders

    def visible(self, folders):
        return self.folders & set(folders)


class Policy:
    """Filters listings as the server's access policy does."""

    def __init__(self):
        self.viewer = Viewer()

    async def allowed_scopes(self, node, *rest):
        return {"read:metadata", "read:data"}

    async def filters(self, node, *rest):
        return [Visible(self.viewer)] if hasattr(node, "viewer") else []


@pytest.mark.slow
@pytest.mark.parametrize("kind", DATABASES)
def test_what_one_may_not_see_is_not_there(kind, tmp_path, running_postgres):  # noqa: F811
    here = place(kind, tmp_path, running_postgres)
    uids = {}
    for number in range(COUNT):
        documents = raw_run({"x": [1]}, **start_of(number))
        uids[number] = here.write(timed(documents, 1000.0 + number))
    here.ingest()
    policy = Policy()

    def folder(number):
        return start_of(number)["beamtime_folder"] or None

    with here.served(policy) as url, connected(url) as client:
        for viewer in (
            Viewer(),
            Viewer("/gpfs/1"),
            Viewer("/gpfs/1", "/gpfs/3", "/elsewhere"),
            Viewer(None),
            Viewer(*(f"/gpfs/{n}" for n in range(4))),
            Viewer(None, *(f"/gpfs/{n}" for n in range(4))),
        ):
            policy.viewer = viewer
            seen = [n for n in range(COUNT) if viewer.may_see(folder(n))]
            fresh = client.new_variation()
            assert len(fresh) == len(seen)
            assert scan_ids(fresh) == seen
            for query, holds in QUERIES[::5]:
                assert scan_ids(fresh.search(query)) == [n for n in seen if holds(start_of(n))]
            facets = fresh.distinct("start.plan_name", counts=True)["metadata"]["start.plan_name"]
            assert {i["value"]: i["count"] for i in facets} == Counter(
                start_of(n)["plan_name"] for n in seen
            )
            for number in range(8):
                for path in ("", "/primary", "/primary/x", "/primary/internal"):
                    answer = httpx.get(
                        f"{url}/api/v1/metadata/archive/{uids[number]}{path}", headers=HEADERS
                    )
                    assert answer.status_code == (200 if number in seen else 404)


class SlowViewer(Viewer):
    """Something happens while its rights are asked for."""

    meanwhile = None

    def visible(self, folders):
        found = super().visible(folders)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            ingesting = threading.Thread(target=meanwhile)  # it has an event loop of its own
            ingesting.start()
            ingesting.join()
        return found


@pytest.mark.parametrize("kind", DATABASES)
def test_runs_that_one_may_not_see_are_told_of_by_no_race_and_no_cursor(
    kind,
    tmp_path,
    running_postgres,  # noqa: F811
):
    here = place(kind, tmp_path, running_postgres)

    def put(folder, time):
        here.write(timed(raw_run({"x": [1]}, beamtime_folder=folder), time))
        here.ingest()

    put("/mine", 10.0)
    policy = Policy()
    policy.viewer = SlowViewer("/mine")
    with here.served(policy) as url, httpx.Client(base_url=url, headers=HEADERS) as http:

        def listed(**query):
            data = http.get("/api/v1/search/archive", params=query).json()["data"]
            return [run["attributes"]["metadata"]["start"]["beamtime_folder"] for run in data]

        policy.viewer.meanwhile = lambda: put("/theirs", 20.0)
        assert listed() == ["/mine"]
        put("/mine", 30.0)
        assert listed() == ["/mine"] * 2
        behind = [len(listed(**{"page[cursor]": number})) for number in range(8)]
        assert behind.count(1) == 1  # behind the first run one's own second one is
        assert behind.count(0) == 7


def test_derived_runs_are_found_from_the_raw_one_and_back(tmp_path):
    here = place("sqlite", tmp_path, None)
    raw = here.write(timed(raw_run({"x": [1, 2]}), 1.0))
    process = {"name": "xrf", "settings": {}, "settings_digest": "d1", "inputs": {}}
    derived = here.write(
        timed(
            raw_run({"Fe": [0.5, 0.5]}, original_run_uid=raw, derived_from=[raw], process=process),
            2.0,
        )
    )
    here.ingest()
    with here.client() as client:
        (found,) = client.search(Key("original_run_uid") == raw).values()
        assert found.start["uid"] == derived
        assert client[found.start["original_run_uid"]].start["uid"] == raw
        assert list(client.search(KeyPresent("start.original_run_uid", exists=False))) == [raw]
        assert list(client.search(Key("process.name") == "xrf")) == [derived]
        assert list(client.search(Key("process.settings_digest") == "d1")) == [derived]


def test_a_stock_server_serves_the_runs_too(tmp_path):
    here = place("sqlite", tmp_path / "a b%20c", None)
    uid = here.write(raw_run({"x": [1, 2, 3], "image": np.ones((3, 2, 2))}))
    here.ingest()
    tree = stock_catalog(
        here.database,
        readable_storage=[str(here.storage)],
        adapters_by_mimetype={RUN_MIMETYPE: "p06bs.server.archive:StoredRun"},
    )
    app = build_app(tree, authentication=Authentication(single_user_api_key=KEY))
    with serving(app) as url:
        client = from_uri(url, api_key=KEY)
        run = client[uid]
        assert run["primary"]["x"].read().tolist() == [1, 2, 3]
        assert run["primary"].read()["image"].shape == (3, 2, 2)
        client.context.close()


def test_every_indexed_field_is_one_column():
    assert {field.key for field in INDEXED} == {f.key for f in COLUMNS} | set(ITEMS)
    assert {field.column for field in COLUMNS} <= set(RUNS.c.keys())


def test_full_text_means_the_same_on_both_databases():
    search = parse('Fe "dark field" -bad OR it\'s* NOT "x y"')
    assert to_tsquery(search) == "('Fe' & 'dark field' & !'bad') | ('it''s':* & !'x y')"
    assert to_fts5(search) == ('(("Fe" AND "dark field") NOT "bad") OR (("it\'s"*) NOT "x y")')
