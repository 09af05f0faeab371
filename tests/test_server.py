"""The server over real sockets: stock Tiled clients and plain HTTP, while a run goes on."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import httpx
import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from tiled.queries import Eq, FullText, In, Key, Like

from p06bs.bus.log import DocumentLog
from p06bs.bus.publish import Publisher
from p06bs.server.app import Operation, build_app
from p06bs.server.gate.growing import bounded_slice
from p06bs.server.login.private import make_secret
from p06bs.server.loopback import LoopbackServer
from p06bs.server.sink.feed import Feed
from p06bs.server.sink.sink import Sink
from p06bs.services.server import run
from tests import live_runs
from tests.live_runs import end
from tests.live_server import KEY, serving

PAGES = 200
HEADERS = {"Authorization": f"Apikey {KEY}"}
KEYS = {
    "Fe_K": {
        "dtype": "number", "dtype_numpy": "<f8", "shape": [], "source": "xrf", "units": "counts/s"
    },
    "raw_seq_num": {"dtype": "integer", "dtype_numpy": "<i8", "shape": [], "source": "xrf"},
    "raw_uid": {"dtype": "string", "shape": [], "source": "xrf"},
    "valid": {"dtype": "boolean", "dtype_numpy": "|b1", "shape": [], "source": "xrf"},
    "mca": {
        "dtype": "array", "dtype_numpy": "<u4", "shape": [4, 16], "source": "xrf",
        "dims": ["detector_element", "channel"],
    },
}  # fmt: skip


def row_data(seq):
    """What the columns hold in the rows `seq`: known truth."""
    seq = np.asarray(seq)
    return {
        "Fe_K": seq * 0.25,
        "raw_seq_num": seq * 2,
        "raw_uid": np.array([f"raw-{i}" for i in seq]),
        "valid": seq % 3 > 0,
        "mca": (seq[:, None, None] * np.ones((4, 16))).astype("u4"),
    }


def begin(sink, uid, time=1.0, keys=KEYS, **more):
    live_runs.begin(sink, uid, time, keys, **more)


def add_page(sink, uid, first, count=10):
    seq = np.arange(first, first + count)
    live_runs.add_page(sink, uid, first, count, data=row_data(seq))


@pytest.fixture
def http(served):
    """All that is served, and no key."""
    with httpx.Client(base_url=served[1], timeout=30) as client:
        yield client


def test_stock_client_reads_200_pages_of_every_kind_of_column(served, live):
    sink, _ = served
    begin(sink, "kinds", sample="steel")
    for i in range(PAGES):
        add_page(sink, "kinds", 10 * i + 1)
    end(sink, "kinds")
    run = live["kinds"]
    assert run.metadata["start"]["sample"] == "steel"
    assert run.metadata["stop"]["exit_status"] == "success"
    assert list(run) == ["primary"]
    stream = run["primary"]
    truth = row_data(np.arange(1, 10 * PAGES + 1))
    for key, want in truth.items():
        got = stream[key].read()
        assert got.dtype.kind == want.dtype.kind
        assert np.array_equal(got, want)
    assert stream["seq_num"].read().tolist() == list(range(1, 10 * PAGES + 1))
    assert stream["time"][-1] == 5.0 * PAGES
    assert stream["uid"][0] == "kinds/1"
    assert stream["Fe_K"].metadata["units"] == "counts/s"
    assert stream["mca"].dims == ("time", "detector_element", "channel")
    assert np.array_equal(stream["mca"][-3:, 1, ::4], truth["mca"][-3:, 1, ::4])
    assert np.array_equal(stream["mca"].read_block((0, 0, 0), (slice(5, 7),)), truth["mca"][5:7])
    assert np.array_equal(stream["Fe_K"][100:20:-7], truth["Fe_K"][100:20:-7])
    dataset = stream.read()
    assert np.array_equal(dataset["Fe_K"], truth["Fe_K"])
    assert np.array_equal(dataset["mca"], truth["mca"])
    table = stream.base["internal"].read()
    assert len(table) == 10 * PAGES
    assert table["raw_uid"].tolist() == truth["raw_uid"].tolist()


def test_run_looks_like_one_of_a_bluesky_catalog(served, live):
    pytest.importorskip("bluesky_tiled_plugins")
    sink, _ = served
    begin(sink, "0e8dc6a8-aaaa-4a4a-8888-000000000001", 5.0, scan_id=4711)
    add_page(sink, "0e8dc6a8-aaaa-4a4a-8888-000000000001", 1)
    run = live.search(Key("start.scan_id") == 4711).values().first()
    assert type(run).__name__ == "BlueskyRunV3"
    assert run.start["scan_id"] == 4711
    assert live[4711].start["uid"] == run.start["uid"]
    assert live["0e8dc6a8"].start["uid"] == run.start["uid"]
    assert [d["data_keys"].keys() for d in run["primary"].descriptors] == [KEYS.keys()]


def test_run_is_read_while_it_grows(served, live, http):
    sink, _ = served
    begin(sink, "growing")
    add_page(sink, "growing", 1, 5)
    run = live["growing"]
    assert "stop" not in run.metadata
    array, spectra = run["primary"]["Fe_K"], run["primary"]["mca"]
    add_page(sink, "growing", 6, 5000)
    # These clients still have the structure of five rows.
    assert array.read().tolist() == row_data(range(1, 6))["Fe_K"].tolist()
    assert array[::-1].tolist() == row_data(range(5, 0, -1))["Fe_K"].tolist()
    assert array[1:].tolist() == row_data(range(2, 6))["Fe_K"].tolist()
    assert array.read_block((0,)).tolist() == row_data(range(1, 6))["Fe_K"].tolist()
    assert spectra.read().shape == (5, 4, 16)
    assert np.array_equal(spectra[3:, 2], row_data([4, 5])["mca"][:, 2])
    assert len(run["primary"]["Fe_K"].read()) == 5005
    path = "/api/v1/array/full/live/growing/primary/Fe_K"
    assert (
        http.get(path, params={"slice": "-1:"}, headers=HEADERS).content
        == np.float64(5005 * 0.25).tobytes()
    )


def test_readers_never_see_torn_rows_while_a_thread_feeds(served, http):
    sink, _ = served
    begin(sink, "torn")
    add_page(sink, "torn", 1)
    failures = []

    def feed():
        try:
            for i in range(1, 300):
                add_page(sink, "torn", 10 * i + 1)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=feed)
    thread.start()
    seen = 0
    while seen < 3000:
        answer = http.get(
            "/api/v1/table/full/live/torn/primary/internal",
            params={"format": "application/json-seq"},
            headers=HEADERS,
        )
        assert answer.status_code == 200
        rows = [line for line in re.split("[\x1e\n]+", answer.text) if line]
        assert len(rows) % 10 == 0
        assert len(rows) >= seen
        seen = len(rows)
        mca = http.get("/api/v1/array/full/live/torn/primary/mca", headers=HEADERS)
        spectra = np.frombuffer(mca.content, "u4").reshape((-1, 4, 16))
        assert np.array_equal(spectra[:, 0, 0], np.arange(1, len(spectra) + 1))
        assert not failures
    thread.join()


def test_runs_are_searched_and_sorted(served, live):
    sink, _ = served
    for uid, begun, raw, sample in [
        ("s2", 1002.0, "rawA", "leaf"),
        ("s1", 1001.0, "rawA", "steel"),
        ("s3", 1003.0, "rawB", "leaf"),
    ]:
        begin(sink, uid, begun, original_run_uid=raw, sample=sample, campaign="search")
    mine = live.search(Key("start.campaign") == "search")
    assert list(mine) == ["s1", "s2", "s3"]
    assert list(mine.sort(("start.time", -1))) == ["s3", "s2", "s1"]
    assert list(mine.sort(("start.sample", 1), ("start.time", -1))) == ["s3", "s2", "s1"]
    assert mine.values().last().metadata["start"]["uid"] == "s3"
    assert list(mine.search(Key("start.original_run_uid") == "rawA")) == ["s1", "s2"]
    assert list(mine.search(In("start.sample", ["steel", "none"]))) == ["s1"]
    assert list(mine.search(FullText("leaf"))) == ["s2", "s3"]
    assert list(mine.search(Like("start.original_run_uid", "raw_"))) == ["s1", "s2", "s3"]
    assert list(mine.search(Eq("stop.exit_status", "success"))) == []
    assert list(live.search(Key("start.sample") > 5)) == []


def test_frames_are_read_from_the_file_while_it_is_written(served, live, tmp_path):
    sink, _ = served
    keys = {
        "eiger": {
            "dtype": "array", "dtype_numpy": "<u2", "shape": [8, 6],
            "source": "x", "external": "STREAM:",
        }
    }  # fmt: skip
    frames = np.arange(20 * 8 * 6, dtype="u2").reshape(20, 8, 6)
    begin(sink, "frames", keys=keys)
    resource = {
        "uid": "res", "run_start": "frames", "data_key": "eiger", "mimetype": "application/x-hdf5",
        "uri": f"file://localhost{tmp_path}/f.h5", "parameters": {"dataset": "data"},
    }  # fmt: skip
    sink("stream_resource", resource)
    with h5py.File(tmp_path / "f.h5", "w", libver="latest") as file:
        data = file.create_dataset("data", (0, 8, 6), "u2", maxshape=(None, 8, 6), chunks=(1, 8, 6))
        file.swmr_mode = True
        for low, high in ((0, 8), (8, 20)):
            data.resize(high, 0)
            data[low:high] = frames[low:high]
            data.flush()
            datum = {
                "uid": f"res/{low}", "stream_resource": "res", "descriptor": "frames-primary-d",
                "indices": {"start": low, "stop": high},
                "seq_nums": {"start": low + 1, "stop": high + 1},
            }  # fmt: skip
            sink("stream_datum", datum)
            assert np.array_equal(live["frames"]["primary"]["eiger"].read(), frames[:high])
        assert np.array_equal(live["frames"]["primary"]["eiger"][-2:, 3], frames[-2:, 3])


def test_announced_frames_that_are_not_there_are_asked_for_again(served, http, tmp_path):
    sink, _ = served
    keys = {"cam": {"dtype": "array", "shape": [2], "source": "x", "external": "STREAM:"}}
    begin(sink, "late", keys=keys)
    resource = {
        "uid": "lres", "run_start": "late", "data_key": "cam", "mimetype": "application/x-hdf5",
        "uri": f"file://localhost{tmp_path}/late.h5", "parameters": {"dataset": "data"},
    }  # fmt: skip
    sink("stream_resource", resource)
    datum = {
        "uid": "lres/0", "stream_resource": "lres", "descriptor": "late-primary-d",
        "indices": {"start": 0, "stop": 3}, "seq_nums": {"start": 1, "stop": 4},
    }  # fmt: skip
    sink("stream_datum", datum)
    path = "/api/v1/array/full/live/late/primary/cam"
    answer = http.get(path, headers=HEADERS)
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
    with h5py.File(tmp_path / "late.h5", "w") as file:
        file["data"] = np.ones((3, 2))
    assert http.get(path, headers=HEADERS).content == np.ones((3, 2)).tobytes()


def test_oversized_read_is_refused_before_it_is_made(served, http):
    sink, _ = served
    keys = {
        "big": {
            "dtype": "array", "dtype_numpy": "<u4", "shape": [4096, 4096],
            "source": "x", "external": "STREAM:",
        }
    }  # fmt: skip
    begin(sink, "big", keys=keys)
    resource = {
        "uid": "bres", "run_start": "big", "data_key": "big", "mimetype": "application/x-hdf5",
        "uri": "file://localhost/nowhere.h5", "parameters": {"dataset": "data"},
    }  # fmt: skip
    sink("stream_resource", resource)
    datum = {
        "uid": "bres/0", "stream_resource": "bres", "descriptor": "big-primary-d",
        "indices": {"start": 0, "stop": 10**6}, "seq_nums": {"start": 1, "stop": 10**6 + 1},
    }  # fmt: skip
    sink("stream_datum", datum)
    path = "/api/v1/array/full/live/big/primary/big"
    answer = http.get(path, params={"slice": ":,0,0"}, headers=HEADERS)
    assert answer.status_code == 400
    assert "Use slicing" in answer.text
    # Three rows that are far apart are not much: only their file is not there.
    answer = http.get(path, params={"slice": "::400000,0,0"}, headers=HEADERS)
    assert answer.status_code == 503


PUBLIC = {"/", "/healthz", "/health", "/ready", "/api/v1/", "/ui/{path}", "/favicon.ico",
          "/tiled-ui-settings"}  # fmt: skip


def test_nothing_but_the_door_itself_is_seen_without_the_key(served, http):
    sink, _ = served
    begin(sink, "secret", sample="secretsample")
    add_page(sink, "secret", 1)
    routes = http.get("/openapi.json").json()["paths"]
    assert len(routes) > 30
    for path, methods in routes.items():
        for method in methods:
            for key in ({}, {"Authorization": "Apikey wrong"}):
                place = path.replace("{path}", "live/secret/primary/Fe_K")
                url = re.sub(r"\{[^}]*\}", "x", place)
                params = {"block": "0", "partition": "0", "id": "1"}
                answer = http.request(method, url, headers=key, params=params)
                if path not in PUBLIC or method.upper() != "GET":
                    assert answer.status_code in (401, 403, 404, 405, 411), (method, url)
                assert "secretsample" not in answer.text
    for kind in ("metadata", "search", "array/full", "node/full", "container/full"):
        for path in ("live", "live/secret", "live/secret/primary/Fe_K"):
            for key in ({}, {"Authorization": "Apikey wrong"}):
                answer = http.get(f"/api/v1/{kind}/{path}", headers=key)
                assert answer.status_code == 401, (kind, path)
    assert http.get("/zarr/v3/live/secret/primary/Fe_K", headers=HEADERS).status_code == 404
    assert http.get("/zarr/v2/live/secret/primary/Fe_K/.zarray").status_code == 404
    assert http.get("//zarr/v2/live/secret/primary/Fe_K/.zarray").status_code == 404


def test_nobody_writes_into_a_run(served, http):
    sink, _ = served
    begin(sink, "kept")
    add_page(sink, "kept", 1)
    body = {"structure_family": "container", "metadata": {}, "data_sources": [], "specs": []}
    for method, path, status in [
        ("POST", "/api/v1/metadata/live/kept", 405),
        ("POST", "/api/v1/register/live", 403),
        ("PUT", "/api/v1/array/full/live/kept/primary/Fe_K", 405),
        ("PUT", "/api/v1/metadata/live/kept", 405),
        ("DELETE", "/api/v1/metadata/live/kept", 405),
    ]:
        answer = http.request(method, path, headers=HEADERS, json=body)
        assert answer.status_code == status, (method, path)


def test_many_columns_are_read_by_post(served, http):
    sink, _ = served
    begin(sink, "posted")
    add_page(sink, "posted", 1)
    path = "/api/v1/table/full/live/posted/primary/internal"
    answer = http.post(path, headers=HEADERS, params={"format": "csv"}, json=["Fe_K"])
    assert answer.text.splitlines()[:2] == ["Fe_K", "0.25"]


def test_reading_touches_and_the_untouched_leaves():
    sink = Sink(10**9)
    begin(sink, "probe")
    add_page(sink, "probe", 1, 1000)
    one = sink.nbytes
    sink = Sink(int(3.5 * one))
    for i, uid in enumerate("abc"):
        begin(sink, uid, float(i))
        add_page(sink, uid, 1, 1000)
        end(sink, uid)
    with serving(build_app(sink, KEY)) as url, httpx.Client(base_url=url, headers=HEADERS) as http:
        # Looking at a run's metadata is no use of it; reading its data is.
        assert http.get("/api/v1/metadata/live/b").status_code == 200
        assert http.get("/api/v1/array/full/live/a/primary/Fe_K").status_code == 200
        begin(sink, "d", 9.0)
        add_page(sink, "d", 1, 1000)
        found = http.get("/api/v1/search/live").json()["data"]
        assert [run["id"] for run in found] == ["a", "c", "d"]
        assert http.get("/api/v1/array/full/live/b/primary/Fe_K").status_code == 404


class Documents:
    """A source that another thread fills, as the bus does with a follower."""

    def __init__(self):
        self._queue = queue.Queue()

    def put(self, name, document):
        self._queue.put((name, document))

    def __iter__(self):
        while (item := self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def fail(self, error):
        self._queue.put(error)

    def close(self):
        self._queue.put(None)


def test_bad_documents_are_logged_once_and_the_feed_goes_on(caplog):
    source, sink = Documents(), Sink(10_000_000)
    feed = Feed(source, sink)
    begin(source.put, "r")
    for i in range(50):
        source.put("event_page", {"descriptor": f"unknown{i}", "seq_num": [1]})
    add_page(source.put, "r", 1)
    feed.close()
    assert sink.refused == {"event_page: KeyError": 50}
    assert len([r for r in caplog.records if "refused" in r.getMessage()]) == 1
    assert sink.view("r").streams["primary"]().columns["Fe_K"].rows == 10


@pytest.mark.logs_errors
def test_health_tells_when_documents_stopped_coming(caplog):
    source, sink, failed = Documents(), Sink(1000), threading.Event()
    feed = Feed(source, sink, failed=failed.set)
    app = build_app(sink, KEY, operation=Operation(alive={"feed": lambda: not failed.is_set()}))
    with serving(app) as url, httpx.Client(base_url=url) as http:
        assert http.get("/healthz").json() == {"status": "ready"}
        assert http.get("/health").status_code == 200
        source.fail(OSError("the log directory is gone"))
        assert failed.wait(30)
        answer = http.get("/health")
        assert (answer.status_code, answer.json()) == (
            503,
            {"status": "failed", "failed": ["feed"]},
        )
    feed.close()
    assert "the log directory is gone" in caplog.text


@given(
    before=st.integers(1, 30),
    growth=st.integers(0, 30),
    bounds=st.tuples(*[st.none() | st.integers(-35, 35)] * 2),
    step=st.none() | st.integers(-4, 4).filter(bool),
)
def test_bounded_slice_takes_the_rows_that_the_client_knows(before, growth, bounds, step):
    from tiled.ndslice import NDSlice

    old, new = np.arange(before), np.arange(before + growth)
    asked = NDSlice(slice(*bounds, step)).expand_for_shape((before,))  # as the client does
    want = old[tuple(asked)]
    text = asked.to_numpy_str()
    bounded = bounded_slice(text, len(want))
    if len(want):
        assert np.array_equal(new[tuple(NDSlice.from_numpy_str(bounded or text))], want)
    assert bounded_slice("", before) == f"0:{before}:1"
    assert bounded_slice("3", before) is None
    assert bounded_slice("nonsense", before) is None


def test_only_loopback_is_served():
    with pytest.raises(ValueError, match=r"refusing to listen on 0\.0\.0\.0"):
        LoopbackServer(build_app(Sink(1), KEY), host="0.0.0.0")


def test_key_file_is_made_private_and_kept(tmp_path):
    path = tmp_path / "state" / "key"
    key = make_secret(path, "the API key")
    assert len(key) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert make_secret(path, "the API key") == key
    path.chmod(0o644)
    with pytest.raises(PermissionError, match="chmod 600"):
        make_secret(path, "the API key")
    with pytest.raises(ValueError, match="letters and digits"):
        build_app(Sink(1), "")


def launch(directory, tmp_path, *more):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TILED_", "P06BS_"))}
    return subprocess.Popen(
        [
            sys.executable, "-m", "p06bs.services.server", "--log", str(directory),
            "--address", f"ipc://{tmp_path}/bus", "--port", "0",
            "--api-key-file", str(tmp_path / "key"), *more,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def leave(process, number=signal.SIGTERM):
    process.send_signal(number)
    return process.communicate(timeout=30)


def count_rows(url, key, run):
    """Return the rows of a run's stream, -1 where there is none."""
    answer = httpx.get(
        f"{url}/api/v1/array/full/live/{run}/primary/Fe_K",
        headers={"Authorization": f"Apikey {key}"},
    )
    return len(answer.content) // 8 if answer.status_code == 200 else -1


def until(condition, timeout=30.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come"


def test_service_follows_the_log_and_is_refilled_after_a_kill(tmp_path):
    directory = tmp_path / "log"
    with DocumentLog(directory) as log, Publisher(f"ipc://{tmp_path}/in", log) as publish:
        begin(publish, "before")
        add_page(publish, "before", 1)
        end(publish, "before")
        server = launch(directory, tmp_path)
        try:
            line = server.stdout.readline()
            url = re.search(r"http://127\.0\.0\.1:\d+", line)[0]
            key = Path(tmp_path / "key").read_text().strip()
            assert key not in line
            until(lambda: count_rows(url, key, "before") == 10)
            begin(publish, "during")
            add_page(publish, "during", 1)
            until(lambda: count_rows(url, key, "during") == 10)
        finally:
            leave(server, signal.SIGKILL)
        add_page(publish, "during", 11)
        server = launch(directory, tmp_path)
        try:
            url = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())[0]
            until(lambda: count_rows(url, key, "during") == 20)
            assert count_rows(url, key, "before") == 10
        finally:
            out, err = leave(server)
        assert server.returncode == 0
        assert "Traceback" not in err
        assert key not in out + err


@pytest.mark.parametrize(
    ("options", "message"),
    [({"host": "0.0.0.0"}, "refusing to listen"), ({"budget": "much"}, "budget|byte")],
)
def test_service_refuses_with_a_clear_message(tmp_path, capsys, options, message):
    with pytest.raises(typer.Exit):
        run(log=tmp_path / "log", api_key_file=tmp_path / "key", **options)
    assert re.search(message, capsys.readouterr().err)
