"""Overload: what is queued costs little, and a preview goes before it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs.model.documents import NamedDocument
from p06bs.model.revisions import Revision
from p06bs.model.run import RawRun
from p06bs.pipeline import pipeline
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.preview import Overload
from p06bs.pipeline.sampler import Sampler
from tests.chains import Leisurely
from tests.documents import raw_run, rows_of, validate
from tests.online import PATIENCE, assert_equal, beamline, elastic_of
from tests.techniques import Deadly, Histogram, Scale, Total
from tests.test_workers import loops, processes, until

REPOSITORY = Path(__file__).parents[1]


def previews(listener: Any, raw: str) -> list[list[NamedDocument]]:
    runs = listener.recorder.runs
    return [
        list(run.documents)
        for run in list(runs.values())
        if run.start.get("process", {}).get("preview") and run.start["original_run_uid"] == raw
    ]


@pytest.mark.slow
def test_a_preview_goes_before_while_workers_cannot_keep_up(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    modality = Deadly(inputs={"x": "x"}, seconds=0.006)
    raw = raw_run({"x": np.arange(1400.0)}, page=10)
    uid = raw[0][1]["uid"]
    thin = Pipeline(modality=modality, batch_size=2, overload="thin")
    with beamline(tmp_path, [thin], workers=1) as (pipelines, publish, listener):
        for document in raw[:-1]:  # 8 s of work
            publish(*document)
        until(lambda: len(previews(listener, uid)) == 1)
        # The newest events are shown long before all are computed.
        until(lambda: max((r[3] for r in seen(previews(listener, uid)[0])), default=0) > 1300)
        before = len(rows_of(listener.derived(uid, "deadly")))
        assert before < 700
        measured = {measure.name: measure.read() for measure in pipelines.measures()}
        assert measured["pipeline_previews"] in ({"deadly": 1.0}, {"deadly": 0.0})
        publish(*raw[-1])
        online = listener.wait(uid, "deadly")
        assert listener.recorder.wait(lambda: previews(listener, uid)[0][-1][0] == "stop", PATIENCE)
        preview = previews(listener, uid)[0]
    assert_equal(online, modality, raw)
    validate(preview)
    whole = {uid: y for *_, uid, y in rows_of(online, "raw_uid", "y")}
    assert 40 < len(seen(preview)) < 1000
    for *_, event, y in rows_of(preview, "raw_uid", "y"):
        assert y == whole[event]  # the same event has the same result
    assert preview[-1][1]["num_events"] == {"primary": len(seen(preview))}


@pytest.mark.slow
def test_a_preview_of_what_others_feed_has_their_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    before = Scale(inputs={"x": "x"}, flagged=[7.0, 500.0])
    modality = Leisurely(inputs={"x": "x", "zero": "scale/primary/y"}, seconds=0.008)
    raw = raw_run({"x": np.arange(900.0)}, page=10)
    uid = raw[0][1]["uid"]
    thin = Pipeline(modality=modality, batch_size=2, overload="thin")
    with beamline(tmp_path, [before, thin], workers=1) as (_, publish, listener):
        for document in raw[:-1]:  # 7 s of work
            publish(*document)
        until(lambda: max((len(seen(p)) for p in previews(listener, uid)), default=0) > 20)
        publish(*raw[-1])
        upstream = listener.wait(uid, "scale")
        online = listener.wait(uid, "leisurely")
        assert listener.recorder.wait(lambda: previews(listener, uid)[0][-1][0] == "stop", PATIENCE)
        (preview,) = previews(listener, uid)
    assert_equal(online, modality, raw, upstream)
    validate(preview)
    keys = ("raw_uid", "offset", "valid", "invalid_reason")
    whole = {row[3]: row[4:] for row in rows_of(online, *keys)}
    assert [r for *_, r in rows_of(online, "invalid_reason") if r] == ["scale: flagged"] * 2
    sampled = rows_of(preview, *keys)
    assert 20 < len(sampled) < 900
    for *_, event, offset, valid, reason in sampled:
        assert (valid, reason) == whole[event][1:]
        assert not valid or offset == whole[event][0]
    assert preview[0][1]["derived_from"] == online[0][1]["derived_from"]


def seen(documents: list[NamedDocument]) -> list[Any]:
    return rows_of(documents, "raw_seq_num")


@pytest.mark.parametrize("kind", [Total, Histogram])
def test_what_needs_every_event_in_order_cannot_be_thinned(kind):
    with pytest.raises(ValueError, match=r'carries state .* needs all; leave it at "queue"'):
        Pipeline(modality=kind(inputs={"x": "x"}), overload="thin")


@given(st.lists(st.floats(0.0, 10.0), max_size=50))
def test_overload_begins_late_and_ends_late(loads):
    overload, active = Overload(5.0, 1.0), False
    for seconds in loads:
        active = seconds > 5.0 or (active and seconds > 1.0)
        assert overload.decide(seconds) == active


SINGLE = raw_run({"x": np.arange(2500.0)}, page=1)
steps = st.lists(
    st.tuples(st.sampled_from(["rows", "batch", "follow", "pause"]), st.integers(1, 200)),
    max_size=60,
)


@given(steps, st.integers(1, 4), st.sampled_from([1, 3, 8, None]))
def test_a_sample_is_in_order_and_never_behind_what_was_taken(steps, workers, size):
    documents = SINGLE
    modality = Scale(inputs={"x": "x"})
    raw = RawRun(modality, documents[0][1])
    fed = iter(documents[1:-1])
    raw.add(*next(fed))
    raw.add(*next(fed))
    sampler = Sampler(raw, Revision(0, modality.settings), size=size, brief=True)
    sampler.active = True
    newest, taken, rows = 0, 0, 0
    for step, number in steps:
        assert raw.rows is not None
        if step == "rows":
            for _ in range(min(number, 40)):
                raw.add(*next(fed))
        elif step == "follow":
            taken = min(taken + number, sampler.seen + raw.rows.available)
            sampler.follow(taken)
        elif step == "pause":
            sampler.active = not sampler.active
        else:
            sampler.boundary()
            before = raw.rows.available
            batch = sampler.batch(workers)
            if batch is None:
                continue
            assert sampler.active
            assert before
            assert batch.rows.first == rows  # the preview counts its own rows
            assert int(batch.rows.seq[0]) > max(newest, taken)
            rows, newest = rows + len(batch.rows), int(batch.rows.seq[-1])
            sampler.returned(batch.number)


@pytest.mark.slow
def test_what_waits_is_bounded_and_the_rest_stays_in_the_logs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr(pipeline, "BACKLOG", 500)
    modality = Scale(inputs={"x": "x"})
    raw = raw_run({"x": np.arange(6000.0)}, page=1)
    with beamline(tmp_path, [modality], workers=1) as (pipelines, publish, listener):
        until(lambda: len(loops(pipelines)) == 1)
        worker = processes()[0]
        worker.suspend()
        highest = 0

        def look() -> bool:
            nonlocal highest
            highest = max(highest, elastic_of(pipelines).pool.load.backlog)
            return True

        for document in raw:
            publish(*document)
            look()
        until(lambda: look() and not loops(pipelines))  # it is taken for dead
        worker.resume()
        assert_equal(listener.wait(raw[0][1]["uid"], "scale"), modality, raw)
    assert 500 <= highest < 3000  # the bound, and one reading of the follower


def test_a_sample_goes_on_after_a_restart_behind_its_last_event():
    modality = Scale(inputs={"x": "x"})

    def sampler(**earlier: Any) -> Sampler:
        raw = RawRun(modality, SINGLE[0][1])
        for document in SINGLE[1:-1]:
            raw.add(*document)
        made = Sampler(raw, Revision(0, modality.settings), size=4, brief=True, **earlier)
        made.active = True
        return made

    first = sampler()
    for _ in range(5):
        first.boundary()
        batch = first.batch(2)
    assert batch is not None
    second = sampler(skip=20, published=20, last=batch.rows.uids[-1])
    second.boundary()
    after = second.batch(2)
    assert after is not None
    assert after.rows.first == 20
    assert after.rows.seq[0] == batch.rows.seq[-1] + 1
