"""Settings where something is wrong beside them: authors' code, other processes, files."""

import errno
import fcntl
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import Field, field_validator

from p06bs import DocumentLog, Input, Modality, ModalitySettings, Output
from p06bs.bus.codec import Packed
from p06bs.model.compute import Result
from p06bs.model.documents import Document
from p06bs.pipeline import under_way
from p06bs.pipeline.adjustments import Adjustments
from p06bs.pipeline.again import Reprocess
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.earlier import Earlier
from p06bs.pipeline.keeper import Keeper
from p06bs.pipeline.pipeline import Pipelines
from p06bs.pipeline.run import RunPipeline
from p06bs.settings import PipelineSettings, journal
from tests.documents import raw_run
from tests.online import proxy, running
from tests.supervised import wait
from tests.techniques import Scale

PATIENCE = 60.0


class Calibrated(Modality):
    """Its `prepare` needs a file."""

    class Settings(ModalitySettings):
        """A number."""

        a: float = 1.0

    x = Input(role="x")

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {"y": Output()}

    def prepare(self, settings: Any, bound: Any) -> Any:
        raise FileNotFoundError("/gpfs/calibration.poni: Stale file handle")


class Trusting(Scale):
    """Its validator takes for granted what it gets."""

    class Settings(Scale.Settings):
        """Ranges by name."""

        ranges: dict[str, object] = Field(default_factory=dict)

        @field_validator("ranges")
        @classmethod
        def _in_order(cls, ranges: dict[str, Any]) -> dict[str, Any]:
            assert all(low < high for low, high in ranges.values())
            return ranges


def adjusting(folder: Path, *modalities: Modality) -> Adjustments:
    named = zip("ab", modalities, strict=False)
    return Adjustments(folder, [Pipeline(modality=modality, name=name) for name, modality in named])


def test_what_fails_under_all_settings_is_not_the_settings(tmp_path):
    with adjusting(tmp_path, Calibrated()) as adjustments:
        for a in (2.0, 3.0, 4.0, 5.0, 6.0, 7.0):
            adjustments.change("a", {"a": a}, "Ada")
        in_force = adjustments["a"].in_force
        raw = raw_run({"x": [1.0, 2.0]})
        documents: list[tuple[str, Any]] = []
        candidates = adjustments.candidates("a", raw[0][1])
        assert [r.settings.a for r in candidates] == [7.0, 6.0, 5.0, 1.0]
        run = RunPipeline(
            Calibrated(inputs={"x": "x"}),
            raw[0][1],
            lambda name, document: documents.append((name, document)),
            lambda derived: None,
            lambda: 0.0,
            keeper=Keeper(
                candidates,
                began=partial(adjustments["a"].began, raw[0][1]["uid"]),
                judged=partial(adjustments.judged, "a", raw[0][1]["uid"]),
            ),
        )
        for name, document in raw:
            run.add(name, document, document)
        assert adjustments["a"].in_force == in_force
        assert json.loads(documents[0][1]["process"]["settings"]) == {"a": 7.0}
        assert run.refusals == {}


def test_changes_of_two_pipelines_do_not_wait_for_each_other(tmp_path):
    with adjusting(tmp_path, Scale(factor=2.0), Scale(factor=3.0)) as adjustments:

        def change(name: str) -> None:
            for step in range(50):
                adjustments.change(name, {"factor": step + (0.25 if name == "a" else 0.5)}, "Ada")
                adjustments.candidates("b" if name == "a" else "a", {"uid": str(step)})

        with ThreadPoolExecutor(2) as threads:
            for done in [threads.submit(change, name) for name in "ab"]:
                done.result(PATIENCE)


def test_what_a_validator_raises_refuses_the_settings(tmp_path):
    with adjusting(tmp_path, Trusting()) as adjustments:
        with pytest.raises(ValueError, match="refused: TypeError: cannot unpack"):
            adjustments.change("a", {"ranges": {"Fe": 3}}, "Ada")
        presets = tmp_path / "presets" / "a"
        presets.mkdir(parents=True)
        (presets / "bad.toml").write_text('sample = "leaf"\n[settings.ranges]\nFe = 3\n')
        start = {"uid": "run", "sample": "leaf"}
        assert adjustments.candidates("a", start) == [adjustments["a"].in_force]


@pytest.fixture
def holding(tmp_path, monkeypatch):
    """Hold the lock of a journal as another process does that is stopped."""
    monkeypatch.setattr(journal, "LOCK_SECONDS", 0.1)
    with PipelineSettings(tmp_path, "scale", Scale()) as store:
        store.change({"factor": 2.0}, "Ada")
        fd = os.open(journal.journal_of(tmp_path, "scale"), os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield store
        finally:
            os.close(fd)


@pytest.mark.logs_errors
def test_a_process_that_keeps_the_lock_is_not_waited_for_without_end(holding, caplog):
    with pytest.raises(OSError, match=f"is locked by process {os.getpid()}; is that stopped?"):
        holding.change({"factor": 3.0}, "Ada")
    in_force = holding.in_force
    assert holding.candidates({"uid": "run"})[0] == in_force
    assert "a run begins with what is known here" in caplog.text
    with pytest.raises(OSError, match="is locked by"):
        holding.began("run", in_force, "derived")
    holding.look()


@pytest.mark.logs_errors
def test_a_journal_that_cannot_be_looked_at_is_looked_at_again(tmp_path, caplog, monkeypatch):
    def stale(fd: int) -> os.stat_result:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with (
        PipelineSettings(tmp_path, "scale", Scale()) as store,
        PipelineSettings(tmp_path, "scale", Scale()) as other,
    ):
        for factor in (2.0, 3.0):
            with monkeypatch.context() as patch:
                patch.setattr(os, "fstat", stale)
                store.look()
                store.look()
            other.change({"factor": factor}, "Ada")
            store.look()
            assert store.in_force.settings.factor == factor
    assert caplog.text.count("what others change is not seen") == 2


@pytest.mark.logs_errors
@pytest.mark.parametrize("how", ["shortened", "replaced"])
def test_a_journal_that_was_tampered_with_keeps_no_change(tmp_path, how, caplog):
    path = journal.journal_of(tmp_path, "scale")
    with PipelineSettings(tmp_path, "scale", Scale()) as store:
        for factor in (3.0, 4.0, 5.0):
            store.change({"factor": factor}, "Ada")
        lines = path.read_bytes().splitlines(keepends=True)
        if how == "replaced":
            path.unlink()
        path.write_bytes(lines[0] + lines[-1])
        with pytest.raises(OSError, match="was shortened or replaced while it is in use"):
            store.change({"factor": 6.0}, "Ada")
        store.look()
        store.look()
        assert caplog.text.count("what others change is not seen") == 1
    with PipelineSettings(tmp_path, "scale", Scale()) as store:
        assert store.in_force.settings.factor == 5.0
        assert store.change({"factor": 7.0}, "Ada").settings.factor == 7.0
    with PipelineSettings(tmp_path, "scale", Scale()) as store:
        assert store.in_force.settings.factor == 7.0


def test_a_run_costs_a_short_line(tmp_path):
    path = journal.journal_of(tmp_path, "scale")
    with PipelineSettings(tmp_path, "scale", Scale()) as store:
        asked = store.change({"factor": 3.0}, "Ada")
        store.began("run", asked, "derived")
        store.change({"factor": 4.0}, "Ada")
    assert json.loads(path.read_bytes().splitlines()[2])["settings"] is None
    with PipelineSettings(tmp_path, "scale", Scale()) as store:
        assert store.candidates({"uid": "run"}) == [asked]


def test_settings_that_were_taken_back_are_not_computed_again(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    start: Document = {"uid": "f0d5b5a4-0000-4000-8000-000000000001", "time": 1.0}
    with (
        DocumentLog(tmp_path / "log") as documents,
        PipelineSettings(tmp_path / "settings", "scale", Scale()) as store,
    ):
        documents.append("start", start)
        store.change({"factor": 2.0}, "Ada")
        asked = store.change({"factor": 3.0}, "Ada", reprocess=[start["uid"]])
        (again,) = store.again()
        made: list[Any] = []
        job = Reprocess(
            again,
            store,
            documents,
            lambda *what: made.append(what),  # type: ignore[arg-type,return-value]
            lambda: pytest.fail("it has no other derived runs as inputs"),
        )
        store.withdraw(asked, "it does not fit", start["uid"])
        job.go_on(None)
        assert job.over
        assert not made
        assert f"change {asked.change} of the settings was taken back" in caplog.text


@pytest.mark.logs_errors
def test_what_happened_to_a_run_is_known_here_at_least(holding):
    assert holding.in_force.change == 1
    holding.withdraw(holding.in_force, "it does not fit", "run")
    assert holding.in_force.change == 0


@pytest.mark.logs_errors
def test_a_run_that_nobody_ends_is_left(tmp_path, monkeypatch):
    """Its writer has died; what is kept for it would be kept for ever."""
    monkeypatch.setattr(under_way, "DEAD", 0.0)
    raw = [(name, document) for name, document in raw_run({"x": np.ones(6)}) if name != "stop"]
    uid = raw[0][1]["uid"]
    with (
        proxy(tmp_path) as (inbound, outbound),
        DocumentLog(tmp_path / "log") as documents,
        running(
            Pipelines(inbound, outbound, tmp_path / "log", [Scale(inputs={"x": "x"})], workers=1)
        ) as pipelines,
    ):
        for name, document in raw:
            documents.append(name, document)
        wait(lambda: uid in pipelines.under_way.uids)
        assert decision(pipelines, uid)["state"] != "left"
        documents.release(uid)  # as the end of the process does
        wait(lambda: decision(pipelines, uid)["state"] == "left")
        assert decision(pipelines, uid)["why"].startswith("nobody writes it any more")
        wait(lambda: pipelines.under_way.uids == ())


def decision(pipelines: Pipelines, uid: str) -> dict[str, Any]:
    (found,) = pipelines.decisions.why(uid)["pipelines"]
    return found


def test_a_change_is_not_asked_of_a_run_again_after_a_restart(tmp_path):
    raw = raw_run({"x": np.arange(6.0)}, page=3)
    modality = Scale(inputs={"x": "x"})
    log: list[tuple[str, Any]] = []
    with adjusting(tmp_path, modality) as adjustments:

        def begin(earlier: Earlier | None) -> RunPipeline:
            start = raw[0][1]
            keeper = Keeper(
                adjustments.candidates("a", start),
                begun=earlier is not None,
                began=partial(adjustments["a"].began, start["uid"]),
                newest=partial(adjustments["a"].newest_for, start["uid"]),
            )
            return RunPipeline(
                modality,
                start,
                lambda name, document: log.append(
                    (name, document.unpack() if isinstance(document, Packed) else document)
                ),
                lambda derived: earlier,
                lambda: 0.0,
                keeper=keeper,
            )

        run = begin(None)
        for name, document in raw[:3]:
            run.add(name, document, document)
        compute(run)
        adjustments.change("a", {"factor": 3.0}, "Ada")
        run.revise(adjustments.wanted("a", run))
        run.add(*raw[3], raw[3][1])
        compute(run)
        again = begin(Earlier.read(log))
        for name, document in raw[:4]:
            again.add(name, document, document)
        assert again.asked.change == 1
        assert adjustments.wanted("a", again) is again.asked


def compute(run: RunPipeline) -> None:
    while run.going is not None and (batch := run.going.next_batch(1)) is not None:
        rows = len(batch.rows)
        made = {"y": np.ones(rows), "n": np.ones(rows, int)}
        run.going.result(batch.number, Result([""] * rows, made))
