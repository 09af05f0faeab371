"""The lane's other end: what strangers and results that do not fit cost."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zmq

from p06bs import DocumentLog
from p06bs.bus.reader import LogError
from p06bs.model.documents import NamedDocument
from p06bs.pipeline import lane, pool
from p06bs.pipeline.pool import Pool
from p06bs.pipeline.run import RunPipeline
from tests.documents import raw_run, rows_of
from tests.techniques import Scale

RUN = "scale:raw"
PATIENCE = 60_000
"""Milliseconds for a message."""


def first_to_get(sockets: dict[str, "zmq.Socket[bytes]"]) -> str:
    """Return which of some sockets has a message; wait for one."""
    poller = zmq.Poller()
    for socket in sockets.values():
        poller.register(socket, zmq.POLLIN)
    ready = dict(poller.poll(PATIENCE))
    return next(name for name, socket in sockets.items() if socket in ready)


class Lane:
    """A pool with one run, and workers that are plain sockets."""

    def __init__(self, folder: Path) -> None:
        self.context = zmq.Context()
        self.documents = DocumentLog(folder)
        self.pool = Pool(self.context, self.documents, deadline=1.0)
        self.published: list[NamedDocument] = []
        self.sockets: list[zmq.Socket[bytes]] = []
        self.raw = raw_run({"x": np.arange(6.0)}, page=6)
        self.run = RunPipeline(
            Scale(inputs={"x": "x"}),
            self.raw[0][1],
            lambda name, document: self.published.append((name, document)),
            lambda derived: None,
            lambda: 0.0,
            size=6,
        )
        for name, document in self.raw:
            self.run.add(name, document, (0, 1))
        self.pool.load.add(RUN, self.run)

    def worker(self, name: str) -> "zmq.Socket[bytes]":
        socket = self.context.socket(zmq.DEALER)
        self.sockets.append(socket)
        socket.linger = 0
        socket.setsockopt(zmq.IDENTITY, name.encode())
        socket.connect(self.pool.address)
        self.say(socket, lane.JOIN, 1)
        return socket

    def say(self, socket: "zmq.Socket[bytes]", *message: Any) -> None:
        socket.send(lane.encode(*message))
        assert self.pool.socket.poll(PATIENCE)
        self.pool.receive()

    def batch(self, socket: "zmq.Socket[bytes]") -> list[Any]:
        self.pool.lease()
        assert socket.poll(PATIENCE)
        message = lane.decode(socket.recv())
        assert message[0] == lane.BATCH
        return message

    def result(
        self, socket: "zmq.Socket[bytes]", batch: list[Any], columns: dict[str, Any]
    ) -> None:
        _, key, number, attempt, *_ = batch
        self.say(socket, lane.COLUMNS, key, number, attempt, [], columns, 0.01, [])


@pytest.fixture
def lanes(tmp_path: Path) -> Iterator[Lane]:
    made = Lane(tmp_path)
    yield made
    for socket in made.sockets:
        socket.close()
    made.pool.close()
    made.documents.close()
    made.context.term()


def good() -> dict[str, Any]:
    return {"y": np.arange(6.0) * 2, "n": np.arange(6)}


@pytest.mark.parametrize(
    "columns",
    [
        {"y": np.zeros(5), "n": np.zeros(5, int)},
        {"z": np.zeros(6), "n": np.zeros(6, int)},
        {"y": np.zeros((6, 2)), "n": np.zeros(6, int)},
        {"y": np.array(["a"] * 6), "n": np.zeros(6, int)},
    ],
)
def test_a_result_that_does_not_fit_is_computed_again(lanes, columns):
    socket = lanes.worker("w")
    lanes.result(socket, lanes.batch(socket), columns)
    assert rows_of(lanes.published) == []
    lanes.result(socket, lanes.batch(socket), good())
    assert [r[1] for r in rows_of(lanes.published)] == [1, 2, 3, 4, 5, 6]
    assert lanes.published[-1][0] == "stop"
    assert lanes.pool.leases.leased == 0


def test_a_second_result_of_a_batch_changes_nothing(lanes):
    socket = lanes.worker("w")
    batch = lanes.batch(socket)
    lanes.result(socket, batch, good())
    before = list(lanes.published)
    lanes.result(socket, batch, {**good(), "y": np.zeros(6)})
    assert lanes.published == before


def test_a_stranger_cannot_end_a_run(lanes):
    socket = lanes.worker("w")
    _, key, number, attempt, *_ = lanes.batch(socket)
    stranger = lanes.worker("stranger")
    lanes.say(stranger, lane.REFUSED, key, number, attempt, "no")
    assert not lanes.run.over
    lanes.say(socket, lane.COLUMNS, key, number, attempt, [], good(), 0.01, [])
    assert lanes.published[-1][1]["exit_status"] == "success"


@pytest.mark.logs_errors
def test_a_modality_that_nobody_gets_ready_ends_with_the_reason(lanes):
    sockets = {name: lanes.worker(name) for name in ("a", "b")}
    for left in (True, False):
        lanes.pool.lease()
        name = first_to_get(sockets)
        _, key, number, attempt, *_ = lanes.batch(sockets[name])
        assert not lanes.run.over
        lanes.say(sockets.pop(name), lane.REFUSED, key, number, attempt, "no licence")
        assert lanes.run.over != left
    assert lanes.published[-1][1]["exit_status"] == "fail"
    assert "no licence" in lanes.published[-1][1]["reason"]


def test_a_worker_that_cannot_get_ready_is_not_asked_again(lanes):
    sick = lanes.worker("sick")
    _, key, number, attempt, *_ = lanes.batch(sick)
    healthy = lanes.worker("healthy")
    lanes.say(sick, lane.REFUSED, key, number, attempt, "no licence")
    batch = lanes.batch(healthy)
    assert not sick.poll(100)
    lanes.result(healthy, batch, good())
    assert lanes.published[-1][1]["exit_status"] == "success"


@pytest.mark.logs_errors
def test_a_batch_over_which_workers_fall_silent_is_to_blame(lanes, monkeypatch):
    replaced: list[str] = []
    lanes.pool.restart = replaced.append
    clock = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for number in range(100):
        if lanes.run.over:
            break
        lanes.worker(f"w{number}")
        lanes.pool.lease()
        clock[0] += 30.0
        lanes.pool.expire()
    # Each event was computed by workers that never spoke again: all are invalid, none is lost.
    rows = rows_of(lanes.published, "valid", "invalid_reason")
    assert [(r[1], r[3]) for r in rows] == [(seq, False) for seq in range(1, 7)]
    assert all("fell silent" in r[4] for r in rows)
    assert len(replaced) >= 6


def test_a_batch_that_cannot_be_sent_is_not_to_blame(lanes):
    for number in range(10):  # a batch that costs so many workers would be halved
        lanes.pool.leases.join(f"w{number}", 1, time.monotonic())  # its connection is gone already
        lanes.pool.lease()
        assert not lanes.pool.leases.workers
    rows = lane.decode_rows(lanes.batch(lanes.worker("last"))[4])
    assert len(rows) == 6


@pytest.mark.logs_errors
def test_an_error_of_one_run_ends_only_that_run(lanes):
    def full(name: str, document: Any) -> None:
        raise LogError("the disk is full")

    socket = lanes.worker("w")
    _, key, number, attempt, *_ = lanes.batch(socket)
    lanes.run.emit = full
    lanes.say(socket, lane.REFUSED, key, number, attempt, "no licence")
    assert lanes.run.over


def test_a_worker_forgets_a_run_that_is_over(lanes):
    socket = lanes.worker("w")
    lanes.result(socket, lanes.batch(socket), good())
    lanes.pool.remove(RUN)
    assert socket.poll(PATIENCE)
    assert lane.decode(socket.recv()) == [lane.FORGET, RUN]


@pytest.mark.logs_errors
def test_a_worker_that_hangs_is_replaced_and_its_batch_goes_to_another(lanes):
    restarted: list[str] = []
    lanes.pool.restart = restarted.append
    hanging = lanes.worker("hanging")
    lanes.batch(hanging)
    lanes.say(hanging, lane.ALIVE, "hanging", lanes.pool.hang_after + 1, True)
    assert restarted == []  # it prepares
    lanes.say(hanging, lane.ALIVE, "hanging", lanes.pool.hang_after + 1, False)
    assert restarted == ["hanging"]
    other = lanes.worker("other")
    lanes.result(other, lanes.batch(other), good())
    assert len(rows_of(lanes.published)) == 6


def test_who_spoke_while_nobody_listened_was_not_silent(lanes, monkeypatch):
    socket = lanes.worker("w")
    lanes.batch(socket)
    socket.send(lane.encode(lane.ALIVE, "w", 0.0, False))
    assert lanes.pool.socket.poll(PATIENCE)
    later = time.monotonic() + 100 * lanes.pool.leases.silence
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: later))
    lanes.pool.expire()
    assert lanes.pool.leases.workers == ("w",)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x80\x04K\x01.", lane.encode("join"), lane.encode(7)]
)
def test_what_is_no_message_is_dropped(lanes, data):
    stranger = lanes.worker("stranger")
    stranger.send(data)
    assert lanes.pool.socket.poll(PATIENCE)
    lanes.pool.receive()
    socket = lanes.worker("w")
    lanes.pool.leases.drain("stranger")
    lanes.result(socket, lanes.batch(socket), good())
    assert len(rows_of(lanes.published)) == 6


@pytest.mark.logs_errors
def test_a_prepare_that_kills_its_workers_ends_the_derived_run(lanes):
    for name in ("a", "b", "c"):
        lanes.batch(lanes.worker(name))
        assert not lanes.run.over
        lanes.pool.gone(name)  # what the engine says of a worker that has left
    assert lanes.published[-1][1]["exit_status"] == "fail"
    assert "died while it made the modality ready" in lanes.published[-1][1]["reason"]


def test_live_batches_go_before_what_is_computed_again(lanes):
    again = RunPipeline(
        Scale(inputs={"x": "x"}, factor=3.0),
        lanes.raw[0][1],
        lambda name, document: None,
        lambda derived: None,
        lambda: 0.0,
        reprocessing=1,
    )
    for name, document in lanes.raw:
        again.add(name, document, (0, 1))
    lanes.pool.load.add(f"{RUN}#1", again)
    first = lanes.batch(lanes.worker("one"))
    assert first[1] == f"{RUN}/0"
    second = lanes.batch(lanes.worker("another"))
    assert second[1] == f"{RUN}#1/0"
