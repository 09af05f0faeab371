"""Which runs leave: the budget holds, finished before running, the longest untouched first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs.server.retention import Retention

RUNS = st.sampled_from([f"run{i}" for i in range(6)])
HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(st.just("added"), RUNS, st.integers(0, 60)),
        st.tuples(st.just("touched"), RUNS, st.none()),
        st.tuples(st.just("finished"), RUNS, st.none()),
    ),
    max_size=80,
)


@given(happenings=HAPPENINGS, budget=st.integers(1, 150))
def test_budget_and_order_hold_whatever_happens(happenings, budget):
    retention = Retention(budget)
    held: dict[str, list] = {}  # run -> [bytes, last use, finished], the model
    for now, (what, run, nbytes) in enumerate(happenings):
        match what:
            case "added":
                held.setdefault(run, [0, now, False])[0] += nbytes
                for leaving in retention.added(run, nbytes, float(now)):
                    assert sum(size for size, *_ in held.values()) > budget
                    finished = held[leaving][2]
                    others = [entry for name, entry in held.items() if name != leaving]
                    if not finished:
                        assert not any(done for *_, done in others)
                    peers = [used for _, used, done in others if done == finished]
                    assert all(held[leaving][1] <= used for used in peers)
                    del held[leaving]
            case "touched":
                retention.touched(run, float(now))
                if run in held:
                    held[run][1] = now
            case "finished":
                retention.finished(run)
                if run in held:
                    held[run][2] = True
        assert retention.nbytes == sum(size for size, *_ in held.values()) <= budget
        assert len(retention) == len(held)
        assert all(run in retention for run in held)


def test_touched_run_outlives_an_older_one():
    retention = Retention(100)
    for now, run in enumerate(["a", "b"]):
        assert retention.added(run, 50, now) == []
        retention.finished(run)
    retention.touched("a", 2)
    assert retention.added("c", 10, 3) == ["b"]


def test_running_run_leaves_only_when_nothing_else_is_left():
    retention = Retention(100)
    assert retention.added("running", 60, 0) == []
    assert retention.added("finished", 40, 1) == []
    retention.finished("finished")
    retention.touched("finished", 2)
    assert retention.added("running", 30, 3) == ["finished"]
    assert retention.added("running", 30, 4) == ["running"]
    assert retention.nbytes == 0


@pytest.mark.parametrize("budget", [0, -1])
def test_budget_must_be_positive(budget):
    with pytest.raises(ValueError, match="positive"):
        Retention(budget)
