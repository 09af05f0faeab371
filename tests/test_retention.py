"""Which runs give way: the longest untouched first; running and pinned ones stay."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p06bs.server.sink.retention import Drop, Leave, NoRoomError, PinError, Retention

LIMIT = 100


class Model:
    """What is known of a run beside the class under test."""

    def __init__(self, used):
        self.used = used
        self.fixed = 0
        self.rows = 0
        self.logged = True
        self.finished = False
        self.pinned = False

    @property
    def nbytes(self):
        return self.fixed + self.rows

    @property
    def droppable(self):
        return self.rows if self.logged and not self.finished else 0


class Retaining(RuleBasedStateMachine):
    """Does what the class says, as the sink does, and checks that it was right to say it."""

    def __init__(self):
        super().__init__()
        self.retention = Retention(LIMIT, LIMIT // 2)
        self.runs = {}
        self.now = 0

    def grow(self, name, *, rows=0, fixed=0):
        run = self.runs.get(name)
        gave_way = set()
        while True:
            try:
                action = self.retention.room(name, rows + fixed)
            except NoRoomError:
                stays = [r for n, r in self.runs.items() if r.pinned or n == name]
                staying = sum(r.nbytes - r.droppable for r in stays)
                assert staying + rows + fixed > LIMIT
                assert gave_way <= {name}  # nobody else does for nothing
                return False
            if action is None:
                return True
            gave_way.add(action.run)
            self.check(name, action, rows + fixed)
            self.carry_out(action)
            if run is not None and name not in self.runs:
                raise AssertionError("a run has to leave for its own rows")

    def check(self, grown, action, nbytes):
        run = self.runs[action.run]
        overfull = self.held + nbytes > LIMIT
        if isinstance(action, Drop):
            assert run.droppable
            pinned = sum(r.nbytes for r in self.runs.values() if r.pinned)
            if run.pinned and action.run == grown and pinned + nbytes > LIMIT // 2:
                return  # it has its share
        assert overfull
        assert not run.pinned or isinstance(action, Drop)
        # Whoever was untouched for longer had nothing to give.
        for name, other in self.runs.items():
            if other.used < run.used and not other.pinned and name != grown:
                assert not other.droppable
                if isinstance(action, Leave) and run.finished:
                    assert not other.finished
        if isinstance(action, Leave) and not run.finished:
            assert not any(o.droppable for o in self.runs.values())
            assert not any(o.finished and not o.pinned for n, o in self.runs.items() if n != grown)

    def carry_out(self, action):
        run = self.runs[action.run]
        if isinstance(action, Leave):
            self.retention.left(action.run)
            del self.runs[action.run]
        else:
            run.rows = max(0, run.rows - action.nbytes)
            self.tell(action.run)

    def tell(self, name):
        run = self.runs[name]
        droppable = run.rows if run.logged else 0
        self.retention.changed(name, run.nbytes, droppable)

    @property
    def held(self):
        return sum(run.nbytes for run in self.runs.values())

    names = st.sampled_from("abcdef")

    @rule(name=names, fixed=st.integers(1, 8), logged=st.booleans(), older=st.booleans())
    def start(self, name, fixed, logged, older):
        if name not in self.runs and self.grow(name, fixed=fixed):
            self.now += 1
            first = min((run.used for run in self.runs.values()), default=0)
            self.runs[name] = run = Model(first - 1 if older else self.now)
            run.fixed, run.logged = fixed, logged
            self.retention.started(name, float(self.now), older=older)
            self.tell(name)

    @rule(name=names, nbytes=st.integers(0, 70))
    def rows_come(self, name, nbytes):
        if name in self.runs and not self.runs[name].finished and self.grow(name, rows=nbytes):
            self.runs[name].rows += nbytes
            self.tell(name)

    @rule(name=names)
    def touch(self, name):
        self.now += 1
        self.retention.touched(name, float(self.now))
        if name in self.runs:
            self.runs[name].used = self.now
            assert self.retention.used(name) == self.now

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def finish(self, data):
        name = data.draw(st.sampled_from(sorted(self.runs)))
        self.runs[name].finished = True
        self.retention.finished(name)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def pin(self, data):
        name = data.draw(st.sampled_from(sorted(self.runs)))
        run = self.runs[name]
        pinned = sum(r.nbytes for r in self.runs.values() if r.pinned)
        try:
            self.retention.pin(name)
        except PinError:
            assert not run.pinned
            assert pinned + run.nbytes > LIMIT // 2
        else:
            assert run.pinned or pinned + run.nbytes <= LIMIT // 2
            run.pinned = True

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def unpin(self, data):
        name = data.draw(st.sampled_from(sorted(self.runs)))
        self.retention.unpin(name)
        self.runs[name].pinned = False

    @invariant()
    def it_holds_what_it_was_told_and_no_more_than_the_limit(self):
        assert self.retention.nbytes == self.held <= LIMIT
        assert len(self.retention) == len(self.runs)
        for name, run in self.runs.items():
            assert name in self.retention
            assert self.retention.is_pinned(name) == run.pinned
        pinned = sum(run.nbytes for run in self.runs.values() if run.pinned)
        assert self.retention.pinned_bytes == pinned


TestRetaining = Retaining.TestCase
TestRetaining.settings = settings(max_examples=150, stateful_step_count=40)


def held(*runs, limit=100):
    """Return a retention in which runs (name, bytes, droppable) were touched in this order."""
    retention = Retention(limit, limit // 2)
    for now, (name, nbytes, droppable) in enumerate(runs):
        retention.started(name, float(now))
        retention.changed(name, nbytes, droppable)
    return retention


def test_touched_run_outlives_an_older_one():
    retention = held(("a", 50, 0), ("b", 50, 0))
    retention.finished("a")
    retention.finished("b")
    retention.touched("a", 2.0)
    assert retention.room("c", 10) == Leave("b")


def test_watched_running_run_outlives_an_idle_finished_one():
    retention = held(("running", 60, 50), ("finished", 40, 0))
    retention.finished("finished")
    retention.touched("running", 9.0)
    assert retention.room("running", 10) == Leave("finished")
    retention.left("finished")
    assert retention.room("running", 50) == Drop("running", 10)


def test_unwatched_running_run_gives_rows_before_a_run_that_was_read_since():
    retention = held(("running", 60, 50), ("read", 40, 0))
    retention.finished("read")
    assert retention.room("running", 30) == Drop("running", 30)
    retention.changed("running", 10, 0)
    assert retention.room("running", 51) == Leave("read")


def test_pinned_run_stays_and_pins_have_a_share():
    retention = held(("a", 30, 0), ("b", 30, 0))
    for run in "ab":
        retention.finished(run)
    retention.pin("a")
    with pytest.raises(PinError, match="would hold 60 bytes, they may hold 50"):
        retention.pin("b")
    assert retention.room("c", 60) == Leave("b")
    retention.left("b")
    with pytest.raises(NoRoomError, match="not so many can give way"):
        retention.room("c", 80)
    retention.unpin("a")
    assert retention.room("c", 80) == Leave("a")
    with pytest.raises(KeyError):
        retention.pin("unknown")


def test_nobody_gives_way_to_what_there_can_be_no_room_for():
    retention = held(("finished", 30, 0), ("running", 60, 50))
    retention.finished("finished")
    with pytest.raises(NoRoomError, match="101 bytes more for run new"):
        retention.room("new", 101)
    with pytest.raises(NoRoomError, match="91 bytes more for run running"):
        retention.room("running", 91)
    assert retention.room("running", 90) == Leave("finished")
