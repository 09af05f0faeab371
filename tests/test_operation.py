"""Operation: health and readiness, metrics, the end of a server in good order."""

import asyncio
import contextlib
import signal
import threading

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from p06bs.config.server import Authentication
from p06bs.server.gate.gate import Gate
from p06bs.server.gate.keys import Keys
from p06bs.server.health import Measure, Metrics
from p06bs.server.loopback import SHUTDOWN_SECONDS, LoopbackServer
from tests.doors import KEY, Gated
from tests.live_server import serving
from tests.test_hostile import Target


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


def test_a_database_that_is_asked(tmp_path):
    config = Authentication(
        database=f"sqlite:///{tmp_path}/t.db", secret_key_file=tmp_path / "secret"
    )
    gated = Gated(config)
    keys = Keys(gated.app)

    gated.app.add_api_route("/ready", keys.answers)
    with serving(gated.gate) as url:
        assert httpx.get(f"{url}/ready").status_code == 200


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


def test_sigterm_tells_subscribers_to_come_again(tmp_path):
    target = Target(tmp_path)
    url = target.url.replace("http", "ws", 1) + "/api/v1/stream/single/live/run2/primary/Fe_K"
    with (
        contextlib.closing(target),
        connect(url, additional_headers={"Authorization": f"Apikey {target.key}"}) as one,
    ):
        one.recv(timeout=60)  # what it is
        target.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as ended:
            list(one)
        # 1012: stock clients take other codes, and 1001, for the end of the stream.
        assert ended.value.rcvd.code == 1012
        assert target.process.wait(60) == 0
    assert "Traceback" not in target.errors.read_text()


def test_the_gate_passes_what_is_no_request_on():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(Gate(app)({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]
