"""Workers as jobs of a real SLURM: they come, are cancelled, go; nothing is lost or doubled."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from p06bs.adapters.slurm import SlurmCluster
from p06bs.adapters.slurm_jobs import Keys as SchedulerKeys
from p06bs.bus import certificates
from p06bs.bus.curve import Keys
from p06bs.config import ConfigurationError
from p06bs.config.slurm import Slurm as Section
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.pipeline import Pipelines
from p06bs.pipeline.started import Started
from tests.documents import raw_run
from tests.online import PATIENCE, assert_equal, beamline, elastic_of
from tests.slurm import (  # noqa: F401
    running_slurm,
    skip_without,
    slurm,
    slurm_on_loopback,
)
from tests.techniques import Deadly

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
    return len(elastic_of(pipelines).pool.leases.workers)


def processes(folder: Path) -> list[psutil.Process]:
    """All processes that a test's jobs have started."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        if "distributed.cli.dask_worker" in words and str(folder) in " ".join(words):
            found += [process, *process.children(recursive=True)]
    return found


def test_a_job_that_is_not_seen_for_a_moment_is_as_old_as_before(tmp_path, monkeypatch):
    jobs = jobs_of(tmp_path)
    now, there = 0.0, {"tcp://node:1": "p06bs-1"}
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr(Started, "tend", lambda self: there)
    jobs._cluster = SimpleNamespace(worker_spec={"p06bs-1": {}})
    jobs.tend()
    now, there = jobs.section.lifetime / 2, {}
    jobs.tend()
    now, there = jobs.section.lifetime, {"tcp://node:1": "p06bs-1"}
    jobs.tend()
    assert jobs.due() == ["p06bs-1"]
    there = {}
    jobs._cluster.worker_spec.clear()
    jobs.tend()
    assert not jobs.due()


@pytest.mark.logs_errors
def test_a_cancelled_job_is_replaced_and_nothing_is_lost_or_doubled(
    slurm,  # noqa: F811
    tmp_path,
    caplog,
    monkeypatch,
):
    # Jobs get the environment of who submits them, and a nanny of an earlier test sets this.
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    pipeline = slow(0.002)
    raw = raw_run({"x": np.arange(1000.0)}, page=5)
    uid = raw[0][1]["uid"]
    certificates.create(tmp_path / "keys")
    options = {
        "on": jobs_of(tmp_path),
        "keys": Keys(tmp_path / "keys"),
        "worker_keys": certificates.add(tmp_path / "keys", "maxwell"),
    }
    with beamline(tmp_path, [pipeline], **options) as (pipelines, publish, listener):
        until(lambda: loops(pipelines) == 2)
        listening = {
            c.laddr.ip
            for p in processes(tmp_path)
            for c in p.net_connections("inet")
            if c.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        (environment, *_) = (
            p.environ() for p in processes(tmp_path) if "spawn_main" in str(p.cmdline())
        )
        assert environment["OMP_NUM_THREADS"] == "1"
        assert "MALLOC_TRIM_THRESHOLD_" not in environment  # Dask's default is unset
        first = slurm.jobs("RUNNING")
        for document in raw[:150]:
            publish(*document)
        listener.wait(uid, "deadly", rows=50)
        slurm("scancel", min(first))
        until(lambda: len(slurm.jobs("RUNNING") - first) == 1 and loops(pipelines) == 2)
        for document in raw[150:]:
            publish(*document)
        assert_equal(listener.wait(uid, "deadly"), pipeline.modality, raw)
    until(lambda: not slurm.jobs() and not processes(tmp_path))
    assert [p.name for p in (tmp_path / "slurm").iterdir()] == ["jobs"]  # the keys are gone
    said = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(said) == 1
    assert "others replace them" in said[0]


@pytest.mark.slow
def test_jobs_are_added_and_drained_while_a_scan_runs(slurm, tmp_path):  # noqa: F811
    """Two workers a job: they come and go together."""
    pipeline = slow(0.005)
    raw = raw_run({"x": np.arange(1600.0)}, page=5)
    uid = raw[0][1]["uid"]
    cluster = jobs_of(tmp_path, 1, processes=2, cores=2)
    with beamline(tmp_path, [pipeline], on=cluster, workers=(1, 1)) as served:
        pipelines, publish, listener = served
        scaling = elastic_of(pipelines).scaling
        until(lambda: loops(pipelines) == 2 and len(slurm.jobs("RUNNING")) == 1)
        for document in raw[:200]:
            publish(*document)
        scaling.least = scaling.most = 3
        until(lambda: loops(pipelines) == 4 and len(slurm.jobs("RUNNING")) == 2)
        for document in raw[200:250]:
            publish(*document)
        scaling.least, scaling.most, scaling.idle = 2, 2, 0.5
        until(lambda: loops(pipelines) == 2 and len(slurm.jobs()) == 1)
        for document in raw[250:]:
            publish(*document)
        assert_equal(listener.wait(uid, "deadly"), pipeline.modality, raw)
        # Who went had returned what it had.
        assert elastic_of(pipelines).pool.load.tallies["deadly"].retries == 0


@pytest.mark.slow
@pytest.mark.logs_errors
def test_a_scan_goes_on_while_the_controller_is_away(tmp_path, monkeypatch, caplog):
    skip_without()
    pipeline = slow(0.005)
    raw = raw_run({"x": np.arange(2000.0)}, page=5)
    uid = raw[0][1]["uid"]
    with running_slurm() as own:
        monkeypatch.setenv("SLURM_CONF", own.environment["SLURM_CONF"])
        with beamline(tmp_path, [pipeline], on=jobs_of(tmp_path), workers=(2, 2)) as served:
            pipelines, publish, listener = served
            scaling = elastic_of(pipelines).scaling
            until(lambda: loops(pipelines) == 2)
            for document in raw[:200]:
                publish(*document)
            listener.wait(uid, "deadly", rows=20)
            own.stop_controller()
            scaling.least = scaling.most = 3  # a job that cannot be submitted now
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
            assert elastic_of(pipelines).pool.load.tallies["deadly"].retries == 0


@pytest.mark.slow
def test_workers_are_drained_before_the_walltime(slurm, tmp_path):  # noqa: F811
    pipeline = slow(0.01)
    raw = raw_run({"x": np.arange(2000.0)}, page=5)
    cluster = jobs_of(tmp_path, walltime="00:01:00", margin=52, stagger=3)
    with beamline(tmp_path, [pipeline], on=cluster, workers=2) as (pipelines, publish, listener):
        until(lambda: loops(pipelines) == 2)
        first = slurm.jobs("RUNNING")
        for document in raw:
            publish(*document)
        assert_equal(listener.wait(raw[0][1]["uid"], "deadly"), pipeline.modality, raw)
        assert elastic_of(pipelines).pool.load.tallies["deadly"].retries == 0
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
        for line in service.stderr:
            if "ready:" in line:
                break  # though no job has started yet
        until(lambda: any("spawn_main" in str(p.cmdline()) for p in processes(tmp_path)))
        service.kill()
    until(lambda: not slurm.jobs() and not processes(tmp_path))


def configuration(folder: Path, *lines: str) -> Path:
    """Write a configuration with workers on SLURM; return the file."""
    file = folder / "p06bs.toml"
    head = ["[workers]", 'on = "slurm"', "[workers.slurm]", f'directory = "{folder}/slurm"']
    file.write_text("\n".join([*head, *lines, "[[pipelines]]", 'modality = "counters"', ""]))
    return file


def test_the_job_script_says_what_is_configured(run, tmp_path):
    file = configuration(
        tmp_path,
        'partition = "maxwell"',
        'account = "p06"',
        'walltime = "1-02:00:00"',
        "margin = 600",
        "processes = 4",
        "cores = 16",
        'memory = "64GiB"',
        'directives = ["--constraint=EPYC"]',
        'prologue = ["module load maxwell"]',
        'python = "/software/p06bs/bin/python"',
        'interface = "ib0"',
        'scratch = "/scratch"',
        "death_timeout = 90",
    )
    status, script, _ = run("workers", "script", file)
    assert status == 0
    lines = script.splitlines()
    for directive in (
        "-J p06bs", "-p maxwell", "-A p06", "-t 1-02:00:00", "--cpus-per-task=16", "--mem=64G",
        "--no-requeue", "--constraint=EPYC", f"-o {tmp_path}/slurm/jobs/p06bs-%J.out",
    ):  # fmt: skip
        assert f"#SBATCH {directive}" in lines
    assert "module load maxwell" in lines
    assert any('"OMP_NUM_THREADS": 4' in line for line in lines)
    command = lines[-1]
    assert command.startswith("/software/p06bs/bin/python -m distributed.cli.dask_worker tls://")
    for option in (
        "--nworkers 4", "--nthreads 4", "--memory-limit 16.00GiB", "--interface ib0",
        "--death-timeout 90", "--local-directory /scratch", "--lifetime 93300s",
        f"--tls-key {tmp_path}/slurm/keys-",
    ):  # fmt: skip
        assert option in command
    assert not (tmp_path / "slurm" / "keys").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('walltime = "30"', "'30' is no time; write HH:MM:SS or D-HH:MM:SS"),
        ('walltime = "00:10:00"', "nothing is left of the walltime 00:10:00"),
        ("processes = 4", "4 processes need as many cores, not 1"),
        ('partition = "a; rm -rf /"', "workers.slurm.partition"),
        ('directives = ["--x\\n#!"]', "must be one line of text"),
        ('partion = "p06"', "workers.slurm.partion: Extra inputs are not permitted"),
        ('directory = "/a b"', "characters that mean something in a job script"),
    ],
)
def test_jobs_that_cannot_be_are_refused(run, tmp_path, line, said):
    file = configuration(tmp_path, line)
    text = file.read_text()
    if "directory" in line:
        file.write_text(text.replace(f'directory = "{tmp_path}/slurm"\n', ""))
    status, _, errors = run("workers", "script", file)
    assert status == 1
    assert said in errors


def test_pipelines_with_other_needs_have_jobs_of_their_own(run, tmp_path):
    file = configuration(tmp_path, "processes = 2", "cores = 2", 'memory = "1GiB"')
    with file.open("a") as text:
        text.write('[[pipelines]]\nmodality = "counters"\nname = "deep"\n')
        text.write('gpus = 1\nmemory = "16GiB"\nenvironment = "/software/ptycho"\n')
    status, scripts, _ = run("workers", "script", file)
    assert status == 0
    plain, deep = scripts.split("#!/usr/bin/env bash\n")[1:]
    assert "--gres" not in plain
    assert "#SBATCH --mem=1G\n" in plain
    assert "#SBATCH --gres=gpu:2\n" in deep
    assert "#SBATCH --mem=32G\n" in deep
    assert "/software/ptycho/bin/python -m distributed.cli.dask_worker" in deep


def test_workers_elsewhere_have_no_job_script(run, tmp_path):
    file = configuration(tmp_path)
    file.write_text(file.read_text().replace('"slurm"', '"local"', 1))
    status, _, errors = run("workers", "script", file)
    assert status == 1
    assert 'the workers are on "local", not on "slurm"' in errors


def test_what_slurm_needs_and_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="needs sbatch, scancel, squeue, timeout in PATH"):
        jobs_of(tmp_path)
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ConfigurationError, match=r'pip install "p06bs\[slurm\]"'):
        jobs_of(tmp_path)


def test_keys_of_processes_that_are_gone_are_removed(tmp_path):
    with subprocess.Popen(["true"]) as gone:
        pass
    host = socket.gethostname()
    left = tmp_path / f"keys-{host}-{gone.pid}-abc"
    left.mkdir()
    names = (
        "keys-elsewhere-1-abc",
        f"keys-{host}-1-abc",
        f"keys-{host}-{gone.pid}-1-abc",  # of the hosts HERE-NUMBER and HERE-online
        f"keys-{host}-online-1-abc",
        "jobs",
    )
    others = [tmp_path / name for name in names]
    for other in others:
        other.mkdir()
    first, second = SchedulerKeys.make(tmp_path), SchedulerKeys.make(tmp_path)
    assert not left.exists()
    assert all(other.exists() for other in [*others, first.directory])
    assert second.directory.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in second.directory.iterdir()} == {0o600}
    second.remove()
    assert not second.directory.exists()
