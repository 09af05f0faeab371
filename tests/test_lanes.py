"""The lane, over real sockets: workers that come and go, hang, see no log, or talk rubbish."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from p06bs import DocumentLog, process
from p06bs.bus import codec
from p06bs.bus.codec import Packed
from p06bs.bus.framing import frame_of
from p06bs.model.compute import compute
from p06bs.model.documents import NamedDocument
from p06bs.model.gather import gather
from p06bs.pipeline import lane, pool, worker
from p06bs.pipeline.pool import Pool
from p06bs.pipeline.run import RunPipeline
from tests.documents import raw_run, rows_of, validate
from tests.techniques import Deadly, Scale

PATIENCE = 30.0
KEYS = ("raw_uid", "valid", "invalid_reason")


class Lane:
    """A pool with one run, fed from a log; a thread may call only `until`."""

    def __init__(self, folder: Path, modality: Any, raw: list[NamedDocument], size: int) -> None:
        self.raw = raw
        self.derived: list[NamedDocument] = []
        self.context: zmq.Context[Any] = zmq.Context()
        self.documents = DocumentLog(folder)
        self.pool = Pool(self.context, self.documents, 1.0)
        self.run = RunPipeline(modality, raw[0][1], self.emit, lambda _: None, time.time, size=size)
        self.pool.load.add("one", self.run)
        for name, document in raw:
            at = self.documents.append(name, document)
            self.run.add(name, document, (at.offset, at.nbytes))

    def emit(self, name: str, document: Any) -> None:
        plain = document.unpack() if isinstance(document, Packed) else document
        self.derived.append((name, plain))

    def until(self, there: Callable[[], bool]) -> None:
        """Serve until something is the case."""
        end = time.monotonic() + PATIENCE
        while not there():
            assert time.monotonic() < end, "it did not come to pass"
            self.pool.socket.poll(20)
            self.pool.receive()
            self.pool.expire()
            self.pool.lease()

    def finish(self) -> None:
        """Serve until the derived run is over, and compare it with the reference."""
        self.until(lambda: self.run.over)
        validate(self.derived)
        reference = process(self.run.modality, self.raw, batch_size=16)
        assert rows_of(self.derived, *KEYS) == rows_of(reference, *KEYS)
        ours, theirs = ([r[3] for r in rows_of(d, "y")] for d in (self.derived, reference))
        assert np.array_equal(ours, theirs, equal_nan=True)
        assert self.derived[-1][1]["num_events"] == reference[-1][1]["num_events"]
        assert self.pool.leases.leased == 0


@contextmanager
def serving(
    folder: Path,
    modality: Any,
    count: int = 60,
    size: int = 4,
    raw: list[NamedDocument] | None = None,
) -> Iterator[Lane]:
    raw = raw or raw_run({"x": np.arange(float(count))}, page=10)
    made = Lane(folder / "log", modality, raw, size)
    try:
        yield made
    finally:
        made.pool.close()
        made.documents.close()
        made.context.term()


@contextmanager
def loop(address: str, name: str, epoch: str) -> Iterator[list[str]]:
    """Run a worker's loop in a thread; yield a list that gets the reason why it ended."""
    ended: list[str] = []
    thread = threading.Thread(target=lambda: ended.append(worker.work(address, name, epoch)))
    thread.start()
    yield ended
    thread.join(PATIENCE)
    assert not thread.is_alive()


@contextmanager
def peer(address: str, name: str) -> Iterator[Any]:
    """Yield a socket that speaks the lane's protocol by hand."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.setsockopt(zmq.IDENTITY, name.encode())
        socket.connect(address)
        yield socket


def scale(**changed: Any) -> Scale:
    return Scale(inputs={"x": "x"}, **changed)


def test_workers_share_a_run_and_end_when_they_are_told(tmp_path):
    with serving(tmp_path, scale(bad=[7.0])) as served:
        address, epoch = served.pool.address, served.pool.epoch
        with loop(address, "a", epoch) as one, loop(address, "b", epoch) as other:
            served.until(lambda: len(served.pool.leases.workers) == 2)
            served.finish()
            served.pool.stop_workers(PATIENCE)
        assert served.pool.leases.workers == ()
        assert one == other == ["the pipeline stopped it"]


def test_a_worker_that_is_drained_while_it_computes_delivers_first(tmp_path):
    with serving(tmp_path, Deadly(inputs={"x": "x"}, seconds=0.05), count=8) as served:
        with loop(served.pool.address, "a", served.pool.epoch) as ended:
            served.until(lambda: served.pool.leases.leased == 2)  # all there is
            served.pool.stop_workers(PATIENCE)
        assert ended == ["the pipeline stopped it"]
        served.finish()


def test_a_device_that_is_configured_anew_is_warned_of_once(tmp_path, caplog):
    start, described, *pages, stop = raw_run({"x": np.arange(20.0)}, page=10)
    data = {"x-gain": 2.0}
    configuration = {"x": {"data": data, "timestamps": data, "data_keys": {}}}
    again = {**described[1], "uid": "again", "configuration": configuration}
    raw = [start, described, pages[0], ("descriptor", again)]
    raw += [("event_page", {**pages[1][1], "descriptor": "again"}), stop]
    with serving(tmp_path, scale(), raw=raw) as served:
        with loop(served.pool.address, "a", served.pool.epoch):
            served.finish()
            served.pool.stop_workers(PATIENCE)
        assert served.derived[-1][1]["reconfigured_inputs"] == ["x"]
    assert caplog.text.count("configured anew") == 1


WORK = "import sys; from p06bs.pipeline.worker import work; print(work(*sys.argv[1:]))"


@contextmanager
def child(address: str, name: str, epoch: str) -> Iterator[subprocess.Popen[str]]:
    """Run a worker's loop in a process."""
    with subprocess.Popen(
        [sys.executable, "-c", WORK, address, name, epoch],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    ) as process_:
        yield process_
        process_.kill()


def test_a_worker_that_hangs_loses_its_batches_and_joins_anew(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pool, "SILENCE", 0.7)
    with serving(tmp_path, Deadly(inputs={"x": "x"}, seconds=0.02)) as served:
        address, epoch = served.pool.address, served.pool.epoch
        leases = served.pool.leases
        with child(address, "hangs", epoch) as hangs:
            served.until(lambda: leases.leased == 2)
            hangs.send_signal(signal.SIGSTOP)
            with loop(address, "other", epoch):
                served.until(lambda: "hangs" not in leases.workers and len(leases.workers) == 1)
                hangs.send_signal(signal.SIGCONT)
                served.until(lambda: "hangs" in leases.workers)
                served.finish()
                served.pool.stop_workers(PATIENCE)
            assert hangs.stdout is not None
            assert hangs.stdout.read().strip() == "the pipeline stopped it"
    assert re.search(r"worker hangs is silent; [12] batches go to others", caplog.text)


def test_a_worker_that_is_drained_in_its_sleep_joins_anew_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "SILENCE", 0.7)
    with serving(tmp_path, Deadly(inputs={"x": "x"}, seconds=0.02)) as served:
        address, epoch = served.pool.address, served.pool.epoch
        leases = served.pool.leases
        with child(address, "sleeps", epoch) as sleeps:
            served.until(lambda: leases.leased == 2)
            sleeps.send_signal(signal.SIGSTOP)
            served.pool.drain("sleeps")  # while it holds leases
            with loop(address, "other", epoch):
                served.until(lambda: leases.workers == ("other",))
                sleeps.send_signal(signal.SIGCONT)
                served.until(lambda: sleeps.poll() is not None)
                assert sleeps.stdout is not None
                assert sleeps.stdout.read().strip() == "the pipeline stopped it"
                served.finish()
                served.pool.stop_workers(PATIENCE)


def test_a_killed_worker_costs_nothing(tmp_path):
    with serving(tmp_path, Deadly(inputs={"x": "x"}, seconds=0.02)) as served:
        address, epoch = served.pool.address, served.pool.epoch
        with child(address, "dies", epoch) as dies:
            served.until(lambda: served.pool.leases.leased == 2)
            dies.kill()
            dies.wait()
            served.pool.gone("dies")  # what the engine says when a Dask worker has left
            with loop(address, "other", epoch):
                served.finish()
                served.pool.stop_workers(PATIENCE)


def test_a_loop_ends_when_its_pipeline_is_another_or_silent(tmp_path, monkeypatch):
    with serving(tmp_path, scale()) as served:
        with loop(served.pool.address, "a", "earlier") as ended:
            served.until(lambda: bool(ended))
        assert ended == ["the pipeline has another epoch"]
    monkeypatch.setattr(worker, "SILENCE", 0.5)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as silent:
        port = silent.bind_to_random_port("tcp://127.0.0.1")
        with loop(f"tcp://127.0.0.1:{port}", "a", "x") as ended:
            pass
        silent.linger = 0
    assert ended == ["the pipeline was silent for 0.5 s"]


def answer(socket: Any, message: list[Any]) -> None:
    """Compute a batch that carries its columns, as a worker does."""
    _, key, number, attempt, said, resources, _, record, carried = message
    rows = lane.decode_rows(said)
    setup = lane.make_setup(record)

    def read(where: tuple[int, int]) -> Any:
        return frame_of(carried[str(where[0])]).document

    columns, reasons = gather(
        setup.binding, len(rows), rows.spans, resources, read, lambda *_: None
    )
    result = lane.encode_result(compute(setup, columns, reasons))
    again = lane.encode(lane.COLUMNS, key, number, attempt, *result, 0.01, [])
    socket.send(again)
    socket.send(again)  # as after a lease that ended too early


def test_a_worker_that_does_not_see_the_log_gets_the_columns(tmp_path, caplog):
    with serving(tmp_path, scale(bad=[7.0])) as served, peer(served.pool.address, "far") as far:
        far.send(lane.encode(lane.JOIN, 1))
        record = None
        while not served.run.over:
            served.until(lambda: far.poll(0) or served.run.over)
            if served.run.over:
                break
            message = lane.decode(far.recv())
            record = message[7] or record
            if message[8] is None:
                _, key, number, attempt, *_ = message
                far.send(lane.encode(lane.UNREAD, key, number, attempt, "No such file"))
            else:
                answer(far, [*message[:7], record, message[8]])
        served.finish()
    assert caplog.text.count("cannot read the log (No such file); it gets columns") == 1


def test_a_loop_says_what_it_lacks_and_takes_columns(tmp_path):
    with serving(tmp_path, scale(), count=4) as served:
        with peer(served.pool.address, "spy") as spy:  # to see what a batch looks like
            spy.send(lane.encode(lane.JOIN, 1))
            served.until(lambda: spy.poll(0))
            batch = lane.decode(spy.recv())
        served.pool.gone("spy")
        file = served.documents.path(served.raw[0][1]["uid"])
        frames = {
            str(where[0]): file.read_bytes()[where[0] : where[0] + where[1]]
            for spans in lane.decode_rows(batch[4]).spans.values()
            for where in (span.where for span in spans)
        }
        record = {**batch[7], "log": str(tmp_path / "nowhere")}
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")

        def heard(kind: str) -> Any:
            while True:
                assert router.poll(PATIENCE * 1000)
                identity, data, *more = router.recv_multipart()
                message = lane.decode(data)
                if message[0] == lane.ALIVE:
                    router.send_multipart([identity, lane.encode(lane.BEAT, "e", True)])
                elif message[0] == kind:
                    return [*message, *more]

        def send(*message: Any) -> None:
            router.send_multipart([b"a", lane.encode(*message)])

        with loop(f"tcp://127.0.0.1:{port}", "a", "e") as ended:
            heard(lane.JOIN)
            send(*batch[:7], None, None)
            assert heard(lane.NEED)[1:] == batch[1:4]
            send(*batch[:7], {**record, "modality": "tests.techniques:Nothing"}, None)
            assert "cannot import modality" in heard(lane.REFUSED)[4]
            send(*batch[:7], record, None)
            assert heard(lane.READY)[1:] == batch[1:4]
            send(*batch[:7], None, None)
            assert "No such file" in heard(lane.UNREAD)[4]
            send(*batch[:7], None, frames)
            *_, count, invalid, _, _, body = heard(lane.PAGE)
            assert (count, invalid) == (4, 0)
            page = codec.unpack(body)
            assert page["data"]["y"].tolist() == [0, 2, 4, 6]
            assert page["seq_num"] == [1, 2, 3, 4]
            send(lane.STOP)
            heard(lane.BYE)
        assert ended == ["the pipeline stopped it"]
        router.linger = 0


RUBBISH = [
    [b"\x80\x04K\x01."],  # a pickle
    [os.urandom(64)],
    [b"a", b"b"],
    [lane.encode("nonsense", 1)],
    [lane.encode(lane.JOIN, "many")],
    [lane.encode(lane.JOIN, None)],
    [lane.encode(lane.COLUMNS, 1, 2, 3, 4, 5, 6, 7)],
    [lane.encode(lane.COLUMNS, "one/0", 10**6, 1, [], {}, 0.1, [])],
    [lane.encode(lane.COLUMNS, "one/0", [1], {}, "", 7, 8, 9)],
    [lane.encode(lane.PAGE, "one/0", 0, 1, 4, 0, 0.1, [])],
    [lane.encode(lane.PAGE, "one/0", 0, 1, 3, 0, 0.1, []), b"\x80"],
    [lane.encode(lane.PAGE, "one/0", 0, 1, "4", None, 0.1, []), b"\x80"],
    [lane.encode(lane.NEED, "other/0", 0, 0)],
    [lane.encode(lane.BYE)],
    [lane.encode(lane.BATCH, *range(8))],
]


def test_rubbish_changes_nothing_and_is_logged_once_per_kind(tmp_path, caplog):
    with serving(tmp_path, scale()) as served, peer(served.pool.address, "bad") as bad:
        for _ in range(20):
            for parts in RUBBISH:
                bad.send_multipart(parts)
        with loop(served.pool.address, "good", served.pool.epoch):
            served.finish()
            served.pool.stop_workers(PATIENCE)
    said = [r for r in caplog.records if "message on the lane is dropped" in r.getMessage()]
    assert 1 <= len(said) <= 5


def test_a_damaged_page_makes_its_events_invalid_and_the_run_ends(tmp_path, caplog):
    raw = raw_run({"x": np.arange(30.0), "image": np.zeros((30, 80, 80))}, page=10)
    made = Lane(tmp_path / "log", scale(), raw, 10)
    try:
        file = made.documents.path(raw[0][1]["uid"])
        second = [e for e in made.documents.entries(file.stem) if e.name == "event_page"][1]
        with file.open("r+b") as damaged:
            damaged.seek(second.offset + second.nbytes - 1000)
            damaged.write(b"\xff")
        with loop(made.pool.address, "a", made.pool.epoch):
            made.until(lambda: made.run.over)
            made.pool.stop_workers(PATIENCE)
    finally:
        made.pool.close()
        made.documents.close()
        made.context.term()
    valid = [r[3] for r in rows_of(made.derived, "valid")]
    assert valid == [True] * 10 + [False] * 10 + [True] * 10
    assert made.derived[-1][1]["num_events"] == {"primary": 30}
