"""How old the oldest event without a result is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs.pipeline.lag import STEP, Lag, time_of

arrivals = st.lists(st.tuples(st.integers(0, 50), st.floats(0.0, 3.0)), max_size=50)


@given(arrivals, st.lists(st.integers(0, 200), max_size=20))
def test_the_oldest_row_is_known_to_a_step(arrivals, steps):
    lag, times, now = Lag(), [], 0.0
    for rows, passed in arrivals:
        now += passed
        times += [now] * rows
        lag.arrived(len(times), now)
    delivered = 0
    for step in steps:
        delivered += step
        since = lag.since(delivered)
        assert lag.events(delivered) == max(0, len(times) - delivered)
        if delivered >= len(times):
            assert since is None
        else:
            assert since == pytest.approx(times[delivered], abs=STEP + 1e-9)


@pytest.mark.parametrize(
    ("document", "when"),
    [
        ({"time": 5.0}, 5.0),
        ({"time": [7.0, 8.0]}, 7.0),
        ({"time": []}, 1.0),
        ({"indices": {"start": 0, "stop": 3}}, 1.0),
        ({"time": "noon"}, 1.0),
    ],
)
def test_documents_say_when_they_were(document, when):
    assert time_of(document, 1.0) == when
