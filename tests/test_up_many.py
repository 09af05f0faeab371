"""``p06bs up`` with many services, in odd places, beside others, and when it is disturbed."""

import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from p06bs import config
from p06bs.bus.membership import Membership
from p06bs.services.supervision import Supervision
from p06bs.services.supervisord import SupervisionError
from tests import supervised

pytestmark = pytest.mark.usefixtures("own_runtime_directory")

PATIENCE = 400.0
wait = partial(supervised.wait, seconds=PATIENCE)
BUS = """
proxy = false
[bus]
topology = "ipc://{0}/topology"
log = "{0}/log"
"""
MANY = """
[services.example]
replicas = {0}
"""


def written(folder, more="", name="services.toml", bus=None):
    file = folder / name
    file.write_text(BUS.format(bus or folder) + more)
    return file


def command(*arguments):
    return [sys.executable, "-m", "p06bs.cli", *map(str, arguments)]


def p06bs(*arguments):
    return subprocess.run(
        command(*arguments), check=False, capture_output=True, text=True, timeout=PATIENCE
    )


def started(*arguments):
    return subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.parametrize("number", [10, 119])
def test_many_services_of_one_file_register_are_listed_and_stop_together(tmp_path, number):
    file = written(tmp_path, MANY.format(number))
    up = p06bs("up", "--detach", file)
    assert up.returncode == 0, up.stderr
    names = {"topology", *(f"example-{n + 1}" for n in range(number))}
    listed = json.loads(p06bs("ls", file, "--json").stdout)
    assert {one["name"] for one in listed} == names
    assert f"{len(names)} services" in p06bs("ls", file).stdout
    down = p06bs("down", file)
    assert down.returncode == 0, down.stderr
    assert not [one["pid"] for one in listed if psutil.pid_exists(one["pid"])]
    assert not list((tmp_path / "run").rglob("*"))


@pytest.mark.slow
def test_all_are_restarted_in_good_order(tmp_path):
    services = Supervision(written(tmp_path, MANY.format(2)))
    services.start()
    try:
        services.wait_ready()
        before = {name: status.pid for name, status in services.statuses().items()}
        services.restart(["example"])
        services.wait_ready()
        after = {name: status.pid for name, status in services.statuses().items()}
        assert {n for n in before if before[n] != after[n]} == {"example-1", "example-2"}
        assert p06bs("restart", services.file).returncode == 0
        again = {name: status.pid for name, status in services.statuses().items()}
        assert not set(after.values()) & set(again.values())
        said = (services.logs / "example-1.log").read_text()
        assert "level" in said
        assert '"ERROR"' not in said
    finally:
        assert set(services.stop().values()) == {0}


def test_any_folder_will_do_and_who_started_the_services_may_be_killed(tmp_path, monkeypatch):
    folder = tmp_path / "Strahlrohr P06; 50 % \u00fcber #1 'alt'"
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder / ("long" * 20)))
    file = written(folder, MANY.format(1), bus=tmp_path)
    file.write_text(file.read_text().replace(f"{tmp_path}/log", f"{folder}/log"))
    with started("up", file) as up:
        for line in up.stdout:
            if "all services are up" in line:
                break
        assert Supervision(file).is_up()
        up.kill()
    pids = [status.pid for status in Supervision(file).statuses().values()]
    assert '"service": "example"' in (folder / "services" / "example.log").read_text()
    down = p06bs("down", file)
    assert (down.returncode, down.stderr) == (0, "2 services have ended\n")
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


@pytest.mark.slow
def test_a_second_file_does_not_take_the_services_of_the_first(tmp_path):
    first = Supervision(written(tmp_path, MANY.format(1)))
    same = written(tmp_path, MANY.format(2), "same.toml")
    elsewhere = written(tmp_path, MANY.format(1), "elsewhere.toml")
    elsewhere.write_text("topology = false\n" + elsewhere.read_text())
    others = written(tmp_path, MANY.format(2), "others.toml")
    others.write_text("topology = false\n" + others.read_text())
    first.start()
    try:
        first.wait_ready()
        before = {name: status.pid for name, status in first.statuses().items()}
        refused = p06bs("up", same)
        assert refused.returncode == 1
        assert "already, where the Topology Manager of this file would" in refused.stderr
        assert "registered there are example, topology" in refused.stderr
        with pytest.raises(SupervisionError, match=r"example \(process \d+ on .*\) run already"):
            Supervision(elsewhere).start()
        second = Supervision(others)  # the Topology Manager is somebody else's, the names are new
        second.start()
        second.wait_ready()
        with Membership(first.configuration.bus.topology) as peers:
            peers.wait_listed(PATIENCE)
            there = {one.name: one.pid for one in peers.services}
        assert there.keys() == {"topology", "example", "example-1", "example-2"}
        assert {name: there[name] for name in before} == before
        assert set(second.stop().values()) == {0}
    finally:
        assert set(first.stop().values()) == {0}


@pytest.mark.slow
def test_services_can_be_started_twice_at_once_and_stopped_while_they_start(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:  # so it never becomes ready
        inbound = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        more = f'[services.stuck]\nkind = "proxy"\ninbound = "{inbound}"\n'
        _start_twice_and_stop(
            tmp_path, written(tmp_path, more + 'outbound = "tcp://127.0.0.1:*"\n')
        )


def _start_twice_and_stop(tmp_path, file):
    both = [started("up", file), started("up", file)]
    services = Supervision(file)
    wait(services.is_up)
    wait(lambda: services.statuses()["stuck"].state == "BACKOFF")
    assert p06bs("down", file).returncode == 0
    said = [up.communicate(timeout=PATIENCE)[1] for up in both]
    assert any("stuck does not start yet" in each for each in said)
    # One has started them; the other came a moment later, or a little more than that.
    for up, each in zip(both, said, strict=True):
        if "services were up; started none" in each:
            assert up.returncode == 0
        else:
            assert "supervisord has ended: somebody stopped it" in each or "are up already" in each
            assert up.returncode == 1
    assert not list((tmp_path / "run").rglob("*"))


def test_up_ends_when_its_supervisor_is_killed_and_when_it_is_interrupted_at_the_start(tmp_path):
    file = written(tmp_path)
    with started("up", file) as up:
        for line in up.stdout:
            if "all services are up" in line:
                break
        (status,) = Supervision(file).statuses().values()
        psutil.Process(status.pid).parent().kill()
        assert "supervisord was killed" in up.communicate(timeout=PATIENCE)[1]
    assert up.returncode == 1
    wait(lambda: not psutil.pid_exists(status.pid))
    with started("up", file) as up:
        wait(Supervision(file).is_up)
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=PATIENCE)
    assert not Supervision(file).is_up()
    assert not list((tmp_path / "run").rglob("*"))


def test_a_file_for_other_hosts_says_so(tmp_path):
    file = written(tmp_path, '[services.example]\nruns_on = "elsewhere"\n')
    file.write_text("topology = false\n" + file.read_text())
    up = p06bs("up", file)
    assert up.returncode == 1
    assert "describes no service for this host" in up.stderr
    assert "elsewhere" in up.stderr


@pytest.mark.parametrize(("name", "most"), [("sim", 10), ("p06", 200)])
def test_the_examples_of_the_project_describe_services(name, most):
    file = Path(__file__).parents[1] / "services" / f"{name}.toml"
    configuration = config.load(file)
    found = config.definitions(configuration)
    assert {"topology", "proxy", "server", "archive"} <= set(found)
    assert (5 if name == "sim" else 100) <= len(found) <= most
    for definition in found.values():
        for section in getattr(definition, "pipelines", ()):
            section.make()
    hosts = {definition.runs_on for definition in found.values()}
    assert hosts == {""} if name == "sim" else "" not in hosts
    assert os.path.getsize(file) < 10_000
