"""A proxy that moves: publishers and followers find it again, and nothing is lost."""

import subprocess
import sys
import threading
import time

import pytest

from p06bs.bus import backlog
from p06bs.bus.follow import Follower
from p06bs.bus.publish import Publisher
from p06bs.services.proxy import Proxy
from tests.test_follow import assert_complete, run_documents, take


class Places:
    """Where the proxy is, as the Topology Manager would say."""

    inbound: str | None = None
    outbound: str | None = None

    def start(self):
        """Start a proxy on free ports, and say so."""
        command = [sys.executable, "-m", "p06bs.services.proxy"]
        command += ["--in", "tcp://127.0.0.1:*", "--out", "tcp://127.0.0.1:*"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        said = process.stdout.readline().replace(",", "").split()  # ... in ADDRESS out ADDRESS
        self.inbound, self.outbound = said[-3], said[-1]
        return process


@pytest.fixture
def places():
    return Places()


def live(publisher, follower):
    """Publish runs of one document until one comes over the wire."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        publisher("start", {"uid": f"probe-{time.time_ns()}"})
        if follower.socket.poll(20):
            return
        follower.entries(0)  # it looks where the proxy is
    raise AssertionError("nothing came over the wire")


def test_a_killed_proxy_that_comes_back_elsewhere_costs_nothing(places, tmp_path, monkeypatch):
    documents = run_documents(300)
    entries = []

    def exchange(some):
        for name, document in some:
            publisher(name, document)
        deadline = time.monotonic() + 60
        while not entries or entries[-1].document["uid"] != some[-1][1]["uid"]:
            assert time.monotonic() < deadline, f"{len(entries)} entries came"
            new = follower.entries(1.0)
            entries.extend(e for e in new if e.run == documents[0][1]["uid"])

    first = places.start()
    with (
        Publisher(lambda: places.inbound, tmp_path) as publisher,
        Follower(lambda: places.outbound, tmp_path) as follower,
    ):
        live(publisher, follower)
        exchange(documents[:100])
        first.kill()
        first.communicate()
        exchange(documents[100:200])
        places.inbound = places.outbound = None  # nobody knows: what was known is kept
        exchange(documents[200:210])
        second = places.start()
        live(publisher, follower)
        exchange(documents[210:250])
        with monkeypatch.context() as patch:
            patch.setattr(backlog.Backlog, "fill", None)  # reading a log would fail
            patch.setattr(backlog.Backlog, "look", lambda self: None)
            exchange(documents[250:])
        assert follower._connection.endpoint == places.outbound
        assert publisher.address == places.inbound
    assert_complete(entries, documents)
    second.terminate()
    second.communicate()


def test_nobody_knows_at_first(places, tmp_path, caplog):
    with (
        Publisher(lambda: places.inbound, tmp_path) as publisher,
        Follower(lambda: places.outbound, tmp_path) as follower,
    ):
        assert "no proxy at a known address" in caplog.text
        assert publisher.address is None
        publisher("start", {"uid": "before"})
        assert [e.run for e in take(follower, 1)] == ["before"]
        proxy = Proxy("tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
        forwarding = threading.Thread(target=proxy.start)
        forwarding.start()
        places.inbound, places.outbound = proxy.in_port, proxy.out_port
        live(publisher, follower)
        proxy.stop()
        forwarding.join()


@pytest.mark.logs_errors
def test_an_address_that_cannot_be_used_is_told_once(places, tmp_path, caplog):
    places.outbound = "tcp://192.0.2.77:5568"
    with Follower(lambda: places.outbound, tmp_path) as follower:
        for _ in range(2):
            follower._connection._look_at = 0.0
            follower._connection.look()
        assert follower._connection.endpoint is None
    assert caplog.text.count("lies beyond this host") == 1
