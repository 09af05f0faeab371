"""What subscribers are sent, by kind of node: stock clients, and plain WebSockets with JSON."""

import json
import threading
from contextlib import contextmanager

import h5py
import numpy as np
import pandas
import pytest
from tiled.queries import Key
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from p06bs.bus.log import DocumentLog
from p06bs.server.access.policy import Visible
from p06bs.server.app import build_app
from p06bs.server.sink.places import Place
from p06bs.server.sink.sink import Sink
from p06bs.server.tree.runs import RunsAdapter
from tests.live_runs import KEYS, add_page, begin, describe, end, row_data
from tests.live_server import KEY, serving

PATIENCE = 30.0

# tiled 0.2.20 uses websockets in a way that websockets 17.1 does not like any more.
pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used:DeprecationWarning")


class Shown:
    """A viewer whose rights change."""

    def __init__(self):
        self.hidden = set()

    async def ask(self, folders, anew=False):
        """It knows."""

    def may_see(self, folder):
        return folder not in self.hidden

    def visible(self, folders):
        return frozenset(folders) - self.hidden


class Policy:
    """Filters the list of runs by a viewer, as the real one does."""

    def __init__(self, viewer):
        self.viewer = viewer

    async def filters(self, node, principal, tags, scopes, wanted):
        return [Visible(self.viewer)] if isinstance(node, RunsAdapter) else []

    async def allowed_scopes(self, node, principal, tags, scopes):
        return set(scopes)


@pytest.fixture(scope="module")
def viewer():
    return Shown()


@pytest.fixture(scope="module")
def served(viewer):
    sink = Sink(500_000_000)
    with serving(build_app(sink, KEY, policy=Policy(viewer))) as url:
        yield sink, url


class Updates:
    """What a stock subscription gets."""

    def __init__(self, node, start=None):
        self.got = []
        self.closed = threading.Event()
        self._news = threading.Condition()
        self.subscription = node.subscribe()
        if hasattr(self.subscription, "new_data"):
            self.subscription.new_data.add_callback(self._add)
        else:
            self.subscription.child_created.add_callback(self._add)
            self.subscription.child_metadata_updated.add_callback(self._add)
        self.subscription.stream_closed.add_callback(self._close)
        self.subscription.start_in_thread(start)

    def _add(self, update):
        with self._news:
            self.got.append(update)
            self._news.notify()

    def _close(self, subscription):
        self.closed.set()

    def wait(self, condition):
        """Wait until the condition holds for what came, and return that."""
        with self._news:
            assert self._news.wait_for(lambda: condition(self.got), PATIENCE), self.got
            return list(self.got)

    def end(self):
        self.subscription.disconnect()
        return self.got


def rows(updates):
    return [value for update in updates for value in update.data().tolist()]


def news(updates):
    return [(update.type.removeprefix("container-child-"), update.key) for update in updates]


@contextmanager
def plain(url, path, start=None, **more):
    """A WebSocket of a browser or a script: JSON."""
    query = "" if start is None else f"?start={start}"
    with connect(
        f"{url.replace('http', 'ws')}/api/v1/stream/single/{path}{query}",
        additional_headers={"Authorization": f"Apikey {KEY}"}, **more,
    ) as socket:  # fmt: skip
        yield socket


def receive(socket):
    return json.loads(socket.recv(timeout=PATIENCE))


@pytest.mark.parametrize(
    ("start", "first"), [(0, 1), (1, 1), (7, 7), (20, 20), (25, 25), (None, 21), (-3, 1)]
)
def test_start_is_the_number_of_the_first_row(sink, live, start, first):
    run = f"start-{start}"
    begin(sink, run)
    add_page(sink, run, 1, 20)
    updates = Updates(live[run]["primary"]["Fe_K"], start)
    for seq in range(21, 31):
        add_page(sink, run, seq, 1)
    end(sink, run)
    assert updates.closed.wait(PATIENCE)
    got = updates.end()
    assert rows(got) == row_data(range(first, 31))["Fe_K"].tolist()
    assert got[0].offset == (first - 1,)
    assert got[-1].sequence == 30


def test_client_resumes_where_it_left(sink, live):
    begin(sink, "resumes")
    add_page(sink, "resumes", 1, 5)
    node = live["resumes"]["primary"]["mca"]
    updates = Updates(node, 1)
    last = updates.wait(lambda got: len(rows(got)) == 5)[-1].sequence
    updates.end()
    add_page(sink, "resumes", 6, 5)
    again = Updates(node, last + 1)
    got = again.wait(lambda got: len(rows(got)) == 5)
    again.end()
    assert np.array_equal(rows(got), row_data(range(6, 11))["mca"])
    assert [u.offset for u in got] == [(5, 0, 0)]


def test_empty_columns_are_subscribed_to_before_the_first_row(sink, live):
    begin(sink, "empty-yet")
    uids = Updates(live["empty-yet"]["primary"]["uid"])
    table = Updates(live["empty-yet"]["primary"].base["internal"])
    add_page(sink, "empty-yet", 1, 3)
    end(sink, "empty-yet")
    assert uids.closed.wait(PATIENCE)
    assert table.closed.wait(PATIENCE)
    assert rows(uids.end()) == ["empty-yet/1", "empty-yet/2", "empty-yet/3"]
    frames = [update.data() for update in table.end()]
    assert [list(frame["seq_num"]) for frame in frames] == [[1, 2, 3]]
    assert frames[0]["why"].tolist() == ["reason 1", "reason 2", "reason 3"]


@pytest.mark.parametrize("start", [0, None])
def test_text_that_grows_wider_than_a_client_was_told_comes_whole(sink, live, start):
    run = f"wider-{start}"
    begin(sink, run)
    add_page(sink, run, 1, 2)
    node = live[run]["primary"]["why"]
    updates = Updates(node, start)
    texts = ["reason 1", "reason 2"] if start == 0 else []
    updates.wait(lambda got: rows(got) == texts)
    for seq, text in enumerate(["µ" * 100, "short", "x" * 5000], 3):
        page = {**row_data([seq]), "why": [text]}
        add_page(sink, run, seq, 1, data=page)
        texts.append(text)
        updates.wait(lambda got, want=tuple(texts): rows(got) == list(want))
    end(sink, run)
    assert updates.closed.wait(PATIENCE)
    updates.end()


def test_messages_are_small_enough_for_a_stock_client(sink, live):
    begin(sink, "large")
    for first in range(1, 20_000, 5000):
        add_page(sink, "large", first, 5000)
    for name, rowbytes in (("mca", 256), ("why", 64)):
        updates = Updates(live["large"]["primary"][name], 1)
        got = updates.wait(lambda got: got and got[-1].sequence == 20_000)
        updates.end()
        assert max(len(u.payload) for u in got) <= 2**18
        assert sum(u.shape[0] for u in got) == 20_000
        assert len(got) >= 20_000 * rowbytes / 2**18
    table = Updates(live["large"]["primary"].base["internal"], 1)
    got = table.wait(lambda got: got and got[-1].sequence == 20_000)
    table.end()
    assert max(len(u.payload) for u in got) <= 600_000
    seen = [n for u in got for n in u.data()["seq_num"]]
    assert seen == list(range(1, 20_001))


@pytest.fixture
def logged(sink, tmp_path):
    """The sink, as a server feeds it: what it is given lies in the log of the run."""
    with DocumentLog(tmp_path / "log") as log:

        def feed(name, document):
            at = log.append(name, document)
            sink(name, document, Place(at.path, at.offset, at.nbytes))

        yield feed


@pytest.mark.parametrize(("key", "value"), [("late", 7.5), ("gaps", [1.0, 2.0])])
def test_a_table_has_the_columns_that_there_are_when_its_rows_come(
    logged, live, served, key, value
):
    """A key comes late; one that is described as a number, and had none yet, has a list."""
    run = f"columns-{key}"
    begin(logged, run, keys={**KEYS, "gaps": KEYS["Fe_K"]})

    def add(seq, more):
        data = {name: rows.tolist() for name, rows in row_data([seq]).items()}
        add_page(logged, run, seq, 1, data={**data, "gaps": [None], **more})

    add(1, {})
    table = Updates(live[run]["primary"].base["internal"], 0)
    with plain(served[1], f"live/{run}/primary/internal", 0) as socket:
        receive(socket)
        assert receive(socket)["payload"]["seq_num"] == [1]
        table.wait(lambda got: len(got) == 1)
        add(2, {key: [value]})
        with pytest.raises(ConnectionClosed) as closed:
            receive(socket)
        assert closed.value.rcvd.code == 1012
    frame = table.wait(lambda got: len(got) == 2)[-1].data()
    assert frame["seq_num"].tolist() == [2]
    assert frame.get(key, pandas.Series()).tolist() == ([value] if key == "late" else [])
    assert live[run]["primary"][key][1].tolist() == value
    end(logged, run)
    assert table.closed.wait(PATIENCE)
    table.end()


def test_rows_that_are_large_come_by_reference(sink, live):
    keys = {"frame": {"dtype": "array", "dtype_numpy": "<f8", "shape": [300, 400], "source": "x"}}
    begin(sink, "frames-in-events", keys=keys)
    frames = np.random.default_rng(0).normal(size=(3, 300, 400))
    add_page(sink, "frames-in-events", 1, 3, data={"frame": frames})
    updates = Updates(live["frames-in-events"]["primary"]["frame"], 1)
    got = updates.wait(lambda got: got and got[-1].sequence == 3)
    updates.end()
    assert {u.type for u in got} == {"array-ref"}
    assert np.array_equal(np.concatenate([u.data() for u in got]), frames)


def test_frames_in_files_come_by_reference(sink, live, tmp_path):
    keys = {
        "eiger": {
            "dtype": "array", "dtype_numpy": "<u2", "shape": [8, 6],
            "source": "x", "external": "STREAM:",
        }
    }  # fmt: skip
    frames = np.arange(20 * 48, dtype="u2").reshape(20, 8, 6)
    begin(sink, "detector", keys=keys)
    resource = {
        "uid": "res", "run_start": "detector", "data_key": "eiger",
        "mimetype": "application/x-hdf5", "uri": f"file://localhost{tmp_path}/f.h5",
        "parameters": {"dataset": "data"},
    }  # fmt: skip
    sink("stream_resource", resource)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["data"] = frames

    def announce(low, high):
        datum = {
            "uid": f"res/{low}", "stream_resource": "res", "descriptor": "detector-primary-d",
            "indices": {"start": low, "stop": high}, "seq_nums": {"start": low + 1, "stop": high},
        }  # fmt: skip
        sink("stream_datum", datum)

    announce(0, 8)
    updates = Updates(live["detector"]["primary"]["eiger"], 1)
    updates.wait(lambda got: len(got) == 1)
    announce(8, 20)
    got = updates.wait(lambda got: len(got) == 2)
    updates.end()
    assert [(u.type, u.sequence, u.patch.offset, u.patch.shape) for u in got] == [
        ("array-ref", 8, (0, 0, 0), (8, 8, 6)),
        ("array-ref", 20, (8, 0, 0), (12, 8, 6)),
    ]
    assert np.array_equal(np.concatenate([u.data() for u in got]), frames)
    assert got[1].data_source.structure.shape == (20, 8, 6)


def test_containers_tell_of_their_children(sink, live, served):
    begin(sink, "container", time=1000.0)
    run = Updates(live["container"], 0)
    stream = Updates(live["container"]["primary"], 0)
    describe(sink, "container", 1001.0, {"x": KEYS["Fe_K"]}, "baseline")
    configuration = {"xrf": {"data": {"gain": 2}}}
    describe(sink, "container", 1002.5, suffix="e", configuration=configuration)
    got = run.wait(lambda got: len(got) == 3)
    add_page(sink, "container", 1)
    end(sink, "container")
    assert run.closed.wait(PATIENCE)
    assert stream.closed.wait(PATIENCE)
    assert news(got) == [
        ("created", "primary"),
        ("created", "baseline"),
        ("metadata-updated", "primary"),
    ]
    assert [u.sequence for u in got] == [1_000_000_000, 1_001_000_000, 1_002_500_000]
    assert got[2].metadata["_config_updates"][0]["configuration"] == configuration
    run.end()
    columns = stream.end()
    assert {key for _, key in news(columns)} == {"internal", "mca"}
    children = {u.key: u.child() for u in columns}
    assert children["mca"].dtype == np.dtype("u4")
    assert list(children["internal"].read()["seq_num"])[:2] == [1, 2]
    later = Updates(live["container"], 1_001_000_001)
    assert later.closed.wait(PATIENCE)
    assert news(later.end()) == [("metadata-updated", "primary")]


def test_a_column_that_comes_late_is_told_last(logged, live):
    """A client that comes back is told of it, and not again of the frames before it."""
    frames = {"dtype": "array", "dtype_numpy": "<u2", "shape": [8, 6], "source": "x"}
    keys = {**KEYS, "eiger": {**frames, "external": "STREAM:"}}
    begin(logged, "late-array", keys=keys)
    data = {name: rows.tolist() for name, rows in row_data([1]).items()}
    add_page(logged, "late-array", 1, 1, data=data)
    node = live["late-array"]["primary"]
    updates = Updates(node, 0)
    got = updates.wait(lambda got: len(got) == 3)
    updates.end()
    assert [update.key for update in got] == ["internal", "mca", "eiger"]
    more = {"spectrum": [[1.0, 2.0]], "Fe_K": [0.5]}
    add_page(logged, "late-array", 2, 1, data={**data, **more})
    again = Updates(node, got[-1].sequence + 1)
    end(logged, "late-array")
    assert again.closed.wait(PATIENCE)
    assert news(again.end()) == [("created", "spectrum")]


def test_list_of_runs_tells_of_those_that_one_may_see(sink, live, viewer):
    begin(sink, "known-before", time=2000.0)
    viewer.hidden.add("/secret")
    updates = Updates(live)
    begin(sink, "secret-run", time=2001.0, beamtime_folder="/secret")
    begin(sink, "open-run", time=2002.0, beamtime_folder="/open", sample="leaf")
    end(sink, "secret-run", time=2003.0)
    end(sink, "open-run", time=2004.0)
    got = updates.wait(lambda got: len(got) == 2)
    assert news(got) == [("created", "open-run"), ("metadata-updated", "open-run")]
    assert got[0].metadata["start"]["sample"] == "leaf"
    assert got[0].child().metadata["start"]["uid"] == "open-run"
    assert got[1].metadata["stop"]["exit_status"] == "success"
    assert [u.sequence for u in got] == [2_002_000_000, 2_004_000_000]
    viewer.hidden.add("/open")  # rights are revoked
    begin(sink, "another-open-run", time=2005.0, beamtime_folder="/open")
    begin(sink, "last-run", time=2006.0, beamtime_folder="/elsewhere")
    got = updates.wait(lambda got: ("created", "last-run") in news(got))
    updates.end()
    assert news(got)[2:] == [("created", "last-run")]
    viewer.hidden.clear()


def test_revoked_rights_end_a_subscription_and_the_node_is_not_there(sink, served, viewer):
    begin(sink, "revoked", beamtime_folder="/beamtime")
    add_page(sink, "revoked", 1, 3)
    path = "live/revoked/primary/Fe_K"
    with plain(served[1], path, 1) as socket:
        assert receive(socket)["type"] == "array-schema"
        assert receive(socket)["payload"] == [0.25, 0.5, 0.75]
        viewer.hidden.add("/beamtime")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=PATIENCE)
        assert closed.value.rcvd.code == 4410
    statuses = set()
    for hidden in (path, "live/revoked", "live/never-was", "live/never-was/primary/Fe_K"):
        with pytest.raises(InvalidStatus) as refused, plain(served[1], hidden):
            pass
        statuses.add(refused.value.response.status_code)
    assert statuses == {404}
    viewer.hidden.clear()


@pytest.mark.parametrize("path", ["", "archive", "live/no-such-run", "live/json-run/maps"])
def test_what_cannot_be_subscribed_to_is_not_found(sink, served, path):
    with pytest.raises(InvalidStatus, match="404"), plain(served[1], path):
        pass


def test_json_messages_hold_plain_numbers_and_text(sink, served):
    keys = {**KEYS, "ok": {"dtype": "boolean", "shape": [], "source": "x"}}
    begin(sink, "json-run", keys=keys)
    data = {**row_data([1, 2]), "ok": [True, False], "Fe_K": [0.25, float("nan")]}
    add_page(sink, "json-run", 1, 2, data=data)
    prefix = "live/json-run/primary"
    for name, want in (
        ("Fe_K", [0.25, None]),
        ("ok", [True, False]),
        ("why", ["reason 1", "reason 2"]),
        ("mca", row_data([1, 2])["mca"].tolist()),
    ):
        with plain(served[1], f"{prefix}/{name}", 0) as socket:
            assert receive(socket)["type"] == "array-schema"
            update = receive(socket)
            assert update["payload"] == want
            assert update["sequence"] == 2
    with plain(served[1], f"{prefix}/internal", 0) as socket:
        assert receive(socket)["type"] == "table-schema"
        payload = receive(socket)["payload"]
        assert payload["Fe_K"] == [0.25, None]
        assert payload["why"] == ["reason 1", "reason 2"]
    with plain(served[1], "live/json-run", 0) as socket:
        assert receive(socket)["type"] == "container-schema"
        assert receive(socket)["key"] == "primary"
    # Text may grow wider: JSON says itself what it holds.
    with plain(served[1], f"{prefix}/why", 3) as socket:
        receive(socket)
        data = {**row_data([3]), "ok": [True], "why": ["y" * 999]}
        add_page(sink, "json-run", 3, 1, data=data)
        assert receive(socket)["payload"] == ["y" * 999]


def test_browser_authenticates_by_its_first_message(sink, served):
    begin(sink, "browser-run")
    add_page(sink, "browser-run", 1, 1)
    url = served[1].replace("http", "ws")
    path = "/api/v1/stream/single/live/browser-run/primary/Fe_K?start=1"
    with connect(f"{url}{path}") as socket:
        socket.send(json.dumps({"type": "auth", "api_key": KEY}))
        assert receive(socket)["type"] == "array-schema"
        assert receive(socket)["payload"] == [0.25]
    with connect(f"{url}{path}") as socket:
        socket.send(json.dumps({"type": "auth", "api_key": "wrong"}))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=PATIENCE)
        assert closed.value.rcvd.code == 4003


def test_whole_runs_pass_by_a_client_that_is_slow_and_it_costs_no_memory(sink, served):
    before = sink.nbytes
    begin(sink, "long-run")
    with plain(served[1], "live/long-run/primary/mca", 1, max_queue=1, max_size=None) as slow:
        for first in range(1, 40_001, 4000):
            add_page(sink, "long-run", first, 4000)
        end(sink, "long-run")
        held = sink.nbytes
        count = 0
        assert receive(slow)["type"] == "array-schema"
        while count < 40_000:
            update = receive(slow)
            assert update["offset"][0] == count
            count = update["sequence"]
        with pytest.raises(ConnectionClosed) as closed:
            slow.recv(timeout=PATIENCE)
        assert closed.value.rcvd.code == 1000
    assert sink.nbytes == held > before


def test_evicted_run_ends_its_subscriptions(viewer):
    sink = Sink(2_000_000)
    with serving(build_app(sink, KEY)) as url:
        begin(sink, "first-run")
        add_page(sink, "first-run", 1, 10)
        with plain(url, "live/first-run/primary/Fe_K", 1) as socket:
            receive(socket)
            receive(socket)
            for i in range(10):
                begin(sink, f"later-run-{i}", time=2.0 + i)
                add_page(sink, f"later-run-{i}", 1, 1000)
            assert "first-run" not in sink.runs()
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(timeout=PATIENCE)
            assert closed.value.rcvd.code == 4410
        with pytest.raises(InvalidStatus, match="404"), plain(url, "live/first-run/primary/Fe_K"):
            pass


def test_who_receives_rows_keeps_the_run_in_memory_and_who_waits_does_not(sink, served):
    clock = iter(range(10**9))
    own = Sink(100_000_000, clock=lambda: float(next(clock)))
    with serving(build_app(own, KEY)) as url:
        for run in ("read", "idle"):
            begin(own, run)
            add_page(own, run, 1, 1)
        touched = {held.uid: held.idle for held in own.held()}
        with (
            plain(url, "live/read/primary/Fe_K", 1) as read,
            plain(url, "live/idle/primary/Fe_K") as idle,
        ):
            receive(idle)
            receive(read)
            receive(read)
            now = {held.uid: held.idle for held in own.held()}
    assert now["read"] < touched["read"] + 1 <= now["idle"]


def test_search_results_can_be_subscribed_to(sink, live):
    begin(sink, "searched", campaign="live-search")
    add_page(sink, "searched", 1, 2)
    (run,) = live.search(Key("start.campaign") == "live-search").values()
    updates = Updates(run["primary"]["Fe_K"], 0)
    assert rows(updates.wait(rows)) == [0.25, 0.5]
    updates.end()


def test_maps_are_told_of_and_not_subscribed_to(sink, live, served):
    keys = dict.fromkeys(("x", "y", "Fe_K"), KEYS["Fe_K"])
    raster = {
        "shape": [2, 3], "extents": [[0, 1], [0, 2]], "snaking": [False, False],
        "motors": ["y", "x"], "hints": {"dimensions": [[["y"], "primary"], [["x"], "primary"]]},
    }  # fmt: skip
    begin(sink, "mapped", time=1000.0, keys=keys, **raster)
    updates = Updates(live["mapped"], 0)
    add_page(sink, "mapped", 1, 4, data={"x": [0, 1, 2, 0], "y": [0, 0, 0, 1], "Fe_K": [1.0] * 4})
    assert live["mapped"]["maps"]["Fe_K"].read().shape == (2, 3)
    end(sink, "mapped")
    assert updates.closed.wait(PATIENCE)
    assert ("created", "maps") in news(updates.end())
    for path in ("live/mapped/maps", "live/mapped/maps/Fe_K"):
        with pytest.raises(InvalidStatus, match="404"), plain(served[1], path):
            pass
