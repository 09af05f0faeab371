"""Kinds of services that are processes of a beamline: Dask scheduler and workers, NeXus writer."""

import os
import signal
import socket
import threading
from functools import partial

import h5py
import psutil
import pytest

from p06bs.bus import certificates, topology
from p06bs.bus.control import RefusedError, ask
from p06bs.bus.curve import Keys
from p06bs.bus.membership import Membership
from p06bs.bus.publish import Publisher
from p06bs.bus.reader import SUFFIX
from p06bs.bus.topology_manager import TopologyManager
from p06bs.services import _dask
from p06bs.services.supervision import Supervision
from tests import supervised
from tests.documents import raw_run, write
from tests.online import Listener, assert_equal
from tests.techniques import Scale
from tests.test_curve import own_address

pytestmark = pytest.mark.usefixtures("own_runtime_directory")

PATIENCE = 120.0
wait = partial(supervised.wait, seconds=PATIENCE)
WITH_DASK = ("scheduler", "worker")
SITE = """
[bus]
keys = "{0}/keys"
topology = "tcp://{1}:{2}"
inbound = "tcp://{1}:{3}"
outbound = "tcp://{1}:{4}"
log = "{0}/log"
[services.scheduler]
[services.worker]
replicas = 2
[services.nexus]
directory = "{0}/nexus"
[services.scaling]
kind = "pipelines"
workers.on = "scheduler"
pipelines = [{{ modality = "tests.techniques:Scale", inputs = {{ x = "x" }} }}]
[services.doubling]
kind = "pipelines"
workers.on = "scheduler"
[[services.doubling.pipelines]]
modality = "tests.techniques:Scale"
name = "doubling"
inputs = {{ x = "x" }}
settings = {{ factor = 3.0 }}
"""
LAPTOP = """
[bus]
inbound = "ipc://{0}/in"
outbound = "ipc://{0}/out"
topology = "ipc://{0}/topology"
log = "{0}/log"
[services.nexus]
directory = "{0}/files/nexus"
"""


def free_ports(number):
    sockets = [socket.create_server((own_address(), 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def listening(pids):
    """Return where processes and their children listen, but for the loopback interface."""
    parents = [psutil.Process(pid) for pid in pids]
    family = parents + [child for one in parents for child in one.children(recursive=True)]
    ends = {c.laddr for p in family for c in p.net_connections("inet") if c.status == "LISTEN"}
    return [end for end in ends if end.ip != "127.0.0.1"]


def speaks_http(port):
    try:
        with socket.create_connection((own_address(), port), timeout=PATIENCE) as connection:
            connection.sendall(b"GET /health HTTP/1.0\r\n\r\n" + bytes(64))
            return connection.recv(5) == b"HTTP/"
    except (ConnectionResetError, ConnectionRefusedError):  # it hangs up, or has ended
        return False


@pytest.mark.parametrize(
    "addresses",
    [
        {"dask": "tcp://192.0.2.1:1"},
        {"dask": "tcp://127.0.0.1:1", "control": "ipc:///nowhere"},
        {"dask": "tls://127.0.0.1:1"},
        {"dask": "tls://127.0.0.1:1", "control": "nowhere"},
        {"http": "http://127.0.0.1"},
    ],
)
def test_nobody_joins_a_scheduler_that_does_not_show_the_keys(tmp_path, addresses):
    certificates.create(tmp_path / "keys")
    keys = Keys(tmp_path / "keys")
    with TopologyManager(f"ipc://{tmp_path}/topology", keys=keys) as manager:
        serving = threading.Thread(target=manager.serve)
        serving.start()
        with Membership(manager.address, keys) as peers:
            peers.enrol(topology.Service("odd", "scheduler", "1", "here", 1, addresses))
            wait(lambda: peers.services)
            assert _dask.found(peers, keys) is None
            local = addresses.get("dask") == "tcp://127.0.0.1:1"
            assert (_dask.found(peers, None) is not None) is local
        manager.stop()
        serving.join()


@pytest.mark.slow
def test_workers_and_pipelines_find_the_scheduler_wherever_it_is_and_again_when_it_was_killed(
    tmp_path,
):
    certificates.create(tmp_path / "keys")
    keys = Keys(tmp_path / "keys")
    file = tmp_path / "services.toml"
    file.write_text(SITE.format(tmp_path, own_address(), *free_ports(3)))
    services = Supervision(file)
    bus = services.configuration.bus
    raw = raw_run({"x": range(200)})
    uid = raw[0][1]["uid"]
    services.start()
    try:
        services.wait_ready()
        with (
            Membership(bus.topology, keys) as peers,
            Publisher(bus.inbound, bus.log, keys=keys) as publish,
            Listener(bus.outbound, bus.log, keys) as listener,
        ):
            assert peers.wait_for("scheduler", "dask", PATIENCE).startswith("tls://")
            control = peers.wait_for("scheduler", "control", PATIENCE)
            with pytest.raises((TimeoutError, RefusedError, ValueError)):
                ask(control, "credentials", seconds=0.5)  # they are for authorised peers
            for number, (name, document) in enumerate(raw):
                if number == 100:
                    listener.wait(uid, "scale", rows=50)
                    os.kill(services.statuses()["scheduler"].pid, signal.SIGKILL)
                publish(name, document)
            assert_equal(listener.wait(uid, "scale"), Scale(inputs={"x": "x"}), raw)
            services.wait_ready()  # also the workers of the scheduler that was killed
            dask = [s.pid for name, s in services.statuses().items() if name.startswith(WITH_DASK)]
            assert not [end for end in listening(dask) if speaks_http(end.port)]
            files = tmp_path / "nexus"
            wait(lambda: len(list(files.glob("*.nxs"))) == 3)  # the raw run and two derived ones
    finally:
        codes = services.stop()
    assert set(codes.values()) == {0}
    assert "no workers can be placed" not in (services.logs / "scaling.log").read_text()
    assert not list(files.glob(".*.part"))
    with h5py.File(files / f"{uid}.nxs") as written:
        assert written["entry/bluesky/streams/primary/data/x"].shape == (200,)


@pytest.mark.slow
def test_one_nexus_file_of_each_run_that_ends_also_of_those_before_and_after_a_kill(tmp_path):
    file = tmp_path / "services.toml"
    file.write_text(LAPTOP.format(tmp_path))
    before = [write(tmp_path / "log", raw_run({"x": range(3)})) for _ in range(3)]
    unfinished = write(tmp_path / "log", raw_run({"x": range(3)})[:-1])
    (tmp_path / "log" / f"unreadable{SUFFIX}").mkdir()  # the others are written all the same
    files = tmp_path / "files" / "nexus"
    files.mkdir(parents=True)
    (files / f".{before[0]}.nxs.0123456789ab.part").touch()  # of one that was killed
    (files / f"{before[1]}.nxs").write_text("written by an earlier one")
    services = Supervision(file)
    services.start()
    try:
        services.wait_ready()

        def written():
            return {path.stem for path in files.glob("*.nxs")}

        wait(lambda: written() == set(before))
        assert (files / f"{before[1]}.nxs").read_text() == "written by an earlier one"
        os.kill(services.statuses()["nexus"].pid, signal.SIGKILL)
        after = write(tmp_path / "log", raw_run({"x": range(3)}))
        wait(lambda: after in written())
        with Membership(services.configuration.bus.topology) as peers:
            control = peers.wait_for("nexus", "control", PATIENCE)
            assert 'p06bs_nexus_runs_total{what="written"} 1.0' in ask(control, "metrics")
        assert written() == {*before, after}
        assert unfinished not in written()
        assert (services.logs / "nexus.log").read_text().count("cannot be read yet") == 2  # a life
        assert not list(files.glob(".*.part"))
    finally:
        assert set(services.stop().values()) == {0}
