"""Scans follow the newest rows: after a rewind as if it had never been."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs import process
from p06bs.model.compute import Result, make_ready
from p06bs.model.conformance import bind_columns
from p06bs.model.maps import newest
from p06bs.model.scanning import Scanning
from tests.documents import acquisition, raw_run, rows_of
from tests.techniques import Total


def scanned(scanning: Scanning, seqs: list[int], x: list[float], bad: Any = ()) -> list[float]:
    """Scan rows of `Total` in one go; NaN where a row is invalid."""
    modality = Total(inputs={"x": "x"})
    setup = make_ready(modality, modality.settings, bind_columns(modality, {"x": np.zeros(1)}))
    good = [v not in bad for v in x]
    columns = {"x": np.array(x)[good]}
    result = scanning.scan(
        setup, np.array(seqs, np.int64), Result(["" if g else "bad" for g in good], columns)
    )
    found = np.full(len(x), np.nan)
    if result.columns:
        found[result.valid] = result.columns["total"]
    return found.tolist()


def test_a_rewind_takes_back_what_it_supersedes():
    scanning = Scanning()
    assert scanned(scanning, [1, 2, 3, 4], [1, 10, 100, 1000]) == [1, 11, 111, 1111]
    assert scanned(scanning, [3], [5]) == [16]
    assert scanned(scanning, [4, 5, 2, 3], [20, 30, 2, 3]) == [36, 66, 3, 6]


def test_a_row_that_is_only_late_takes_back_nothing():
    scanning = Scanning()
    assert scanned(scanning, [1, 3], [1, 100]) == [1, 101]
    assert scanned(scanning, [2, 4], [10, 1000]) == [111, 1111]


def test_an_invalid_row_supersedes_too_and_is_superseded():
    scanning = Scanning()
    first = scanned(scanning, [1, 2, 3], [1, -1, 100], bad=[-1])
    assert first[::2] == [1, 101]
    assert np.isnan(first[1])
    assert scanned(scanning, [2, 3], [10, 100]) == [11, 111]
    assert np.isnan(scanned(scanning, [2, 3], [-1, 7], bad=[-1])[0])
    assert scanned(scanning, [4], [1000]) == [1008]


def test_events_that_a_rewind_too_far_leaves_without_state_are_invalid():
    scanning = Scanning(memory=100)
    for seq in range(1, 100, 5):
        scanned(scanning, list(range(seq, seq + 5)), [1.0] * 5)
    # To the first event of a batch it can go back, however far that is.
    assert scanned(scanning, [51, 52], [1.0, 1.0]) == [51, 52]
    assert scanned(scanning, [53, 54], [1.0, 1.0]) == [53, 54]
    modality = Total(inputs={"x": "x"})
    setup = make_ready(modality, modality.settings, bind_columns(modality, {"x": np.zeros(1)}))
    result = scanning.scan(setup, np.array([23, 24]), Result(["", ""], {"x": np.ones(2)}))
    assert all("not in memory" in reason for reason in result.reasons)
    assert np.isnan(scanned(scanning, [25], [1.0])[0])
    assert scanned(scanning, [21, 22], [1.0, 1.0]) == [21, 22]


legs = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=6)


@given(legs=legs, size=st.sampled_from([1, 3, 64]), bad=st.sets(st.integers(0, 30), max_size=5))
def test_the_rows_that_count_are_those_of_an_uninterrupted_run(legs, size, bad):
    seqs = acquisition(legs)
    at = max(0, seqs[-1] - legs[-1][1])
    seqs += range(at + 1, max(seqs) + 2)  # in the end it gets beyond where it had been
    x = np.array([float("nan") if i in bad else float(i + 1) for i in range(len(seqs))])
    kind = Picky(inputs={"x": "x"})
    derived = process(kind, raw_run({"x": x}, seqs=seqs, page=4), batch_size=size)
    totals = np.array([r[3] for r in rows_of(derived, "total")])
    kept = newest(seqs)
    plain = process(kind, raw_run({"x": x[kept]}, page=4), batch_size=size)
    expected = np.array([r[3] for r in rows_of(plain, "total")])
    assert np.array_equal(totals[kept], expected, equal_nan=True)


class Picky(Total):
    """Flag NaN as invalid in `process`."""

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        x = columns["x"]
        return {"x": x, "invalid": ["not a number" if np.isnan(v) else "" for v in x.tolist()]}


@pytest.mark.parametrize("size", [1, 2, 64])
def test_a_scan_that_fails_at_a_row_goes_on_from_the_row_before(size):
    class Brittle(Total):
        def scan(self, setup: Any, state: Any, columns: Any) -> Any:
            if (columns["x"] < 0).any():
                raise ValueError("negative")
            return super().scan(setup, state, columns)

    x = np.array([1.0, 2.0, -3.0, 4.0])
    derived = process(Brittle(inputs={"x": "x"}), raw_run({"x": x}, page=2), batch_size=size)
    rows = rows_of(derived, "total", "invalid_reason")
    assert [r[3] for r in rows if not r[4]] == [1, 3, 7]
    assert rows[2][4] == "scan: ValueError: negative"


@pytest.mark.parametrize("size", [1, 2, 64])
def test_rows_that_a_scan_flags_advance_the_state_also_after_a_rewind(size):
    class Flagging(Total):
        def scan(self, setup: Any, state: Any, columns: Any) -> Any:
            state, made = super().scan(setup, state, columns)
            return state, {**made, "invalid": ["negative" if x < 0 else "" for x in columns["x"]]}

    raw = raw_run({"x": np.array([1.0, 2, -3, 4, 5])}, seqs=[1, 2, 3, 4, 4], page=2)
    derived = process(Flagging(inputs={"x": "x"}), raw, batch_size=size)
    rows = rows_of(derived, "total", "invalid_reason")
    assert [r[4] for r in rows] == ["", "", "negative", "", ""]
    assert [r[3] for r in rows if not r[4]] == [1, 3, 4, 5]
