"""Workers that follow the load: real processes that come, go, die and sleep in mid-run."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.pipeline import Pipelines
from tests.documents import raw_run
from tests.online import PATIENCE, assert_equal, beamline, elastic_of, running
from tests.techniques import Deadly

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _workers_find_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def slow(seconds: float) -> Pipeline:
    return Pipeline(modality=Deadly(inputs={"x": "x"}, seconds=seconds), batch_size=4)


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < end, "it did not come to pass"
        threading.Event().wait(0.02)


def loops(pipelines: Pipelines) -> tuple[str, ...]:
    return elastic_of(pipelines).pool.leases.workers


def processes() -> list[psutil.Process]:
    """Worker processes of this process."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has ended
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.mark.slow
def test_workers_come_with_the_load_and_go_after_it(tmp_path):
    pipeline = slow(0.006)
    raw = raw_run({"x": np.arange(1200.0)}, page=5)
    uid = raw[0][1]["uid"]
    with beamline(tmp_path, [pipeline], workers=(1, 3)) as (pipelines, publish, listener):
        scaling = elastic_of(pipelines).scaling
        scaling.within, scaling.idle = 0.3, 1.0
        until(lambda: len(loops(pipelines)) == 1)
        measured = {measure.name: measure for measure in pipelines.measures()}

        def value(name: str, label: str = "deadly") -> float:
            found = measured[name].read()
            assert isinstance(found, dict)
            return found.get(label, 0.0)

        for document in raw[:-1]:
            publish(*document)
        until(lambda: len(loops(pipelines)) == 3)
        until(lambda: value("workers", "workers") == 3 == value("workers_wanted", "workers"))
        assert value("pipeline_runs") == 1
        assert 0 < value("pipeline_lag_events") < 1200
        assert value("pipeline_lag_seconds") > 1e6  # the events say that they are of 1970
        assert 0 < value("pipeline_queued_events") <= value("pipeline_lag_events")
        assert value("pipeline_batch_events") == 4
        assert 0.1 < value("pipeline_computing_ratio") <= 1.1
        assert value("pipeline_events_per_second") > 10
        publish(*raw[-1])
        assert_equal(listener.wait(uid, "deadly"), pipeline.modality, raw)
        until(lambda: len(loops(pipelines)) == 1 == len(processes()))
        assert value("pipeline_events") == 1200 == 4 * value("pipeline_batches")
        for name in ("runs", "queued_events", "lag_events", "lag_seconds", "late_batches"):
            assert value(f"pipeline_{name}") == 0
        assert 7.1 < value("pipeline_computing_seconds") < 60
        again = raw_run({"x": np.arange(600.0)}, page=5)
        for document in again:
            publish(*document)
        until(lambda: len(loops(pipelines)) == 3)
        assert_equal(listener.wait(again[0][1]["uid"], "deadly"), pipeline.modality, again)
        assert value("pipeline_retries") == 0  # who went had returned what it had
        assert value("pipeline_invalid_events") == 0


@pytest.mark.slow
def test_no_batch_is_lost_when_workers_die_sleep_and_are_drained(tmp_path):
    pipeline = slow(0.005)
    raw = raw_run({"x": np.arange(1800.0)}, page=50)
    uid = raw[0][1]["uid"]
    with beamline(tmp_path, [pipeline], workers=3) as (pipelines, publish, listener):
        leases = elastic_of(pipelines).pool.leases
        until(lambda: len(loops(pipelines)) == 3)
        for document in raw:
            publish(*document)
        until(lambda: leases.leased > 3)
        sleeper, terminated, killed = processes()
        sleeper.suspend()
        until(lambda: len(loops(pipelines)) == 2)  # its batches were given away
        scaling = elastic_of(pipelines).scaling
        scaling.least, scaling.most, scaling.idle = 1, 2, 1.0  # one is drained meanwhile
        terminated.terminate()
        killed.kill()
        sleeper.resume()
        assert_equal(listener.wait(uid, "deadly"), pipeline.modality, raw)
        retries = next(m for m in pipelines.measures() if m.name == "pipeline_retries").read()
        assert retries["deadly"] >= 2


@pytest.mark.slow
def test_pipelines_that_stop_hand_back_what_they_have(tmp_path):
    pipeline = slow(0.01)
    raw = raw_run({"x": np.arange(400.0)}, page=5)
    uid = raw[0][1]["uid"]
    with beamline(tmp_path, [pipeline], workers=2) as (pipelines, publish, listener):
        for document in raw:
            publish(*document)
        until(lambda: elastic_of(pipelines).pool.leases.leased > 2)
        pipelines.stop()  # as on SIGTERM
        until(lambda: not processes())
        assert loops(pipelines) == ()  # each has said goodbye
        assert elastic_of(pipelines).pool.leases.leased == 0
        assert elastic_of(pipelines).pool.load.tallies["deadly"].retries == 0
        with running(Pipelines(*addresses(tmp_path), tmp_path / "log", [pipeline], workers=2)):
            assert_equal(listener.wait(uid, "deadly"), pipeline.modality, raw)


def addresses(folder: Path) -> tuple[str, str]:
    return f"ipc://{folder}/in", f"ipc://{folder}/out"
