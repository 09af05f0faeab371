"""What the sink holds, over HTTP and on the command line; pins; who may see it."""

import json

import httpx
import numpy as np
import pytest
from tiled.queries import Key
from typer.testing import CliRunner

from p06bs.cli import app as cli
from p06bs.cli.errors import UsageError
from p06bs.server.access.policy import Everybody, Visible
from p06bs.server.app import build_app
from p06bs.server.sink.sink import Sink
from p06bs.server.tree.runs import runs_adapter
from tests.live_server import serving
from tests.test_server import HEADERS, KEY, add_page, begin, end

HELD = "/api/p06bs/v1/sink"


@pytest.fixture(scope="module")
def served():
    sink = Sink(3_000_000)
    begin(sink, "raw-1", 1.0, scan_id=7, plan_name="grid_scan")
    add_page(sink, "raw-1", 1)
    end(sink, "raw-1")
    begin(sink, "derived-1", 2.0, process={"name": "xrf"})
    add_page(sink, "derived-1", 1, 20)
    with serving(build_app(sink, KEY)) as url:
        yield sink, url


def test_what_is_held_is_listed_and_pinned(served):
    sink, url = served
    with httpx.Client(base_url=url, headers=HEADERS) as http:
        found = http.get(HELD).json()
        assert found["budget"] == 3_000_000
        assert found["bytes"] == sink.nbytes == sum(run["bytes"] for run in found["runs"])
        raw, derived = found["runs"]
        assert (raw["uid"], raw["scan_id"], raw["plan"]) == ("raw-1", 7, "grid_scan")
        assert (raw["state"], raw["rows"], raw["rows_in_log"]) == ("done", 10, 0)
        assert (derived["plan"], derived["state"], derived["rows"]) == ("xrf", "running", 20)
        assert not raw["pinned"]
        assert http.post(f"{HELD}/raw-1/pin").json() == {"pinned": True}
        assert http.get(HELD).json()["runs"][0]["pinned"]
        assert http.post(f"{HELD}/raw-1/unpin").json() == {"pinned": False}
        assert http.post(f"{HELD}/unknown/pin").status_code == 404
        begin(sink, "large", 3.0)
        for i in range(60):
            add_page(sink, "large", 100 * i + 1, 100)
        answer = http.post(f"{HELD}/large/pin")
        assert (answer.status_code, "may hold" in answer.text) == (409, True)


def test_list_of_what_is_held_is_no_touch_and_reading_is(served):
    sink, url = served
    with httpx.Client(base_url=url, headers=HEADERS) as http:
        before = http.get(HELD).json()["runs"][0]["idle"]
        for path in ("metadata/live/raw-1", "metadata/live/raw-1/primary/Fe_K", "search/live"):
            assert http.get(f"/api/v1/{path}").status_code == 200
        assert http.get(HELD).json()["runs"][0]["idle"] >= before
        for path in (
            "array/full/live/raw-1/primary/Fe_K",
            "array/block/live/raw-1/primary/Fe_K?block=0",
            "array/full/live/raw-1/primary/Fe_K?format=text/csv",
            "table/partition/live/raw-1/primary/internal?partition=0",
            "table/full/live/raw-1/primary/internal",
        ):
            sink._holding.retention.touched("raw-1", sink._holding.clock() - 1000.0)
            assert http.get(f"/api/v1/{path}").status_code == 200
            assert sink.held()[0].idle < 1000.0, path


def test_nobody_without_a_key_sees_or_pins(served):
    _, url = served
    with httpx.Client(base_url=url) as http:
        for answer in (http.get(HELD), http.post(f"{HELD}/raw-1/pin")):
            assert answer.status_code == 401
            assert "raw-1" not in answer.text


def test_command_line_shows_and_pins(served, tmp_path):
    sink, url = served
    (tmp_path / "key").write_text(KEY)
    runner = CliRunner(env={"COLUMNS": "200", "P06BS_API_KEY": ""})
    common = ["sink", "--server", url, "--api-key-file", str(tmp_path / "key")]
    shown = runner.invoke(cli, common)
    assert shown.exit_code == 0, shown.output
    assert "raw-1" in shown.output
    assert "budget 3 MB" in shown.output
    narrow = runner.invoke(cli, common, env={"COLUMNS": "80"}).output
    assert "…" not in narrow
    assert {"run", "scan", "plan", "state", "rows", "memory", "idle"} <= set(narrow.split())
    found = json.loads(runner.invoke(cli, [*common, "--json"]).output)
    assert [run["uid"] for run in found["runs"]][:2] == ["raw-1", "derived-1"]
    assert "pinned derived-1" in runner.invoke(cli, [*common, "pin", "deri"]).output
    assert sink.held()[1].pinned
    assert "unpinned derived-1" in runner.invoke(cli, [*common, "unpin", "derived"]).output
    assert not sink.held()[1].pinned
    for wrong, said in (
        ([*common, "pin", "nothing"], "0 runs that are held begin with 'nothing'"),
        (["sink", "--server", url, "--api-key-file", str(tmp_path / "no")], "no API key"),
        (["sink", "--server", "http://127.0.0.1:1", *common[3:]], "does not answer"),
    ):
        result = runner.invoke(cli, wrong)
        assert isinstance(result.exception, UsageError)
        assert said in str(result.exception)


class Some:
    """Sees the runs of some folders, and counts what it is asked."""

    def __init__(self, *folders):
        self.folders = set(folders)
        self.asked = 0

    def may_see(self, folder):
        return folder in self.folders

    def visible(self, folders):
        self.asked += 1
        return frozenset(set(folders) & self.folders)


def test_listing_shows_what_a_viewer_may_see():
    sink = Sink(10_000_000)
    for i, folder in enumerate(["/a", "/b", "/a", None]):
        more = {} if folder is None else {"beamtime_folder": folder}
        begin(sink, f"run-{i}", float(i), number=i, **more)
    runs = runs_adapter(sink)
    assert [run.folder for _, run in runs.items()] == ["/a", "/b", "/a", None]
    assert list(runs.search(Visible(Everybody()))) == ["run-0", "run-1", "run-2", "run-3"]
    viewer = Some("/a")
    mine = runs.search(Visible(viewer))
    assert mine.viewer is viewer
    assert list(mine) == ["run-0", "run-2"]
    assert viewer.asked <= 4  # and not once per run
    assert len(mine) == 2
    with pytest.raises(KeyError):
        mine["run-1"]
    with pytest.raises(KeyError):
        mine["run-3"]
    found = mine.search(Key("start.number") > 0)
    assert (list(found), found.viewer) == (["run-2"], viewer)
    assert list(mine.sort([("start.number", -1)])) == ["run-2", "run-0"]
    counted = mine.get_distinct(["start.number"], False, False, True)
    assert counted["metadata"]["start.number"] == [
        {"value": 0, "count": 1}, {"value": 2, "count": 1}
    ]  # fmt: skip
    begin(sink, "run-4", 4.0, beamtime_folder="/a")
    assert list(mine) == ["run-0", "run-2", "run-4"]
    viewer.folders = {"/b"}
    assert list(mine) == ["run-1"]


def test_listing_makes_only_the_runs_that_are_asked_for():
    sink = Sink(10_000_000)
    made = []

    def extra(run):
        made.append(run.metadata["start"]["uid"])
        return {}

    for i in (3, 1, 2, 0):
        begin(sink, f"run-{i}", float(i), number=i, beamtime_folder="/a")
    mine = runs_adapter(sink, extra).search(Visible(Some("/a")))
    found = mine.search(Key("start.number") > 0).sort([("start.number", -1)])
    assert (len(found), list(found)) == (3, ["run-3", "run-2", "run-1"])
    assert mine.folders() == {"/a"}
    assert mine.get_distinct(["start.number"], False, False, False)["metadata"]
    assert list(mine.children()) == ["run-0", "run-1", "run-2", "run-3"]
    assert not made
    assert [uid for uid, _ in found.items()[0:2]] == ["run-3", "run-2"] == made
    assert mine.keys()[-2] == "run-2"
    assert [uid for uid, _ in mine.items()[1:2]] == ["run-1"] == made[2:]


def test_state_of_a_listing_is_another_one_when_there_is_news():
    sink = Sink(10_000_000)
    viewer = Some("/a")
    mine = runs_adapter(sink).search(Visible(viewer))
    states = [mine.state()]

    def is_new():
        states.append(mine.state())
        return states[-1] != states[-2]

    assert not is_new()
    begin(sink, "run", 1.0, beamtime_folder="/a")
    assert is_new()
    add_page(sink, "run", 1)
    assert not is_new()
    end(sink, "run")
    assert is_new()
    viewer.folders = set()
    assert is_new()
    assert not is_new()


def test_large_array_leaves_in_pieces_and_is_what_it_was(served):
    sink, url = served
    assert sink.shares.piece == 1 << 16
    keys = {"img": {"dtype": "array", "dtype_numpy": "<u4", "shape": [64, 64], "source": "x"}}
    begin(sink, "pieces", 9.0, keys=keys)
    truth = np.arange(100 * 64 * 64, dtype="u4").reshape(100, 64, 64)
    for i in range(0, 100, 10):
        page = {
            "descriptor": "pieces-primary-d",
            "seq_num": list(range(i + 1, i + 11)), "time": [0.0] * 10,
            "uid": [str(j) for j in range(i, i + 10)], "data": {"img": truth[i : i + 10]},
            "timestamps": {},
        }  # fmt: skip
        sink("event_page", page)
    path = "/api/v1/array/full/live/pieces/primary/img"
    with httpx.Client(base_url=url, headers=HEADERS) as http:
        for encoding in ("identity", "gzip", "zstd"):
            http.headers["Accept-Encoding"] = encoding
            for cut, want in (
                ("", truth),
                ("90:3:-7,5", truth[90:3:-7, 5]),
                ("::13,1:3,-1", truth[::13, 1:3, -1]),
                ("-1", truth[-1]),
                ("5:5", truth[5:5]),
            ):
                answer = http.get(path, params={"slice": cut})
                assert answer.status_code == 200, answer.text
                assert answer.content == want.tobytes(), (encoding, cut)
        assert http.get(path, params={"slice": "1,2,3,4"}).status_code in (400, 422)
        assert http.get(path, params={"slice": "100"}).status_code == 400
        answer = http.get(path, params={"expected_shape": "7,64,64"})
        assert answer.status_code in (200, 422)
