"""Sets of Dask workers: which units are taken back, and what is done when one fails."""

import threading
import time

import dask
import pytest
from distributed import Client, Security
from hypothesis import given
from hypothesis import strategies as st

from p06bs.callbacks.counters import Counters
from p06bs.pipeline import engine
from p06bs.pipeline.cluster import cluster_of
from p06bs.pipeline.engine import Engine
from p06bs.pipeline.local import Local
from p06bs.pipeline.pipeline import Pipelines
from p06bs.pipeline.started import surplus

UNITS = st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=12)


@given(units=UNITS, joined=st.sets(st.sampled_from("abc")), wished=st.integers(0, 14))
def test_only_waiting_units_are_taken_back_the_last_first_and_no_more_than_needed(
    units, joined, wished
):
    gone = surplus(units, joined, wished)
    waiting = [unit for unit in units if unit not in joined]
    assert gone <= set(waiting)
    assert waiting[: len(waiting) - len(gone)] == [u for u in waiting if u not in gone]
    left = len(units) - len(gone)
    assert left >= wished or not gone
    assert left <= wished or gone == set(waiting)


@pytest.mark.logs_errors
def test_a_local_worker_that_is_lost_is_replaced_by_one_of_another_name(monkeypatch):
    monkeypatch.setattr("p06bs.pipeline.local.MISSING", 0.2)
    cluster = Local(1)
    client = cluster.open()
    try:

        def there() -> dict[str, str]:
            until = time.monotonic() + 60
            while not (found := dict(cluster.tend())):
                assert time.monotonic() < until, "no worker joined"
                threading.Event().wait(0.05)
            return found

        ((address, unit),) = there().items()
        client.retire_workers([address], close_workers=True)
        while address in cluster.tend():
            threading.Event().wait(0.05)
        ((_, other),) = there().items()
        assert other != unit
        # What else in this process uses Dask goes on as it was, a Tiled client, for example.
        assert dask.config.get("scheduler", None) is None
    finally:
        cluster.close()


@pytest.mark.slow
@pytest.mark.logs_errors
@pytest.mark.parametrize("number", ["SIGKILL", "SIGSTOP"])
def test_a_local_worker_that_ends_or_hangs_while_it_starts_is_replaced(
    tmp_path, monkeypatch, number
):
    monkeypatch.setattr("p06bs.pipeline.local.START", 10.0)
    preload = tmp_path / "dies_first.py"
    preload.write_text(
        "import os, pathlib, signal\n"
        f"mark = pathlib.Path({str(tmp_path / 'died')!r})\n"
        "if not mark.exists():\n"
        "    mark.touch()\n"
        f"    os.kill(os.getpid(), signal.{number})\n"
    )
    cluster = Local(1)
    try:
        with dask.config.set({"distributed.worker.preload": [str(preload)]}):
            cluster.open()
            until = time.monotonic() + 60
            while not cluster.tend():
                assert time.monotonic() < until, "no worker joined"
                threading.Event().wait(0.05)
    finally:
        cluster.close()
    assert (tmp_path / "died").exists()


def test_each_local_worker_is_waited_for_by_itself(monkeypatch):
    monkeypatch.setattr("p06bs.pipeline.local.MISSING", 10.0)
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    cluster = Local(2)
    assert not cluster.lost(["0", "1"], ["1"])
    now = 109.0
    assert not cluster.lost(["0", "1"], [])
    now = 110.0
    assert set(cluster.lost(["0", "1"], [])) == {"0"}
    assert not cluster.lost(["0", "1"], ["0"])
    now = 119.0
    assert set(cluster.lost(["0", "1"], [])) == {"1"}


def test_a_scheduler_that_is_away_is_waited_for(caplog):
    cluster = cluster_of("tcp://127.0.0.1:1", 1)
    cluster.open()
    assert cluster.tend() == {}
    assert "no connection to the Dask scheduler at tcp://127.0.0.1:1" in caplog.text
    cluster.close()


class Nobody:
    """A cluster without workers, which fails as it is told."""

    scales = False
    prompt = False

    def __init__(self):
        self.closed = 0
        self.tended = 0
        self.tending = lambda: None

    def open(self):
        return self

    def scale(self, workers):
        pass

    def tend(self):
        self.tended += 1
        self.tending()
        return {}

    def due(self):
        return ()

    def close(self):
        self.closed += 1
        raise TimeoutError("scancel: slurmctld is away")


@pytest.mark.logs_errors
def test_a_cluster_that_cannot_be_closed_leaves_nothing_else_open(tmp_path, caplog):
    cluster = Nobody()
    pipelines = Pipelines(
        "tcp://127.0.0.1:9", "tcp://127.0.0.1:9", tmp_path, [Counters()], on=cluster
    )
    pipelines.stop()
    pipelines.run()
    assert cluster.closed == 1
    assert pipelines._context.closed
    assert "slurmctld is away" in caplog.text


@pytest.mark.logs_errors
def test_a_cluster_that_cannot_be_asked_for_a_while_is_asked_again(monkeypatch, caplog):
    monkeypatch.setattr(engine, "INTERVAL", 0.01)
    cluster = Nobody()
    fails = True

    def tending():
        if fails:
            raise OSError("the scheduler is away")

    cluster.tending = tending
    placing = Engine("", "", cluster)
    placing.start()

    def wait(true):
        until = time.monotonic() + 60
        while not true():
            assert time.monotonic() < until
            threading.Event().wait(0.01)

    wait(lambda: cluster.tended > 3)
    assert placing.failure is None
    assert caplog.text.count("workers cannot be placed now") == 1
    fails = False
    tended = cluster.tended
    wait(lambda: cluster.tended > tended + 3)
    monkeypatch.setattr(engine, "TOLERATED", 0.05)
    fails = True
    wait(lambda: placing.failure)
    placing.close()


@pytest.mark.logs_errors
def test_a_cluster_that_hangs_is_closed_anyway(monkeypatch):
    monkeypatch.setattr(engine, "CLOSE_SECONDS", 0.1)
    cluster = Nobody()
    asked, ended = threading.Event(), threading.Event()

    def tending():
        asked.set()
        ended.wait()

    cluster.tending = tending
    placing = Engine("", "", cluster)
    placing.start()
    asked.wait(60)
    placing.close()
    assert cluster.closed == 1
    ended.set()


def test_other_users_of_this_host_cannot_join_local_workers():
    cluster = Local(1)
    try:
        scheduler = cluster.open().scheduler.address
        assert scheduler.startswith("tls://127.0.0.1:")
        for stranger in (Security.temporary(), None):
            address = scheduler if stranger else scheduler.replace("tls://", "tcp://")
            with pytest.raises((OSError, RuntimeError)):
                Client(address, security=stranger, timeout=2, set_as_default=False)
    finally:
        cluster.close()
