"""Pipelines that feed each other: the right rows, whatever comes first and whoever is killed."""

from pathlib import Path as Folder
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p06bs import callback, process
from p06bs.model.documents import NamedDocument
from p06bs.model.rows import Taken
from p06bs.model.run import RawRun
from p06bs.pipeline.declared import Pipeline
from tests.chains import Encoder, Interferometer, Path, Position, Unsteady
from tests.documents import acquisition, raw_run, rows_of
from tests.online import assert_equal, beamline

REPOSITORY = Folder(__file__).parents[1]
LEGS = [(30, 6), (40, 3), (20, 0)]
FAULTS: dict[str, Any] = {"bad": [17.0], "flagged": [5.0, 40.0]}


@pytest.fixture(autouse=True)
def _workers_find_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def scan(legs: list[tuple[int, int]] = LEGS, page: int = 7, **md: Any) -> list[NamedDocument]:
    seqs = acquisition(legs)
    return raw_run({"signal": np.arange(len(seqs), dtype=float)}, seqs=seqs, page=page, **md)


def encoders(**settings: Any) -> Encoder:
    return Encoder(inputs={"x": "signal"}, **settings)


def interferometers(**settings: Any) -> Interferometer:
    return Interferometer(inputs={"x": "signal"}, factor=2.5, **settings)


def path() -> Path:
    return Path(inputs={"signal": "signal"})


def test_a_chain_gives_what_its_parts_give_one_after_the_other():
    raw = scan()
    coarse, fine = (
        process(encoders(**FAULTS), raw),
        process(interferometers(flagged=[50.0]), raw),
    )
    made = process(Position(), raw, upstream=[*coarse, *fine])
    start = made[0][1]
    assert start["original_run_uid"] == raw[0][1]["uid"]
    assert start["derived_from"] == [coarse[0][1]["uid"], fine[0][1]["uid"]]
    assert start["process"]["inputs"]["fine"] == {
        "stream": "primary",
        "data_key": "x",
        "run": fine[0][1]["uid"],
        "pipeline": "interferometer",
    }
    rows = rows_of(made, "raw_seq_num", "x", "apart", "valid", "invalid_reason")
    assert [row[3] for row in rows] == acquisition(LEGS)
    for signal, (*_, x, apart, valid, reason) in enumerate(rows):
        if signal == 17:
            assert reason == "encoder: ValueError: cannot stand [17.0]"
        elif signal in (5, 40):
            assert reason == "encoder: flagged"
        elif signal == 50:
            assert reason == "interferometer: flagged"
        else:
            assert valid
            assert (x, apart) == pytest.approx((2250.0 * signal, -500.0 * signal))
        assert valid == (not reason)
    further = process(path(), raw, upstream=made)
    assert further[0][1]["derived_from"] == [raw[0][1]["uid"], start["uid"]]
    assert further[0][1]["original_run_uid"] == raw[0][1]["uid"]
    reasons = [row[3] for row in rows_of(further, "invalid_reason")]
    assert reasons == [reason and f"position: {reason}" for *_, reason in rows]
    # Other settings upstream make another derived run downstream.
    other = process(Position(), raw, upstream=[*process(encoders(factor=3.0), raw), *fine])
    assert other[0][1]["uid"] != start["uid"]


def test_a_notebook_computes_what_comes_before():
    raw = scan()
    coarse, fine = encoders(**FAULTS), interferometers()
    seen: list[NamedDocument] = []
    analyse = callback(
        Position(), lambda name, document: seen.append((name, document)), after=[coarse, fine]
    )
    for document in raw:
        analyse(*document)
        if document[0] == "event_page":
            assert rows_of(seen)[-1][1] == rows_of(seen)[-1][1]
    upstream = [*process(coarse, raw), *process(fine, raw)]
    assert_equal(seen, Position(), raw, upstream)


def test_of_a_run_that_lacks_what_comes_before_a_notebook_says_so(caplog):
    analyse = callback(Position(), after=[Encoder(inputs={"x": "nothing"}), interferometers()])
    for document in scan():
        analyse(*document)
    assert "position cannot work on this run: input 'coarse' looked for" in caplog.text
    assert "encoder cannot work on this run: input 'x' is bound to 'nothing'" in caplog.text


def taken(run: RawRun) -> list[tuple[Any, ...]]:
    """Return each row that is there by what it is made of."""
    assert run.rows is not None
    found: list[tuple[Any, ...]] = []
    while (rows := run.rows.take(3)) is not None:
        places = [_each(rows, key) for key in sorted(rows.spans)]
        found += zip(rows.uids, rows.seq.tolist(), *places, strict=True)
    return found


def _each(rows: Taken, key: str) -> list[tuple[Any, ...]]:
    return [
        (s.lacking,) if s.lacking else (s.where["uid"][0], s.start + i)
        for s in rows.spans[key]
        for i in range(s.count)
    ]


@settings(max_examples=40)
@given(
    legs=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6)), min_size=1, max_size=4),
    page=st.integers(1, 5),
    data=st.data(),
)
def test_rows_follow_from_the_logs_alone_whatever_comes_first(legs, page, data):
    raw = scan(legs, page)
    upstream = [process(encoders(), raw, batch_size=3), process(interferometers(), raw)]
    upstream = [damaged(run, data) for run in upstream]
    after = ["encoder", "interferometer"]

    def rows(order: list[int]) -> list[tuple[Any, ...]]:
        run = RawRun(Position(), raw[0][1], after=after)
        sources = [iter(raw[1:]), *map(iter, upstream)]
        found: list[tuple[Any, ...]] = []
        for which in order:
            document = next(sources[which])
            if which == 0:
                run.add(*document)
            else:
                run.feed(upstream[which - 1][0][1]["uid"], *document)
            found += taken(run) if run.rows is not None else []
        assert run.ending is not None
        assert run.rows is not None
        assert not run.rows.waiting
        return found

    lengths = [len(raw) - 1, *map(len, upstream)]
    every = [which for which, length in enumerate(lengths) for _ in range(length)]
    reference = rows(every)
    assert [row[:2] for row in reference] == list(identities(raw))
    assert rows(every[::-1]) == reference
    assert rows(data.draw(st.permutations(every))) == reference


def identities(raw: list[NamedDocument]) -> Any:
    for name, document in raw:
        if name == "event_page":
            yield from zip(document["uid"], document["seq_num"], strict=True)


def damaged(run: list[NamedDocument], data: Any) -> list[NamedDocument]:
    """Return a derived run that lacks rows, and has others late."""
    pages = [document for name, document in run if name == "event_page"]
    rows = [(page, row) for page in pages for row in range(len(page["seq_num"]))]
    fate = data.draw(st.lists(st.sampled_from("gggglm"), min_size=len(rows), max_size=len(rows)))
    kept = [row for row, what in zip(rows, fate, strict=True) if what == "g"]
    kept += [row for row, what in zip(rows, fate, strict=True) if what == "l"]
    made = [
        {
            **page,
            "uid": [page["uid"][row]],
            "seq_num": [i + 1],
            "time": [page["time"][row]],
            "data": {key: column[row : row + 1] for key, column in page["data"].items()},
        }
        for i, (page, row) in enumerate(kept)
    ]
    pages_of: list[NamedDocument] = [("event_page", page) for page in made]
    return [*run[:2], *pages_of, run[-1]]
