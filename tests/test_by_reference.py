"""Rows that the sink let go, read back from the log of their run."""

import threading
import tracemalloc

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p06bs.bus.log import DocumentLog
from p06bs.server.app import build_app
from p06bs.server.sink.places import Place, RowsLostError
from p06bs.server.sink.sink import Change, DocumentError, Sink
from tests.live_server import KEY, serving

KEYS = {
    "x": {"dtype": "number", "shape": [], "source": "test"},
    "n": {"dtype": "integer", "shape": [], "source": "test"},
    "why": {"dtype": "string", "shape": [], "source": "test"},
    "mca": {"dtype": "array", "shape": [2, 300], "dtype_numpy": "<u4", "source": "test"},
    "a/b": {"dtype": "array", "shape": [2], "source": "test"},
}


class Logged:
    """A sink that is fed from a log, and what the rows of its runs are."""

    def __init__(self, directory, budget, **options):
        self.log = DocumentLog(directory)
        self.sink = Sink(budget, **options)
        self.rows = {}
        self._readers = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.log.close()

    def publish(self, name, document, run):
        self.log.append(name, document)
        reader = self._readers.setdefault(run, self.log.reader(run, arrays=False))
        refusals = []
        for entry in reader.read():
            place = Place(reader.path, entry.offset, entry.nbytes)
            try:
                self.sink(entry.name, entry.document, place)
            except DocumentError as refusal:
                refusals.append(refusal)
        if refusals:
            raise refusals[0]

    def begin(self, run, keys=KEYS, streams=("primary",), time=1.0):
        self.publish("start", {"uid": run, "time": time}, run)
        for stream in streams:
            self.rows[run, stream] = 0
            self.publish(
                "descriptor",
                {
                    "uid": f"{run}-{stream}", "run_start": run, "time": time, "name": stream,
                    "data_keys": keys,
                },
                run,
            )  # fmt: skip

    def add(self, run, count, *, stream="primary", as_events=False, lists=False, **wrong):
        first = self.rows[run, stream]
        page = page_of_rows(run, stream, first, count)
        if lists:
            page["data"] = {k: np.asarray(v).tolist() for k, v in page["data"].items()}
        page["data"].update(wrong)
        documents = events_of(page) if as_events else [("event_page", page)]
        for name, document in documents:
            self.publish(name, document, run)
        self.rows[run, stream] += count

    def end(self, run):
        stop = {"uid": f"{run}-s", "run_start": run, "time": 9.0, "exit_status": "success"}
        self.publish("stop", stop, run)

    def check(self, run, stream="primary", cuts=((0, 10**9),)):
        view = self.sink.view(run).streams[stream]()
        rows = self.rows[run, stream]
        truth = truth_of(run, np.arange(rows))
        if not rows:  # what is described too little has no column yet
            del truth["a=2Fb"]
        assert {column.rows for column in view.columns.values()} == {rows}
        for cut in cuts:
            start, stop = sorted(min(at, rows) for at in cut)
            together = view.read(truth, start, stop)
            for name, want in truth.items():
                got = view.columns[name].read(start, stop)
                assert got.shape == want[start:stop].shape
                assert np.array_equal(got, want[start:stop]), name
                assert np.array_equal(together[name], want[start:stop]), name


def truth_of(run, rows):
    """What the columns hold in the rows: known truth."""
    seed = len(run)
    return {
        "seq_num": rows + 1,
        "time": rows * 0.5,
        "uid": np.array([f"{run}/{row}" for row in rows]),
        "x": rows * 0.25 + seed,
        "n": rows * 3,
        "why": np.array(["µ" * (row % 7) for row in rows], dtype="U8"),
        "mca": (rows[:, None, None] + np.arange(600).reshape(2, 300)).astype("u4"),
        "a=2Fb": rows[:, None] * np.array([1, -1]),
        "ts_x": rows * 0.5,
    }


def page_of_rows(run, stream, first, count):
    rows = np.arange(first, first + count)
    truth = truth_of(run, rows)
    data = {key: truth[key.replace("/", "=2F")] for key in KEYS}
    return {
        "descriptor": f"{run}-{stream}", "uid": truth["uid"].tolist(), "time": truth["time"],
        "seq_num": truth["seq_num"], "data": data,
        "timestamps": dict.fromkeys(KEYS, truth["time"]),
    }  # fmt: skip


def events_of(page):
    for i, uid in enumerate(page["uid"]):
        yield (
            "event",
            {
                "descriptor": page["descriptor"], "uid": uid, "time": float(page["time"][i]),
                "seq_num": int(page["seq_num"][i]),
                "data": {k: v[i] for k, v in page["data"].items()},
                "timestamps": {k: float(v[i]) for k, v in page["timestamps"].items()},
            },
        )  # fmt: skip


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["a", "bb"]),
        st.sampled_from(["primary", "other"]),
        st.integers(1, 120),
        st.booleans(),
        st.sampled_from(["page", "lists", "events", "bad"]),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, cuts=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), max_size=4))
def test_all_rows_are_read_whatever_was_let_go(tmp_path_factory, steps, cuts):
    budget = 1_500_000
    with Logged(tmp_path_factory.mktemp("log"), budget) as logged:
        for run in ("a", "bb"):
            logged.begin(run, streams=("primary", "other"))
        for run, stream, count, touch, how in steps:
            if how == "bad":
                with pytest.raises(DocumentError):
                    logged.add(run, 1, stream=stream, x=[1.0, 2.0])
                continue
            rows = min(count, 10) if how == "events" else count
            logged.add(run, rows, stream=stream, as_events=how == "events", lists=how == "lists")
            assert logged.sink.nbytes <= budget
            if touch:
                logged.sink.touch(run)
        for run in ("a", "bb"):
            for stream in ("primary", "other"):
                logged.check(run, stream, [(0, 10**9), *cuts])


def test_run_larger_than_the_budget_keeps_its_newest_rows_and_all_can_be_read(tmp_path):
    with Logged(tmp_path, 2_000_000) as logged:
        logged.begin("r")
        for _ in range(60):
            logged.add("r", 50)
            assert logged.sink.nbytes <= 2_000_000
        (held,) = logged.sink.held()
        assert held.rows == 3000
        assert 1500 < held.in_log < 2900
        assert 1_000_000 < held.nbytes == logged.sink.nbytes
        logged.check("r", cuts=[(0, 10**9), (0, 1), (held.in_log - 3, held.in_log + 3)])
        logged.end("r")
        logged.check("r")


def test_page_larger_than_memory_stays_in_the_log(tmp_path):
    with Logged(tmp_path, 1_000_000) as logged:
        logged.begin("r")
        logged.add("r", 3)
        logged.add("r", 1000)  # 2.4 MB
        logged.add("r", 2)
        (held,) = logged.sink.held()
        assert held.in_log == 1003
        logged.check("r", cuts=[(0, 10**9), (2, 5), (1002, 1005)])


@pytest.mark.parametrize("value", [1.5, "text"])
def test_key_that_comes_late_leaves_the_other_rows_in_memory(tmp_path, value):
    with Logged(tmp_path, 20_000_000) as logged:
        logged.begin("r")
        for _ in range(20):
            logged.add("r", 200)  # 9.6 MB
        if isinstance(value, float):
            logged.add("r", 1, late=[value])
        else:
            logged.add("r", 1, x=[value])
        (held,) = logged.sink.held()
        assert held.in_log == 0
        stream = logged.sink._holding.runs["r"].streams["primary"]
        before = stream.data_bytes
        given = stream.drop(1 << 20)
        assert 1 << 20 <= given < 2 << 20
        assert stream.data_bytes == before - given
        (held,) = logged.sink.held()
        assert 0 < held.in_log == stream.by_reference < 1000


def test_text_that_stays_in_the_log_is_read_whole(tmp_path):
    with Logged(tmp_path, 1_000_000) as logged:
        logged.begin("r")
        wide = [f"{row} " + "x" * 300 for row in range(1000)]
        logged.publish("event_page", {
            **(page := page_of_rows("r", "primary", 0, 1000)), "data": {**page["data"], "why": wide}
        }, "r")  # fmt: skip
        column = logged.sink.view("r").streams["primary"]().columns["why"]
        assert logged.sink.held()[0].in_log == 1000
        assert column.read(0, 1000).tolist() == wide


def test_finished_run_leaves_before_a_running_one_that_is_watched(tmp_path):
    now = iter(range(10**6))
    with Logged(tmp_path, 3_000_000, clock=lambda: float(next(now))) as logged:
        for run in ("idle", "read", "watched"):
            logged.begin(run)
            for _ in range(10):
                logged.add(run, 30)
            if run != "watched":
                logged.end(run)
        logged.sink.touch("read")
        for _ in range(20):
            logged.sink.touch("watched")
            logged.add("watched", 20)
        assert logged.sink.runs() == ["read", "watched"]
        assert {held.uid: held.in_log for held in logged.sink.held()} == {"read": 0, "watched": 0}
        for _ in range(40):
            logged.sink.touch("read")
            logged.add("watched", 20)
        assert logged.sink.runs() == ["read", "watched"]
        assert logged.sink.held()[1].in_log > 0
        logged.check("read")
        logged.check("watched")


def test_reader_goes_on_while_rows_and_runs_leave(tmp_path):
    with Logged(tmp_path, 2_000_000) as logged:
        logged.begin("old")
        for _ in range(6):
            logged.add("old", 50)
        logged.end("old")
        view = logged.sink.view("old").streams["primary"]()
        failures, seen = [], []

        def read():
            try:
                while len(seen) < 200:
                    got = view.columns["x"].read(0, 300)
                    seen.append(np.array_equal(got, truth_of("old", np.arange(300))["x"]))
            except Exception as error:
                failures.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        logged.begin("new")
        for _ in range(60):
            logged.add("new", 50)
        reader.join()
        assert logged.sink.runs() == ["new"]
        assert not failures
        assert all(seen)


def test_rows_whose_log_is_gone_say_so_without_its_path(tmp_path, caplog):
    with Logged(tmp_path, 1_000_000) as logged:
        logged.begin("r")
        for _ in range(75):
            logged.add("r", 20)
        logged.log.path("r").unlink()
        columns = logged.sink.view("r").streams["primary"]().columns
        for _ in range(3):
            with pytest.raises(
                RowsLostError, match="rows 0 to 9 of stream primary are not"
            ) as lost:
                columns["mca"].read(0, 10)
            assert str(tmp_path) not in str(lost.value)
        (told,) = caplog.messages
        assert str(logged.log.path("r")) in told
        newest = truth_of("r", np.arange(1490, 1500))
        assert np.array_equal(columns["mca"].read(1490, 1500), newest["mca"])


@pytest.mark.parametrize("node", ["table/full/{}/internal", "array/full/{}/late"])
def test_rows_whose_log_is_gone_are_unavailable_in_every_format(tmp_path, node):
    with Logged(tmp_path, 10_000_000) as logged:
        logged.begin("r")
        logged.add("r", 20)
        event = {"descriptor": "r-primary", "uid": "e", "seq_num": 21, "time": 1.0}
        logged.publish("event", {**event, "data": {"late": 1.0}, "timestamps": {}}, "r")
        logged.log.path("r").unlink()  # where the column that came late has its first rows
        with serving(build_app(logged.sink, KEY)) as url:
            for kind in ("text/csv", "application/json"):
                asked = f"{url}/api/v1/{node.format('live/r/primary')}?format={kind}"
                answer = httpx.get(asked, headers={"Authorization": f"Apikey {KEY}"})
                assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
                assert str(tmp_path) not in answer.text


def test_damaged_page_is_refused_and_those_behind_it_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("p06bs.server.sink.router.PATIENCE_SECONDS", 0.0)
    with Logged(tmp_path, 1_000_000) as logged:
        logged.begin("r")
        for _ in range(10):
            logged.add("r", 20)
        damaged = logged.log.append("event_page", page_of_rows("r", "primary", 200, 20))
        with damaged.path.open("r+b") as file:
            file.seek(damaged.offset + damaged.nbytes - 100)
            file.write(b"\xff" * 8)
        with pytest.raises(DocumentError, match="checksum"):
            logged.add("r", 20)
        assert logged.rows["r", "primary"] == 200
        logged.rows["r", "primary"] += 20
        for _ in range(60):
            logged.add("r", 20)
        assert logged.sink.held()[0].in_log > 220
        logged.check("r")


@pytest.mark.parametrize("kind", ["page", "events"])
def test_bytes_are_counted_truly(tmp_path, kind):
    with Logged(tmp_path, 100_000_000) as logged:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(20):
                run = f"run{number:03}"
                logged.begin(run)
                for _ in range(3):
                    logged.add(run, 40, as_events=kind == "events")
                logged.end(run)
                logged._readers.clear()
            taken = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        # Blocks that are mappings of their own are not traced; they are counted to the byte.
        mapped = sum(
            len(block.reshape(-1).view("u1"))
            for run in logged.sink._holding.runs.values()
            for stream in run.streams.values()
            for column in stream.columns.values()
            if column.shape
            for block in column._blocks
            if block.nbytes >= 1 << 15
        )
        assert 0.75 * logged.sink.nbytes < taken + mapped < 1.1 * logged.sink.nbytes


def test_listeners_learn_of_changes_when_they_can_be_seen(tmp_path):
    with Logged(tmp_path, 1_500_000) as logged:
        changes, seen = [], []

        def listen(change):
            changes.append(change)
            gone = change.kind == "gone"
            view = None if gone else logged.sink.view(change.run)
            if change.kind == "rows":
                seen.append(view.streams[change.stream]().columns["x"].rows)
            assert gone == (change.run not in logged.sink.runs())

        unsubscribe = logged.sink.subscribe(listen)
        logged.begin("a")
        logged.add("a", 2)
        logged.add("a", 3)
        logged.end("a")
        logged.begin("b")
        for _ in range(12):
            logged.add("b", 50)
        unsubscribe()
        logged.add("b", 1)
        assert changes[:5] == [
            Change("a", None, "run"),
            Change("a", "primary", "stream"),
            Change("a", "primary", "rows"),
            Change("a", "primary", "rows"),
            Change("a", None, "stop"),
        ]
        assert Change("a", None, "gone") in changes
        assert seen == [2, 5, *range(50, 650, 50)]


@pytest.mark.logs_errors
def test_listener_that_fails_stops_nobody(tmp_path, caplog):
    with Logged(tmp_path, 1_000_000) as logged:
        told = []
        logged.sink.subscribe(lambda change: 1 / 0)
        logged.sink.subscribe(told.append)
        logged.begin("a")
        assert [change.kind for change in told] == ["run", "stream"]
        assert "ZeroDivisionError" in caplog.text
