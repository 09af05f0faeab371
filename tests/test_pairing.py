"""Pairs of two streams under rewinds: a RunEngine that is paused anywhere, streams that lag."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs.model.binding import Binding
from p06bs.model.modality import BoundInput
from p06bs.model.rows import Rows, Source

A, B = Source("a"), Source("b")


def rows() -> Rows:
    bound = {name: BoundInput(name, "x", False, (), (), "<f8") for name in ("a", "b")}
    return Rows(Binding(bound, "a"))


@dataclass
class Scan:
    """A plan that reads a, then b (or b, then a) at each point, with pauses in between."""

    order: str = "ab"
    seq: dict[str, int] = field(default_factory=lambda: {"a": 0, "b": 0})
    emitted: list[tuple[str, int, str]] = field(default_factory=list)  # stream, seq_num, uid
    visits: int = 0
    pairs: dict[int, list[tuple[str, str]]] = field(default_factory=dict)  # of whole visits
    saved: dict[str, int] = field(default_factory=lambda: {"a": 0, "b": 0})

    def checkpoint(self) -> None:
        self.saved = dict(self.seq)

    def visit(self, streams: int = 2) -> None:
        """Go to the next point, and emit the events of the first `streams` streams there."""
        self.visits += 1
        for stream in self.order[:streams]:
            self.seq[stream] += 1
            self.emitted.append((stream, self.seq[stream], f"{stream}{self.visits}"))
        if streams == 2:
            pair = (f"a{self.visits}", f"b{self.visits}")
            self.pairs.setdefault(self.seq["a"], []).append(pair)

    def rewind(self) -> None:
        """Go back to the checkpoint, as the RunEngine does after a pause."""
        self.seq = dict(self.saved)


def feed(joined: Rows, events: list[tuple[str, int, str]]) -> Iterator[tuple[int, str, str]]:
    """Yield (seq_num, uid in a, uid in b) as soon as rows are there."""
    for stream, seq, uid in events:
        document = {"uid": uid, "seq_num": seq, "time": 0.0}
        joined.add(Source(stream), "event", document, (uid, 1))
        yield from taken(joined)
    joined.finish()
    yield from taken(joined)


def taken(joined: Rows) -> Iterator[tuple[int, str, str]]:
    while (found := joined.take(1)) is not None:
        ((one,), (other,)) = (found.spans[name] for name in ("a", "b"))
        yield int(found.seq[0]), one.where[0], other.where[0]


def newest(found: list[tuple[int, str, str]]) -> dict[int, tuple[str, str]]:
    return {seq: (one, other) for seq, one, other in found}


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize("streams", [0, 1, 2])
def test_a_pause_within_a_point(order, streams):
    plan = Scan(order)
    plan.visit()
    plan.visit()
    plan.checkpoint()
    plan.visit(streams)
    plan.rewind()
    for _ in range(3):
        plan.visit()
    found = list(feed(rows(), plan.emitted))
    assert newest(found) == {seq: pairs[-1] for seq, pairs in plan.pairs.items()}
    assert sorted(found) == sorted((s, *p) for s, pairs in plan.pairs.items() for p in pairs)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_rows_wait_for_one_point_at_most_after_a_rewind(order):
    plan = Scan(order)
    plan.visit()
    plan.checkpoint()
    plan.visit(1)
    plan.rewind()
    for _ in range(10):
        plan.visit()
    joined = rows()
    behind = []
    for count in range(1, len(plan.emitted) + 1):
        stream, seq, uid = plan.emitted[count - 1]
        joined.add(Source(stream), "event", {"uid": uid, "seq_num": seq, "time": 0.0}, (uid, 1))
        list(taken(joined))
        behind.append(seq - (joined.taken))
    assert max(behind) <= 2
    assert joined.taken == 11


steps = st.lists(
    st.one_of(
        st.just("visit"),
        st.just("visit"),
        st.just("checkpoint"),
        st.tuples(st.just("pause"), st.integers(0, 2)),
    ),
    max_size=40,
)


def played(order: str, what: list[Any]) -> Scan:
    plan = Scan(order)
    for step in what:
        if step == "visit":
            plan.visit()
        elif step == "checkpoint":
            plan.checkpoint()
        else:
            plan.visit(step[1])
            plan.rewind()
    plan.visit()
    plan.visit()
    return plan


@given(order=st.sampled_from(["ab", "ba"]), what=steps)
def test_the_newest_pair_of_each_point_is_that_of_its_last_whole_visit(order, what):
    plan = played(order, what)
    found = list(feed(rows(), plan.emitted))
    expected = {seq: pairs[-1] for seq, pairs in plan.pairs.items()}
    assert newest(found) == expected
    # Whatever is in one row comes from one visit, and each visit makes one row at most.
    assert len(set(found)) == len(found)
    assert set(found) <= {(seq, *pair) for seq, pairs in plan.pairs.items() for pair in pairs}


@given(
    order=st.sampled_from(["ab", "ba"]),
    what=steps,
    late=st.sampled_from("ab"),
    lag=st.integers(0, 30),
)
def test_a_stream_that_lags_changes_nothing_where_pauses_come_between_points(
    order, what, late, lag
):
    what = [("pause", 2) if isinstance(step, tuple) else step for step in what]
    plan = played(order, what)
    queue: list[tuple[int, tuple[str, int, str]]] = []
    for number, event in enumerate(plan.emitted):
        queue.append((number + (lag if event[0] == late else 0), event))
    lagging = [event for _, event in sorted(queue, key=lambda item: item[0])]
    expected = [(seq, *pair) for seq, pairs in plan.pairs.items() for pair in pairs]
    found = list(feed(rows(), lagging))
    assert sorted(found) == sorted(expected)
    # in the order of acquisition
    assert [row[1] for row in found] == [uid for stream, _, uid in plan.emitted if stream == "a"]
