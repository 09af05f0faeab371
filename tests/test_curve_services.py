"""Services of a site with keys: found, asked and at work beyond the loopback interface."""

import json
import socket
import subprocess
import sys
import time

import pytest

from p06bs.bus import certificates
from p06bs.bus.control import RefusedError, ask
from p06bs.bus.curve import Keys
from p06bs.bus.follow import Follower
from p06bs.bus.membership import Membership
from p06bs.bus.publish import Publisher
from p06bs.services.supervision import Supervision
from tests.documents import raw_run
from tests.test_curve import own_address

SERVICES = """
proxy = false
[bus]
keys = "{0}/keys"
topology = "tcp://{1}:{2}"
log = "{0}/log"
[services.forwarding]
kind = "proxy"
inbound = "tcp://{1}:*"
outbound = "tcp://{1}:*"
[workers]
count = 1
[[pipelines]]
modality = "tests.techniques:Scale"
inputs = {{ x = "x" }}
"""


def p06bs(*arguments):
    command = [sys.executable, "-m", "p06bs.cli", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


@pytest.mark.usefixtures("own_runtime_directory")
def test_a_site_with_keys_works_on_an_address_that_others_reach(tmp_path):
    certificates.create(tmp_path / "keys")
    peer = Keys(certificates.add(tmp_path / "keys", "ipython"))
    certificates.create(tmp_path / "other")
    other = Keys(tmp_path / "other")
    with socket.socket() as free:
        free.bind((own_address(), 0))
        port = free.getsockname()[1]
    file = tmp_path / "services.toml"
    file.write_text(SERVICES.format(tmp_path, own_address(), port))
    services = Supervision(file)
    topology = services.configuration.bus.topology
    documents = raw_run({"x": range(20)})
    services.start()
    try:
        services.wait_ready()
        listed = json.loads(p06bs("ls", file, "--json").stdout)
        assert {one["name"] for one in listed} == {"topology", "forwarding", "pipelines"}
        with Membership(topology, other) as stranger, Membership(topology, peer) as peers:
            control = peers.wait_for("pipelines", "control", 60)
            assert not control.startswith("tcp://0.0.0.0")
            assert ask(control, "health", keys=peer)["healthy"]
            with pytest.raises(RefusedError, match="cannot dance"):
                ask(control, "dance", keys=peer)
            with pytest.raises(TimeoutError):
                ask(control, "health", seconds=0.5, keys=other)
            with pytest.raises(ValueError, match="beyond this host"):
                ask(control, "health")
            with (
                Publisher(
                    lambda: peers.address_of("proxy", "inbound"), tmp_path / "log", keys=peer
                ) as publisher,
                Follower(
                    lambda: peers.address_of("proxy", "outbound"), tmp_path / "log", keys=peer
                ) as follower,
            ):
                for name, document in documents:
                    publisher(name, document)
                until, stops = time.monotonic() + 120, 0
                while stops < 2:  # of the raw run and of its derived one
                    assert time.monotonic() < until
                    stops += sum(entry.name == "stop" for entry in follower.entries(1.0))
            assert not stranger.listed
            metrics = ask(peers.wait_for("topology", "control", 60), "metrics", keys=peer)
            assert 'peers_refused_total{reason="its bus.key is not ours"}' in metrics
    finally:
        ended = services.stop()
    assert set(ended.values()) == {0}
