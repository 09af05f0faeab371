"""Kinds of services that are processes of a beamline: Dask scheduler and workers, NeXus writer."""

import os
import signal
import socket
import threading
import time

import h5py
import pytest

from p06bs.bus import certificates
from p06bs.bus.control import RefusedError, ask
from p06bs.bus.curve import Keys
from p06bs.bus.membership import Membership
from p06bs.bus.publish import Publisher
from p06bs.services.supervision import Supervision
from tests.documents import raw_run, write
from tests.online import Listener, assert_equal
from tests.techniques import Scale
from tests.test_curve import own_address

PATIENCE = 120.0
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


def wait(condition):
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        threading.Event().wait(0.05)


@pytest.fixture(autouse=True)
def _sockets_in_a_place_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


def free_ports(number):
    sockets = [socket.create_server((own_address(), 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


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
            files = tmp_path / "nexus"
            wait(lambda: len(list(files.glob("*.nxs"))) == 3)  # the raw run and two derived ones
    finally:
        codes = services.stop()
    assert set(codes.values()) == {0}
    assert "no workers can be placed" not in (services.logs / "scaling.log").read_text()
    assert not list(files.glob(".*.part"))
    with h5py.File(files / f"{uid}.nxs") as written:
        assert written["entry/bluesky/streams/primary/data/x"].shape == (200,)


def test_one_nexus_file_of_each_run_that_ends_also_of_those_before_and_after_a_kill(tmp_path):
    file = tmp_path / "services.toml"
    file.write_text(LAPTOP.format(tmp_path))
    before = [write(tmp_path / "log", raw_run({"x": range(3)})) for _ in range(3)]
    unfinished = write(tmp_path / "log", raw_run({"x": range(3)})[:-1])
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
        assert not list(files.glob(".*.part"))
    finally:
        assert set(services.stop().values()) == {0}
