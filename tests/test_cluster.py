"""Sets of Dask workers: which units are taken back."""

from hypothesis import given
from hypothesis import strategies as st

from p06bs.pipeline.cluster import surplus

UNITS = st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=12)


@given(units=UNITS, joined=st.sets(st.sampled_from("abc")), wished=st.integers(0, 14))
def test_only_waiting_units_are_taken_back_the_last_first_and_no_more_than_needed(
    units, joined, wished
):
    gone = surplus(units, joined, wished)
    waiting = [unit for unit in units if unit not in joined]
    assert gone <= set(waiting)
    assert waiting[: len(waiting) - len(gone)] == [u for u in waiting if u not in gone]
    left = len(units) - len(gone)
    assert left >= wished or not gone
    assert left <= wished or gone == set(waiting)
