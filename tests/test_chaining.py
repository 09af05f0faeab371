"""Pipelines that feed each other: the right rows, whatever comes first and whoever is killed."""

import json
import os
import signal
import time
from functools import partial
from pathlib import Path as Folder
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p06bs import DocumentLog, Follower, Publisher, callback, process
from p06bs.bus.codec import pack, unpack
from p06bs.bus.framing import frame_of
from p06bs.bus.reader import Entry
from p06bs.model.documents import NamedDocument, is_derived
from p06bs.model.gather import gather
from p06bs.model.run import RawRun
from p06bs.model.taken import Taken
from p06bs.pipeline import chains, feeding, lane
from p06bs.pipeline.adjustments import Adjustments
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.earlier import EarlierRuns
from p06bs.pipeline.foreseen import foresee
from p06bs.pipeline.pipeline import Pipelines
from tests.chains import (
    Contrast,
    Encoder,
    Interferometer,
    Lit,
    Offset,
    Path,
    Position,
    Unprepared,
    Unsteady,
)
from tests.documents import acquisition, frame_documents, raw_run, rows_of, write
from tests.online import Listener, assert_equal, beamline
from tests.supervised import supervised, wait

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
    for count, (*_, x, apart, valid, reason) in enumerate(rows):
        if count == 17:
            assert reason == "encoder: ValueError: cannot stand [17.0]"
        elif count in (5, 40):
            assert reason == "encoder: flagged"
        elif count == 50:
            assert reason == "interferometer: flagged"
        else:
            assert valid
            assert (x, apart) == pytest.approx((2250.0 * count, -500.0 * count))
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
            assert rows_of(seen, "raw_uid")[-1][3] == document[1]["uid"][-1]  # at once
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


CHAIN: list[Any] = [
    Pipeline(modality=path(), after=["position"]),
    Pipeline(modality=Position(), after=["encoder", "interferometer"], batch_size=5),
    Pipeline(modality=encoders(**FAULTS), batch_size=7),
    interferometers(flagged=[50.0]),
]
NAMES = ("encoder", "interferometer", "position", "path")


def assert_chain(made: dict[str, list[NamedDocument]], raw: list[NamedDocument]) -> None:
    """Compare each derived run with what is computed of its recorded upstream ones."""
    by_name = {"encoder": encoders(), "interferometer": interferometers()}
    by_name |= {"position": Position(), "path": path()}
    for name in NAMES:
        upstream = [
            document
            for other in made.values()
            if other[0][1]["uid"] in made[name][0][1]["derived_from"]
            for document in other
        ]
        assert_equal(made[name], by_name[name], raw, upstream)


def test_a_chain_in_one_process(tmp_path):
    raw = scan(page=0)
    uid = raw[0][1]["uid"]
    with beamline(tmp_path, CHAIN) as (pipelines, publish, listener):
        middle = len(raw) // 2
        for document in raw[:middle]:
            publish(*document)
        # The settings of what comes first change in mid-scan: values follow, and get lost.
        listener.wait(uid, "path", rows=20)
        pipelines.change("encoder", {"factor": 4.0})
        for document in raw[middle:-1]:
            publish(*document)
        listener.wait(uid, "path", rows=len(acquisition(LEGS)))
        publish(*raw[-1])
        made = {name: listener.wait(uid, name) for name in NAMES}
    assert_chain(made, raw)
    assert {d["name"] for n, d in made["encoder"] if n == "descriptor"} == {"primary"}
    assert len([d for n, d in made["encoder"] if n == "descriptor"]) == 2
    assert made["path"][0][1]["derived_from"] == [uid, made["position"][0][1]["uid"]]
    assert made["path"][0][1]["original_run_uid"] == uid


def test_what_upstream_makes_no_more_is_invalid_and_comes_again(tmp_path):
    raw = scan([(60, 0)], page=10)
    uid = raw[0][1]["uid"]
    unsteady = Unsteady(inputs={"x": "signal"})
    after = Position(inputs={"coarse": "unsteady/primary/x", "fine": "other/primary/x"})
    pipelines = [
        unsteady,
        Pipeline(modality=interferometers(), name="other"),
        Pipeline(modality=after, name="joined"),
    ]
    with beamline(tmp_path, pipelines) as (served, publish, listener):
        for first, last, values in ((0, 4, {"square": True}), (4, 6, {"square": False})):
            for document in raw[first:last]:
                publish(*document)
            rows = last * 10 - 20
            listener.wait(uid, "position", rows=rows)
            served.change("unsteady", values)
        for document in raw[6:]:
            publish(*document)
        made = {n: listener.wait(uid, n) for n in ("unsteady", "interferometer", "position")}
    streams = [d["name"] for n, d in made["unsteady"] if n == "descriptor"]
    assert streams == ["primary", "primary_r1", "primary_r2"]
    said = [row[3] for row in rows_of(made["position"], "invalid_reason")]
    lost = "unsteady makes no x any more: its settings were changed"
    assert said == [*[""] * 20, *[lost] * 20, *[""] * 20]
    assert made["position"][0][1]["process"]["pipeline"] == "joined"
    upstream = [*made["unsteady"], *made["interferometer"]]
    assert_equal(made["position"], after, raw, upstream)


SERVICES = """
[bus]
inbound = "ipc://{0}/in"
outbound = "ipc://{0}/out"
topology = "ipc://{0}/topology"
log = "{0}/log"

[services.coarse]
kind = "pipelines"
workers = {{ min = 1, max = 1 }}
[[services.coarse.pipelines]]
modality = "tests.chains:Encoder"
inputs.x = "signal"
settings = {{ bad = [17.0], flagged = [5.0, 40.0] }}

[services.fine]
kind = "pipelines"
workers = {{ min = 1, max = 1 }}
[[services.fine.pipelines]]
modality = "tests.chains:Interferometer"
inputs.x = "signal"
settings = {{ factor = 2.5, flagged = [50.0] }}

[services.joined]
kind = "pipelines"
replicas = 2
workers = {{ min = 1, max = 1 }}
[[services.joined.pipelines]]
modality = "tests.chains:Position"
after = ["encoder", "interferometer"]
[[services.joined.pipelines]]
modality = "tests.chains:Path"
inputs = {{ signal = "signal", x = "position/primary/x" }}
"""


@pytest.mark.slow
def test_nothing_is_lost_when_any_process_of_a_chain_is_killed(tmp_path, own_runtime_directory):
    file = tmp_path / "services.toml"
    file.write_text(SERVICES.format(tmp_path))
    legs = [(250, 20), (200, 0)]
    raw = scan(legs, page=5)
    uid = raw[0][1]["uid"]
    victims = ["coarse", "joined-1", "fine", "joined-2"]
    with (
        supervised(file) as started,
        Publisher(f"ipc://{tmp_path}/in", tmp_path / "log") as publish,
        Listener(f"ipc://{tmp_path}/out", tmp_path / "log") as listener,
    ):
        for number, document in enumerate(raw):
            publish(*document)
            if number % 20 == 10 and victims:
                listener.wait(uid, "path", rows=(number - 8) * 5)
                victim = victims.pop(0)
                os.kill(started.statuses()[victim].pid, signal.SIGKILL)
        made = {name: listener.wait(uid, name) for name in NAMES}
        # Whoever was killed last is to be back before everybody is told to end.
        wait(started.wait_ready)
    assert not victims
    assert_chain(made, raw)
    for documents in made.values():
        uids = [row[2] for row in rows_of(documents)]
        assert len(set(uids)) == len(uids) == len(acquisition(legs))
    with DocumentLog(tmp_path / "log") as log:
        assert len(log.runs()) == 1 + len(made)


def test_a_raw_run_that_ends_badly_ends_the_chain_so_and_whole(tmp_path):
    raw = scan([(30, 0)], page=5)
    raw[-1][1].update(exit_status="abort", reason="beam lost")
    with beamline(tmp_path, CHAIN) as (_, publish, listener):
        for document in raw:
            publish(*document)
        made = {name: listener.wait(raw[0][1]["uid"], name) for name in NAMES}
    assert_chain(made, raw)
    for documents in made.values():
        assert documents[-1][1]["exit_status"] == "abort"
        assert documents[-1][1]["reason"] == "beam lost"
        assert len(rows_of(documents)) == 30


@pytest.mark.logs_errors
def test_what_fails_ends_what_it_feeds_with_the_reason(tmp_path):
    raw = scan([(30, 0)], page=5)
    uid = raw[0][1]["uid"]
    failing = Unprepared(inputs={"x": "signal"})
    with beamline(tmp_path, [failing, *CHAIN[:2], CHAIN[3]]) as (served, publish, listener):
        for document in raw[:-1]:  # the scan goes on
            publish(*document)
        wait(lambda: (end := listener.derived(uid, "position")) and end[-1][0] == "stop")
        publish(*raw[-1])
        (why,) = wait(
            lambda: [
                d
                for d in served.decisions.why(uid)["pipelines"]
                if d["pipeline"] == "path" and d["state"] == "left"
            ]
        )
        made = {name: listener.derived(uid, name) for name in ("encoder", "position")}
    failed = "ValueError: no reference mark was found"
    assert made["encoder"][-1][1]["reason"] == failed
    assert made["position"][-1][1]["exit_status"] == "fail"
    assert made["position"][-1][1]["reason"] == f"encoder ended with fail: {failed}"
    assert (
        f"position made no rows: it ended with fail: encoder ended with fail: {failed}"
        in (why["why"])
    )


def test_what_does_not_begin_is_waited_for_and_then_said(tmp_path, monkeypatch):
    passed = [0.0]
    monkeypatch.setattr(
        feeding, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0])
    )
    raw = scan([(30, 0)], page=5)
    uid = raw[0][1]["uid"]
    pipelines = [
        Pipeline(modality=Position(), after=["encoder", "interferometer"], wait=1000),
        interferometers(),
        Pipeline(modality=Path(inputs={"x": "nobody/primary/x"}), wait=1e9),
    ]
    with beamline(tmp_path, pipelines) as (served, publish, listener):

        def why(name: str) -> Any:
            return next(d for d in served.decisions.why(uid)["pipelines"] if d["pipeline"] == name)

        def left_later(name: str) -> Any:
            passed[0] += 1000.0
            return (d := why(name))["state"] == "left" and d["why"]

        for document in raw:
            publish(*document)
        listener.wait(uid, "interferometer")
        assert wait(lambda: why("position")["why"] == "for the derived run of encoder")
        assert why("path")["why"] == "for the derived run of nobody"
        said = wait(lambda: left_later("position"))
    assert "input 'coarse' looked for role 'encoder_x'" in said
    assert "interferometer/primary/x (role interferometer_x, shape [], um)" in said
    assert said.endswith("encoder has begun no derived run of it within 1000 s")


def test_what_is_left_is_not_waited_for(tmp_path):
    raw = scan([(30, 0)], page=5)
    uid = raw[0][1]["uid"]
    lacking = Encoder(inputs={"x": "nothing"})
    pipelines = [Pipeline(modality=Position(), after=["encoder", "interferometer"], wait=1e6)]
    with beamline(tmp_path, [*pipelines, lacking, interferometers()]) as (served, publish, _):
        for document in raw:
            publish(*document)
        decided = wait(
            lambda: (d := served.decisions.why(uid)["pipelines"][0])["state"] == "left" and d
        )
    assert "encoder makes no derived run of it: encoder cannot work on this run" in decided["why"]


ODD: list[dict[str, Any]] = [
    {"version": ...},
    {"settings": ...},
    {"inputs": {"x": "primary/x"}},
    {"inputs": {"x": {"data_key": "x"}}},
    {"inputs": {"x": {"stream": "primary", "data_key": "x", "run": "a"}}},
    {"inputs": {"x": {"stream": "primary", "data_key": "x", "run": ["a"], "pipeline": "b"}}},
    {"inputs": ["x"]},
]


@pytest.mark.parametrize("odd", ODD)
def test_what_looks_like_a_derived_run_and_is_none_costs_no_other(tmp_path, odd):
    """Others write `process`, too; a log is read again after each restart."""
    raw = scan()
    start = process(encoders(), raw)[0][1]
    said = {**start["process"], **odd}
    process_of = {key: value for key, value in said.items() if value is not ...}
    fake = {**start, "uid": "fake", "process": process_of}
    assert is_derived(start)
    assert is_derived(fake) == ("version" in odd)
    assert not is_derived({**start, "derived_from": [["a"]]})
    write(tmp_path, raw)
    write(tmp_path, [("start", fake), ("stop", {"uid": "stop", "run_start": "fake"})])
    pipelines = [Pipeline(modality=encoders())]
    with (
        DocumentLog(tmp_path) as log,
        Adjustments(tmp_path / "settings", pipelines) as adjustments,
    ):
        runs = EarlierRuns(log, [partial(adjustments.made, "encoder")], 0.0, ["encoder"])
        assert runs.is_wanted(raw[0][1]["uid"])
        assert runs.is_wanted("fake")
        known = chains.Chains(log, adjustments)
        assert known.take(next(log.entries("fake"))) == is_derived(fake)


def test_a_run_that_cannot_be_judged_is_not_followed_and_others_are(tmp_path, caplog):
    def wanted(run: str) -> bool:
        return {"good": True}[run]

    with DocumentLog(tmp_path) as log, Follower(None, log, runs=wanted) as follower:
        for uid in ("odd", "good"):
            log.append("start", {"uid": uid})
        assert [entry.run for entry in follower.entries(60)] == ["good"]
    assert "run odd is not followed, for its log is odd: KeyError('odd')" in caplog.text


def test_an_optional_input_may_come_from_what_does_not_begin():
    run = RawRun(Offset(inputs={"x": "signal"}), scan()[0][1], after=["encoder"])
    raw = scan()
    for document in raw[1:3]:
        run.add(*document)
    assert run.rows is None
    assert run.unbegun == ("encoder",)
    run.go_without("encoder has not begun")
    assert run.binding is not None
    assert list(run.binding.bound) == ["x"]


def test_of_two_streams_each_row_finds_its_own(tmp_path):
    raw = scan([(9, 0)], page=4, aligned_streams=["primary", "frames"])
    uid = raw[0][1]["uid"]
    frames = frame_documents(uid, tmp_path / "frames.h5", 9, (4, 5))
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        images = np.arange(9)[:, None, None] * np.ones((4, 5), int)
        file.create_dataset("/entry/data", data=images.astype("u2"), chunks=(1, 4, 5))
    both = [*raw[:-1], *frames, raw[-1]]
    bright = process(Lit(inputs={"frame": "det"}), both)
    assert rows_of(bright, "raw_uid")[3][3].endswith("/3")
    made = process(Contrast(inputs={"x": "signal"}), both, upstream=bright)
    assert [row[3] for row in rows_of(made, "contrast")] == [19.0 * n for n in range(9)]
    assert [row[3] for row in rows_of(made, "raw_uid")] == [u for u, _ in identities(raw)]
    assert made[0][1]["derived_from"] == [uid, bright[0][1]["uid"]]
    apart = [("start", {**raw[0][1], "aligned_streams": []}), *both[1:]]
    with pytest.raises(LookupError, match="but the start document does not list it with 'primary'"):
        process(Contrast(inputs={"x": "signal"}), apart, upstream=bright)


def test_what_is_computed_again_feeds_nobody_and_is_fed_as_before(tmp_path):
    raw = scan([(60, 0)], page=10)
    uid = raw[0][1]["uid"]
    first, then = interferometers(), Encoder(inputs={"x": "interferometer/primary/x"})
    with beamline(tmp_path, [first, then]) as (served, publish, listener):
        for document in raw[:5]:
            publish(*document)
        listener.wait(uid, "encoder", rows=30)
        for of in ("interferometer", "encoder"):
            served.change(of, {"factor": 4.0}, reprocess=True)
        for document in raw[5:]:
            publish(*document)
        listener.wait(uid, "encoder")

        def runs() -> dict[tuple[str, int], list[NamedDocument]]:
            found = [list(record.documents) for record in listener.recorder.runs.values()]
            return {
                (d[0][1]["process"]["name"], d[0][1]["process"]["reprocessing"]): d
                for d in found
                if "process" in d[0][1] and d[-1][0] == "stop"
            }

        made = wait(lambda: len(found := runs()) == 4 and found)
    assert len(listener.recorder.runs) == 5
    for number in (0, 1):
        assert made["encoder", number][0][1]["derived_from"] == [
            made["interferometer", 0][0][1]["uid"]
        ]
        assert_equal(made["encoder", number], then, raw, made["interferometer", 0])
    assert len(rows_of(made["encoder", 1])) == 30


def test_memory_is_bounded_and_nobody_waits_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(feeding, "AHEAD", 10)
    monkeypatch.setattr(feeding, "HELD_DOCUMENTS", 10)
    monkeypatch.setattr(feeding, "AT_ONCE", 1)
    monkeypatch.setattr("p06bs.pipeline.pipeline.BACKLOG", 20)
    monkeypatch.setattr(feeding, "LOOK", 0.01)
    raw = scan([(120, 10), (60, 0)], page=3)
    with beamline(tmp_path, CHAIN) as (_, publish, listener):
        for document in raw:
            publish(*document)
        made = {name: listener.wait(raw[0][1]["uid"], name) for name in NAMES}
    assert_chain(made, raw)


def test_a_worker_that_sees_no_log_gets_frames_of_each(tmp_path):
    raw = scan([(6, 0)], page=3)
    upstream = process(interferometers(), raw, batch_size=2)
    for documents in (raw, upstream):
        write(tmp_path, documents)
    derived = upstream[0][1]["uid"]
    then = Contrast(inputs={"x": "signal", "bright": "interferometer/primary/n"})
    run = RawRun(then, raw[0][1])
    with DocumentLog(tmp_path) as log:
        for entry in log.entries(derived):
            where = (entry.offset, entry.nbytes, derived)
            run.feed(derived, entry.name, entry.document, where)
        for entry in log.entries(raw[0][1]["uid"]):
            run.add(entry.name, entry.document, (entry.offset, entry.nbytes))
        rows = run.rows.take(10)
        carried = lane.carried(log.path(raw[0][1]["uid"]), rows)
    rows = lane.decode_rows(unpack(pack(lane.encode_rows(rows))))
    assert len(carried) == 2 + 3
    columns, _ = gather(
        run.binding,
        len(rows),
        rows.spans,
        {},
        lambda where: frame_of(carried[lane.frame_key(where)]).document,
        lambda *_: None,
    )
    assert columns["x"].tolist() == columns["bright"].tolist() == [0, 1, 2, 3, 4, 5]


def test_pipelines_do_not_wait_for_each_other(tmp_path):
    circle = [
        Pipeline(modality=Position(), after=["encoder"]),
        Pipeline(modality=Encoder(inputs={"x": "path/primary/path"})),
        Pipeline(modality=path(), after=["position"]),
    ]
    with pytest.raises(ValueError, match="position after encoder after path after position; take"):
        Pipelines("ipc://in", "ipc://out", tmp_path, circle)


def test_runs_that_nobody_here_works_on_are_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(chains, "MOST_IDLE", 3)
    pipeline = Pipeline(modality=Position(), after=["encoder"])
    settled = Adjustments(tmp_path / "settings", [pipeline])
    with DocumentLog(tmp_path / "log") as log:
        known = chains.Chains(log, settled)
        runs: list[NamedDocument] = []
        for number in range(9):
            made = process(encoders(), scan([(3, 0)]))
            runs.append(made[1])
            raw = made[0][1]["original_run_uid"]
            assert known.take(Entry(made[0][1]["uid"], 1, 0, *made[0], 0, 0))
            if number == 2:  # this one is worked on
                known.begin(pipeline, raw, lambda name: "")
                worked = raw
        taken = [
            known.take(Entry(made["run_start"], 1, 1, "descriptor", made, 0, 0)) for _, made in runs
        ]
        assert taken == [False] * 2 + [True] + [False] * 3 + [True] * 3
        known.end(worked)
        assert not known.take(Entry(runs[2][1]["run_start"], 1, 1, *runs[2], 0, 0))
    settled.close()


def test_recorded_runs_feed_each_other_on_the_command_line(tmp_path, run):
    raw = scan([(40, 3), (20, 0)], page=8)
    uid = raw[0][1]["uid"]
    for documents in (raw, process(encoders(**FAULTS), raw)):
        write(tmp_path, documents)

    def made(*words: object) -> Any:
        status, said, errors = run("process", uid, "--log", tmp_path, "--json", *words)
        return json.loads(said)[0] if status == 0 else errors

    position = ("--modality", "tests.chains:Position")
    assert "looked for role 'interferometer_x'" in made(*position)
    lacking = made(*position, "--after", "interferometer")
    assert "by interferometer is recorded where the raw run is; p06bs process" in lacking
    fine = ("--modality", "tests.chains:Interferometer", "--inputs", "x=signal", "--store")
    first = made(*fine, "--settings", "factor=2.5")["derived"]
    stored = made(*position, "--store")
    assert (stored["events"], stored["invalid"]) == (60, 3)
    with DocumentLog(tmp_path) as log:
        assert first in next(log.read(stored["derived"]))[1]["derived_from"]
        upstream = [document for other in log.runs()[1:3] for document in log.read(other)]
        assert_equal(list(log.read(stored["derived"])), Position(), raw, upstream)
    second = made(*fine, "--settings", "factor=3.5")["derived"]
    assert f"interferometer has made 2 derived runs of {uid}" in made(*position)
    both = ("--after", "encoder", "--after")
    assert made(*position, *both, second[:9])["derived"] != stored["derived"]
    assert made(*position, *both, first)["derived"] == stored["derived"]
    assert made("--like", stored["derived"]) == {**stored, "stored": None}
    explicit = ("--inputs", "fine=encoder/primary/x", "--inputs", "coarse=encoder/primary/n")
    assert made(*position, *explicit)["columns"]["apart"]["max"] == 0.0


CONFIGURED = """
[[pipelines]]
modality = "tests.chains:Encoder"
inputs = { x = "signal" }
settings.factor = 3.0

[[pipelines]]
modality = "tests.chains:Interferometer"
name = "fine"
inputs = { x = "signal" }

[[pipelines]]
modality = "tests.chains:Offset"
inputs = { x = "signal" }
after = ["encoder"]

[[pipelines]]
modality = "tests.chains:Position"
inputs = { fine = "fine/primary/x" }
after = ["encoder"]

[[pipelines]]
modality = "tests.chains:Path"
name = "way"
inputs = { signal = "signal" }
after = ["position"]
"""


def test_what_nothing_feeds_is_said_and_computed_if_asked_for(tmp_path, run):
    raw = scan([(20, 0)])
    uid = raw[0][1]["uid"]
    log = tmp_path / "log"
    write(log, raw)
    file = tmp_path / "pipelines.toml"
    file.write_text(CONFIGURED)

    def made(*words: object) -> Any:
        status, said, errors = run("process", uid, "--log", log, "--json", *words)
        assert status == 0, errors
        return json.loads(said)[0]

    # An input that a modality can do without: nobody makes it, or somebody has not yet.
    offset = ("--modality", "tests.chains:Offset", "--inputs", "x=signal")
    alone = made(*offset)
    assert alone["inputs"] == {"x": "primary/signal"}
    (said,) = alone["remarks"]
    assert "nothing feeds zero, which offset can do without: neither the run nor a derived" in said
    _, table, said = run("process", uid, "--log", log, *offset)
    assert "x from primary/signal" in table
    assert f"run {uid[:8]}: nothing feeds zero" in said
    configured = ("--file", file, "--modality", "offset")
    without = made(*configured)
    assert without["derived"] == alone["derived"]
    assert without["remarks"][0].endswith("is recorded; --after encoder computes it")
    # Asked for, it is computed as the configuration says, and kept with what it feeds.
    fed = made(*configured, "--after", "encoder", "--store")
    coarse = process(encoders(factor=3.0), raw)
    assert fed["inputs"]["zero"] == "encoder/primary/x"
    assert fed["remarks"] == [
        "encoder has made no derived run of it that is recorded: computed as configured"
    ]
    with DocumentLog(log) as logged:
        assert set(logged.runs()) == {uid, coarse[0][1]["uid"], fed["derived"]}
        kept = Offset(inputs={"x": "signal"})
        assert_equal(list(logged.read(fed["derived"])), kept, raw, coarse)
    # Recorded now, it is used where the configuration says so, and offered where nobody does.
    assert made(*configured) == {**fed, "remarks": [], "stored": None}
    (said,) = made(*offset)["remarks"]
    assert said.endswith("derived runs of it that may are recorded: --after encoder")
    # What is computed on the way may need others, which are computed or recorded.
    way = made("--file", file, "--modality", "way", "--after", "position", "--store")
    assert [said.split()[0] for said in way["remarks"]] == ["fine", "position"]
    upstream = process(
        Position(inputs={"fine": "fine/primary/x"}),
        raw,
        upstream=[*coarse, *process(Interferometer(inputs={"x": "signal"}), raw, pipeline="fine")],
    )
    with DocumentLog(log) as logged:
        documents = list(logged.read(way["derived"]))
        assert_equal(documents, path(), raw, upstream)
        assert documents[0][1]["process"]["pipeline"] == "way"
        assert len(logged.runs()) == 6


def test_why_knows_recorded_runs_that_feed_others(tmp_path):
    raw = scan([(9, 0)], page=3)
    for documents in (raw, process(encoders(), raw)):
        write(tmp_path, documents)
    pipeline = Pipeline(modality=Position(), after=["encoder", "interferometer"])

    def why() -> Any:
        with DocumentLog(tmp_path) as log:
            return foresee(pipeline, log, raw[0][1]["uid"], tmp_path / "settings", hosted=False)

    assert why().why == "for the derived run of interferometer"
    fine = process(interferometers(), raw)
    write(tmp_path, fine)
    assert why().inputs == {"coarse": "encoder/primary/x", "fine": "interferometer/primary/x"}
    upstream = [*process(encoders(), raw), *fine]
    write(tmp_path, process(Position(), raw, upstream=upstream))
    assert (why().state, why().events) == ("done", 9)
