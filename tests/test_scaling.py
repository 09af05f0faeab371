"""How many workers there should be: grows at once, shrinks late, never flaps."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs.pipeline.scaling import Demand, Scaling, drain_order

loads = st.lists(
    st.tuples(
        st.floats(0.05, 20.0),  # seconds since the last look
        st.integers(0, 5000),  # rows
        st.floats(0.0, 3.0),  # seconds per row
        st.floats(0.0, 1.0),  # share of the time that workers compute
    ),
    min_size=1,
    max_size=60,
)
limits = st.tuples(st.integers(0, 5), st.integers(1, 20)).map(lambda x: (x[0], x[0] + x[1]))


def replay(scaling, steps):
    """Yield (time, workers needed for the queue, workers wanted)."""
    now = computed = 0.0
    for passed, rows, each, share in steps:
        now += passed
        computed += passed * share * scaling.wanted
        demand = Demand(rows, rows * each)
        needed = min(rows, math.ceil(demand.seconds / scaling.within))
        yield now, needed, scaling.decide(demand, computed, now)


@given(limits, loads)
def test_a_queue_that_takes_too_long_gets_workers_at_once(limits, steps):
    least, most = limits
    for _, needed, wanted in replay(Scaling(least, most), steps):
        assert least <= wanted <= most
        assert wanted >= min(needed, most)


@given(limits, loads)
def test_workers_that_were_wanted_lately_stay(limits, steps):
    scaling = Scaling(*limits)
    seen = []
    for now, needed, wanted in replay(scaling, steps):
        assert wanted >= min(
            scaling.most, max([n for t, n, _ in seen if t >= now - scaling.idle], default=0)
        )
        seen.append((now, needed, wanted))
    steps = list(itertools.pairwise(seen))
    ups = [later[0] for before, later in steps if later[2] > before[2]]
    for down in (later[0] for before, later in steps if later[2] < before[2]):
        assert all(down - up > scaling.idle for up in ups if up < down)


@given(limits, loads)
def test_without_load_only_the_least_are_left(limits, steps):
    scaling = Scaling(*limits)
    end = [now for now, _, _ in replay(scaling, steps)][-1]
    for second in range(1, 60):
        wanted = scaling.decide(Demand(), 1e9, end + 1000 + second)
    assert wanted == scaling.least


def test_a_steady_load_keeps_its_workers_although_nothing_is_queued():
    scaling = Scaling(1, 8)
    assert scaling.decide(Demand(100, 6.0), 0.0, 0.0) == 3
    for second in range(1, 300):
        assert scaling.decide(Demand(1, 0.01), 2.2 * second, float(second)) == 3


def test_there_are_no_more_workers_than_rows():
    assert Scaling(0, 8).decide(Demand(2, 600.0), 0.0, 0.0) == 2


@pytest.mark.parametrize("limits", [(-1, 2), (3, 2), (0, 0)])
def test_limits_that_make_no_sense_are_refused(limits):
    with pytest.raises(ValueError, match="0 <= min <= max"):
        Scaling(*limits)


@given(st.lists(st.integers(0, 2)))
def test_those_without_batches_go_first_then_the_newest(held):
    workers = [(f"w{at}", number) for at, number in enumerate(held)]
    order = drain_order(workers)
    assert sorted(order) == sorted(name for name, _ in workers)
    ranks = [(held[int(name[1:])], -int(name[1:])) for name in order]
    assert ranks == sorted(ranks)
