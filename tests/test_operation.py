"""Operation: health and readiness, metrics, the end of a server in good order."""

import asyncio
import contextlib
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from functools import partial

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from p06bs.bus.log import DocumentLog
from p06bs.bus.metrics import Measure, Metrics
from p06bs.config.server import Authentication
from p06bs.server.gate.gate import Gate
from p06bs.server.health import CHECK_SECONDS
from p06bs.server.loopback import LAST_SECONDS, SHUTDOWN_SECONDS, LoopbackServer
from p06bs.services._supervisord_conf import STOP_SECONDS
from tests.archives import running_postgres  # noqa: F401
from tests.doors import KEY, Gated
from tests.live_runs import add_page, begin
from tests.live_server import serving
from tests.postgres import POSTGRES
from tests.server_process import ServerProcess


def test_health_and_readiness_name_what_is_wrong():
    state = {"sink": True, "database": True}

    async def database():
        if not state["database"]:
            raise OSError("no route to host")
        return True

    gated = Gated(ready={"sink": lambda: state["sink"], "database": database})
    with serving(gated.gate) as url:

        def asked(path):
            answer = httpx.get(url + path)
            return answer.status_code, answer.json()

        assert asked("/health") == (200, {"status": "ok"})
        assert asked("/ready") == (200, {"status": "ready"})
        state["sink"] = False
        assert asked("/ready") == (503, {"status": "not ready", "failed": ["sink"]})
        state["database"] = False
        assert asked("/ready") == (503, {"status": "not ready", "failed": ["sink", "database"]})
        assert asked("/health")[0] == 200


class Forwarder:
    """Carries bytes between TCP clients and a Unix socket, unless it is told to hold them back.

    So a network or a host is that does not answer any more: connections stay open and silent.
    """

    def __init__(self, socket_path):
        self._target = str(socket_path)
        self._going = threading.Event()
        self._going.set()
        self._ended = False
        self._threads = []
        self._sockets = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._start(self._accept)

    def stall(self):
        self._going.clear()

    def go_on(self):
        self._going.set()

    def close(self):
        self._ended = True
        self._going.set()
        for one in (self._listening, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()

    def _start(self, work, *arguments):
        self._threads.append(threading.Thread(target=work, args=arguments))
        self._threads[-1].start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                self._sockets += [client, server]
                self._start(self._carry, client, server)
                self._start(self._carry, server, client)

    def _carry(self, source, target):
        with contextlib.suppress(OSError):
            while block := source.recv(65536):
                self._going.wait()
                if self._ended:
                    return
                target.sendall(block)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.mark.slow
def test_databases_that_hang_are_named_in_time(tmp_path, running_postgres):  # noqa: F811
    """Connections to PostgreSQL that are silent: no error ever comes."""
    if running_postgres is None:
        pytest.skip("NO POSTGRESQL: initdb is not on this machine (Debian: postgresql)")
    names = [running_postgres.database().partition("@/")[2].partition("?")[0] for _ in range(2)]
    forwarder = Forwarder(running_postgres.directory / ".s.PGSQL.5432")
    uris = [f"postgresql://{POSTGRES}@127.0.0.1:{forwarder.port}/{name}" for name in names]
    configuration = f"""
    [server]
    port = 0
    [server.archive]
    database = "{uris[0]}"
    storage = "{{0}}/runs"
    [server.authentication]
    database = "{uris[1]}"
    secret_key_file = "{{0}}/secret"
    [server.access]
    roots = ["{{0}}"]
    rights = "mode-bits"
    """
    with (
        contextlib.closing(forwarder),
        contextlib.closing(ServerProcess(tmp_path, configuration)) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):

        def ready():
            answer = http.get("/ready")
            return answer.status_code, answer.json().get("failed", [])

        def becomes(what):
            until = time.monotonic() + 60
            while (now := ready()) != what:
                assert time.monotonic() < until, now

        becomes((200, []))
        forwarder.stall()
        assert ready() == (503, ["archive", "tokens"])
        assert http.get("/health").status_code == 200
        forwarder.go_on()
        becomes((200, []))
        # It ends, too, though a request waits for a database that says nothing.
        forwarder.stall()
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as waiting:
            head = f"GET /api/v1/metadata/ HTTP/1.1\r\nHost: x\r\nAuthorization: Apikey {'0' * 64}"
            waiting.sendall(f"{head}\r\n\r\n".encode())
            assert http.get("/health").status_code == 200
            assert server.close() == 0
            assert waiting.recv(100) == b""


@pytest.fixture
def users(tmp_path):
    """Serve a gate with users: its URL, and another connection to their database."""
    config = Authentication(
        database=f"sqlite:///{tmp_path}/t.db", secret_key_file=tmp_path / "secret"
    )
    with (
        serving(Gated(config).gate) as url,
        contextlib.closing(sqlite3.connect(tmp_path / "t.db", isolation_level=None)) as other,
    ):
        yield url, other


def test_a_locked_database_is_not_ready(users):
    url, other = users
    ready = partial(httpx.get, f"{url}/ready", timeout=CHECK_SECONDS + 10)
    assert ready().status_code == 200
    other.execute("BEGIN EXCLUSIVE")
    answer = ready()
    assert (answer.status_code, answer.json()["failed"]) == (503, ["tokens"])
    other.execute("ROLLBACK")


@pytest.mark.slow
def test_websockets_are_told_that_the_users_database_does_not_answer(users):
    url, other = users
    path = f"{url.replace('http', 'ws')}/api/v1/stream/single/live"
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(InvalidStatus) as denied:
        connect(path, additional_headers={"Authorization": f"Apikey {'0' * 64}"})
    assert denied.value.response.status_code == 503
    with connect(path) as client:
        client.send(json.dumps({"type": "auth", "api_key": "0" * 64}))
        with pytest.raises(ConnectionClosed):
            client.recv()
        assert client.close_code == 1013
    other.execute("ROLLBACK")


def test_metrics_are_shown_beside_tileds_to_those_who_may_see_them():
    gated = Gated()
    measures = [
        Measure("sink_bytes", "Bytes that runs hold.", lambda: 17),
        Measure("rows", "Rows that came in.", lambda: 5, kind="counter"),
        Measure("failed_logins", "Failed logins.", lambda: gated.gate.failed_logins, "counter"),
        Measure("sockets", "WebSockets that are open.", lambda: gated.gate.sockets),
        Measure("refused", "Documents.", lambda: {"event: KeyError": 2}, "counter", label="why"),
    ]
    metrics = Metrics(measures)
    try:
        with serving(gated.gate) as url:
            wrong = {"Authorization": "Apikey wrong"}
            assert httpx.get(f"{url}/api/v1/metrics").status_code == 401
            assert httpx.get(f"{url}/api/v1/metrics", headers=wrong).status_code == 401
            good = {"Authorization": f"Apikey {KEY}"}
            lines = httpx.get(f"{url}/api/v1/metrics", headers=good).text.splitlines()
    finally:
        metrics.close()
    assert "p06bs_sink_bytes 17.0" in lines
    assert "p06bs_rows_total 5.0" in lines
    assert "p06bs_failed_logins_total 1.0" in lines
    assert 'p06bs_refused_total{why="event: KeyError"} 2.0' in lines
    assert any(line.startswith("tiled_") for line in lines)


def test_metrics_end_with_their_server():
    registry = CollectorRegistry()
    for _ in range(2):
        Metrics([Measure("x", "x", lambda: 1)], registry).close()
    assert b"p06bs" not in generate_latest(registry)


def test_running_responses_end_and_new_connections_are_refused():
    begun, go = threading.Event(), threading.Event()
    gated = Gated()

    def slow():
        begun.set()
        assert go.wait(30)
        return {"done": True}

    gated.app.add_api_route("/ready", slow)
    gated.app.router.routes.insert(0, gated.app.router.routes.pop())
    ready = threading.Event()
    server = LoopbackServer(gated.gate, ready=lambda url: ready.set())
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    assert ready.wait(60)
    answers = []
    client = threading.Thread(target=lambda: answers.append(httpx.get(f"{server.url}/ready")))
    client.start()
    assert begun.wait(30)
    server.stop()
    go.set()
    client.join()
    thread.join(SHUTDOWN_SECONDS + 20)
    assert answers[0].json() == {"done": True}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")


@pytest.fixture
def busy(tmp_path):
    """A server with a run that goes on, whose array is larger than what sockets buffer."""
    keys = {
        "n": {"dtype": "number", "dtype_numpy": "<f8", "shape": [], "source": "x"},
        "mca": {"dtype": "array", "dtype_numpy": "<u4", "shape": [4, 4096], "source": "x"},
    }
    random = np.random.default_rng(0)
    with DocumentLog(tmp_path / "log") as log:
        begin(log.append, "run1", keys=keys)
        for first in range(1, 800, 100):
            data = {
                "n": np.arange(100.0),
                "mca": random.integers(0, 2**32, (100, 4, 4096), "u4"),  # nothing to compress
            }
            add_page(log.append, "run1", first, 100, data)
    configuration = """
    [server]
    port = 0
    budget = "200MB"
    api_key_file = "{0}/key"
    """
    server = ServerProcess(tmp_path, configuration)
    try:
        while httpx.get(f"{server.url}/ready").status_code != 200:
            pass
        yield server, (tmp_path / "key").read_text().strip()
    finally:
        server.close()


def test_sigterm_ends_it_in_good_order_whatever_clients_do(busy):
    server, key = busy
    headers = {"Authorization": f"Apikey {key}"}
    host, port = server.url.removeprefix("http://").split(":")
    stream = server.url.replace("http", "ws", 1) + "/api/v1/stream/single/live/run1/primary/n"
    large = "/api/v1/array/full/live/run1/primary/mca?format=application/octet-stream"
    whole = 800 * 4 * 4096 * 4

    def says(request):
        """A client that says this and then neither says nor takes anything more."""
        hanging = stack.enter_context(socket.create_connection((host, int(port))))
        hanging.sendall(request.replace("\n", "\r\n").encode())
        return hanging

    authorized = f"Host: x\nAuthorization: Apikey {key}\n"
    upgrade = "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n"
    with contextlib.ExitStack() as stack:
        subscribers = [
            stack.enter_context(connect(stream, additional_headers=headers)) for _ in range(3)
        ]
        for one in subscribers:
            one.recv(timeout=60)  # what it is
        says("GET / HTTP/1.1\nHos")
        says(
            f"POST /api/v1/table/full/live/run1/primary/internal HTTP/1.1\n{authorized}"
            "Content-Type: application/json\nContent-Length: 100\n\n["
        )
        for request in (
            f"GET {large} HTTP/1.1\n{authorized}\n",
            f"GET /api/v1/stream/single/live/run1/primary/mca?start=0 HTTP/1.1\n{authorized}"
            f"{upgrade}Sec-WebSocket-Key: {'A' * 22}==\n\n",
        ):
            assert says(request).recv(10).startswith(b"HTTP/1.1")
        client = stack.enter_context(httpx.Client(headers=headers, timeout=60))
        with client.stream("GET", server.url + large) as download:
            blocks = download.iter_bytes()
            nbytes = len(next(blocks))
            server.process.send_signal(signal.SIGTERM)
            for one in subscribers:
                with pytest.raises(ConnectionClosed) as ended:
                    list(one)
                # 1012: stock clients take other codes, and 1001, for the end of the stream.
                assert ended.value.rcvd.code == 1012
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)))
            assert nbytes + sum(map(len, blocks)) == whole  # who goes on reading gets all
        assert server.process.wait(60) == 0
    said = server.errors.read_text()
    assert "cuts off" in said
    assert "Traceback" not in said
    assert "ERROR" not in said


def test_it_ends_before_service_managers_kill_it():
    assert SHUTDOWN_SECONDS + LAST_SECONDS + 2 < STOP_SECONDS


def test_the_gate_passes_what_is_no_request_on():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(Gate(app)({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]


HANGING = """
import asyncio, os, signal, threading
from p06bs.server import loopback
from p06bs.server.access.viewers import Viewers

class Rights:
    def visible(self, user, folders):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait()

async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    asking = asyncio.create_task(Viewers(Rights(), 10.0).ask("ada", frozenset({"/data"})))
    await receive()
    await send({"type": "lifespan.shutdown.complete"})

def leave(number, frame):
    raise SystemExit(0)

signal.signal(signal.SIGTERM, leave)
loopback.END_SECONDS = 0.5
loopback.LoopbackServer(app).serve_forever()
"""


def test_sigterm_ends_it_although_a_file_system_hangs():
    ended = subprocess.run(
        [sys.executable, "-c", HANGING], check=False, timeout=60, capture_output=True, text=True
    )
    assert ended.returncode == 0
    assert "something still hangs" in ended.stderr
