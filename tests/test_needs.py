"""What pipelines need of workers: pools of their own, and who says that nobody meets it."""

import subprocess
import sys
from pathlib import Path

import distributed
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs.config import Workers
from p06bs.pipeline import elastic
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.needs import Needs, choose, offer_of
from p06bs.pipeline.pipeline import Pipelines
from p06bs.services._workers import jobs_with
from tests.documents import raw_run, rows_of
from tests.online import beamline
from tests.techniques import Scale, Where
from tests.test_workers import until

REPOSITORY = Path(__file__).parents[1]
WITH_GPU = Needs(gpus=1)


@pytest.fixture(autouse=True)
def _workers_find_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


some = st.builds(Needs, st.sampled_from(["", "a"]), st.integers(0, 2), st.integers(0, 3))


@given(some, st.lists(some, unique=True))
def test_a_worker_is_for_the_greatest_that_it_meets(offer, needs):
    chosen = choose(offer, needs)
    met = [need for need in needs if need.met_by(offer)]
    assert (chosen is None) == (not met)
    if chosen is not None:
        assert chosen in met
        assert chosen.environment == offer.environment
        assert chosen.gpus == max(need.gpus for need in met)


def test_what_dask_says_of_a_worker_is_what_it_offers():
    assert offer_of({"resources": {"GPU": 2.0, "environment:ptycho": 1.0}, "memory_limit": 8}) == (
        Needs("ptycho", 2, 8)
    )
    assert offer_of({"resources": {}, "memory_limit": None}) == Needs()


@pytest.mark.slow
@pytest.mark.logs_errors
def test_batches_go_to_workers_that_have_what_they_need_and_to_no_others(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(elastic, "ALONE", 0.5)
    needy = Pipeline(modality=Where(inputs={"x": "x"}), name="needy", batch_size=4, needs=WITH_GPU)
    other = Pipeline(modality=Scale(inputs={"x": "x"}), batch_size=4)
    raw = raw_run({"x": np.arange(200.0)}, page=5)
    uid = raw[0][1]["uid"]
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        address = cluster.scheduler_address
        with beamline(tmp_path, [other, needy], on=address) as (pipelines, publish, listener):
            for document in raw:
                publish(*document)
            listener.wait(uid, "scale")
            until(lambda: "pipelines cannot work (needy)" in caplog.text)
            assert "no worker has joined that has 1 GPU" in caplog.text
            assert rows_of(listener.derived(uid, "where")) == []
            command = [sys.executable, "-m", "distributed.cli.dask_worker", address]
            options = ["--resources", "GPU=1", "--no-dashboard", "--no-nanny", "--nthreads", "1"]
            with subprocess.Popen([*command, *options, "--host", "127.0.0.1"]) as gpu:
                try:
                    rows = rows_of(listener.wait(uid, "where"), "pid")
                    assert {row[3] for row in rows} == {gpu.pid}
                    again = raw_run({"x": np.arange(200.0)}, page=5)
                    for document in again:
                        publish(*document)
                    listener.wait(again[0][1]["uid"], "scale")
                    rows = rows_of(listener.wait(again[0][1]["uid"], "where"), "pid")
                    assert {row[3] for row in rows} == {gpu.pid}
                    joined = next(m for m in pipelines.measures() if m.name == "workers")
                    until(lambda: joined.read() == {"workers": 1.0, "1 GPU": 1.0})
                finally:
                    gpu.terminate()


@pytest.mark.slow
def test_local_workers_have_gpus_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    pipeline = Pipeline(modality=Where(inputs={"x": "x"}), batch_size=1, needs=WITH_GPU)
    raw = raw_run({"x": np.arange(400.0)}, page=5)
    with beamline(tmp_path, [pipeline], workers=4) as (pipelines, publish, listener):
        pool = pipelines.pools.of["where"]
        assert pool.scaling.most == 2
        until(lambda: len(pool.pool.leases.workers) == 2)
        for document in raw:
            publish(*document)
        rows = rows_of(listener.wait(raw[0][1]["uid"], "where"), "pid", "gpu")
    assert {row[4] for row in rows} == {5, 7}
    assert len({(row[3], row[4]) for row in rows}) == 2


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        (WITH_GPU, "pipeline where: 1 GPU is needed of a local worker, but gpus of this host is 0"),
        (Needs(memory=10**15), "1e.06 GB of memory is needed of a local worker, but memory of"),
        (Needs("/opt/ptycho"), "environment /opt/ptycho is needed, but local workers have /"),
    ],
)
def test_what_this_host_cannot_meet_is_said_at_once(tmp_path, needs, said):
    pipeline = Pipeline(modality=Where(inputs={"x": "x"}), needs=needs)
    with pytest.raises(ValueError, match=said):
        Pipelines("ipc://in", "ipc://out", tmp_path, [pipeline])


def test_jobs_ask_for_what_their_workers_need():
    section = Workers(on="slurm", slurm={"processes": 2, "cores": 2, "memory": "4GB"}).slurm
    jobs = jobs_with(section, Needs("/opt/ptycho", 1, 8_000_000_000))
    assert jobs.memory == 16_000_000_000
    assert jobs.directives == ("--gres=gpu:2",)
    assert jobs.python == "/opt/ptycho/bin/python"
    assert jobs_with(section, Needs()) == section
