"""Results of a whole run: the last snapshot is that of the rows that count."""

from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs import process
from p06bs.model.documents import NamedDocument
from p06bs.model.maps import newest
from p06bs.server.sink.sink import Sink
from p06bs.writers import nexus
from p06bs.writers.validate import validate as nexus_errors
from tests.documents import acquisition, raw_run, rows_of, validate
from tests.techniques import Histogram


def snapshots(documents: list[NamedDocument]) -> list[tuple[str, dict[str, Any]]]:
    """Return (stream, data) of the snapshots in a derived run."""
    names = {d["uid"]: d["name"] for n, d in documents if n == "descriptor"}
    return [(names[d["descriptor"]], d["data"]) for n, d in documents if n == "event"]


def expected(x: np.ndarray[Any, Any], bins: int = 8) -> list[int]:
    return np.bincount(x.astype(int) % bins, minlength=bins).tolist()


@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_run_ends_with_a_snapshot_of_all_its_rows(size):
    x = np.arange(50.0)
    derived = process(
        Histogram(inputs={"x": "x"}, bad=[3.0], flagged=[5.0]),
        raw_run({"x": x}, page=10),
        batch_size=size,
    )
    validate(derived)
    good = x[(x != 3) & (x != 5)]
    ((stream, last),) = [s for s in snapshots(derived) if s[1]["final"]]
    assert stream == "snapshots"
    assert last["counts"].tolist() == expected(good)
    assert last["total"] == 2 * good.sum()
    assert (last["raw_seq_num"], last["rows"]) == (50, 50)
    assert derived[-1][1]["num_events"] == {"primary": 50, "snapshots": 1}
    assert derived[-1][1]["num_invalid"] == {"primary": 2}


legs = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=6)


@given(legs=legs, size=st.sampled_from([1, 3, 64]), page=st.sampled_from([0, 4]))
def test_after_a_rewind_it_is_that_of_the_newest_rows(legs, size, page):
    seqs = acquisition(legs)
    x = np.arange(1.0, len(seqs) + 1)
    derived = process(
        Histogram(inputs={"x": "x"}), raw_run({"x": x}, seqs=seqs, page=page), batch_size=size
    )
    last = snapshots(derived)[-1][1]
    kept = x[newest(seqs)]
    assert last["counts"].tolist() == expected(kept)
    assert last["rows"] == len(kept)
    assert last["raw_seq_num"] == max(seqs)
    assert len(rows_of(derived)) == len(seqs)


def test_settings_that_leave_the_results_as_they_are_go_on_and_others_begin_anew():
    x = np.arange(30.0)
    raw = raw_run({"x": x})
    history = [
        (raw[2 + 10][1]["uid"], {"factor": 3.0}),
        (raw[2 + 20][1]["uid"], {"factor": 3.0, "wide": True}),
    ]
    derived = process(Histogram(inputs={"x": "x"}), raw, history, batch_size=4)
    first, last = [s for s in snapshots(derived) if s[1]["final"]]
    assert first[0] == "snapshots"
    assert first[1]["counts"].tolist() == expected(x[:20])
    assert first[1]["total"] == 2 * x[:10].sum() + 3 * x[10:20].sum()
    assert last[0] == "snapshots_r2"
    assert last[1]["counts"].tolist() == expected(x[20:], 16)


def test_a_fold_that_fails_costs_the_results_and_no_row():
    class Brittle(Histogram):
        def fold(self, setup: Any, state: Any, part: Any) -> Any:
            raise ValueError("too much")

    derived = process(Brittle(inputs={"x": "x"}), raw_run({"x": np.arange(5.0)}))
    assert [r[3] for r in rows_of(derived, "valid")] == [True] * 5
    assert snapshots(derived) == []
    assert derived[-1][1]["results_problem"] == "fold: ValueError: too much"


def test_a_modality_that_folds_and_contributes_nothing_is_told_so():
    class Silent(Histogram):
        def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
            made = super().process(setup, **columns)
            del made["part"]
            return made

    derived = process(Silent(inputs={"x": "x"}), raw_run({"x": np.arange(2.0)}))
    assert all("no 'part'" in r[3] for r in rows_of(derived, "invalid_reason"))


def test_snapshots_are_in_the_nexus_file_and_in_the_server(tmp_path):
    x = np.arange(20.0)
    derived = process(Histogram(inputs={"x": "x"}), raw_run({"x": x}, page=5))
    (path,) = nexus.export(derived, tmp_path)["all"]
    assert nexus_errors(path) == []
    with h5py.File(path) as file:
        stream = file["entry/bluesky/streams/snapshots"]
        assert stream["data/counts"][-1].tolist() == expected(x)
        assert stream["data/final"][-1]
    sink = Sink(1 << 24)
    for document in derived:
        sink(*document)
    streams = sink.view(derived[0][1]["uid"]).streams
    assert set(streams) == {"primary", "snapshots"}
    shown = streams["snapshots"]()
    assert shown.columns["counts"].read(0, 1)[0].tolist() == expected(x)
