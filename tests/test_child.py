"""Who starts services for Tango: supervisord that does not answer, and children that cannot run."""

import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from p06bs.adapters.tango_condition import Phase
from p06bs.services import _processes
from p06bs.services._processes import Child, Supervised
from p06bs.services.supervisord import Status, SupervisionError
from tests.supervised import wait

PATIENCE = 30.0


def test_a_start_does_not_wait_for_the_pause_after_a_crash(tmp_path, monkeypatch):
    monkeypatch.setattr(_processes, "FIRST_PAUSE", 1000.0)
    monkeypatch.setattr(_processes, "MOST_PAUSE", 1000.0)
    program, runs = tmp_path / "python", tmp_path / "runs"
    monkeypatch.setattr(sys, "executable", str(program))
    with closing(Child(Path("services.toml"), "xrf", {})) as child:
        wait(lambda: child.look("xrf").phase is Phase.FAILED)  # no process can be made of it
        assert "cannot be started" in child.look("xrf").words
        program.write_text(f"#!/bin/sh\necho run >> {runs}\nexec sleep 900")
        program.chmod(0o700)
        child.start("xrf")
        wait(runs.exists)
        wait(lambda: child.look("xrf").pid)  # it may run before that is known
        with pytest.raises(RuntimeError, match="runs already"):
            child.start("xrf")
        child.stop("xrf")
        wait(lambda: child.look("xrf").phase is Phase.STOPPED)
        program.write_text(f"#!/bin/sh\necho run >> {runs}\nexit 1")
        for started, command in enumerate([child.start, child.restart, child.restart], 2):
            command("xrf")
            wait(lambda started=started: len(runs.read_text().split()) == started)
            wait(lambda: child.look("xrf").phase is Phase.FAILED)
        assert "status 1" in child.look("xrf").words


class Supervisor:
    """A supervisord of one service, which answers when it may."""

    def __init__(self):
        self.state, self.told = "RUNNING", []
        self.asked, self.answers = threading.Event(), threading.Event()
        self.answers.set()
        self.refuses = False

    def statuses(self):
        state = self.state
        self.asked.set()
        assert self.answers.wait(PATIENCE)
        return {"one": Status("one", state, 7 if state == "RUNNING" else 0, 0, Path("one.log"))}

    def begin(self, name):
        self.told.append("begin")
        if self.refuses:
            raise SupervisionError("supervisord does not answer")
        self.state = "RUNNING"

    def end(self, name):
        self.told.append("end")
        self.state = "STOPPED"


def test_a_supervisor_that_does_not_answer_holds_up_nobody_and_loses_no_restart(tmp_path):
    file = tmp_path / "services.toml"
    file.touch()
    processes, supervisor = Supervised(file), Supervisor()
    processes._supervision = supervisor
    processes.restart("one")
    supervisor.refuses = True
    for _ in range(2):
        with pytest.raises(SupervisionError):
            processes.look("one")
    supervisor.refuses = False
    assert processes.look("one").phase is Phase.STARTING
    assert processes.look("one").pid == 7
    assert supervisor.told == ["end", *["begin"] * 3]
    processes.stop("one")
    supervisor.asked.clear()
    supervisor.answers.clear()
    looking = threading.Thread(target=processes.look, args=["one"])
    looking.start()
    assert supervisor.asked.wait(PATIENCE)
    starting = threading.Thread(target=processes.start, args=["one"])
    starting.start()
    starting.join(PATIENCE)
    held_up = starting.is_alive()
    supervisor.answers.set()
    looking.join()
    starting.join()
    assert not held_up
    assert processes.look("one").pid == 7  # and not what was answered before the start
