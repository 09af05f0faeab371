"""Settings on the fly: which are in force, since when, for which run; over restarts and kills."""

import json
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from p06bs import DocumentLog, Publisher, process
from p06bs.model.documents import NamedDocument
from p06bs.model.modality import SettingsError
from p06bs.model.revisions import Revision, recorded, settings_history
from p06bs.pipeline import feeding
from p06bs.pipeline.adjustments import Adjustments
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.earlier import Earlier
from p06bs.pipeline.keeper import Keeper
from p06bs.pipeline.pipeline import Pipelines
from p06bs.pipeline.run import RunPipeline
from p06bs.settings import (
    PipelineSettings,
    Preset,
    PresetError,
    Presets,
    SettingsHistory,
    history,
)
from p06bs.settings.values import merged, plain, value_at
from tests.documents import raw_run, rows_of
from tests.online import Listener, assert_equal, beamline, proxy, running
from tests.techniques import Fussy, Histogram, Scale, Total

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _workers_find_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def kept(folder: Path, modality: Any = None) -> PipelineSettings:
    return PipelineSettings(folder, "scale", modality or Scale())


def change(history: SettingsHistory, **values: Any) -> None:
    history.take(history.change(values, "Ada", 1.0))


# Decisions


def test_a_change_is_merged_into_what_is_in_force():
    history = SettingsHistory(Scale(factor=5.0))
    history.take(history.open(0.0))
    change(history, limit=7.0)
    change(history, square=True)
    now = history.in_force
    assert (now.settings.factor, now.settings.limit, now.settings.square) == (5.0, 7.0, True)
    assert (now.change, now.changed_by, now.changed_at) == (2, "Ada", 1.0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"limit": -1.0}, r"limit.*-1\.0.*number > 0, <= 1000000000"),
        ({"factor": "many"}, r"factor.*'many'.*number"),
        ({"faktor": 2.0}, r"faktor.*factor"),
        ({"factor.a": 2.0}, r"factor is 5\.0"),
    ],
)
def test_what_is_refused_says_field_value_and_range_and_changes_nothing(tmp_path, values, said):
    with kept(tmp_path, Scale(factor=5.0)) as store:
        before = store.record()
        with pytest.raises(SettingsError, match=said):
            store.change(values, "Ada")
        assert store.record() == before
    with kept(tmp_path, Scale(factor=5.0)) as store:
        assert store.record() == before


class Rings(Scale):
    """Has a table of anybody's names, and one field within another."""

    class Settings(Scale.Settings):
        """Rings and a film."""

        class Film(BaseModel):
            """A standard."""

            flux: float | None = 1.0

        rings: dict[str, tuple[float, float]] = Field(default_factory=dict)
        film: Film = Film()


def test_null_removes_an_entry_of_a_table_and_no_field():
    history = SettingsHistory(Rings(rings={"a": (1.0, 2.0), "b": (3.0, 4.0)}))
    history.take(history.open(0.0))
    change(history, **{"rings.b": None, "film.flux": None, "rings.c": [5, 6]})
    made = history.in_force.settings
    assert made.rings == {"a": (1.0, 2.0), "c": (5.0, 6.0)}
    assert made.film.flux is None
    with pytest.raises(SettingsError, match=r"rings\.b: there is no such entry .* are: a, c"):
        change(history, **{"rings.b": None})
    # A run with a preset of its own need not have what others remove.
    own = Revision(0, Rings(rings={"d": (7.0, 8.0)}).settings)
    assert merged(own.settings, {"rings.a": None, "factor": 3.0})["rings"] == {"d": [7.0, 8.0]}


@pytest.mark.parametrize(
    ("path", "found"),
    [("rings", {"a": [1.0, 2.0]}), ("rings.a", [1.0, 2.0]), ("film.flux", 1.0), ("factor", 2.0)],
)
def test_a_setting_is_shown_by_its_path(path, found):
    assert value_at(plain(Rings(rings={"a": (1.0, 2.0)}).settings), path) == found


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("ring", "no ring: in settings there is .*rings"),
        ("rings.b", r"no rings\.b: in rings there is a"),
        ("rings.a.0", r"rings\.a is \[1\.0, 2\.0\], which has no entries"),
    ],
)
def test_a_path_that_leads_nowhere_says_what_there_is(path, said):
    with pytest.raises(SettingsError, match=said):
        value_at(plain(Rings(rings={"a": (1.0, 2.0)}).settings), path)


values = st.fixed_dictionaries(
    {}, optional={"factor": st.floats(1, 9), "square": st.booleans(), "limit": st.floats(1, 9)}
)
acts = st.lists(
    st.one_of(
        st.tuples(st.just("change"), values),
        st.tuples(st.just("withdraw"), st.integers(0, 9)),
        st.tuples(st.just("begin"), st.integers(0, 3)),
        st.tuples(st.just("file"), st.floats(1, 9)),
    ),
    max_size=12,
)


@given(acts=acts)
def test_the_same_entries_give_the_same_history_after_any_restart(acts):
    file, entries = Scale(), []
    history = SettingsHistory(file)
    model: list[tuple[int, dict[str, Any]]] = []

    def take(entry: Any) -> None:
        if entry is not None:
            entries.append(json.loads(json.dumps(entry)))
            history.take(entry)

    take(history.open(0.0))
    model.append((0, file.settings.model_dump()))
    number = 0
    for act, what in acts:
        if act == "change":
            number += 1
            take(history.change(what, "Ada", 1.0))
            model.append((number, {**model[-1][1], **what}))
        elif act == "withdraw":
            take(history.withdraw(what, "no", "run"))
            if len(model) > 1:
                model = [m for m in model if m[0] != what]
        elif act == "begin":
            take(history.begin(f"r{what}", f"d{what}", history.in_force, own=False))
        else:
            file = Scale(factor=what)
            history = SettingsHistory(file)  # a restart
            for entry in entries:
                history.take(entry)
            opened = history.open(2.0)
            if opened is not None:
                number += 1
                model.append((number, file.settings.model_dump()))
            take(opened)
        assert history.in_force.settings.model_dump() == model[-1][1]
        assert history.in_force.change == model[-1][0]
    again = SettingsHistory(file)
    for entry in entries:
        again.take(entry)
    assert again.candidates == history.candidates
    assert again.open(3.0) is None
    for run in ("r0", "r1", "r2", "r3"):
        assert again.begun_with(run) == history.begun_with(run)
        assert again.newest_for(run) == history.newest_for(run)


def test_settings_edited_in_the_file_are_newer_than_those_changed_before(tmp_path):
    with kept(tmp_path, Scale(factor=5.0)) as store:
        store.change({"limit": 7.0}, "Ada")
    with kept(tmp_path, Scale(factor=5.0)) as store:  # not edited: the change holds
        assert store.in_force.settings.limit == 7.0
    with kept(tmp_path, Scale(factor=6.0)) as store:
        now = store.in_force
        assert (now.settings.factor, now.settings.limit) == (6.0, 1e9)
        assert (now.change, now.changed_by) == (2, "configuration file")
        store.change({"factor": 5.0}, "Bea")
    with kept(tmp_path, Scale(factor=6.0)) as store:
        assert store.in_force.settings.factor == 5.0


def test_a_run_with_a_preset_gets_all_changes_since():
    history = SettingsHistory(Scale(factor=5.0))
    history.take(history.open(0.0))
    settings = Scale.validate({"factor": 8.0})
    change(history, limit=7.0)
    change(history, square=True)
    now = history.revised(Revision(0, settings, "preset leaf", 1.0, 0, "leaf"))
    assert (now.settings.factor, now.settings.limit, now.settings.square) == (8.0, 7.0, True)
    assert (now.change, now.preset) == (2, "leaf")
    now = history.revised(Revision(0, settings, "preset leaf", 1.0, 0, "leaf"), refused=[1])
    assert (now.settings.factor, now.settings.limit, now.settings.square) == (8.0, 1e9, True)
    # The change that the preset was laid over fits another run not.
    begun = Revision(0, settings, "preset leaf", 1.0, 2, "leaf")
    history.take(history.withdraw(2, "no", "run"))
    change(history, limit=9.0)
    now = history.revised(begun)
    assert (now.settings.factor, now.settings.limit) == (8.0, 9.0)


def test_only_the_newest_runs_are_remembered(monkeypatch):
    monkeypatch.setattr(history, "REMEMBERED", 3)
    known = SettingsHistory(Scale())
    for number in range(5):
        known.take(known.begin(f"r{number}", f"d{number}", known.in_force, own=False))
    assert [known.derived_of(f"r{number}") for number in range(5)] == [None, None, "d2", "d3", "d4"]


# The file


def test_a_torn_line_is_cut_off_and_a_damaged_one_left_out(tmp_path, caplog):
    with kept(tmp_path) as store:
        store.change({"factor": 3.0}, "Ada")
        store.change({"factor": 4.0}, "Ada")
    path = tmp_path / "scale.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + b"{broken\n" + lines[2][:30])
    with kept(tmp_path) as store:
        assert store.in_force.settings.factor == 3.0
        store.change({"factor": 8.0}, "Bea")
    with kept(tmp_path) as store:
        assert store.in_force.settings.factor == 8.0
    assert "b'{broken' is left out" in caplog.text


test_a_torn_line_is_cut_off_and_a_damaged_one_left_out = pytest.mark.logs_errors(
    test_a_torn_line_is_cut_off_and_a_damaged_one_left_out
)


@contextmanager
def no_room(path: Path) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_change_that_cannot_be_written_is_refused(tmp_path):
    with kept(tmp_path) as store:
        store.change({"factor": 3.0}, "Ada")
        path = tmp_path / "scale.jsonl"
        before = path.read_bytes()
        with no_room(path), pytest.raises(OSError, match=r"scale\.jsonl: no room"):
            store.change({"factor": 4.0}, "Ada")
        assert store.in_force.settings.factor == 3.0
        assert path.read_bytes() == before
        store.change({"factor": 5.0}, "Ada")
        assert store.in_force.settings.factor == 5.0


def test_a_run_begins_only_once_it_is_kept_with_which_settings(tmp_path):
    """Else a restart might begin it again under others, which makes a second derived run."""
    raw = raw_run({"x": np.arange(4.0)})
    uid = raw[0][1]["uid"]
    published: list[NamedDocument] = []
    with kept(tmp_path) as store:
        run = RunPipeline(
            Scale(inputs={"x": "x"}),
            raw[0][1],
            lambda *document: published.append(document),
            lambda derived: None,
            lambda: 0.0,
            keeper=Keeper(began=partial(store.began, uid)),
        )
        with no_room(tmp_path / "scale.jsonl"):
            for name, document in raw:
                run.add(name, document, (0, 1))
            run.take_over()
            assert "no room" in run.stands_by
            assert published == []
        run.take_over()
        assert [name for name, _ in published] == ["start"]
    with kept(tmp_path) as store:
        assert store.derived_of(uid) == published[0][1]["uid"]


def test_processes_that_host_one_pipeline_agree(tmp_path):
    start = {"uid": "run"}
    with kept(tmp_path) as one, kept(tmp_path) as other:
        one.change({"factor": 3.0}, "Ada")
        other.change({"limit": 4.0}, "Bea")
        one.look()
        assert one.in_force == other.in_force
        assert (one.in_force.settings.factor, one.in_force.settings.limit) == (3.0, 4.0)
        (first, *_), (_, second, *_) = one.candidates(start), other.candidates(start)
        assert one.began("run", first, "derived") == first
        assert other.began("run", second, "another") == first
        assert other.derived_of("run") == "derived"
        assert other.candidates(start) == [first]


def test_what_cannot_be_written_to_the_end_is_known_to_nobody(tmp_path, monkeypatch):
    with kept(tmp_path) as one, kept(tmp_path) as other:
        one.change({"factor": 3.0}, "Ada")

        def full(fd: int) -> None:
            other.look()
            raise OSError("no room")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="no room"):
                one.change({"factor": 4.0}, "Ada")
        other.look()
        assert other.in_force == one.in_force
        one.change({"limit": 5.0}, "Ada")
        other.look()
        assert other.in_force == one.in_force
        assert other.in_force.settings.factor == 3.0


def test_what_another_process_decides_is_told_though_it_was_heard_of_before(tmp_path):
    pipelines = [Pipeline(modality=Scale())]
    with Adjustments(tmp_path, pipelines) as mine, Adjustments(tmp_path, pipelines) as other:
        mine.look()
        other.change("scale", {"factor": 3.0}, "Ada")
        mine.candidates("scale", {"uid": "run"})  # a run begins, and all is read
        assert mine.look() == ["scale"]
        assert mine.look() == []


@pytest.mark.parametrize("name", ["a/b", "..", "", "µ xrf"])
def test_a_pipeline_may_be_called_anything(tmp_path, name):
    directory = tmp_path / "settings"
    with PipelineSettings(directory, name, Scale()) as store:
        store.change({"factor": 3.0}, "Ada")
        store.save("best")
    assert [p.name for p in tmp_path.iterdir()] == ["settings"]
    with PipelineSettings(directory, name, Scale()) as store:
        assert store.in_force.settings.factor == 3.0
        assert store.presets.names == ["best"]


# Presets


def test_a_preset_that_would_be_refused_is_listed_with_the_reason(tmp_path):
    with kept(tmp_path) as store:
        store.presets.write(Preset("bad", {"limit": -3.0}))
        store.presets.write(Preset("good", {"factor": 3.0}))
        bad, good = store.judged_presets()
    assert "limit" in bad.problem
    assert good.problem == ""


def test_a_preset_that_is_saved_again_stays_the_samples(tmp_path):
    with kept(tmp_path) as store:
        store.save("leaves", beamtime_id="11012345", sample="leaf")
        store.change({"factor": 3.0}, "Ada")
        store.save("leaves")
        kept_now = store.presets.read("leaves")
        assert (kept_now.beamtime_id, kept_now.sample) == ("11012345", "leaf")
        assert kept_now.settings["factor"] == 3.0
        store.save("leaves", sample="root")
        assert store.presets.read("leaves").beamtime_id == ""


def test_a_preset_comes_back_as_it_was_saved(tmp_path):
    presets = Presets(tmp_path)
    settings = {
        "a": 1.5,
        "b": [1, "x"],
        "c": None,
        "d": {"e f": [0.0, 2.0]},
        "g": "µ\n\"'",
        "h": True,
    }
    presets.write(Preset("leaf-3", settings, "11012345", "leaf 3"))
    assert list(presets) == [Preset("leaf-3", settings, "11012345", "leaf 3")]
    with pytest.raises(PresetError, match=r"no preset 'leaf'.*leaf-3"):
        presets.read("leaf")
    for name in ("../x", "", ".x"):
        with pytest.raises(PresetError, match="cannot name a preset"):
            presets.write(Preset(name, settings))
    with pytest.raises(PresetError, match="TOML"):
        presets.write(Preset("nested", {"a": {"b": None}}))


def test_the_preset_that_is_meant_most_specifically_wins(tmp_path):
    presets = Presets(tmp_path)
    for name, beamtime, sample in (
        ("nobodys", "", ""),
        ("beamtime", "1", ""),
        ("sample", "", "leaf"),
        ("both", "1", "leaf"),
        ("other", "2", "leaf"),
    ):
        presets.write(Preset(name, {}, beamtime, sample))

    def chosen(**start: Any) -> str | None:
        preset, said = presets.meant_for(start)
        assert not said
        return preset and preset.name

    assert chosen() is None
    assert chosen(beamtime_id="3", sample="root") is None
    assert chosen(beamtime_id=1) == "beamtime"
    assert chosen(sample={"name": "leaf", "uid": "x"}) == "sample"
    assert chosen(beamtime_id="1", sample="leaf") == "both"
    assert chosen(beamtime_id="1", sample=["leaf"]) == "beamtime"
    presets.write(Preset("again", {}, "1", "leaf"))
    (tmp_path / "broken.toml").write_text("beamtime_id = \n")
    (tmp_path / "strange.toml").write_text("sampel = 'leaf'\n")
    preset, said = presets.meant_for({"beamtime_id": "1", "sample": "leaf"})
    assert preset is not None
    assert preset.name == "again"
    assert len(said) == 3
    assert "broken.toml" in said[0]
    assert "strange.toml has sampel" in said[1]
    assert "again, both" in said[2]


# Running pipelines


def descriptors(documents: list[NamedDocument], name: str) -> list[Any]:
    found = [d for n, d in documents if n == "descriptor" and d["configuration"]]
    return [(d["name"], recorded(d, name)) for d in found]


def assert_no_gap(documents: list[NamedDocument], name: str, raw: list[NamedDocument]) -> None:
    """The first event under a new descriptor is the one after the last under the old."""
    by_uid = {d["uid"]: recorded(d, name) for n, d in documents if n == "descriptor"}
    rows = [
        (by_uid[d["descriptor"]], uid)
        for n, d in documents
        if n == "event_page"
        for uid in d["data"]["raw_uid"]
    ]
    uids = [uid for n, d in raw if n == "event_page" for uid in d["uid"]]
    assert [uid for _, uid in rows] == uids
    revisions = [data["revision"] for data, _ in rows]
    assert revisions == sorted(revisions)
    for data, uid in rows:
        at = revisions.index(data["revision"])
        assert data["first_row"] == at
        assert data["first_raw_uid"] == uids[at]
        assert uid in uids


def test_changes_in_mid_scan_over_a_restart(tmp_path):
    modality = Scale(inputs={"x": "x"})
    raw = raw_run({"x": np.arange(400.0)}, page=10)
    uid = raw[0][1]["uid"]
    log = tmp_path / "log"
    with (
        proxy(tmp_path) as (inbound, outbound),
        Publisher(inbound, log) as publish,
        Listener(outbound, log) as listener,
    ):
        with running(Pipelines(inbound, outbound, log, [modality])) as pipelines:
            for document in raw[:12]:
                publish(*document)
            listener.wait(uid, "scale", rows=100)
            with pytest.raises(ValueError, match=r"limit.*> 0"):
                pipelines.change("scale", {"limit": -1.0}, "Ada")
            with pytest.raises(ValueError, match="no pipeline 'scala'; there are scale"):
                pipelines.change("scala", {}, "Ada")
            record = pipelines.change("scale", {"factor": 3.0}, "Ada")
            assert record["revision"] == 1
            assert record["changed_by"] == "Ada"
            assert record["values"]["factor"] == 3.0
            assert record["schema"]["properties"]["limit"]["exclusiveMinimum"] == 0
            (waiting,) = record["runs"]  # for the next event
            assert (waiting["change"], waiting["state"]) == (1, "waiting")
            for document in raw[12:15]:
                publish(*document)
            listener.wait(uid, "scale", rows=130)
            (run,) = pipelines.settings("scale")["scale"]["runs"]
            assert run["run"] == uid
            assert run["state"] == "in force"
            assert (run["first_row"], run["change"], run["revision"]) == (100, 1, 1)
            # Accepted, and the process ends before any event comes under it.
            pipelines.change("scale", {"square": True}, "Bea")
        with running(Pipelines(inbound, outbound, log, [modality])) as pipelines:
            for document in raw[15:]:
                publish(*document)
            online = listener.wait(uid, "scale")
            assert pipelines.settings()["scale"]["values"]["square"] is True
    assert_equal(online, modality, raw)
    assert_no_gap(online, "scale", raw)
    recorded = descriptors(online, "scale")
    assert [name for name, _ in recorded] == ["primary", "primary", "primary_r2"]
    assert [data["first_row"] for _, data in recorded] == [0, 100, 130]
    assert [data["changed_by"] for _, data in recorded] == ["", "Ada", "Bea"]
    assert [data["change"] for _, data in recorded] == [0, 1, 2]
    assert [json.loads(data["settings"])["factor"] for _, data in recorded] == [2.0, 3.0, 3.0]


@pytest.mark.slow
def test_a_change_holds_for_later_runs_as_their_initial_settings(tmp_path):
    modality = Scale(inputs={"x": "x"})
    first, second = (raw_run({"x": np.arange(20.0)}, page=10) for _ in range(2))
    with beamline(tmp_path, [modality]) as (pipelines, publish, listener):
        pipelines.change("scale", {"factor": 7.0}, "Ada")
        for document in first:
            publish(*document)
        listener.wait(first[0][1]["uid"], "scale")
    with beamline(tmp_path, [modality]) as (_, publish, listener):
        for document in second:
            publish(*document)
        for raw in (first, second):
            online = listener.wait(raw[0][1]["uid"], "scale")
            initial, history = settings_history(online)
            assert (initial["factor"], history) == (7.0, [])
            ((_, data),) = descriptors(online, "scale")
            assert (data["revision"], data["change"], data["changed_by"]) == (0, 1, "Ada")
            assert_equal(online, modality, raw)
    # Nothing was computed twice: two raw runs, two derived runs.
    assert len(list((tmp_path / "log").glob("*.doclog"))) == 4


@pytest.mark.logs_errors
def test_settings_that_no_run_can_begin_with_are_taken_back(tmp_path):
    modality = Fussy(inputs={"x": "x"}, start=100.0)
    raw = raw_run({"x": np.ones(20)}, page=10)
    with beamline(tmp_path, [modality]) as (pipelines, publish, listener):
        assert pipelines.change("fussy", {"start": -1.0}, "Ada")["revision"] == 1
        for document in raw:
            publish(*document)
        online = listener.wait(raw[0][1]["uid"], "fussy")
        record = pipelines.settings("fussy")["fussy"]
        assert (record["revision"], record["values"]["start"]) == (0, 100.0)
        assert pipelines.change("fussy", {"start": 5.0}, "Ada")["revision"] == 2
    assert_equal(online, modality, raw)


def test_presets_load_by_themselves_for_their_runs_only(tmp_path, caplog):
    modality = Scale(inputs={"x": "x"})
    mine = raw_run({"x": np.arange(60.0)}, page=10, beamtime_id="11", sample={"name": "leaf"})
    other = raw_run({"x": np.arange(60.0)}, page=10, beamtime_id="12")
    with beamline(tmp_path, [modality]) as (pipelines, publish, listener):
        presets = tmp_path / "log" / "settings" / "presets" / "scale"
        pipelines.change("scale", {"factor": 4.0}, "Ada")
        file = Path(pipelines.save_preset("scale", "leaf", beamtime_id="11", sample="leaf"))
        assert file == presets / "leaf.toml"
        pipelines.change("scale", {"factor": 5.0}, "Ada")
        (presets / "broken.toml").write_text("beamtime_id = '11'\n[settings]\nfactor = ")
        (presets / "twelve.toml").write_text("beamtime_id = '12'\n[settings]\nlimit = -1\n")
        found = {p["name"]: p["problem"] for p in pipelines.presets("scale")}
        assert found["leaf"] == ""
        assert "broken.toml cannot be read" in found["broken"]
        for pair in zip(mine[:4], other[:4], strict=True):
            for document in pair:
                publish(*document)
        for raw in (mine, other):
            listener.wait(raw[0][1]["uid"], "scale", rows=20)
        pipelines.change("scale", {"limit": 9.0}, "Bea")
        states = {r["run"]: r for r in pipelines.settings("scale")["scale"]["runs"]}
        assert states[mine[0][1]["uid"]]["preset"] == "leaf"
        for pair in zip(mine[4:], other[4:], strict=True):
            for document in pair:
                publish(*document)
        ours = listener.wait(mine[0][1]["uid"], "scale")
        theirs = listener.wait(other[0][1]["uid"], "scale")
    assert "limit" in caplog.text
    assert "broken.toml" in caplog.text
    for online, raw, factor, preset in ((ours, mine, 4.0, "leaf"), (theirs, other, 5.0, "")):
        assert_equal(online, modality, raw)
        initial, history = settings_history(online)
        assert initial["factor"] == factor
        # A change alters what was named, and leaves the preset's values.
        ((_, changed),) = history
        assert (changed["factor"], changed["limit"]) == (factor, 9.0)
        assert online[0][1]["process"].get("preset", "") == preset
        assert [data["preset"] for _, data in descriptors(online, "scale")] == [preset] * 2


def test_a_preset_that_is_loaded_is_a_change(tmp_path):
    modality = Scale(inputs={"x": "x"})
    with beamline(tmp_path, [modality]) as (pipelines, _, _):
        pipelines.change("scale", {"factor": 4.0}, "Ada")
        pipelines.save_preset("scale", "four")
        pipelines.change("scale", {"factor": 5.0}, "Ada")
        record = pipelines.change("scale", {"limit": 3.0}, "Bea", preset="four")
    assert (record["values"]["factor"], record["values"]["limit"]) == (4.0, 3.0)
    assert (record["preset"], record["changed_by"], record["revision"]) == ("four", "Bea", 3)


def test_pipelines_that_compute_the_same_cannot_get_the_same_settings(tmp_path):
    both = [Pipeline(modality=Scale(inputs={"x": "x"}, factor=f), name=f"by{f:g}") for f in (2, 3)]
    with (
        beamline(tmp_path, both) as (pipelines, _, _),
        pytest.raises(ValueError, match="by3 has these settings"),
    ):
        pipelines.change("by2", {"factor": 3.0}, "Ada")


def second(listener: Any, raw: str) -> list[NamedDocument]:
    """Return the documents of a raw run's second derived run."""
    for record in list(listener.recorder.runs.values()):
        start = record.start
        if start.get("derived_from") == [raw] and start["process"]["reprocessing"] == 1:
            return list(record.documents)
    return []


@pytest.mark.parametrize("kind", [Scale, Histogram, Total])
def test_earlier_events_are_computed_again_while_the_scan_goes_on(tmp_path, kind):
    modality = kind(inputs={"x": "x"})
    raw = raw_run({"x": np.arange(300.0)}, page=10)
    uid = raw[0][1]["uid"]
    with beamline(tmp_path, [modality]) as (pipelines, publish, listener):
        for document in raw[:12]:
            publish(*document)
        listener.wait(uid, modality.name, rows=100)
        pipelines.change(modality.name, {"factor": 3.0, "square": True}, "Ada", reprocess=True)
        # No further event has come, nor need any: a scan may be paused for this.
        assert listener.recorder.wait(
            lambda: any(n == "stop" for n, _ in second(listener, uid)), 60
        )
        for document in raw[12:]:
            publish(*document)
        online = listener.wait(uid, modality.name)
        again = second(listener, uid)
    assert_equal(online, modality, raw)
    start = again[0][1]
    assert start["process"]["rows"] == descriptors(online, modality.name)[1][1]["first_row"] == 100
    new = kind(inputs={"x": "x"}, factor=3.0, square=True)
    reference = process(new, raw, reprocessing=1, rows=100)
    assert start["uid"] == reference[0][1]["uid"]
    column = "total" if kind is Total else "y"
    assert [r[3] for r in rows_of(again, column)] == [r[3] for r in rows_of(reference, column)]
    assert again[-1][1]["num_events"]["primary"] == 100


@pytest.mark.slow
def test_what_is_computed_again_is_so_once_over_a_restart(tmp_path):
    modality = Scale(inputs={"x": "x"})
    raw = raw_run({"x": np.arange(200.0)}, page=10)
    uid = raw[0][1]["uid"]
    with beamline(tmp_path, [modality]) as (pipelines, publish, listener):
        for document in raw:
            publish(*document)
        listener.wait(uid, "scale")
    with beamline(tmp_path, [modality]) as (pipelines, _, _):
        # No run goes on: it is the last one, and all of it. The process ends at once.
        pipelines.change("scale", {"factor": 3.0}, "Ada", reprocess=True)
    for _ in range(2):
        with beamline(tmp_path, [modality]) as (pipelines, _, listener):
            assert listener.recorder.wait(
                lambda: any(n == "stop" for n, _ in second(listener, uid)), 60
            )
            again = second(listener, uid)
    reference = process(Scale(inputs={"x": "x"}, factor=3.0), raw, reprocessing=1)
    assert again[0][1]["uid"] == reference[0][1]["uid"]
    assert [r[3] for r in rows_of(again, "y")] == [r[3] for r in rows_of(reference, "y")]
    assert "rows" not in again[0][1]["process"]
    assert len(list((tmp_path / "log").glob("*.doclog"))) == 3


@pytest.mark.logs_errors
def test_a_document_that_cannot_be_used_is_left_out_when_it_is_computed_again(tmp_path):
    modality = Scale(inputs={"x": "x"})
    raw = raw_run({"x": np.arange(40.0)}, page=10)
    uid = raw[0][1]["uid"]
    with beamline(tmp_path, [modality]) as (pipelines, publish, listener):
        for document in (*raw[:3], ("event_page", {**raw[3][1], "uid": ["other"]}), *raw[3:]):
            publish(*document)
        listener.wait(uid, "scale")
        pipelines.change("scale", {"factor": 3.0}, "Ada", reprocess=True)
        assert listener.recorder.wait(
            lambda: any(n == "stop" for n, _ in second(listener, uid)), 60
        )
        assert len(rows_of(second(listener, uid))) == 40


def test_events_before_a_change_are_all_that_an_earlier_process_has_published():
    """They are read part by part after a restart; how many there are is not known before."""
    modality = Scale(inputs={"x": "x"})
    raw = raw_run({"x": np.arange(300.0)}, page=10)
    made = process(modality, raw[:12])
    newest = Revision(0, Scale.validate({"factor": 3.0}), change=1)
    run = RunPipeline(
        modality,
        raw[0][1],
        lambda name, document: None,
        lambda derived: Earlier.read(made[:-1]),
        lambda: 0.0,
        keeper=Keeper([Revision(0, modality.settings)], begun=True, newest=lambda: newest),
    )
    counted = []
    for name, document in raw[:12]:
        run.add(name, document, (0, 1))
        if run.work is not None:
            assert run.work.next_batch(1) is None
            counted.append(run.work.first_row(1))
    assert counted == [None] * 9 + [100]


def test_what_is_not_computed_yet_waits_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(feeding, "AHEAD", 100)
    monkeypatch.setattr(feeding, "AT_ONCE", 1)
    modality = Scale(inputs={"x": "x"})
    raw = raw_run({"x": np.arange(5000.0)}, page=1)
    with DocumentLog(tmp_path) as log:
        for document in raw:
            log.append(*document)
        run = RunPipeline(
            modality, raw[0][1], lambda name, document: None, lambda derived: None, lambda: 0.0
        )
        feed = feeding.Feeding(log.reader(raw[0][1]["uid"]))
        taken = 0
        while run.raw.stop is None:
            while entries := feed.entries(run):
                for entry in entries:
                    run.add(entry.name, entry.document, (entry.offset, entry.nbytes))
            assert run.raw.rows is not None
            assert run.raw.stop is not None or 100 <= run.raw.rows.available < 1000
            taken += len(run.raw.rows.take(5000) or ())
    assert taken == 5000


def test_settings_may_be_asked_and_changed_from_other_threads(tmp_path):
    modality = Scale(inputs={"x": "x"})
    raw = raw_run({"x": np.arange(400.0)}, page=5)
    uid = raw[0][1]["uid"]
    with beamline(tmp_path, [modality]) as (pipelines, publish, listener):

        def tune(who: str) -> None:
            for factor in range(1, 11):
                pipelines.change("scale", {"factor": float(factor)}, who)

        threads = [threading.Thread(target=tune, args=(who,)) for who in ("Ada", "Bea")]
        for thread in threads:
            thread.start()
        for document in raw:
            publish(*document)
        for thread in threads:
            thread.join()
        online = listener.wait(uid, "scale")
        assert pipelines.settings("scale")["scale"]["revision"] == 20
    assert_equal(online, modality, raw)
    changes = [data["change"] for _, data in descriptors(online, "scale")]
    assert changes == sorted(set(changes))
