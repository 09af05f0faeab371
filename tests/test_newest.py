"""Who wants the newest runs only: they come first, and none that goes on is lost."""

import contextlib
import itertools
import os
import time
from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from p06bs.bus import backlog
from p06bs.bus.follow import Follower
from p06bs.bus.log import DocumentLog
from p06bs.bus.newest import Found, NewestFirst
from p06bs.bus.publish import Publisher
from p06bs.server.sink.feed import Feed, Placed
from p06bs.server.sink.sink import Sink
from tests.test_follow import assert_complete, follow, proxy, run_documents  # noqa: F401 -- fixture
from tests.test_sink import KEYS, descriptor, page, start, stop


def logs_of(log, number, rows=3):
    """Write so many finished runs, each a second after the one before; return their documents."""
    runs = {}
    for second in range(number):
        documents = run_documents(rows)
        runs[documents[0][1]["uid"]] = documents
        for document in documents:
            log.append(*document)
        os.utime(log.path(documents[0][1]["uid"]), (1000 + second, 1000 + second))
    return runs


def test_of_what_is_there_the_newest_comes_first_as_long_as_more_is_wanted(proxy, tmp_path):  # noqa: F811
    with DocumentLog(tmp_path) as log:
        runs = logs_of(log, 6)
        *rest, last, newest = runs
        wanted = iter([True, True, False])
        with (
            Follower(proxy.out_port, log, more=lambda: next(wanted)) as follower,
            Publisher(proxy.in_port, log) as publisher,
        ):
            found = follow(follower, runs=2)
            assert list(found) == [newest, last]
            for run in found:
                assert_complete(found[run], runs[run])
            assert follower.entries(0.0) == []
            assert follower.caught_up.is_set()
            # whatever is new is read, though no more of what was there is wanted
            during = run_documents(3)
            for document in during:
                publisher(*document)
            assert_complete(follow(follower)[during[0][1]["uid"]], during)
            assert not set(rest) & set(found)


def test_older_runs_that_go_on_are_read_from_their_beginning(proxy, tmp_path):  # noqa: F811
    quiet, loud = run_documents(5), run_documents(5)
    with DocumentLog(tmp_path) as log:
        for document in quiet[:3] + loud[:3]:
            log.append(*document)
        for old in (quiet, loud):
            os.utime(log.path(old[0][1]["uid"]), (1, 1))
        logs_of(log, 3)
        with Follower(proxy.out_port, log, more=lambda: False) as follower:
            assert follower.entries(0.0) == []
            assert follower.caught_up.is_set()
            for document in quiet[3:]:  # in the log only
                log.append(*document)
            assert_complete(follow(follower)[quiet[0][1]["uid"]], quiet)
            with Publisher(proxy.in_port, log) as publisher:
                for document in loud[3:]:
                    publisher(*document)
                assert_complete(follow(follower)[loud[0][1]["uid"]], loud)


def test_what_is_written_while_the_newest_are_read_is_not_lost(proxy, tmp_path):  # noqa: F811
    """Runs begin, go on and end at every moment, with and without messages; none is lost."""
    with DocumentLog(tmp_path) as log, Publisher(proxy.in_port, log) as publisher:
        runs = logs_of(log, 20)
        going_on = run_documents(40)
        for document in going_on[:2]:
            log.append(*document)
        os.utime(log.path(going_on[0][1]["uid"]), (1005, 1005))  # in the middle
        rest = iter(going_on[2:])
        found, asked = defaultdict(list), 0

        def more():
            nonlocal asked
            asked += 1
            for document in itertools.islice(rest, 3):
                (publisher if asked % 2 else log.append)(*document)
            begun = run_documents(2)
            runs[begun[0][1]["uid"]] = begun
            for document in begun:
                (publisher if asked % 3 else log.append)(*document)
            return asked < 13

        with Follower(proxy.out_port, log, more=more) as follower:
            while not follower.caught_up.is_set():
                for entry in follower.entries(0.1):
                    found[entry.run].append(entry)
            for document in rest:
                log.append(*document)
            deadline = time.monotonic() + 60
            wanted = {going_on[0][1]["uid"], *list(runs)[8:]}  # the newest twelve and the others
            while {run for run, entries in found.items() if entries[-1].name == "stop"} != wanted:
                assert time.monotonic() < deadline, wanted ^ found.keys()
                for entry in follower.entries(1.0):
                    found[entry.run].append(entry)
        for run, entries in found.items():
            assert_complete(entries, runs.get(run, going_on))


def test_live_messages_come_while_a_long_older_log_is_read(proxy, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(backlog, "LOOK_SECONDS", 3600)  # nothing but messages tells of new runs
    monkeypatch.setattr(backlog, "FILL_BYTES", 1)
    old, live = run_documents(20_000), iter(run_documents(10_000))
    with DocumentLog(tmp_path) as log:
        for document in old:
            log.append(*document)
        with (
            Follower(proxy.out_port, log, more=lambda: True) as follower,
            Publisher(proxy.in_port, log) as publisher,
        ):
            sent, got = 0, defaultdict(list)

            def receive():
                entries = follower.entries(10)
                for entry in entries:
                    got[entry.run].append(entry.index)
                assert len(got[old[0][1]["uid"]]) < len(old)
                return sum(entry.run != old[0][1]["uid"] for entry in entries)

            while not follower.socket.poll(20):  # until the subscription has reached the proxy
                publisher(*next(live))
                sent += 1
            while sent or not got[old[0][1]["uid"]]:  # its log is read first, then the older one
                sent -= receive()
            at_once = 0
            while at_once < 2:  # now they come by themselves, as many as there are
                for document in itertools.islice(live, 10):
                    publisher(*document)
                assert follower.socket.poll(10_000)
                at_once = receive()
    assert all(indices == list(range(len(indices))) for indices in got.values())


@given(
    logs=st.dictionaries(st.text("abc", min_size=1), st.tuples(st.integers(0, 5), st.integers(0))),
    takes=st.integers(0, 12),
    gone=st.sets(st.text("abc", min_size=1, max_size=1)),
    count=st.integers(1, 4),
)
def test_every_log_is_read_or_rests_and_those_that_rest_are_looked_at_in_turn(
    logs, takes, gone, count
):
    newest = NewestFirst(Found(when, nbytes, run) for run, (when, nbytes) in logs.items())
    for run in gone:
        newest.discard(run)
    taken = [run for _ in range(takes) if (run := newest.take()) is not None]
    assert newest.look(count) == [] or newest.over
    newest.stop()
    assert newest.take() is None
    resting = set(newest)
    assert resting | set(taken) == logs.keys() - gone
    assert len(resting) + len(taken) == len(logs.keys() - gone)
    assert [logs[run][0] for run in taken] == sorted((logs[r][0] for r in taken), reverse=True)
    assert all(logs[one][0] >= logs[other][0] for one in taken for other in resting)
    looked = [run for _ in range(-(-len(resting) // count)) for run in newest.look(count)]
    assert set(looked) == resting
    for run in resting:
        assert not newest.grew(run, logs[run][1])
        assert newest.grew(run, logs[run][1] + 1)


def test_a_sink_is_refilled_with_the_newest_and_the_oldest_leave_first(tmp_path):
    """As a server does after a restart; its budget takes a part of the runs."""
    with DocumentLog(tmp_path) as log:

        def write(uid, second):
            log.append("start", start(uid, float(second)))
            log.append("descriptor", descriptor(uid, KEYS))
            log.append("event_page", page(uid, {"Fe_K": np.full(4, float(second))}))
            log.append("stop", stop(uid))
            os.utime(log.path(uid), (second, second))

        for second in range(1, 301):
            write(f"old-{second}", second)
        sink = Sink(1_000_000)
        follower = Follower(None, log, more=lambda: not sink.filled, arrays=False)
        with contextlib.closing(Feed(Placed(follower), sink)):
            assert follower.caught_up.wait(60)
            held = sink.runs()
            assert held == [f"old-{second}" for second in range(301 - len(held), 301)]
            assert sink.nbytes > 0.9 * sink.shares.held
            assert sink.evicted == 0
            assert len(held) < 300
            sink.touch(held[0])  # somebody reads the oldest one
            for second in range(301, 321):
                write(f"new-{second}", second)
            deadline = time.monotonic() + 60
            while "new-320" not in sink.runs() or sink.held()[-1].running:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            left = len(held) + 20 - len(sink)
            assert sink.evicted == left > 0
            news = [f"new-{second}" for second in range(301, 321)]
            assert sink.runs() == [held[0], *held[left + 1 :], *news]
