"""The publisher when the log cannot be written: nothing is dropped, the plan pauses."""

import contextlib
import errno
import logging
import os
import resource
import threading

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import RunEngineInterrupted
from ophyd.sim import det

from p06bs.bus.follow import Follower
from p06bs.bus.log import DocumentLog
from p06bs.bus.publish import LogWriteError, Publisher
from p06bs.bus.reader import LogError

NOBODY = "ipc://@nobody-listens-here"


@contextlib.contextmanager
def full_disk(path):
    """Let no file of this process grow beyond what `path` has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def begun(tmp_path):
    """A publisher with a run in progress."""
    publisher = Publisher(NOBODY, tmp_path)
    publisher("start", {"uid": "run"})
    publisher("descriptor", {"uid": "d", "run_start": "run"})
    yield publisher
    with contextlib.suppress(LogWriteError):
        publisher.close()


def event(number, size=0):
    return "event", {"uid": str(number), "descriptor": "d", "data": {"x": np.zeros(size)}}


def uids(directory):
    with DocumentLog(directory) as log:
        return [document["uid"] for _, document in log.read("run")]


@pytest.mark.logs_errors
def test_documents_wait_in_order_and_are_written_when_there_is_room(begun, tmp_path, caplog):
    failures = []
    begun._on_log_failure = failures.append
    with full_disk(begun.log.path("run")):
        for number in range(10):
            document = event(number, size=number)
            assert begun.append(*document) is None
            document[1]["data"]["x"] += 1  # what waits is a copy
        assert begun.pending == 10
    begun("stop", {"uid": "s", "run_start": "run"})
    assert begun.pending == 0
    assert uids(tmp_path) == ["run", "d", *map(str, range(10)), "s"]
    assert not any(d["data"]["x"].any() for n, d in begun.log.read("run") if n == "event")
    assert len(failures) == 1
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 1


@pytest.mark.logs_errors
def test_a_run_is_released_when_what_waits_is_written(begun, tmp_path):
    with full_disk(begun.log.path("run")):
        begun(*event(1))
        begun.release("run")  # as pipelines do with a derived run that is made
        assert begun.pending == 1
        retrying = begun._retrying
    retrying.join(60)
    assert uids(tmp_path) == ["run", "d", "1"]
    with DocumentLog(tmp_path) as another:  # it is not locked any more
        another.reopen("run")


@pytest.mark.logs_errors
def test_the_retry_needs_no_further_document(begun, tmp_path):
    with full_disk(begun.log.path("run")):
        begun(*event(1))
        retrying = begun._retrying
    retrying.join(60)
    assert not retrying.is_alive()
    assert uids(tmp_path) == ["run", "d", "1"]


@pytest.mark.logs_errors
def test_close_writes_what_waits_or_says_what_is_lost(begun, tmp_path):
    with full_disk(begun.log.path("run")):
        begun(*event(1))
        with pytest.raises(LogWriteError, match="1 documents could not be written"):
            begun.close()
    begun.close()
    with Publisher(NOBODY, tmp_path) as publisher:
        publisher.log.reopen("run")
        with full_disk(publisher.log.path("run")):
            publisher(*event(2))
    assert uids(tmp_path) == ["run", "d", "2"]
    with pytest.raises(LogError, match="closed"):
        publisher(*event(3))


@pytest.mark.logs_errors
def test_beyond_the_bound_the_plan_is_aborted(begun, tmp_path):
    begun.max_pending_bytes = 20_000
    with full_disk(begun.log.path("run")):
        begun(*event(1, size=1000))
        begun(*event(2, size=1000))
        with pytest.raises(LogWriteError, match="2 documents"):
            begun(*event(3, size=1000))
    begun.close()
    assert uids(tmp_path) == ["run", "d", "1", "2"]


@pytest.mark.logs_errors
def test_a_run_engine_pauses_and_resumes_without_a_loss(tmp_path):
    engine = RunEngine({}, context_managers=[])
    emitted = []
    paths = []
    stack = contextlib.ExitStack()

    @bpp.run_decorator()
    def plan():
        for point in range(6):
            yield from bps.checkpoint()
            if point == 3 and not paths:
                paths.extend(tmp_path.glob("*.doclog"))
                stack.enter_context(full_disk(paths[0]))
            yield from bps.trigger_and_read([det])
            yield from bps.sleep(0.05)

    with Publisher(NOBODY, tmp_path, run_engine=engine) as publisher:
        engine.subscribe(publisher)
        engine.subscribe(lambda name, document: emitted.append(document["uid"]))
        with pytest.raises(RunEngineInterrupted):
            engine(plan())
        assert engine.state == "paused"
        assert publisher.pending > 0
        stack.close()  # somebody frees space
        engine.resume()
        assert publisher.pending == 0
    with Follower(None, tmp_path) as follower:
        entries = follower.entries(10)
    assert [entry.document["uid"] for entry in entries] == emitted
    assert entries[-1].name == "stop"


@pytest.mark.logs_errors
def test_a_sync_that_fails_pauses_the_plan_too(tmp_path, monkeypatch):
    """On NFS a full disk shows there, and what was appended since the last sync is gone."""
    monkeypatch.setattr("p06bs.bus.log.SYNC_SECONDS", 0.01)
    sync, full, failures = os.fdatasync, threading.Event(), []

    def fdatasync(fd):
        if full.is_set():
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    engine = RunEngine({}, context_managers=[])
    emitted = []

    @bpp.run_decorator()
    def plan():
        yield from bps.checkpoint()
        yield from bps.trigger_and_read([det])
        full.set()
        yield from bps.trigger_and_read([det])
        yield from bps.sleep(60)  # ended by the pause, which needs no further document
        yield from bps.trigger_and_read([det])

    with Publisher(
        NOBODY, tmp_path, run_engine=engine, on_log_failure=failures.append
    ) as publisher:
        engine.subscribe(publisher)
        engine.subscribe(lambda name, document: emitted.append(document["uid"]))
        with pytest.raises(RunEngineInterrupted):
            engine(plan())
        assert {failure.errno for failure in failures} == {errno.EDQUOT}
        with pytest.raises(RunEngineInterrupted):  # as long as there is no room
            engine.resume()
        full.clear()
        with contextlib.suppress(RunEngineInterrupted):
            engine.abort()
        assert publisher.pending == 0
    with Follower(None, tmp_path) as follower:
        assert [entry.document["uid"] for entry in follower.entries(10)] == emitted


def test_documents_that_cannot_travel_are_refused_at_once(begun):
    with pytest.raises(TypeError, match=r"event\['data'\]\['x'\]"):
        begun("event", {"uid": "e", "descriptor": "d", "data": {"x": threading.Lock()}})
    assert begun.append(*event(1)) is not None


@pytest.mark.logs_errors
def test_a_document_that_is_refused_later_takes_no_other_along(begun, tmp_path, caplog):
    with full_disk(begun.log.path("run")):
        begun(*event(1))
        name, orphan = event(2)
        begun(name, orphan | {"descriptor": "of no run"})  # kept unseen
        begun._retrying.join(0.0)
    begun(*event(3))
    begun.close()
    assert uids(tmp_path) == ["run", "d", "1", "3"]
    assert "was refused" in caplog.text
