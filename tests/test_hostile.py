"""Requests that nobody sends in good faith: no internal error, no leak, no memory."""

import collections
import contextlib
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.hostile import TEXTS, Hostile, Wire

NODES = [
    "", "live", "live/run1", "live/run1/primary", "live/run1/primary/internal",
    "live/run1/primary/Fe_K", "live/run1/primary/name", "live/run1/primary/mca",
    "live/run1/maps", "live/run2/primary/mca", "live/run2", "archive",
]  # fmt: skip

LEAKS = re.compile(rb"Traceback|site-packages|/work/|root:[x*]:0|\.py\", line|tokens\.db|sqlalche")

SEED = 20261126


class Target:
    """A server process, and what it has said on stderr."""

    def __init__(self, directory: Path) -> None:
        self.errors = directory / "stderr"
        self._log = self.errors.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile_server", str(directory)],
            stdout=subprocess.PIPE, stderr=self._log, text=True,
            cwd=Path(__file__).resolve().parents[1],
        )  # fmt: skip
        self.url, self.key = self.process.stdout.readline().split() or (self._failed(), "")

    def _failed(self) -> None:
        self.close()
        raise RuntimeError(self.errors.read_text())

    @property
    def rss(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss

    def close(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        self._log.close()
        return self.process.returncode


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    target = Target(tmp_path_factory.mktemp("hostile"))
    try:
        yield target
    finally:
        target.close()


def attack(target: Target, count: int, seed: int) -> collections.Counter:
    """Send so many requests; complain of the first ten that are answered as none should be."""
    openapi = httpx.get(f"{target.url}/openapi.json").json()
    hostile = Hostile(openapi["paths"], NODES, target.key, seed, openapi["components"]["schemas"])
    answers, wrong = collections.Counter(), []
    with contextlib.closing(Wire(target.url)) as wire:
        for _ in range(count):
            request = hostile.request()
            status, headers, content = wire.send(request)
            answers[status] += 1
            stranger = target.key not in str(request.headers)
            if (
                (status >= 500 and status != 503)
                # Metrics name the databases, to those who operate the server.
                or (LEAKS.search(content) and "/metrics" not in request.target)
                or (headers is not None and "X-Evil" in headers)
                or (stranger and b"secretsample" in content)
            ):
                wrong.append((status, request.method, request.target[:200], content[:200]))
    assert not wrong, wrong[:10]
    return answers


def test_wrong_requests_are_answered_as_wrong(target):
    answers = attack(target, 600, SEED)
    # They come past the gate, and past the routes' own checks.
    assert answers[200] > 24
    assert answers[422] > 24
    assert answers[0] < 24
    said = target.errors.read_text()
    assert "Traceback" not in said, said[-3000:]
    assert target.key not in said
    assert httpx.get(f"{target.url}/health").status_code == 200


def test_wrong_messages_end_a_websocket_only(target):
    chance = random.Random(SEED)
    url = target.url.replace("http", "ws", 1)
    queries = [
        "", "?start=-1", "?start=x", f"?start={'9' * 30}", "?start=0", "?access_token=a.b.c",
        "?envelope_format=x", "?envelope_format=msgpack", "?access_token=",
    ]  # fmt: skip
    for _ in range(50):
        node = chance.choice([*NODES, "x", "live/" + "y" * 500, "%2e%2e"])
        key = chance.choice([None, "wrong", target.key])
        messages = [
            json.dumps({"type": "auth", "api_key": chance.choice([*TEXTS, 5, None])}),
            json.dumps({"type": "auth", "access_token": chance.choice([*TEXTS, []])}),
            chance.choice(TEXTS[:30]), b"\x00\xff", "[" * 10_000,
        ]  # fmt: skip
        with (
            contextlib.suppress(InvalidStatus, ConnectionClosed, TimeoutError),
            connect(
                f"{url}/api/v1/stream/single/{node}{chance.choice(queries)}",
                additional_headers={} if key is None else {"Authorization": f"Apikey {key}"},
            ) as one,
        ):
            one.send(chance.choice(messages))
            one.recv(timeout=0.2)
    said = target.errors.read_text()
    assert "Traceback" not in said, said[-3000:]
    assert httpx.get(f"{target.url}/health").status_code == 200


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_thousand_wrong_requests_cost_no_memory(tmp_path):
    target = Target(tmp_path)
    try:
        begun = time.monotonic()
        answers = attack(target, 20_000, 1)
        before = target.rss
        answers += attack(target, 80_000, 2)
        grown = target.rss - before
        print(f"RSS {before} B after 20 000 requests, {grown:+} B after 80 000 more")
        print(f"{time.monotonic() - begun:.0f} s; by status: {sorted(answers.items())}")
        assert grown < 30_000_000
        assert "Traceback" not in target.errors.read_text()
    finally:
        assert target.close() == 0
