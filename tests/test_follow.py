"""The follower: every document once and in order, whatever the wire and the writers do."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict

import numpy as np
import psutil
import pytest
import zmq
from bluesky import RunEngine
from bluesky.plans import count, scan
from hypothesis import given, settings
from hypothesis import strategies as st
from ophyd.sim import det, motor

from p06bs.bus import backlog
from p06bs.bus.codec import pack, pack_document, unpack
from p06bs.bus.envelope import pack_envelope
from p06bs.bus.follow import Follower
from p06bs.bus.log import DocumentLog
from p06bs.bus.publish import Publisher
from p06bs.bus.sequence import Action, Sequence
from p06bs.services.proxy import Proxy


@pytest.fixture
def proxy():
    """A proxy on free ports of the loopback."""
    proxy = Proxy("tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
    thread = threading.Thread(target=proxy.start)
    thread.start()
    yield proxy
    proxy.stop()
    thread.join()


def run_documents(events):
    """Return the documents of a small run."""
    run, descriptor = str(uuid.uuid4()), str(uuid.uuid4())
    head = [
        ("start", {"uid": run, "time": time.time()}),
        ("descriptor", {"uid": descriptor, "run_start": run}),
    ]
    body = [
        ("event", {"uid": f"{run}/{n}", "descriptor": descriptor, "seq_num": n, "data": {"x": n}})
        for n in range(1, events + 1)
    ]
    return [*head, *body, ("stop", {"uid": str(uuid.uuid4()), "run_start": run})]


def follow(follower, runs=1):
    """Take what comes until so many runs have stopped; entries by run."""
    found = defaultdict(list)
    deadline = time.monotonic() + 60
    while sum(entries[-1].name == "stop" for entries in found.values()) < runs:
        assert time.monotonic() < deadline, {run: len(e) for run, e in found.items()}
        for entry in follower.entries(1.0):
            found[entry.run].append(entry)
    return found


def take(follower, number):
    """Take so many entries."""
    entries = []
    deadline = time.monotonic() + 60
    while len(entries) < number:
        assert time.monotonic() < deadline, f"{len(entries)} of {number} entries came"
        entries += follower.entries(1.0)
    return entries


def assert_complete(entries, documents):
    assert [entry.index for entry in entries] == list(range(len(documents)))
    assert [entry.document["uid"] for entry in entries] == [d["uid"] for _, d in documents]


# ---------------------------------------------------------------- the sequence alone


@st.composite
def histories(draw):
    """Frames of one run by writers that replace each other, and messages about them."""
    epochs = sorted(draw(st.lists(st.integers(1, 4), min_size=1, max_size=30)))
    frames = [(epoch, index) for index, epoch in enumerate(epochs)]
    schedule = []
    for number in range(len(frames)):  # each was logged when its message was sent
        schedule += [("log", number), ("send", number)]
    for _ in range(draw(st.integers(0, 30))):
        kind = draw(st.sampled_from(["lose", "double", "stale", "ahead", "swap"]))
        at = draw(st.integers(0, len(schedule) - 1))
        if kind == "lose" and schedule[at][0] == "send":
            del schedule[at]
        elif kind == "double":
            schedule.append(schedule[at])
        elif kind == "stale":
            schedule.insert(at, ("forge", (0, draw(st.integers(0, 40)))))
        elif kind == "ahead":
            schedule.insert(at, ("forge", (draw(st.integers(1, 9)), draw(st.integers(31, 2**40)))))
        elif kind == "swap" and at + 1 < len(schedule):
            pair = schedule[at : at + 2]
            if pair[0][0] == "send":  # a message may come late, a frame never after its message
                schedule[at : at + 2] = pair[::-1]
    return frames, schedule


@settings(max_examples=300)
@given(histories(), st.randoms())
def test_sequence_delivers_each_once_in_order(history, random):
    frames, schedule = history
    sequence, delivered, logged = Sequence(), [], 0

    def fill():
        for epoch, index in frames[sequence.index : logged]:
            assert sequence.may_follow(epoch, index)
            take(epoch, index)

    def take(epoch, index):
        delivered.append((epoch, index))
        sequence.take(epoch, index, "stop" if index == len(frames) - 1 else "event")

    for what, which in schedule:
        if what == "log":
            logged = max(logged, which + 1)
            continue
        epoch, index = frames[which] if what == "send" else which
        action = sequence.offer(epoch, index)
        if action is Action.DELIVER:
            take(epoch, index)
        elif action is Action.FILL:
            fill()
        if random.random() < 0.1:  # the look at the log's end
            fill()
        assert delivered == frames[: len(delivered)]
    fill()
    assert delivered == frames
    assert sequence.complete
    assert sequence.offer(9, len(frames)) is Action.DROP


# ---------------------------------------------------------------- the whole bus


def test_a_run_engine_scan_arrives_as_it_was_emitted(proxy, tmp_path):
    emitted = []
    engine = RunEngine({"sample": "phantom", "shape": [3, 4]}, context_managers=[])
    with (
        Publisher(proxy.in_port, tmp_path) as publisher,
        Follower(proxy.out_port, tmp_path) as follower,
    ):
        engine.subscribe(publisher)
        engine.subscribe(lambda name, document: emitted.append((name, document)))
        engine(scan([det], motor, -1, 1, 5))
        engine(count([det], 3))
        found = follow(follower, runs=2)
    received = [(e.name, e.document) for entries in found.values() for e in entries]
    # tuples become lists on the way; tests/test_wire.py shows that nothing else changes
    assert received == [(name, unpack(pack(document))) for name, document in emitted]


def test_live_messages_are_delivered_without_the_file(proxy, tmp_path, monkeypatch):
    documents = run_documents(50)
    with (
        Publisher(proxy.in_port, tmp_path) as publisher,
        Follower(proxy.out_port, tmp_path) as follower,
    ):
        while not follower.socket.poll(20):  # until the subscription has reached the proxy
            publisher(*run_documents(0)[0])
        while follower.entries(0):
            pass
        publisher(*documents[0])
        assert [e.name for e in follower.entries(10)] == ["start"]
        assert not follower.entries(0)  # what came from the log has been read to its end
        places = []
        monkeypatch.setattr(backlog.Backlog, "fill", None)  # reading would now fail
        monkeypatch.setattr(backlog.Backlog, "look", lambda self: None)
        entries = []
        for document in documents[1:]:
            places.append(publisher.append(*document))
            entries += follower.entries(10)
        assert [(e.offset, e.nbytes) for e in entries] == [(p.offset, p.nbytes) for p in places]


def test_interleaved_runs_of_two_writers(proxy, tmp_path):
    runs = [run_documents(400) for _ in range(4)]

    def write(publisher, pair):
        for documents in zip(*pair, strict=True):
            for name, document in documents:
                publisher(name, document)

    with (
        Follower(proxy.out_port, tmp_path) as follower,
        Publisher(proxy.in_port, tmp_path) as one,
        Publisher(proxy.in_port, tmp_path) as other,
    ):
        writers = [
            threading.Thread(target=write, args=args)
            for args in ((one, runs[:2]), (other, runs[2:]))
        ]
        for writer in writers:
            writer.start()
        found = follow(follower, runs=4)
        for writer in writers:
            writer.join()
    for documents in runs:
        assert_complete(found[documents[0][1]["uid"]], documents)


def test_late_and_restarted_followers_have_all(proxy, tmp_path):
    done, current = run_documents(10), run_documents(200)
    run = current[0][1]["uid"]
    with Publisher(proxy.in_port, tmp_path) as publisher:
        for name, document in done + current[:100]:
            publisher(name, document)
        with Follower(proxy.out_port, tmp_path) as late:
            entries = take(late, len(done) + 100)
            assert [e.run == run for e in entries] == [False] * len(done) + [True] * 100
            for name, document in current[100:]:
                publisher(name, document)
            assert_complete(entries[len(done) :] + follow(late)[run], current)
        with Follower(proxy.out_port, tmp_path) as restarted:
            found = follow(restarted, runs=2)
    assert list(found) == [done[0][1]["uid"], run]
    assert_complete(found[run], current)


@pytest.mark.parametrize("events", [20_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_a_slow_follower_loses_nothing_and_costs_the_publisher_no_memory(proxy, tmp_path, events):
    documents = run_documents(events)
    process = psutil.Process()
    with (
        Follower(proxy.out_port, tmp_path) as follower,
        Publisher(proxy.in_port, tmp_path) as publisher,
    ):
        publisher(*documents[0])
        assert len(follower.entries(10)) == 1
        before = process.memory_info().rss
        for name, document in documents[1:]:  # the follower takes nothing meanwhile
            publisher(name, document)
        assert process.memory_info().rss - before < 50 << 20  # proxy and follower included
        (entries,) = follow(follower).values()
    assert [e.index for e in entries] == list(range(1, len(documents)))
    assert [e.document["uid"] for e in entries] == [d["uid"] for _, d in documents[1:]]


def test_without_proxy_and_without_wire_the_logs_suffice(tmp_path, caplog):
    documents = run_documents(20)
    with Publisher(f"ipc://{tmp_path}/nobody", tmp_path / "logs") as publisher:
        for name, document in documents:
            publisher(name, document)
    assert "no proxy" in caplog.text
    for address in (None, f"ipc://{tmp_path}/nobody"):
        with Follower(address, tmp_path / "logs") as follower:
            assert_complete(*follow(follower).values(), documents)


WRITER = """
import sys
from p06bs.bus.publish import Publisher
publisher = Publisher(sys.argv[1], sys.argv[2])
publisher("start", {"uid": "killed"})
publisher("descriptor", {"uid": "d", "run_start": "killed"})
n = 0
while True:
    n += 1
    publisher("event", {"uid": str(n), "descriptor": "d", "data": {"x": "x" * 2000}})
"""


def test_a_killed_writer_is_replaced_under_a_live_follower(proxy, tmp_path):
    command = [sys.executable, "-c", WRITER, proxy.in_port, tmp_path]
    with Follower(proxy.out_port, tmp_path) as follower, subprocess.Popen(command) as writer:
        entries = take(follower, 500)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        with DocumentLog(tmp_path) as log, Publisher(proxy.in_port, log) as successor:
            log.reopen("killed")
            successor("event", {"uid": "after", "descriptor": "d"})
            successor("stop", {"uid": "s", "run_start": "killed"})
            entries += follow(follower)["killed"]
    assert [e.index for e in entries] == list(range(len(entries)))
    assert [e.document["uid"] for e in entries[2:-2]] == [
        str(n + 1) for n in range(len(entries) - 4)
    ]
    assert [e.epoch for e in entries[-3:]] == [1, 2, 2]


def test_a_killed_proxy_costs_nothing(tmp_path):
    ends = [f"ipc://{tmp_path}/in", f"ipc://{tmp_path}/out"]
    command = [sys.executable, "-m", "p06bs.services.proxy", "--in", ends[0], "--out", ends[1]]

    def start():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert "ready" in process.stdout.readline()
        return process

    documents = run_documents(300)
    process = start()
    with (
        Publisher(ends[0], tmp_path / "logs") as publisher,
        Follower(ends[1], tmp_path / "logs") as follower,
    ):
        entries = []

        def exchange(some):
            for name, document in some:
                publisher(name, document)
            entries.extend(take(follower, len(some)))

        exchange(documents[:100])
        process.kill()
        process.communicate()
        exchange(documents[100:200])
        process = start()
        exchange(documents[200:])
        assert_complete(entries, documents)
    process.terminate()
    process.communicate()
    assert process.returncode == 0


# ---------------------------------------------------------------- what does not belong there


def test_malformed_messages_change_nothing_and_are_logged_once_per_kind(proxy, tmp_path, caplog):
    documents = run_documents(100)
    run = documents[0][1]["uid"]
    random = np.random.default_rng(1)
    envelope = pack_envelope(run, 1, 2**40, "event", pack_document("event", {"uid": "x"}))
    valid = b" event " + envelope
    with (
        caplog.at_level(logging.WARNING),
        zmq.Context() as context,
        context.socket(zmq.XPUB) as rogue,
        Publisher(proxy.in_port, tmp_path) as publisher,
        Follower(proxy.out_port, tmp_path) as follower,
    ):
        rogue.linger = 0
        rogue.connect(proxy.in_port)
        assert rogue.poll(60_000)
        publisher(*documents[0])
        entries = take(follower, 1)
        for number, (name, document) in enumerate(documents[1:-1]):
            rogue.send(random.bytes(number))
            rogue.send(b" event " + random.bytes(50))
            rogue.send(b" event " + pickle.dumps({"uid": "x"}))
            rogue.send(b" event " + b"\xdd\xff\xff\xff\xff")
            rogue.send_multipart([b"", b"event", envelope])
            rogue.send_multipart([valid, b"more"])
            rogue.send(valid)
            rogue.send(valid.replace(b" event ", b" stop ", 1))
            rogue.send(b" start " + pack(["../../etc", 1, 0, "start", 0, {}]))
            rogue.send(
                b" start "
                + pack_envelope(f"made-up-{number}", 1, 0, "start", pack_document("start", {}))
            )
            rogue.send(b" event " + pack([run, 1, 2**40, "event", "/etc/passwd", 0, 2**40]))
            rogue.send(valid[: number % len(valid)])
            publisher(name, document)
            entries += follower.entries(0.0)
        entries += take(follower, len(documents) - 1 - len(entries))
        for _ in range(10):  # now that nothing else is new in the log
            rogue.send(valid)
        while follower.dropped["ahead of the log of its run"] < 10:
            assert follower.entries(0.1) == []
        publisher(*documents[-1])
        assert_complete(entries + take(follower, 1), documents)
        assert set(follower.dropped) == {
            "more than one part",
            "not a document of this bus",
            "name and envelope differ",
            "ahead of the log of its run",
        }
        assert min(follower.dropped.values()) > 1
    warnings = [r for r in caplog.records if "dropped a message" in r.getMessage()]
    assert len(warnings) == len(follower.dropped)


def test_a_message_with_a_tail_does_not_mislead_the_reader(proxy, tmp_path):
    documents = run_documents(20)
    with (
        Publisher(proxy.in_port, tmp_path) as publisher,
        Follower(proxy.out_port, tmp_path) as follower,
    ):
        for name, document in documents[:5]:
            publisher(name, document)
        entries = take(follower, 5)
        name, document = documents[5]
        forged = pack_envelope(entries[0].run, 1, 5, name, pack_document(name, document)) + b"tail"
        while len(entries) < 6:  # what is sent before the subscription has arrived is lost
            publisher._socket.send(b" %b %b" % (name.encode(), forged))
            entries += follower.entries(0.1)
        for name, document in documents[5:10]:
            publisher.log.append(name, document)  # lost on the wire
        for name, document in documents[10:]:
            publisher(name, document)
        entries += follow(follower)[entries[0].run]
        assert_complete(entries, documents)


@pytest.mark.logs_errors
def test_a_damaged_log_stops_its_own_run_only(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(backlog, "PATIENCE_SECONDS", 0.0)
    bad, good = run_documents(10), run_documents(10)
    with DocumentLog(tmp_path) as log:
        for name, document in bad + good:
            log.append(name, document)
        path = log.path(bad[0][1]["uid"])
        victim = list(log.entries(path.stem))[4]
        with path.open("r+b") as file:
            file.seek(victim.offset + 40)
            file.write(b"damage")
        os.utime(path, (1, 1))
        with Follower(None, log) as follower:
            found = follow(follower)
            assert follower.entries(0.0) == []
    assert_complete(found[good[0][1]["uid"]], good)
    assert len(found[path.stem]) == 4
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert f"offset {victim.offset}" in errors[0].getMessage()
    caplog.clear()


def test_since_and_runs_choose(proxy, tmp_path):
    old, unwanted, wanted = (run_documents(3) for _ in range(3))
    with DocumentLog(tmp_path) as log:
        for name, document in old[:-1] + unwanted:
            log.append(name, document)
        os.utime(log.path(old[0][1]["uid"]), (1000, 1000))
        asked = []

        def choose(run):
            asked.append(run)
            return run != unwanted[0][1]["uid"]

        with (
            Follower(proxy.out_port, log, since=2000, runs=choose) as follower,
            Publisher(proxy.in_port, log) as publisher,
        ):
            for name, document in wanted:
                publisher(name, document)
            found = follow(follower)
            assert list(found) == [wanted[0][1]["uid"]]
            publisher(*old[-1])  # the old run goes on: now it is followed, from its start
            assert_complete(follow(follower)[old[0][1]["uid"]], old)
            assert asked.count(unwanted[0][1]["uid"]) == 1


def test_an_old_run_that_goes_on_is_followed_though_its_message_is_lost(tmp_path):
    old, other = run_documents(3), run_documents(3)
    with DocumentLog(tmp_path) as log:
        for name, document in old[:-1] + other[:-1]:
            log.append(name, document)
        for documents in (old, other):
            os.utime(log.path(documents[0][1]["uid"]), (1000, 1000))
        with Follower(None, log, since=2000) as follower:
            assert follower.entries(0.1) == []
            log.append(*old[-1])
            found = follow(follower)
        assert list(found) == [old[0][1]["uid"]]
        assert_complete(found[old[0][1]["uid"]], old)


def test_close_from_another_thread_ends_the_iteration(proxy, tmp_path):
    follower = Follower(proxy.out_port, tmp_path)
    started, names = threading.Event(), []

    def consume():
        started.set()
        names.extend(name for name, _ in follower)

    consumer = threading.Thread(target=consume)
    consumer.start()
    started.wait()
    follower.close()
    consumer.join(60)
    assert not consumer.is_alive()
    assert follower.entries(10) == []
    follower.close()
    assert names == []


@pytest.mark.parametrize("address", ["tcp://192.0.2.1:5568", "udp://127.0.0.1:1", "tcp://*:5568"])
def test_addresses_beyond_this_host_are_refused(tmp_path, address):
    with pytest.raises(ValueError, match="address"):
        Follower(address, tmp_path)
    with pytest.raises(ValueError, match="space"):
        Follower(None, tmp_path, prefix=b"a b")


def test_a_log_that_cannot_be_read_is_tried_again_and_holds_up_nobody(tmp_path, caplog):
    documents = run_documents(5)
    with DocumentLog(tmp_path) as log, Follower(None, tmp_path) as follower:
        (tmp_path / "odd.doclog").mkdir()  # opening it raises another OSError than "not there"
        for document in documents[:-1]:
            log.append(*document)
        entries = take(follower, len(documents) - 1)
        log.append(*documents[-1])
        assert_complete(entries + take(follower, 1), documents)
    assert caplog.text.count("the log of run odd cannot be read") == 1


def test_logs_that_cannot_be_looked_at_hold_up_nobody_either(tmp_path, caplog):
    """As where their server is away for a moment; here they are links to themselves."""
    resting, new, other = run_documents(3), run_documents(3), run_documents(3)
    with DocumentLog(tmp_path) as log:
        for document in resting[:-1]:
            log.append(*document)
        rests, comes = (log.path(run[0][1]["uid"]) for run in (resting, new))
        with Follower(None, tmp_path, more=lambda: False) as follower:
            assert follower.entries(0.0) == []
            aside = rests.rename(tmp_path / "aside")
            for path in (rests, comes):
                path.symlink_to(path)
            for document in other:
                log.append(*document)
            found = follow(follower)
            while caplog.text.count("cannot be read") < 2:
                assert follower.entries(0.1) == []
            aside.replace(rests)
            comes.unlink()
            for document in [resting[-1], *new]:
                log.append(*document)
            found |= follow(follower, runs=2)
        for run in (resting, new, other):
            assert_complete(found[run[0][1]["uid"]], run)
        log.path("odd").symlink_to("odd.doclog")
        with Follower(None, tmp_path, more=lambda: True) as follower:
            assert len(follow(follower, runs=3)) == 3
            assert follower.entries(0.0) == []
            assert follower.caught_up.is_set()
    assert "the log of run odd cannot be read" in caplog.text


@pytest.mark.parametrize("how", ["absent", "unreachable"])
def test_a_directory_that_is_away_for_a_moment_comes_back(tmp_path, caplog, monkeypatch, how):
    monkeypatch.setattr(backlog, "LOOK_SECONDS", 0.01)
    resting, going, gone = run_documents(3), run_documents(3), run_documents(3)
    place, aside = tmp_path / "logs", tmp_path / "aside"
    with DocumentLog(place) as log:

        def leave():
            place.rename(aside)
            if how == "unreachable":
                place.symlink_to(place)  # to look there is another OSError than "not there"

        def come_back():
            if how == "unreachable":
                place.unlink()
            aside.rename(place)

        for documents in (resting, going, gone):
            for document in documents[:-1]:
                log.append(*document)
        os.utime(log.path(resting[0][1]["uid"]), (1000, 1000))
        with Follower(None, log, since=2000) as follower, Follower(None, log) as late:
            entries = take(follower, 2 * (len(going) - 1))
            leave()
            for follows in (follower, late, follower, late):
                assert follows.entries(0.1) == []
            assert not late.caught_up.is_set()
            assert caplog.text.count("cannot be listed") == 2
            come_back()
            for document in (resting[-1], going[-1]):
                log.append(*document)
            found = follow(follower, runs=2)
            assert_complete(found[resting[0][1]["uid"]], resting)
            uid = going[0][1]["uid"]
            assert_complete([e for e in entries if e.run == uid] + found[uid], going)
            follow(late, runs=2)
            assert "not followed any more" not in caplog.text
            log.path(gone[0][1]["uid"]).unlink()  # that is another matter
            while "not followed any more" not in caplog.text:
                assert follower.entries(0.1) == []


def test_a_long_log_does_not_hold_up_the_others(tmp_path):
    long, short = run_documents(20_000), run_documents(3)
    with DocumentLog(tmp_path) as log:
        for document in [*long, *short]:
            log.append(*document)
    with Follower(None, tmp_path) as follower:
        first = follower.entries(1.0) + follower.entries(1.0)
        assert {e.run for e in first} == {long[0][1]["uid"], short[0][1]["uid"]}
        assert len(first) < len(long) // 2


def test_logs_that_wait_for_their_turn_are_not_looked_at_again(tmp_path, monkeypatch):
    with DocumentLog(tmp_path) as log:
        for _ in range(20):
            for document in run_documents(1):
                log.append(*document)
        sizes = []
        size_of = backlog._size
        monkeypatch.setattr(backlog, "_size", lambda path: sizes.append(path) or size_of(path))
        behind = backlog.Backlog(log)
        behind.look()
        behind.fill()
        sizes.clear()
        behind.look()
        assert len(sizes) <= 1  # of the run that was read from
        while behind.behind:
            behind.fill()
