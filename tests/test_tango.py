"""Services in a Tango of their own: a real database, real clients, Debian's Starter."""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from p06bs import Publisher
from p06bs.bus.control import Control
from p06bs.bus.topology import Service
from p06bs.services.supervision import Supervision
from p06bs.services.supervisord import SupervisionError
from tests import tango_site
from tests.documents import raw_run
from tests.online import Listener, assert_equal
from tests.supervised import supervised
from tests.tango_site import Events, wait
from tests.techniques import Scale
from tests.test_settings import descriptors

REPOSITORY = Path(__file__).parents[1]
BUS = """
[bus]
inbound = "ipc://{0}/in"
outbound = "ipc://{0}/out"
topology = "ipc://{0}/topology"
log = "{0}/log"
[services.tango]
interval = 0.3
"""
PIPELINES = """
[workers]
min = 1
max = 1
[[pipelines]]
modality = "tests.techniques:Scale"
inputs = {{ x = "x" }}
"""


@pytest.fixture(autouse=True)
def _surroundings(
    own_runtime_directory: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with tango_site.database() as host:
        yield host


def written(folder: Path, *sections: str) -> Path:
    file = folder / "services.toml"
    file.write_text("".join((BUS, *sections)).format(folder))
    return file


def states(*names: str) -> list[Any]:
    from tango import DevState

    return [getattr(DevState, name) for name in names]


def test_a_service_is_a_device_with_commands_state_settings_and_metrics(database, tmp_path):
    import tango

    on, fault = states("ON", "FAULT")
    index = np.arange(60.0)
    raw = raw_run({"x": index}, page=10)
    uid = raw[0][1]["uid"]
    log = tmp_path / "log"
    with (
        supervised(written(tmp_path, PIPELINES)) as services,
        Publisher(f"ipc://{tmp_path}/in", log) as publish,
        Listener(f"ipc://{tmp_path}/out", log) as listener,
    ):
        found = tango_site.known(database).get_device_exported("p06/bs/*").value_string
        assert sorted(found) == ["p06/bs/pipelines", "p06/bs/proxy", "p06/bs/topology"]
        assert tango_site.listening(services.statuses()["tango"].pid) == {"127.0.0.1"}
        device = tango_site.device(database, "p06/bs/pipelines")
        about = device.get_property(["Service", "Kind", "File"])
        assert [about[name][0] for name in ("Service", "Kind")] == ["pipelines", "pipelines"]
        assert about["File"][0] == str(tmp_path / "services.toml")
        state = Events(device, "State")
        state.wait(on)
        factor = Events(device, "scale_factor")
        archived = Events(device, "scale_factor", "ARCHIVE_EVENT")

        for document in raw[:5]:
            publish(*document)
        listener.wait(uid, "scale", rows=30)
        state.wait(tango.DevState.RUNNING)
        assert uid[:8] in device.status()
        rows = wait(lambda: metric(device, "p06bs_pipeline_events_total_scale") or None)
        assert rows <= 30
        for name, value, said in (
            ("scale_limit", -1.0, "limit: Input should be greater than 0, got -1.0; allowed"),
            ("scale_bad", [1.0, float("nan")], "bad"),
        ):
            with pytest.raises(tango.DevFailed) as refused:
                device.write_attribute(name, value)
            assert said in refused.value.args[0].desc
        device.write_attribute("scale_factor", 3.0)
        assert device.read_attribute("scale_factor").value == 3.0
        assert factor.wait(3.0)
        assert archived.wait(3.0)
        for document in raw[5:]:
            publish(*document)
        online = listener.wait(uid, "scale")
        state.wait(on)

        os.kill(services.statuses()["pipelines"].pid, signal.SIGKILL)
        assert state.wait(fault)
        state.wait(on)
        assert device.read_attribute("scale_factor").value == 3.0
        for events in (state, factor, archived):
            events.close()
        services.restart(["tango"])
        assert services.wait_ready()
        wait(lambda: "scale_factor" in attributes(database, "pipelines"))
        assert "scale_factor" not in attributes(database, "topology")
    assert_equal(online, Scale(inputs={"x": "x"}), raw)
    data = [data for _, data in descriptors(online, "scale")]
    assert [one["first_row"] for one in data] == [0, 30]
    assert data[1]["changed_by"] == f"Tango client, process {os.getpid()} on {socket.gethostname()}"


@pytest.mark.slow
def test_commands_start_stop_and_restart_a_service(database, tmp_path):
    import tango

    on, fault, off = states("ON", "FAULT", "OFF")
    empty = PIPELINES.replace("min = 1", "min = 0")
    with supervised(written(tmp_path, empty)) as services:
        device = tango_site.device(database, "p06/bs/pipelines")
        state = Events(device, "State")
        state.wait(on)
        device.write_attribute("scale_factor", 3.0)
        with pytest.raises(tango.DevFailed, match="ALREADY_STARTED"):
            device.Start()
        device.Stop()
        state.wait(off)
        assert services.statuses()["pipelines"].state == "STOPPED"
        assert device.read_attribute("scale_factor").quality == tango.AttrQuality.ATTR_INVALID
        with pytest.raises(tango.DevFailed, match="has been stopped"):
            device.write_attribute("scale_factor", 4.0)
        with pytest.raises(tango.DevFailed, match="NOT_RUNNING"):
            device.Stop()
        device.Start()
        state.wait(on)
        before = services.statuses()["pipelines"].pid
        device.Restart()
        assert fault not in state.wait(on)
        assert services.statuses()["pipelines"].pid != before
        device.Init()
        assert device.state() == on
        assert device.read_attribute("scale_factor").value == 3.0
        state.close()


def attributes(database: str, name: str) -> list[str]:
    return list(tango_site.device(database, f"p06/bs/{name}").get_attribute_list())


def metric(device: Any, name: str) -> float:
    known = name in device.get_attribute_list()
    value = device.read_attribute(name).value if known else None
    return 0.0 if value is None else float(value)


@pytest.mark.slow
def test_what_nobody_supervises_is_stopped_by_itself(database, tmp_path):
    """Services that were started by hand have devices, too; whoever started them starts them."""
    import tango

    file = written(tmp_path, '[services.topology]\naddress = "ipc://{0}/topology"\nttl = 2.0\n')
    file.write_text("topology = false\n" + file.read_text())
    command = [sys.executable, "-m", "p06bs.services", str(file)]
    running = {n: subprocess.Popen([*command, n]) for n in ("topology", "proxy", "tango")}
    try:
        device = tango_site.device(database, "p06/bs/proxy")
        state = Events(device, "State")
        state.wait(tango.DevState.ON)
        with pytest.raises(tango.DevFailed, match="p06bs up"):
            device.Restart()
        device.Stop()
        state.wait(tango.DevState.OFF)
        assert running["proxy"].wait(60) == 0
        state.close()
    finally:
        for process in running.values():
            process.terminate()
        codes = {name: process.wait(60) for name, process in running.items()}
    assert codes == {"topology": 0, "proxy": 0, "tango": 0}


def test_a_look_that_began_before_a_change_does_not_undo_it():
    from p06bs.adapters.tango_watch import Watch

    schema = {"properties": {"factor": {"type": "number"}}}
    record = {"schema": schema, "values": {"factor": 1.0}}
    looked, changed, shown = threading.Event(), threading.Event(), queue.SimpleQueue()

    class Slow(Watch):
        def _look(self):
            report = super()._look()
            looked.set()
            changed.wait(60)
            return report

    def change(of, values, by):
        record["values"] = values
        return record

    verbs = {
        "health": lambda: {"healthy": True, "ready": True, "failed": []},
        "metrics": lambda: "",
        "settings": lambda of: {"scale": record},
        "change": change,
    }
    with Control(verbs, "tcp://127.0.0.1:*") as control:
        where = {"control": control.address}
        service = Service("scale", "pipelines", "1", "here", 1, where, offers=("scale",))
        peers = SimpleNamespace(services=(service,), listed=True, address="")
        watch = Slow("scale", peers, SimpleNamespace(look=lambda name: None), interval=0.01)
        watch.tell = lambda report: shown.put(list(report.values.values()))
        changed.set()
        watch.begin()
        assert shown.get(timeout=60) == [1.0]
        changed.clear()
        looked.clear()
        assert looked.wait(60)
        (factor,) = watch.report.values
        watch.change(factor, 2.0, "me")
        while not shown.empty():
            shown.get()
        changed.set()
        assert shown.get(timeout=60) == [2.0]
        watch.close()


def test_a_device_belongs_to_one_server(database, tmp_path):
    file = written(tmp_path)
    other = file.with_name("other.toml")
    other.write_text(file.read_text().replace("services.tango]", 'services.b]\nkind = "tango"'))
    with supervised(file):
        command = [sys.executable, "-m", "p06bs.services", str(other), "b"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "the device p06/bs/topology belongs to the server p06bs/tango" in done.stderr


@pytest.mark.slow
def test_a_server_that_was_killed_owns_no_device(database, tmp_path):
    """The database goes on to say that it runs."""
    file = written(tmp_path)
    other = file.with_name("other.toml")
    other.write_text(file.read_text().replace("services.tango]", 'services.b]\nkind = "tango"'))
    command = [sys.executable, "-m", "p06bs.services"]
    name = f"tango://{database}/p06/bs/topology"
    with subprocess.Popen([*command, str(file), "topology"]) as topology:
        try:
            for configuration, service in ((file, "tango"), (other, "b")):
                with subprocess.Popen([*command, str(configuration), service]) as server:
                    try:
                        wait(lambda of=service: answering(name) == f"p06bs/{of}")
                    finally:
                        server.kill()
        finally:
            topology.terminate()


def answering(name: str) -> str:
    """Return the server that answers for a device; "" if none does."""
    import tango

    try:
        device = tango.DeviceProxy(name)
        device.ping()
        return str(device.info().server_id)
    except tango.DevFailed:
        return ""


def test_without_a_database_it_is_said_which(tmp_path, monkeypatch):
    monkeypatch.setenv("TANGO_HOST", "127.0.0.1:1")
    command = [sys.executable, "-m", "p06bs.services", str(written(tmp_path)), "tango"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Tango's database at 127.0.0.1:1" in done.stderr


def test_without_the_extra_it_is_said_how_to_install_it(tmp_path, monkeypatch):
    (tmp_path / "tango.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    services = Supervision(written(tmp_path))
    services.start()
    try:
        with pytest.raises(SupervisionError, match=r'pip install "p06bs\[tango\]"'):
            services.wait_ready()
    finally:
        services.stop()


@pytest.mark.parametrize("pattern", ["p06/bs", "p06/bs/x", "p06/b s/{name}", "p06/bs/{other}"])
def test_names_of_devices_are_checked_before_anything_starts(tmp_path, pattern):
    file = written(tmp_path, f'devices = "{pattern.replace("{", "{{").replace("}", "}}")}"\n')
    with pytest.raises(ValueError, match=r"services.tango: devices: .*DOMAIN/FAMILY/MEMBER"):
        Supervision(file)


@contextmanager
def started(database: str, folder: Path) -> Iterator[tuple[Any, Any, Events, Path, str, str]]:
    """Have the Starter start a Topology Manager and a proxy.

    The Starter takes everything on this machine for its own that is called as its servers.
    """
    mine = uuid.uuid4().hex[:8]
    topology, proxy = f"topology-{mine}", f"proxy-{mine}"
    file = written(
        folder,
        f'[services.{topology}]\nkind = "topology"\naddress = "ipc://{{0}}/topology"\n'
        f'[services.{proxy}]\nkind = "proxy"\nenvironment.PLACE = "here"\n'
        'inbound = "ipc://{0}/in"\noutbound = "ipc://{0}/out"\n',
    )
    file.write_text("topology = false\nproxy = false\n" + file.read_text())
    programs = folder / "ds"
    command = [sys.executable, "-m", "p06bs.cli", "tango", "script", str(file), str(programs)]
    subprocess.run(command, check=True, timeout=60)
    try:
        with tango_site.starter(database, programs, folder / "logs") as starter:
            for name in (topology, proxy):
                starter.DevStart(f"p06bs/{name}")
            device = tango_site.device(database, f"p06/bs/{proxy}")
            state = Events(device, "State")
            state.wait(states("ON")[0])
            servers = {f"p06bs/{name}" for name in (topology, proxy)}
            wait(lambda: servers <= set(starter.DevGetRunningServers(True)))
            yield starter, device, state, file, topology, proxy
            state.close()
    finally:
        for process in [*processes(file, proxy), *processes(file, topology)]:
            process.kill()


@pytest.mark.slow
@pytest.mark.skipif(not tango_site.STARTER.exists(), reason="no Starter; see make system")
def test_the_starter_starts_and_stops_services(database, tmp_path):
    on, fault, off = states("ON", "FAULT", "OFF")
    with started(database, tmp_path) as (starter, device, state, file, topology, proxy):
        server = next(p for p in processes(file, proxy) if "/ds/p06bs" in p.cmdline()[1])
        assert tango_site.listening(server.pid) == {"127.0.0.1"}
        (child,) = server.children()
        assert child.environ()["PLACE"] == "here"
        for process in (server, child):
            assert not blocked(process.pid) & {signal.SIGTERM, signal.SIGINT}
        child.kill()
        state.wait(fault)
        state.wait(on)
        device.Stop()
        state.wait(off)
        device.Start()
        state.wait(on)
        starter.DevStop(f"p06bs/{proxy}")
        wait(lambda: not processes(file, proxy))
        # Whatever kills a server, its service ends.
        next(p for p in processes(file, topology) if "/ds/p06bs" in p.cmdline()[1]).kill()
        wait(lambda: not processes(file, topology))


def processes(file: Path, name: str) -> list[psutil.Process]:
    """Return the processes that run a service of a file; not those that have ended."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if words[-1:] == [name] and any(str(file.parent) in word for word in words):
            found.append(process)
    return found


def blocked(pid: int) -> set[int]:
    """Return the signals that the main thread of a process blocks."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")]
    return {number for number in range(1, 65) if int(mask, 16) >> (number - 1) & 1}
