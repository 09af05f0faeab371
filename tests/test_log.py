"""The document log: what was appended is there, whatever happens to the writer."""

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import uuid
from dataclasses import replace
from pathlib import Path

import event_model
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs.bus import unsynced
from p06bs.bus.codec import Packed, pack_document
from p06bs.bus.framing import HEADER, LogCorruptError, LogError, frame_header, read_frame
from p06bs.bus.locks import is_locked
from p06bs.bus.log import DocumentLog
from p06bs.bus.reader import RunReader, read_log
from p06bs.bus.run_log import LogLockedError, RunLog
from p06bs.model.documents import LoggedArray
from tests.documents import raw_run


def run_documents(events=3, run=None):
    """Yield the documents of a small run."""
    run = run or str(uuid.uuid4())
    descriptor = str(uuid.uuid4())
    yield "start", {"uid": run, "time": 0.0}
    yield "descriptor", {"uid": descriptor, "run_start": run, "name": "primary"}
    for n in range(1, events + 1):
        event = {"uid": str(uuid.uuid4()), "descriptor": descriptor, "seq_num": n}
        yield "event", event | {"data": {"spectrum": np.arange(n)}}
    yield "stop", {"uid": str(uuid.uuid4()), "run_start": run, "exit_status": "success"}


def filled(log, events=3, stop=True):
    """Write a run; return its uid."""
    documents = list(run_documents(events))
    for name, document in documents if stop else documents[:-1]:
        log.append(name, document)
    return documents[0][1]["uid"]


def test_what_was_appended_is_read_back_in_order(tmp_path):
    documents = list(run_documents(5))
    with DocumentLog(tmp_path / "new" / "logs") as log:
        places = [log.append(name, document) for name, document in documents]
        run = documents[0][1]["uid"]
        entries = list(log.entries(run))
        assert [e.name for e in entries] == [name for name, _ in documents]
        assert [e.index for e in entries] == list(range(len(documents)))
        assert {e.epoch for e in entries} == {1}
        assert [(e.offset, e.nbytes) for e in entries] == [(p.offset, p.nbytes) for p in places]
        assert entries[6].document["data"]["spectrum"].tolist() == [0, 1, 2, 3, 4]
        assert [d["uid"] for _, d in log.read(run)] == [d["uid"] for _, d in documents]
    place = places[4]
    assert read_frame(log.path(run), place.offset, place.nbytes).document["seq_num"] == 3


def test_runs_interleave_and_are_listed_oldest_first(tmp_path):
    first, second = list(run_documents(4)), list(run_documents(4))
    with DocumentLog(tmp_path) as log:
        for pair in zip(first, second, strict=True):
            for name, document in pair:
                log.append(name, document)
        (tmp_path / "notes.txt").write_text("not a log")
        (tmp_path / "a b.doclog").write_text("not a log's name")
        for age, documents in ((20, first), (10, second)):
            os.utime(log.path(documents[0][1]["uid"]), (1000 - age, 1000 - age))
        assert log.runs() == [first[0][1]["uid"], second[0][1]["uid"]]
        for documents in (first, second):
            uids = [document["uid"] for _, document in log.read(documents[0][1]["uid"])]
            assert uids == [document["uid"] for _, document in documents]


def test_every_document_type_finds_its_run(tmp_path):
    with DocumentLog(tmp_path) as log:
        other = filled(log, stop=False)
        run = filled(log, stop=False)
        descriptor = next(d["uid"] for n, d in log.read(run) if n == "descriptor")
        tail = [
            ("stream_resource", {"uid": "sr", "run_start": run}),
            ("stream_datum", {"uid": "sr/0", "stream_resource": "sr", "descriptor": descriptor}),
            ("resource", {"uid": "r", "run_start": run}),
            ("datum", {"datum_id": "r/0", "resource": "r"}),
            ("datum_page", {"datum_id": ["r/1"], "resource": "r"}),
            ("event_page", {"uid": ["x"], "descriptor": descriptor, "seq_num": [4]}),
            ("stop", {"uid": "stop", "run_start": run}),
        ]
        for name, document in tail:
            log.append(name, document)
        assert [name for name, _ in log.read(run)][-len(tail) :] == [name for name, _ in tail]
        assert len(list(log.read(other))) == 5


@pytest.mark.parametrize("uid", ["../escape", "a/b", "", ".", "a" * 129, "a\n", "ä", "x\0y"])
def test_a_uid_that_might_leave_the_directory_is_refused(tmp_path, uid):
    with DocumentLog(tmp_path / "logs") as log, pytest.raises(LogError, match="cannot name a log"):
        log.append("start", {"uid": uid})
    assert list(tmp_path.rglob("*")) == [tmp_path / "logs"]


def test_documents_without_a_run_are_refused(tmp_path):
    with DocumentLog(tmp_path) as log:
        with pytest.raises(LogError, match="refers to descriptor nowhere"):
            log.append("event", {"uid": "e", "descriptor": "nowhere"})
        with pytest.raises(LogError, match="has no log"):
            log.append("stop", {"uid": "s", "run_start": "never-started"})
        run = filled(log)
        with pytest.raises(LogError, match="stop document"):
            log.append("descriptor", {"uid": "late", "run_start": run})
        with pytest.raises(LogError, match="has a log already"):
            log.append("start", {"uid": run})


@pytest.mark.parametrize("uid", [None, 5, ["a"]])
def test_documents_that_nothing_can_refer_to_are_logged_all_the_same(tmp_path, uid):
    start, descriptor, *rest = run_documents()
    odd = {**descriptor[1], "uid": uid}
    with DocumentLog(tmp_path) as log:
        for name, document in (start, ("descriptor", odd), descriptor):
            log.append(name, document)
    with DocumentLog(tmp_path) as log:
        log.reopen(start[1]["uid"])
        for name, document in rest:
            log.append(name, document)
        names = [name for name, _ in log.read(start[1]["uid"])]
    assert names == ["start", "descriptor", "descriptor", *(name for name, _ in rest)]


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    with DocumentLog(tmp_path) as log:
        run = filled(log, stop=False)
        with pytest.raises(LogLockedError, match=f"process {os.getpid()}"):
            RunLog(log.path(run))
        assert is_locked(log.path(run))
    RunLog(log.path(run)).close()
    assert not is_locked(log.path(run))
    assert not is_locked(tmp_path / "absent")
    (odd := tmp_path / "odd").symlink_to(odd)
    assert is_locked(odd)  # which it may be: it cannot be looked at


def test_a_restarted_writer_goes_on_in_the_next_epoch(tmp_path):
    documents = list(run_documents(4))
    run = documents[0][1]["uid"]
    with DocumentLog(tmp_path) as log:
        for name, document in documents[:4]:
            log.append(name, document)
    with DocumentLog(tmp_path) as log:
        log.reopen(run)
        log.append(*documents[4])  # an event: its descriptor is known from the log
        assert [e.epoch for e in log.entries(run)] == [1, 1, 1, 1, 2]
    with DocumentLog(tmp_path) as log:
        log.append(*documents[-1])  # names its run, so the log is reopened by itself
        assert [e.epoch for e in log.entries(run)] == [1, 1, 1, 1, 2, 3]
        assert [e.index for e in log.entries(run)] == list(range(6))
        with pytest.raises(LogError, match="stop document"):
            log.reopen(run)


def test_a_torn_tail_is_not_yet_there_and_the_next_writer_cuts_it(tmp_path, caplog):
    with DocumentLog(tmp_path) as log:
        run = filled(log, stop=False)
    path = log.path(run)
    whole = path.read_bytes()
    *kept, last = read_log(path)
    for cut in range(last.offset, len(whole)):
        path.write_bytes(whole[:cut])
        reader = RunReader(path)
        assert [e.index for e in reader.read()] == [e.index for e in kept]
        with_rest = RunLog(path)
        assert with_rest.index == last.index
        assert path.stat().st_size == last.offset
        place = with_rest.append("event", last.document)
        with_rest.close()
        (again,) = reader.read()
        assert (again.index, again.epoch, again.offset) == (last.index, 2, place.offset)
    assert "cut off" in caplog.text


@pytest.mark.parametrize("garbage", [b"\0" * 5000, b"p6d2" * 100, os.urandom(3000)])
def test_garbage_behind_the_last_frame_is_a_torn_tail(tmp_path, garbage):
    with DocumentLog(tmp_path) as log:
        run = filled(log, stop=False)
    path = log.path(run)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(garbage)
    assert len(list(read_log(path))) == 5
    RunLog(path).close()
    assert path.stat().st_size == size


@pytest.mark.parametrize("where", [0, 4, 8, 16, 20, 24, 28, 32, HEADER.size, HEADER.size + 20])
def test_damage_in_the_middle_is_an_error_that_names_the_place(tmp_path, where):
    with DocumentLog(tmp_path) as log:
        run = filled(log)
    path = log.path(run)
    victim = list(read_log(path))[3]
    data = bytearray(path.read_bytes())
    data[victim.offset + where] ^= 0x40
    path.write_bytes(data)
    reader = RunReader(path)
    assert [e.index for e in reader.read()] == [0, 1, 2]
    with pytest.raises(LogCorruptError, match=f"{path.name}, offset {victim.offset}"):
        reader.read()
    with pytest.raises(LogCorruptError):
        RunLog(path)
    with pytest.raises(LogCorruptError):
        read_frame(path, victim.offset, victim.nbytes)
    patient = RunReader(path, patience=60)
    assert len(patient.read()) == 3
    assert patient.read() == []
    data[victim.offset + where] ^= 0x40  # the block becomes visible after all
    path.write_bytes(data)
    assert [e.index for e in patient.read()] == [3, 4, 5]


def test_a_log_that_shrinks_below_what_was_read_is_an_error(tmp_path):
    with DocumentLog(tmp_path) as log:
        run = filled(log, stop=False)
    reader = log.reader(run)
    reader.read()
    os.truncate(log.path(run), 100)
    with pytest.raises(LogCorruptError, match="shorter"):
        reader.read()


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A log of small and large frames, equally long ones among them."""
    directory = tmp_path_factory.mktemp("shown")
    documents = list(run_documents(12))
    for number, (_, document) in enumerate(documents[2:-1]):
        size = 6000 if number % 4 == 3 else 3
        document["data"] = {"spectrum": np.arange(number, number + size)}
    with DocumentLog(directory) as log:
        for document in documents:
            log.append(*document)
        return log.path(documents[0][1]["uid"])


STEPS = st.one_of(
    st.tuples(st.just("show"), st.floats(0, 1)),
    st.tuples(st.just("hear"), st.integers(1, 6)),
    st.tuples(st.just("read"), st.none() | st.integers(1, 3000)),
)


@given(steps=st.lists(STEPS, max_size=12), arrays=st.booleans())
def test_messages_may_be_ahead_of_what_can_be_seen_of_the_file(shown, steps, arrays):
    """As on NFS, where what another host wrote is visible seconds later."""
    data, entries = shown.read_bytes(), list(read_log(shown))
    path = shown.with_name("copy") / shown.name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(seen := b"")
    reader = RunReader(path, arrays=arrays)
    places = []
    for what, number in [*steps, ("show", 1.0), ("read", None), ("read", None)]:
        if what == "show":
            seen = data[: max(len(seen), int(number * len(data)))]
            path.write_bytes(seen)
        elif what == "read":
            places += [(e.index, e.offset, e.nbytes) for e in reader.read(number)]
        elif reader.sequence.epoch:  # as the follower takes messages
            for entry in entries[reader.sequence.index :][:number]:
                reader.advance(replace(entry, offset=reader.offset))
                places.append((entry.index, entry.offset, entry.nbytes))
                assert reader.offset == entry.offset + entry.nbytes
    assert places == [(e.index, e.offset, e.nbytes) for e in entries]


def test_a_frame_of_another_run_or_with_a_gap_is_refused(tmp_path):
    with DocumentLog(tmp_path) as log:
        run, other = filled(log), filled(log)
    alien = tmp_path / "alien.doclog"
    alien.write_bytes(log.path(run).read_bytes())
    with pytest.raises(LogCorruptError, match="of run alien"):
        RunReader(alien).read()
    first, *_, last = read_log(log.path(other))
    data = log.path(other).read_bytes()
    log.path(other).write_bytes(data[: first.nbytes] + data[last.offset :] + data)
    reader = log.reader(other)
    assert len(reader.read()) == 1
    with pytest.raises(LogCorruptError, match="cannot follow"):
        reader.read()


def test_frames_larger_than_a_block_and_bounded_reading(tmp_path):
    with DocumentLog(tmp_path) as log:
        run = filled(log, events=1, stop=False)
        descriptor = next(d["uid"] for n, d in log.read(run) if n == "descriptor")
        for n in range(4):
            page = {"uid": ["x"], "descriptor": descriptor, "data": {"i": np.full(400_000, n)}}
            log.append("event_page", page)
        reader = log.reader(run)
        batches = []
        while entries := reader.read(max_bytes=1):
            batches.append(len(entries))
        assert sum(batches) == 7
        assert max(batches) == 3  # start, descriptor, event; then a page at a time
        pages = [d["data"]["i"][-1] for n, d in log.read(run) if n == "event_page"]
        assert pages == [0, 1, 2, 3]


def test_a_reader_reads_while_a_writer_writes(tmp_path):
    with DocumentLog(tmp_path) as log:
        documents = list(run_documents(3000))
        reader = log.reader(documents[0][1]["uid"])
        writer = threading.Thread(target=lambda: [log.append(n, d) for n, d in documents])
        writer.start()
        indices = []
        while not reader.complete:
            indices += [entry.index for entry in reader.read()]
        writer.join()
    assert indices == list(range(len(documents)))


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with DocumentLog(tmp_path) as log:
        documents = list(run_documents(3))
        run = documents[0][1]["uid"]
        for name, document in documents[:4]:
            log.append(name, document)
        size = log.path(run).stat().st_size
        for room in (0, 10, HEADER.size, 100):  # nothing, and parts of the frame, can be written
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
            try:
                with pytest.raises(OSError, match="too large"):
                    log.append(*documents[4])
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert log.path(run).stat().st_size == size
        for name, document in documents[4:]:
            log.append(name, document)
        assert [e.index for e in log.entries(run)] == list(range(len(documents)))


@pytest.fixture
def no_sync(monkeypatch):
    """Return a context in which a sync finds no room, and the kernel forgets what it had."""
    monkeypatch.setattr("p06bs.bus.log.SYNC_SECONDS", 1000.0)
    sync = os.fdatasync

    @contextlib.contextmanager
    def failing(path, at=None):
        def fail(fd):
            if at is not None:
                os.truncate(path, at)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fdatasync", fail)
        try:
            yield
        finally:
            monkeypatch.setattr(os, "fdatasync", sync)

    return failing


@pytest.mark.logs_errors
@pytest.mark.parametrize("how", ["kept", "read back", "lost"])
def test_what_could_not_be_synced_is_written_again_before_anything_else(
    tmp_path, no_sync, monkeypatch, how, caplog
):
    documents = list(run_documents(6))
    path = tmp_path / f"{documents[0][1]['uid']}.doclog"
    with contextlib.closing(RunLog(path)) as log:
        for document in documents[:3]:
            log.append(*document)
        assert log.sync() is None
        size = path.stat().st_size
        if how != "kept":
            monkeypatch.setattr(unsynced, "KEPT_BYTES", 0)
        for document in documents[3:5]:
            log.append(*document)
        with no_sync(path, at=None if how == "read back" else size):
            assert log.sync().errno == errno.ENOSPC
            for _ in range(2):
                with pytest.raises(OSError, match="lost" if how == "lost" else "No space left"):
                    log.append(*documents[5])
        if how == "lost":
            with pytest.raises(OSError, match=f"from offset {size} on is lost"):
                log.append(*documents[5])
            documents = documents[:3]
        for document in documents[5:]:
            log.append(*document)
        assert [e.document["uid"] for e in read_log(path)] == [d["uid"] for _, d in documents]
    assert caplog.text.count("cannot be synced") == 1
    assert ("may lack" in caplog.text) == (how == "lost")


@pytest.mark.logs_errors
def test_a_stop_document_that_cannot_be_synced_is_none_yet(tmp_path, no_sync):
    *documents, stop = run_documents(3)
    with DocumentLog(tmp_path) as log:
        for document in documents:
            log.append(*document)
        path = log.path(documents[0][1]["uid"])
        assert log.reopen(path.stem).sync() is None
        with no_sync(path), pytest.raises(OSError, match="No space left"):
            log.append(*stop)
        assert not log.reader(path.stem).complete
        log.append(*stop)
        assert [e.name for e in read_log(path)][-2:] == ["event", "stop"]
        assert [e.index for e in read_log(path)] == list(range(6))


@pytest.mark.logs_errors
def test_a_log_that_does_not_close_properly_is_closed_all_the_same(tmp_path, monkeypatch, caplog):
    *documents, stop = run_documents(3)
    close = os.close
    closed = []

    def fail(fd):
        closed.append(fd)
        close(fd)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with DocumentLog(tmp_path) as log:
        for document in documents:
            log.append(*document)
        with monkeypatch.context() as patch:
            patch.setattr("p06bs.bus.run_log._sync_directory", lambda directory: None)
            patch.setattr(os, "close", fail)
            appended = log.append(*stop)
        assert appended.index == 5
        log.close()
    assert len(closed) == 1
    assert "was not closed properly" in caplog.text


WRITER = """
import sys, uuid
from p06bs.bus.locks import is_locked
from p06bs.bus.log import DocumentLog
log = DocumentLog(sys.argv[1])
log.append("start", {"uid": sys.argv[2]})
log.append("descriptor", {"uid": "d", "run_start": sys.argv[2]})
n = 0
while True:
    n += 1
    log.append("event", {"uid": str(n), "descriptor": "d", "seq_num": n, "data": {"x": "x" * 999}})
    print(n, flush=True)
"""


def test_what_was_appended_survives_a_killed_writer(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path, "killed"], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    with writer.stdout:
        for _ in range(200):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        acknowledged = 200 + len(writer.stdout.read().splitlines())
    writer.wait()
    with DocumentLog(tmp_path) as log:
        recovered = log.reopen("killed")
        assert recovered.epoch == 2
        log.append("event", {"uid": "after", "descriptor": "d"})
        log.append("stop", {"uid": "s", "run_start": "killed"})
        entries = list(log.entries("killed"))
    events = [e.document["uid"] for e in entries if e.name == "event"]
    assert events[:-1] == [str(n + 1) for n in range(len(events) - 1)]
    assert len(events) - 1 >= acknowledged
    assert [e.index for e in entries] == list(range(len(entries)))


def test_absent_logs_and_oversized_documents(tmp_path):
    with DocumentLog(tmp_path) as log:
        assert log.reader("not-yet").read() == []
        with pytest.raises(FileNotFoundError):
            list(log.read("never"))
    with pytest.raises(LogError, match="stream resource"):
        frame_header(1, 0, _Huge(), Packed(b""))


class _Huge(bytes):
    def __len__(self):
        return 2**30 + 1


def test_close_stops_the_thread_and_may_be_repeated(tmp_path):
    log = DocumentLog(Path(tmp_path))
    filled(log, stop=False)
    log.close()
    log.close()
    assert not any(thread.name.startswith("sync") for thread in threading.enumerate())


def test_large_arrays_are_read_only_by_those_who_want_them(tmp_path):
    with DocumentLog(tmp_path) as log:
        run = filled(log, events=1, stop=False)
        descriptor = next(d["uid"] for n, d in log.read(run) if n == "descriptor")
        images = [np.full((200, 300), n, ">u2") for n in range(3)]
        for n, image in enumerate(images):
            log.append("event", {"uid": f"e{n}", "descriptor": descriptor, "data": {"i": image}})
        whole = log.reader(run).read()
        bare = log.reader(run, arrays=False).read()
        path = log.path(run)
    assert [(e.offset, e.nbytes) for e in whole] == [(e.offset, e.nbytes) for e in bare]
    for entry, left, image in zip(whole[3:], bare[3:], images, strict=True):
        assert entry.document["data"]["i"].dtype == image.dtype
        assert np.array_equal(entry.document["data"]["i"], image)
        assert left.document["data"]["i"] == LoggedArray(image.dtype, image.shape)
        assert read_frame(path, left.offset, left.nbytes).document["data"]["i"][0, 0] == image[0, 0]
    # Damage in an array concerns who reads it, and is found.
    data = bytearray(path.read_bytes())
    data[whole[4].offset + whole[4].nbytes // 2] ^= 1
    path.write_bytes(data)
    assert len(RunReader(path, arrays=False).read()) == 6
    damaged = RunReader(path)
    assert len(damaged.read()) == 4
    with pytest.raises(LogCorruptError, match="arrays"):
        damaged.read()
    # An array that is not all there yet is not yet there for anybody.
    path.write_bytes(data[: whole[-1].offset + whole[-1].nbytes - 1])
    assert len(RunReader(path, arrays=False).read()) == 5


def test_documents_that_are_encoded_already_are_logged_as_they_are(tmp_path):
    with DocumentLog(tmp_path) as log:
        run = filled(log, events=1, stop=False)
        descriptor = next(d["uid"] for n, d in log.read(run) if n == "descriptor")
        image = np.arange(2.0**15)
        page = {"uid": ["e"], "descriptor": descriptor, "data": {"x": image[None]}}
        packed = pack_document("event_page", page)
        cut = tuple(bytes(b)[i : i + 1000] for b in packed.buffers for i in range(0, len(b), 1000))
        log.append("event_page", replace(packed, run=run))
        log.append("event_page", Packed(packed.body, cut, run))
        *_, one, other = log.entries(run)
    assert one.nbytes == other.nbytes
    for entry in (one, other):
        assert np.array_equal(entry.document["data"]["x"][0], image)


def test_bulk_documents_are_logged_as_pages(tmp_path):
    raw = raw_run({"x": np.arange(5.0)})
    events = [document for name, document in raw if name == "event"]
    resource = {
        "uid": "r", "run_start": raw[0][1]["uid"], "spec": "s", "root": "/", "resource_path": "p",
        "resource_kwargs": {},
    }  # fmt: skip
    datums = {
        "resource": "r", "datum_ids": ["r/0", "r/1"], "datum_kwarg_list": [{"n": 0}, {"n": 1}]
    }  # fmt: skip
    with DocumentLog(tmp_path) as log:
        for name, document in raw[:2]:
            log.append(name, document)
        log.append("resource", resource)
        log.append("bulk_datum", datums)
        log.append("bulk_events", {"primary": events})
        log.append(*raw[-1])
        logged = list(log.read(raw[0][1]["uid"]))
    names = [name for name, _ in logged]
    assert names == ["start", "descriptor", "resource", "datum_page", "event_page", "stop"]
    assert list(event_model.unpack_event_page(logged[4][1])) == [
        {**event, "filled": {}} for event in events
    ]
    assert logged[3][1]["datum_id"] == ["r/0", "r/1"]


@pytest.mark.parametrize("name", ["foo", "", "bulk", "Start"])
def test_what_event_model_does_not_know_is_refused(tmp_path, name):
    raw = raw_run({"x": np.arange(2.0)})
    with DocumentLog(tmp_path) as log:
        log.append(*raw[0])
        with pytest.raises(LogError, match="event-model has no"):
            log.append(name, {"run_start": raw[0][1]["uid"], "x": 1})
        for document in raw[1:]:
            log.append(*document)
        assert [n for n, _ in log.read(raw[0][1]["uid"])] == [n for n, _ in raw]
