"""``p06bs up`` and what it starts: services that are found, restarted and stopped together."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from functools import partial

import psutil
import pytest

from p06bs.bus.control import RefusedError, ask
from p06bs.bus.membership import Membership
from p06bs.bus.processes import runs
from p06bs.bus.topology import Service
from p06bs.config import modalities
from p06bs.server.archive.storage import StorageLock
from p06bs.services import _processes, _rpc, _runtime, _supervisord_conf, supervisord
from p06bs.services._host import ENDS_WITH_PARENT, REFUSED
from p06bs.services._runtime import alone
from p06bs.services.supervision import Supervision
from p06bs.services.supervisord import SupervisionError
from tests import supervised

pytestmark = pytest.mark.usefixtures("own_runtime_directory")

PATIENCE = 120.0
wait = partial(supervised.wait, seconds=PATIENCE)
BUS = """
[bus]
inbound = "ipc://{0}/in"
outbound = "ipc://{0}/out"
topology = "ipc://{0}/topology"
log = "{0}/log"
"""
EXAMPLES = """
[services.one]
kind = "example"
[services.many]
kind = "example"
replicas = 2
"""
SERVER = """
[server]
port = 0
api_key_file = "{0}/key"
"""
ARCHIVE = (
    SERVER
    + """
[server.archive]
database = "sqlite:///{0}/archive.db"
storage = "{0}/archive"
"""
)


def written(folder, *sections):
    file = folder / "services.toml"
    file.write_text("".join((BUS, *sections)).format(folder))
    return file


def p06bs(*arguments):
    command = [sys.executable, "-m", "p06bs.cli", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)


def test_up_ls_restart_and_down_leave_nothing_behind(tmp_path):
    file = written(tmp_path)
    up = p06bs("up", "--detach", file)
    assert up.returncode == 0, up.stderr
    listed = {one["name"]: one for one in json.loads(p06bs("ls", file, "--json").stdout)}
    assert set(listed) == {"topology", "proxy"}
    assert listed["proxy"]["addresses"]["inbound"] == f"ipc://{tmp_path}/in"
    assert "proxy" in p06bs("ls", file).stdout
    logs = (tmp_path / "services", tmp_path / "elsewhere")
    same, other = (p06bs("up", "-d", "--logs", directory, file) for directory in logs)
    assert (same.returncode, other.returncode) == (0, 1)  # nothing is new: nothing happens
    assert "are up already" not in same.stderr
    assert f"services are up already, and log to {tmp_path}/services" in other.stderr
    assert p06bs("restart", file, "proxy").returncode == 0
    again = {one["name"]: one for one in json.loads(p06bs("ls", file, "--json").stdout)}
    assert again["proxy"]["pid"] != listed["proxy"]["pid"]
    assert again["topology"]["pid"] == listed["topology"]["pid"]
    down = p06bs("down", file)
    assert down.returncode == 0, down.stderr
    left = {one["pid"] for one in (*listed.values(), *again.values())}
    assert not [pid for pid in left if psutil.pid_exists(pid)]
    assert not list((tmp_path / "run").rglob("*"))
    assert not [path for path in tmp_path.rglob("*") if path.is_socket()]
    assert p06bs("ls", file).returncode == 1
    assert p06bs("down", file).returncode == 0


@pytest.mark.slow
def test_some_services_are_stopped_and_started_by_name(tmp_path):
    file = written(tmp_path, EXAMPLES)

    def there():
        return {one["name"] for one in json.loads(p06bs("ls", file, "--json").stdout)}

    try:
        assert p06bs("up", "-d", file, "topology", "one").returncode == 0
        assert there() == {"topology", "one"}
        assert p06bs("up", file, "nobody").returncode == 1
        assert "started many-1, many-2" in p06bs("up", file, "many").stderr.replace("\n", " ")
        assert there() == {"topology", "one", "many-1", "many-2"}
        assert p06bs("down", file, "one", "many-2").returncode == 0
        assert there() == {"topology", "many-1"}
        assert p06bs("restart", file, "many-1").returncode == 0  # waits for nobody else
        assert p06bs("up", file).returncode == 0
        assert there() == {"topology", "proxy", "one", "many-1", "many-2"}
    finally:
        p06bs("down", file)


def test_what_is_killed_is_back_and_registered(tmp_path):
    services = Supervision(written(tmp_path))
    services.start()
    try:
        services.wait_ready()
        for name in ("proxy", "topology"):
            killed = services.statuses()[name].pid
            os.kill(killed, signal.SIGKILL)
            wait(lambda name=name, killed=killed: services.statuses()[name].pid not in (0, killed))
            services.wait_ready()
    finally:
        assert services.stop() == {"topology": 0, "proxy": 0}


def test_services_answer_for_themselves(tmp_path):
    services = Supervision(written(tmp_path, SERVER))
    services.start()
    try:
        services.wait_ready()
        with Membership(services.configuration.bus.topology) as peers:
            control = peers.wait_for("proxy", "control", PATIENCE)
        about = ask(control, "describe")
        assert about["pid"] == services.statuses()["proxy"].pid
        assert ask(control, "health") == {"healthy": True, "ready": True, "failed": []}
        assert "process_resident_memory_bytes" in ask(control, "metrics")
        with pytest.raises(RefusedError, match="cannot dance; can describe, health"):
            ask(control, "dance")
        with pytest.raises(RefusedError, match="health: got an unexpected keyword argument"):
            ask(control, "health", loud=True)
        for name in ("proxy", "server"):
            with Membership(services.configuration.bus.topology) as peers:
                ask(peers.wait_for(name, "control", PATIENCE), "stop")
            wait(lambda name=name: services.statuses()[name].state == "STOPPED")
    finally:
        services.stop()


def test_a_service_that_refuses_what_is_configured_stays_down(tmp_path):
    file = written(tmp_path, ARCHIVE)
    services = Supervision(file)
    file.write_text(file.read_text().replace("sqlite:///", "oracle:///"))
    services.start()
    try:
        with pytest.raises(SupervisionError, match=r"oracle"):
            services.wait_ready()
        wait(lambda: services.statuses()["archive"].refused)
    finally:
        assert services.stop()["archive"] == REFUSED


def test_a_service_whose_name_was_taken_when_it_came_is_tried_again(tmp_path):
    with supervised.supervised(written(tmp_path, EXAMPLES)) as services:
        services.halt(["one"])
        former = Service("one", "example", "9", "elsewhere", 1)  # of a clock that was ahead
        with Membership(services.configuration.bus.topology) as other:
            other.enrol(former)
            wait(lambda: former in other.services)
            services.begin("one")
            wait(lambda: services.statuses()["one"].state == "BACKOFF")
        assert services.wait_ready(names=["one"])


@pytest.mark.parametrize("lives", [True, False])
def test_who_is_started_by_one_that_has_died_ends(lives):
    starter = os.getpid() if lives else 1
    done = subprocess.run(
        [sys.executable, "-c", "from p06bs.services import _host; _host.follow_the_starter()"],
        env={**os.environ, ENDS_WITH_PARENT: str(starter)},
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == (0 if lives else 1)


def test_another_host_that_sees_the_file_is_not_waited_for(tmp_path):
    file = written(tmp_path)
    with file.open("r+") as elsewhere:
        fcntl.flock(elsewhere, fcntl.LOCK_EX)
        assert Supervision(file).stop() == {}
    assert not list((tmp_path / "run").rglob("*"))


def test_a_service_asks_no_supervisor_that_did_not_start_it(tmp_path, monkeypatch):
    """Such as one that runs the terminal in which somebody tries a service."""
    file = written(tmp_path, "[services.archive]\nstorage = '{0}'\ndatabase = 'sqlite:///{0}/a'\n")
    file.write_text(file.read_text().replace("sqlite:///", "oracle:///"))
    monkeypatch.setenv("SUPERVISOR_SERVER_URL", f"unix://{tmp_path}/other")
    monkeypatch.setenv("SUPERVISOR_PROCESS_NAME", "terminal")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/other")
        other.listen()
        command = [sys.executable, "-m", "p06bs.services", str(file), "archive"]
        assert subprocess.run(command, check=False, timeout=PATIENCE).returncode == REFUSED
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()


@pytest.mark.slow
def test_an_ingestion_begins_when_another_one_has_ended(tmp_path):
    """Such as one that somebody started by hand while the services were started anew."""
    services = Supervision(written(tmp_path, ARCHIVE))
    with StorageLock(tmp_path / "archive"):
        services.start()
        wait(lambda: services.statuses()["archive"].state == "BACKOFF")
        assert "another process ingests into" in services.statuses()["archive"].last_words
    try:
        assert services.wait_ready()
    finally:
        assert set(services.stop().values()) == {0}


def test_services_end_with_a_supervisor_that_is_killed(tmp_path):
    services = Supervision(written(tmp_path))
    services.start()
    services.wait_ready()
    pids = [status.pid for status in services.statuses().values()]
    parent = psutil.Process(pids[0]).parent()
    parent.kill()
    psutil.wait_procs([parent], PATIENCE)
    wait(lambda: not any(map(psutil.pid_exists, pids)))
    assert not services.is_up()
    services.start()  # what it left does not matter
    services.wait_ready()
    pids = [status.pid for status in services.statuses().values()]
    psutil.Process(pids[0]).parent().kill()
    wait(lambda: not services.is_up())
    assert p06bs("down", services.file).returncode == 0
    assert not any(map(runs, pids))
    assert not list((tmp_path / "run").rglob("*"))
    services.stop()


def test_a_file_that_changed_changes_what_runs(tmp_path):
    file = written(tmp_path)
    services = Supervision(file)
    services.start()
    try:
        services.wait_ready()
        before = {name: status.pid for name, status in services.statuses().items()}
        file.write_text(
            file.read_text()
            + f"""
[services.second]
kind = "proxy"
inbound = "ipc://{tmp_path}/in2"
outbound = "ipc://{tmp_path}/out2"
"""
        )
        changed = Supervision(file)
        assert changed.reload() == (["second"], [])
        changed.wait_ready()
        after = {name: status.pid for name, status in changed.statuses().items()}
        assert {name: after[name] for name in before} == before
        file.write_text(file.read_text().replace("in2", "in3"))
        changed = Supervision(file)
        assert changed.reload() == (["second"], ["second"])
        changed.wait_ready()
        file.write_text(file.read_text().partition("[services")[0])
        assert Supervision(file).reload() == ([], ["second"])
    finally:
        services.stop()


def test_ports_that_are_taken_are_said(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = written(tmp_path)
        file.write_text(file.read_text().replace(f"ipc://{tmp_path}/in", f"tcp://127.0.0.1:{port}"))
        services = Supervision(file)
        services.start()
        try:
            wait(lambda: services.statuses()["proxy"].state == "BACKOFF")
            assert "Address already in use" in services.statuses()["proxy"].last_words
        finally:
            services.stop()


def test_an_address_that_cannot_be_is_said_without_a_traceback(tmp_path):
    file = written(tmp_path)
    file.write_text(file.read_text().replace(f"ipc://{tmp_path}/in", f"ipc://{tmp_path}/no/in"))
    up = p06bs("up", "-d", file)
    assert up.returncode == 1
    assert f"address 'ipc://{tmp_path}/no/in': there is no directory" in up.stderr
    assert "Traceback" not in (tmp_path / "services" / "proxy.log").read_text()
    p06bs("down", file)


def test_logs_that_cannot_be_kept_leave_nothing_behind(tmp_path):
    (tmp_path / "file").touch()
    up = p06bs("up", "-d", written(tmp_path), "--logs", tmp_path / "file" / "logs")
    assert up.returncode == 1
    assert f"{tmp_path}/file/logs: Not a directory" in up.stderr
    assert not list((tmp_path / "run").rglob("*"))


def test_up_in_the_foreground_shows_logs_and_ends_with_a_signal(tmp_path):
    file = written(tmp_path)
    command = [sys.executable, "-m", "p06bs.cli", "up", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        said = []
        for line in up.stdout:
            said.append(line)
            if "proxy ready" in line:
                break
        up.send_signal(signal.SIGTERM)
        up.communicate(timeout=PATIENCE)
    assert up.returncode == 0
    assert any("all services are up" in line for line in said)
    assert not list((tmp_path / "run").rglob("*"))


def test_down_waits_for_who_has_them_in_the_foreground(tmp_path):
    file = written(tmp_path)
    command = [sys.executable, "-m", "p06bs.cli", "up", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        assert any("all services are up" in line for line in up.stdout)
        assert Supervision(file).stop() == {"topology": 0, "proxy": 0}
        assert up.poll() == 0
    assert not list((tmp_path / "run").rglob("*"))


def test_a_supervisord_that_still_ends_is_not_said_to_be_killed(tmp_path):
    file = written(tmp_path)
    services = Supervision(file)
    services.start()
    assert services.wait_ready()
    stop = threading.Thread(target=Supervision(file).stop)
    stop.start()
    while services.is_up():  # as often as can be: it answers no more a moment before it ends
        pass
    assert not services.was_killed()
    stop.join()


def test_names_of_others_are_refused_while_services_are_up(tmp_path):
    with supervised.supervised(written(tmp_path, EXAMPLES)):
        other = tmp_path / "other.toml"
        new = BUS.format(tmp_path) + '[services.new]\nkind = "example"\n'
        other.write_text("topology = false\nproxy = false\n" + new)
        services = Supervision(other)
        services.start()
        try:
            assert services.wait_ready()
            other.write_text(other.read_text() + '[services.one]\nkind = "example"\n')
            with pytest.raises(SupervisionError, match=r"^one \(process \d+ on .*\) run already"):
                Supervision(other).reload()
            assert services.statuses()["new"].state in ("STARTING", "RUNNING")
        finally:
            services.stop()


def test_a_supervisor_that_is_stopped_is_not_waited_for_without_end(tmp_path, monkeypatch):
    with supervised.supervised(written(tmp_path)) as services:
        supervisor = psutil.Process(services.statuses()["proxy"].pid).parent()
        monkeypatch.setattr(_rpc, "ANSWER_SECONDS", 0.5)
        supervisor.suspend()
        try:
            with pytest.raises(SupervisionError, match="does not answer: is it stopped"):
                services.is_up()
            monkeypatch.undo()
            monkeypatch.setattr(_processes, "ANSWER_SECONDS", 0.5)
            with pytest.raises(SupervisionError, match="does not answer"):  # nor is it in Tango
                _processes.Supervised(services.file).look("proxy")
        finally:
            supervisor.resume()
            monkeypatch.undo()


def test_what_is_being_started_again_is_stopped_too(tmp_path, monkeypatch):
    # What is killed counts as one that ran, and not as one that did not start.
    at_once = _supervisord_conf.PROGRAM.replace("startsecs=10\n", "startsecs=0\n")
    monkeypatch.setattr(_supervisord_conf, "PROGRAM", at_once)
    with supervised.supervised(written(tmp_path, EXAMPLES)) as services:
        killed = services.statuses()["one"].pid
        os.kill(killed, signal.SIGKILL)
        wait(lambda: services.statuses()["one"].pid != killed)
        assert services.halt(["one"]) == ["one"]
        assert services.statuses()["one"].state == "STOPPED"
        services.begin("one")
        with pytest.raises(SupervisionError, match="ALREADY_STARTED"):
            services.begin("one")


def test_what_does_not_end_is_said(tmp_path, monkeypatch):
    with supervised.supervised(written(tmp_path, EXAMPLES)) as services:
        process = psutil.Process(services.statuses()["one"].pid)
        process.suspend()
        monkeypatch.setattr(supervisord, "END_SECONDS", 0.5)
        with pytest.raises(SupervisionError, match=rf"^one \(process {process.pid}\): still"):
            services.halt(["one"])
        monkeypatch.undo()
        process.resume()


def test_who_keeps_others_waiting_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(_runtime, "SAY_SECONDS", 0.0)
    directory = tmp_path / "site"
    entered = threading.Event()

    def enter():
        with alone(directory):
            entered.set()

    other = threading.Thread(target=enter)
    with alone(directory):
        other.start()
        wait(lambda: f"waiting for process {os.getpid()}" in caplog.text)
        assert not entered.is_set()
    other.join()
    assert entered.is_set()


def test_what_no_service_can_use_is_refused_before_anything_starts(tmp_path):
    file = written(tmp_path, '[[pipelines]]\nmodality = "countres"\n')
    up = p06bs("up", file)
    assert up.returncode == 1
    installed = ", ".join(sorted(modalities()))
    assert up.stderr == f"p06bs: pipelines: no modality 'countres'; installed are {installed}\n"
    file = written(tmp_path, SERVER.format(tmp_path) + 'host = "0.0.0.0"\n')
    assert "server: refusing to listen on 0.0.0.0" in p06bs("up", file).stderr
    assert not (tmp_path / "services").exists()
    file = written(tmp_path, '[services.a]\nkind = "b"\n[services.proxy2]\nkind = "proxy"\nx = 1\n')
    up = p06bs("up", file)
    assert up.returncode == 1
    assert "services.proxy2: x: " in up.stderr
    assert "no service of kind 'b'; there are archive, example" in up.stderr
