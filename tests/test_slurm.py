"""Workers as jobs of a real SLURM: they come, are cancelled, go; nothing is lost or doubled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p06bs.adapters.slurm import SlurmCluster
from p06bs.config.slurm import Slurm as Section
from p06bs.pipeline.declared import Pipeline
from tests.documents import raw_run
from tests.slurm import Slurm, slurm, slurm_on_loopback  # noqa: F401
from tests.techniques import Deadly
from tests.test_pipelines import PATIENCE, assert_equal, beamline

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _workers_find_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def until(there: Callable[[], Any], listener: Any) -> None:
    assert listener.recorder.wait(lambda: bool(there()), PATIENCE), "it did not come to pass"


def slow(seconds: float) -> Pipeline:
    return Pipeline(modality=Deadly(inputs={"x": "x"}, seconds=seconds), batch_size=4)


def section(folder: Path, **fields: Any) -> Section:
    return Section(directory=folder / "slurm", memory="500MB", poll=0.5, **fields)


def test_a_derived_run_through_jobs_of_slurm(slurm, tmp_path):  # noqa: F811
    pipeline = slow(0.002)
    raw = raw_run({"x": np.arange(400.0)}, page=5)
    cluster = SlurmCluster(section(tmp_path), 2)
    with beamline(tmp_path, [pipeline], on=cluster, workers=2) as (served, publish, listener):
        until(lambda: len(served.pool.leases.workers) == 2, listener)
        assert len(slurm.jobs("RUNNING")) == 2
        for document in raw:
            publish(*document)
        assert_equal(listener.wait(raw[0][1]["uid"], "deadly"), pipeline.modality, raw)
    until_gone = slurm.jobs()
    print(until_gone)
    for f in (tmp_path / "slurm" / "jobs").glob("*"):
        print(f, f.read_text())
