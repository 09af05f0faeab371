"""A service as a child of its Tango device server: what is done while it cannot run."""

import sys
from contextlib import closing
from pathlib import Path

import pytest

from p06bs.adapters.tango_condition import Phase
from p06bs.services import _processes
from p06bs.services._processes import Child
from tests.supervised import wait


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
