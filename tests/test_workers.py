"""Workers that follow the load: real processes that come, go, die and sleep in mid-run."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.pipeline import Pipelines
from tests.documents import raw_run, rows_of
from tests.techniques import Deadly
from tests.online import PATIENCE, assert_equal, beamline

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
    return pipelines.pool.leases.workers


def processes() -> list[psutil.Process]:
    """Worker processes of this process."""
    return [c for c in psutil.Process().children() if "spawn_main" in " ".join(c.cmdline())]


def test_workers_come_with_the_load_and_go_after_it(tmp_path):
    pipeline = slow(0.01)
    raw = raw_run({"x": np.arange(1200.0)}, page=5)
    uid = raw[0][1]["uid"]
    with beamline(tmp_path, [pipeline], workers=(1, 3)) as (pipelines, publish, listener):
        scaling = pipelines.elastic.scaling
        scaling.within, scaling.idle = 0.5, 1.0
        until(lambda: len(loops(pipelines)) == 1)
        for document in raw[:-1]:
            publish(*document)
        until(lambda: len(loops(pipelines)) == 3)
        publish(*raw[-1])
        assert_equal(listener.wait(uid, "deadly"), pipeline.modality, raw)
        until(lambda: len(loops(pipelines)) == 1 == len(processes()))
        again = raw_run({"x": np.arange(600.0)}, page=5)
        for document in again:
            publish(*document)
        until(lambda: len(loops(pipelines)) == 3)
        assert_equal(listener.wait(again[0][1]["uid"], "deadly"), pipeline.modality, again)
        retries = pipelines.pool.tallies["deadly"].retries
    assert retries == 0  # who went had returned what it had


def test_no_batch_is_lost_when_workers_die_sleep_and_are_drained(tmp_path):
    pipeline = slow(0.005)
    raw = raw_run({"x": np.arange(3000.0)}, page=50)
    uid = raw[0][1]["uid"]
    with beamline(tmp_path, [pipeline], workers=(1, 3)) as (pipelines, publish, listener):
        scaling = pipelines.elastic.scaling
        scaling.within, scaling.idle = 0.5, 1.0
        leases = pipelines.pool.leases
        for document in raw:
            publish(*document)
        until(lambda: len(loops(pipelines)) == 3 and leases.leased > 3)
        sleeper, terminated, killed = processes()
        sleeper.suspend()
        until(lambda: len(loops(pipelines)) == 2)  # its batches were given away
        scaling.most = 2  # one is drained meanwhile, or the sleeper taken for it
        terminated.terminate()
        killed.kill()
        sleeper.resume()
        assert_equal(listener.wait(uid, "deadly"), pipeline.modality, raw)
        assert pipelines.pool.tallies["deadly"].retries >= 2
