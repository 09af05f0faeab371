"""The schedule and the watchdog of the chaos test, and a short one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.chaos.__main__ import show
from tests.chaos.schedule import FAULTS, schedule
from tests.chaos.trial import REPOSITORY, HangError, Report, Trial, Watchdog

SHORT = len(FAULTS) + 2


@given(st.integers(0), st.integers(1, 300))
def test_equal_seeds_make_equal_schedules(seed, faults):
    steps = schedule(seed, faults, 1.0)
    assert steps == schedule(seed, faults, 1.0)
    done = [step.fault for step in steps if step.fault in FAULTS]
    assert len(done) == faults
    if faults >= len(FAULTS):
        assert set(done) == FAULTS.keys()


def test_what_cannot_be_had_is_left_out():
    assert "fill" not in {step.kind for step in schedule(0, 300, 1.0, without={"fill"})}


def test_what_was_not_hit_is_wrong():
    report = Report(seed=0, faults=200)
    report.judge()
    assert len(report.problems) == len(FAULTS) + 1
    assert "0 kills while batches were leased, 10 are wanted" in report.problems


def test_what_stands_still_is_found():
    watchdog = Watchdog(10.0)
    for state, now in ((1, 0.0), (1, 9.0), (2, 12.0), (2, 22.0)):
        watchdog.look(state, now)
    with pytest.raises(HangError, match="2"):
        watchdog.look(2, 22.5)


@pytest.mark.usefixtures("own_runtime_directory")
def test_nothing_is_lost_double_or_different(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    report = Trial(tmp_path / "trial", seed=4, faults=SHORT, gap=0.3).run()
    show(report, Console())
    assert not report.problems
