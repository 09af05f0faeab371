"""Workers as jobs of a real SLURM: they come, are cancelled, go; nothing is lost or doubled."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from p06bs.adapters.slurm import SlurmCluster
from p06bs.config.slurm import Slurm as Section
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.pipeline import Pipelines
from tests.documents import raw_run, rows_of
from tests.slurm import (  # noqa: F401
    running_slurm,
    skip_without,
    slurm,
    slurm_on_loopback,
)
from tests.techniques import Deadly
from tests.test_pipelines import PATIENCE, assert_equal, beamline

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _workers_find_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def until(there: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < end, "it did not come to pass"
        threading.Event().wait(0.05)


def slow(seconds: float) -> Pipeline:
    return Pipeline(modality=Deadly(inputs={"x": "x"}, seconds=seconds), batch_size=4)


def jobs_of(folder: Path, workers: int = 2, **fields: Any) -> SlurmCluster:
    section = Section(directory=folder / "slurm", memory="500MB", poll=0.5, **fields)
    return SlurmCluster(section, workers)


def loops(pipelines: Pipelines) -> int:
    return len(pipelines.pool.leases.workers)


def processes() -> list[psutil.Process]:
    """All processes that jobs of this SLURM have started."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "distributed.cli.dask_worker" in (process.info["cmdline"] or ()):
            found += [process, *process.children(recursive=True)]
    return found


@pytest.mark.logs_errors
def test_a_cancelled_job_is_replaced_and_nothing_is_lost_or_doubled(slurm, tmp_path, caplog):  # noqa: F811
    pipeline = slow(0.002)
    raw = raw_run({"x": np.arange(1000.0)}, page=5)
    uid = raw[0][1]["uid"]
    with beamline(tmp_path, [pipeline], on=jobs_of(tmp_path)) as (pipelines, publish, listener):
        until(lambda: loops(pipelines) == 2)
        listening = {
            c.laddr.ip
            for p in processes()
            for c in p.net_connections("inet")
            if c.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        first = slurm.jobs("RUNNING")
        for document in raw[:150]:
            publish(*document)
        listener.wait(uid, "deadly", rows=50)
        slurm("scancel", min(first))
        until(lambda: len(slurm.jobs("RUNNING") - first) == 1 and loops(pipelines) == 2)
        for document in raw[150:]:
            publish(*document)
        assert_equal(listener.wait(uid, "deadly"), pipeline.modality, raw)
    until(lambda: not slurm.jobs() and not processes())
    assert [p.name for p in (tmp_path / "slurm").iterdir()] == ["jobs"]  # the keys are gone
    said = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(said) == 1
    assert "others replace them" in said[0]


def test_jobs_are_added_and_drained_while_a_scan_runs(slurm, tmp_path):  # noqa: F811
    """Two workers a job: they come and go together."""
    pipeline = slow(0.005)
    raw = raw_run({"x": np.arange(1600.0)}, page=5)
    uid = raw[0][1]["uid"]
    cluster = jobs_of(tmp_path, 1, processes=2, cores=2)
    with beamline(tmp_path, [pipeline], on=cluster, workers=(1, 4)) as served:
        pipelines, publish, listener = served
        scaling = pipelines.elastic.scaling
        scaling.within, scaling.idle = 0.5, 1.0
        until(lambda: loops(pipelines) == 2 and len(slurm.jobs("RUNNING")) == 1)
        for document in raw[:200]:
            publish(*document)
        until(lambda: loops(pipelines) == 4 and len(slurm.jobs("RUNNING")) == 2)
        scaling.most = 2
        until(lambda: loops(pipelines) == 2 and len(slurm.jobs()) == 1)
        rows = len(rows_of(listener.derived(uid, "deadly")))
        assert rows < 1600  # it went on meanwhile
        for document in raw[200:]:
            publish(*document)
        assert_equal(listener.wait(uid, "deadly"), pipeline.modality, raw)
        assert pipelines.pool.tallies["deadly"].retries == 0  # who went had returned what it had


@pytest.mark.slow
@pytest.mark.logs_errors
def test_a_scan_goes_on_while_the_controller_is_away(tmp_path, monkeypatch, caplog):
    skip_without()
    pipeline = slow(0.005)
    raw = raw_run({"x": np.arange(2000.0)}, page=5)
    uid = raw[0][1]["uid"]
    with running_slurm() as own:
        monkeypatch.setenv("SLURM_CONF", own.environment["SLURM_CONF"])
        with beamline(tmp_path, [pipeline], on=jobs_of(tmp_path), workers=(2, 3)) as served:
            pipelines, publish, listener = served
            scaling = pipelines.elastic.scaling
            scaling.within, scaling.idle, scaling.most = 0.5, 600.0, 2
            until(lambda: loops(pipelines) == 2)
            for document in raw[:200]:
                publish(*document)
            listener.wait(uid, "deadly", rows=20)
            own.stop_controller()
            scaling.most = 3  # a job that cannot be submitted now
            until(lambda: "cannot be started" in caplog.text)
            for document in raw[200:250]:
                publish(*document)
            listener.wait(uid, "deadly", rows=1200)
            own.start_controller()
            until(lambda: loops(pipelines) == 3)
            for document in raw[250:]:
                publish(*document)
            assert_equal(listener.wait(uid, "deadly"), pipeline.modality, raw)
            assert len(own.jobs("RUNNING")) == 3
            assert pipelines.pool.tallies["deadly"].retries == 0


@pytest.mark.slow
def test_workers_are_drained_before_the_walltime(slurm, tmp_path):  # noqa: F811
    pipeline = slow(0.01)
    raw = raw_run({"x": np.arange(2000.0)}, page=5)
    cluster = jobs_of(tmp_path, walltime="00:01:00", margin=52, stagger=3)
    with beamline(tmp_path, [pipeline], on=cluster) as (pipelines, publish, listener):
        until(lambda: loops(pipelines) == 2)
        first = slurm.jobs("RUNNING")
        for document in raw:
            publish(*document)
        assert_equal(listener.wait(raw[0][1]["uid"], "deadly"), pipeline.modality, raw)
        assert pipelines.pool.tallies["deadly"].retries == 0
        until(lambda: not slurm.jobs() & first and loops(pipelines) == 2)


@pytest.mark.logs_errors
def test_jobs_that_cannot_start_are_told_of_and_tried_later_and_later(slurm, tmp_path, caplog):  # noqa: F811
    caplog.set_level("INFO")
    cluster = jobs_of(tmp_path, 1, python="/no/such/python")
    with beamline(tmp_path, [slow(0.0)], on=cluster, workers=1):
        until(lambda: caplog.text.count("others replace them") == 2)
    assert f"their output: {tmp_path}/slurm/jobs" in caplog.text
    (first, *_) = sorted((tmp_path / "slurm" / "jobs").glob("*.err"))
    assert "/no/such/python" in first.read_text()
    assert len(list((tmp_path / "slurm" / "jobs").glob("*.err"))) <= 3


def test_a_job_that_waits_says_why(slurm, tmp_path, caplog):  # noqa: F811
    caplog.set_level("INFO")
    cluster = jobs_of(tmp_path, 1, directives=["--begin=now+1hour"])
    with beamline(tmp_path, [slow(0.0)], on=cluster, workers=1):
        until(lambda: "waits: BeginTime" in caplog.text)
        assert len(slurm.jobs("PENDING")) == 1
    assert not slurm.jobs()


def test_jobs_end_by_themselves_when_the_pipelines_are_killed(slurm, tmp_path):  # noqa: F811
    (tmp_path / "p06bs.toml").write_text(
        f"""
        proxy = false
        [bus]
        topology = "ipc://{tmp_path}/topology"
        inbound = "ipc://{tmp_path}/in"
        outbound = "ipc://{tmp_path}/out"
        log = "{tmp_path}/log"
        [workers]
        on = "slurm"
        count = 1
        [workers.slurm]
        directory = "{tmp_path}/slurm"
        memory = "500MB"
        death_timeout = 3
        [[pipelines]]
        modality = "counters"
        """
    )
    command = [sys.executable, "-m", "p06bs.services", str(tmp_path / "p06bs.toml"), "pipelines"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        lines = []
        for line in service.stderr:
            lines.append(line)
            if "ready:" in line:
                break
        assert slurm.jobs("RUNNING"), lines
        service.kill()
    until(lambda: not slurm.jobs() and not processes())
