"""Where a subscriber is: every row once and in order, whatever comes between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from p06bs.server.tree.cursor import Child, ChildCursor, End, RowCursor, Rows, Send, sequence_of


class Subscriber(RuleBasedStateMachine):
    """A stock client that is cut off, killed servers, rows and forms that change."""

    @initialize(start=st.none() | st.integers(0, 12), count=st.integers(1, 8))
    def subscribe(self, start, count):
        self.count, self.form, self.finished, self.ended = count, "i8", False, False
        self.got, self.last, self.start = [], None, start
        self.first = count if start is None else max(0, start - 1)
        self.connect()

    def connect(self):
        start = self.start if self.last is None else self.last + 1
        self.told = self.form
        self.cursor = RowCursor(start, Rows(self.count, self.form, self.finished))

    @rule(more=st.integers(1, 30))
    def rows_come(self, more):
        if not self.finished:
            self.count += more

    @rule(form=st.sampled_from(["i8", "f8", "<U16", "<U64"]))
    def form_changes(self, form):
        # It does so with a page: there are rows that the client has not seen.
        if not self.finished:
            self.form = form
            self.count += 1

    @rule()
    def run_stops(self):
        self.finished = True

    @rule()
    def connection_breaks(self):
        if self.last is not None or self.start is not None:
            self.ended = False
            self.connect()

    @rule(most=st.integers(0, 7))
    def step(self, most):
        if self.ended:
            return
        step = self.cursor.step(Rows(self.count, self.form, self.finished), most)
        if isinstance(step, Send):
            assert step.sequence == step.stop >= 1
            assert step.stop - step.start <= max(1, most)
            if step.stop > step.start:
                assert self.told == self.form
            self.got += range(step.start, step.stop)
            self.last = step.sequence
        elif isinstance(step, End) and step.again:
            self.connect()
        elif isinstance(step, End):
            self.ended = True

    @invariant()
    def every_row_came_once(self):
        if not hasattr(self, "got"):
            return
        assert self.got == list(range(self.first, self.first + len(self.got)))
        if self.ended:
            assert self.finished
            assert len(self.got) == max(0, self.count - self.first)


TestSubscriber = Subscriber.TestCase


def test_rows_that_the_server_has_not_read_again_are_waited_for():
    cursor = RowCursor(101, Rows(3, "i8", False))
    assert cursor.step(Rows(100, "i8", False), 10) is None
    assert cursor.step(Rows(102, "i8", False), 10) == Send(100, 102, 102)


def test_nothing_is_told_of_rows_that_are_not_there():
    with pytest.raises(ValueError, match="no number"):
        RowCursor(None, Rows(0, "i8", False))


TIMES = st.integers(1, 20)
CHILDREN = st.dictionaries(
    st.sampled_from("abcdef"), st.builds(Child, TIMES, st.none() | TIMES), max_size=6
)


@given(moments=st.lists(CHILDREN, min_size=1, max_size=8), start=st.none() | st.integers(0, 25))
def test_children_are_told_once_and_in_order(moments, start):
    cursor = ChildCursor(start, moments[0])
    known = {
        key: child.updated
        for key, child in moments[0].items()
        if start is None or child.created < start
    }
    last = 0
    for children in moments:
        news = cursor.step(children)
        assert len({(n.key, n.kind) for n in news}) == len(news)
        for item in news:
            assert item.sequence >= last
            last = item.sequence
        created = [n.key for n in news if n.kind == "created"]
        assert sorted(created) == sorted(set(children) - set(known))
        for key, child in children.items():
            told = [n.kind for n in news if n.key == key]
            if key in created and child.updated is not None:
                assert told == ["created", "updated"]
        known = {key: child.updated for key, child in children.items()}
        assert not cursor.step(children)


def test_who_comes_back_hears_of_what_came_meanwhile():
    before = {"a": Child(10), "b": Child(20)}
    after = {"a": Child(10, 25), "b": Child(20), "c": Child(30, 40)}
    news = ChildCursor(21, before).step(after)
    assert [(n.key, n.kind, n.sequence) for n in news] == [
        ("a", "updated", 25),
        ("c", "created", 30),
        ("c", "updated", 40),
    ]
    assert [n.key for n in ChildCursor(0, after).step(after)] == ["a", "b", "a", "c", "c"]
    assert ChildCursor(None, after).step(after) == []


@pytest.mark.parametrize(
    ("time", "sequence"),
    [
        (1700000000.25, 1700000000250000),
        (0, 1),
        (-5.0, 1),
        (float("nan"), 1),
        (float("inf"), 1),
        ("soon", 1),
        (None, 1),
    ],
)
def test_times_are_sequence_numbers(time, sequence):
    assert sequence_of(time) == sequence
