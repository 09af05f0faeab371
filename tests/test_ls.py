"""``p06bs ls``: what is listed, and of which Topology Manager; what services log."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

from p06bs.bus.membership import Membership
from p06bs.bus.topology import Service
from p06bs.bus.topology_manager import TopologyManager
from p06bs.services._lines import Lines

PATIENCE = 60.0


@contextmanager
def listed(address, *services):
    """Have services registered at a Topology Manager."""
    with TopologyManager(address) as manager:
        serving = threading.Thread(target=manager.serve)
        serving.start()
        members = [Membership(address) for _ in services]
        for member, service in zip(members, services, strict=True):
            member.enrol(service)
        until = time.monotonic() + PATIENCE
        while len(manager.topology) < len(services):
            assert time.monotonic() < until
            threading.Event().wait(0.02)
        yield
        for member in members:
            member.close()
        manager.stop()
        serving.join()


def test_whatever_services_say_of_themselves_is_shown_as_it_is(run, tmp_path):
    said = ("[/]", "[red]iron", "[link=file:///etc]x")
    address = f"ipc://{tmp_path}/topology"
    with listed(address, Service("odd", "odd", "1", "[b]here", 1, {}, "[/b]", said)):
        status, out, errors = run("ls", "--topology", address)
    assert status == 0, errors
    for text in said:
        assert text[:4] in out
    assert "[b]here" in out


def test_changes_are_watched_as_json_one_in_a_line(tmp_path):
    address = f"ipc://{tmp_path}/topology"
    command = [sys.executable, "-m", "p06bs.cli", "ls", "-w", "--json", "--topology", address]
    with (
        listed(address, Service("one", "example", "1", "here", 1)),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching,
    ):
        assert watching.stdout is not None
        for line in watching.stdout:
            if names := [service["name"] for service in json.loads(line)]:
                break
        assert names == ["one"]
        with Membership(address) as other:
            other.enrol(Service("two", "example", "1", "here", 2))
            names = [service["name"] for service in json.loads(watching.stdout.readline())]
        assert names == ["one", "two"]
        watching.terminate()
    assert watching.returncode == 0


def test_a_file_says_more_than_the_environment_and_an_option_most(run, tmp_path, monkeypatch):
    places = {name: f"ipc://{tmp_path}/{name}" for name in ("file", "variable", "option")}
    file = tmp_path / "services.toml"
    file.write_text(f'[bus]\ntopology = "{places["file"]}"\n')
    monkeypatch.setenv("P06BS_TOPOLOGY", places["variable"])
    for words, name in (
        ((), "variable"),
        ((file,), "file"),
        ((file, "--topology", places["option"]), "option"),
    ):
        with listed(places[name], Service(name, "here", "1", "here", 1)):
            status, out, errors = run("ls", "--json", *words)
        assert status == 0, errors
        assert f'"name": "{name}"' in out


def test_a_log_that_cannot_be_read_at_the_moment_stops_nobody(tmp_path):
    lines = Lines({"a": tmp_path / "a", "b": tmp_path / "b"})
    (tmp_path / "a").mkdir()  # there is something, and it cannot be read
    (tmp_path / "b").write_text("hello\n")
    assert list(lines) == [("b", "hello")]
    (tmp_path / "a").rmdir()
    (tmp_path / "a").write_text("again\n")
    assert list(lines) == [("a", "again")]
