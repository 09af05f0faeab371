"""Tiled's subscriptions with stock clients: every row once, also after the server was killed."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from tiled.client import from_uri

from p06bs.bus.log import DocumentLog
from p06bs.bus.publish import Publisher
from tests.live_runs import add_page, begin, end, row_data

KEY = "k3y"
ROWS = 2000
PATIENCE = 60.0


class Process:
    """A child process whose lines are read as they come."""

    def __init__(self, *command):
        self.lines = []
        self._process = subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "P06BS_API_KEY": KEY},
        )  # fmt: skip
        self.errors = []
        self._threads = [
            threading.Thread(target=self._read, args=[self._process.stdout, self.lines]),
            threading.Thread(target=self._read, args=[self._process.stderr, self.errors]),
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _read(stream, lines):
        for line in stream:
            lines.append(line)

    @property
    def pid(self):
        return self._process.pid

    @property
    def said(self):
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def send(self, number):
        self._process.send_signal(number)

    def end(self, number=signal.SIGTERM, timeout=30):
        if self._process.poll() is None:
            self._process.send_signal(number)
        self._process.wait(timeout)
        return self.join()

    def wait(self, timeout=PATIENCE):
        self._process.wait(timeout)
        return self.join()

    def join(self):
        for thread in self._threads:
            thread.join()
        self._process.stdout.close()
        self._process.stderr.close()
        return self._process.returncode


def until(condition, what="it"):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.01)


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Servers:
    """The service on one port and one log, started again and again."""

    def __init__(self, tmp_path, children, *more):
        self._run = children
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (tmp_path / "key").write_text(f"{KEY}\n")
        (tmp_path / "key").chmod(0o600)
        self._command = [
            "-m", "p06bs.services.server", "--log",
            tmp_path / "log", "--address", f"ipc://{tmp_path}/bus",
            "--port", self.port, "--api-key-file", tmp_path / "key", *more,
        ]  # fmt: skip
        self.process = None

    def start(self):
        self.process = self._run(*self._command)
        until(lambda: re.search("server ready", "".join(self.process.lines)), "the server")

    def kill(self):
        self.process.end(signal.SIGKILL)

    def stop(self):
        self.process.end()
        return "".join(self.process.errors)


@pytest.fixture
def children():
    """What is started here ends here."""
    started = []

    def start(*command):
        started.append(Process(*command))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send(signal.SIGCONT)
        process.end(signal.SIGKILL)


SUBSCRIBER = Path(__file__).with_name("live_subscriber.py")


def rows_of(said):
    """Return the rows that a subscriber got, in their order: (number, value)."""
    got = []
    for update in said:
        if "values" in update:
            numbers = range(update["first"] + 1, update["first"] + 1 + len(update["values"]))
            got += zip(numbers, update["values"], strict=True)
    return got


@pytest.mark.slow
def test_every_row_comes_once_though_the_server_is_killed_and_a_client_stops(tmp_path, children):
    servers = Servers(tmp_path, children)
    with (
        DocumentLog(tmp_path / "log") as log,
        Publisher(f"ipc://{tmp_path}/in", log) as publish,
    ):
        begin(publish, "run-of-the-test", time=100.0)
        add_page(publish, "run-of-the-test", 1)
        servers.start()
        client = from_uri(servers.url, api_key=KEY)
        until(lambda: "run-of-the-test" in list(client["live"]), "the run")
        client.context.close()
        column = "live/run-of-the-test/primary/Fe_K"
        fast = children(SUBSCRIBER, servers.url, column, 1)
        slow = children(SUBSCRIBER, servers.url, column, 0)
        table = children(SUBSCRIBER, servers.url, "live/run-of-the-test/primary/internal", 1)
        spectra = children(SUBSCRIBER, servers.url, "live/run-of-the-test/primary/mca", 1)
        runs = children(SUBSCRIBER, servers.url, "live", 0)
        everybody = [fast, slow, table, spectra, runs]
        until(lambda: all({"state": "connected"} in one.said for one in everybody), "the clients")
        until(lambda: rows_of(slow.said) and len(runs.said) == 2, "rows")
        slow.send(signal.SIGSTOP)
        done = 10
        while done < ROWS:
            add_page(publish, "run-of-the-test", done + 1)
            done += 10
            if done == ROWS // 2:
                until(lambda: len(rows_of(fast.said)) == ROWS // 2, "half of the rows")
                servers.kill()
                begin(publish, "begun-in-the-outage", time=200.0)
            elif done == ROWS // 2 + 200:
                servers.start()
        slow.send(signal.SIGCONT)
        end(publish, "run-of-the-test", time=300.0)
        for one in (fast, slow, table, spectra):
            assert one.wait() == 0, "".join(one.errors)
            assert one.said[-1] == {"state": "closed"}
        truth = row_data(range(1, ROWS + 1))
        whole = list(zip(range(1, ROWS + 1), truth["Fe_K"].tolist(), strict=True))
        assert rows_of(fast.said) == whole
        assert rows_of(slow.said) == whole
        numbers = [n for update in table.said for n in update.get("seq_num", ())]
        assert numbers == list(range(1, ROWS + 1))
        assert [value for _, value in rows_of(spectra.said)] == truth["mca"].tolist()
        for one in (fast, slow, table, spectra):
            sequences = [update["sequence"] for update in one.said if "sequence" in update]
            assert sequences == sorted(set(sequences))
        until(lambda: sum("type" in u for u in runs.said) >= 3, "news of the runs")
        assert [(u["type"], u["key"]) for u in runs.said if "type" in u] == [
            ("container-child-created", "run-of-the-test"),
            ("container-child-created", "begun-in-the-outage"),
            ("container-child-metadata-updated", "run-of-the-test"),
        ]
        assert runs.said[-1]["stop"]["exit_status"] == "success"
        assert "Traceback" not in servers.stop()
