"""The ingestion as a process: killed, restarted, with bad and unfinished runs, after an outage."""

import contextlib
import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from tiled.catalog import orm

from p06bs.bus.log import DocumentLog
from p06bs.bus.reader import read_log
from p06bs.cli import main
from p06bs.server.archive import ingest
from p06bs.server.archive.catalog import Log, logs, put_logs
from p06bs.server.archive.database import Database, UnavailableError
from p06bs.server.archive.intake import Intake, LogFile
from p06bs.server.archive.logs import LogDirectory
from p06bs.server.archive.schema import RUNS
from p06bs.server.archive.storage import ArchiveLockedError, StorageLock
from p06bs.server.files.incoming import incoming
from tests.archives import DATABASES, place, running_postgres  # noqa: F401
from tests.documents import raw_run


@pytest.fixture(params=DATABASES)
def here(request, tmp_path, running_postgres):  # noqa: F811
    return place(request.param, tmp_path, running_postgres)


@contextlib.contextmanager
def service(here, *options):
    """Run the real ingestion; it is killed at the end."""
    command = [sys.executable, "-m", "p06bs.services.archive", str(here.configuration()), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert "ready:" in process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def state(here):
    """Return what became of every log."""
    with Database(here.database) as database:
        return {log.run: log for log in database(logs)}


def wait_until(condition, seconds=120.0):
    """Wait until something is so that happens in another process."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def check_whole(here, uids):
    """Every run is there once, whole, and nothing else is."""
    with Database(here.database) as database:
        nodes = database(lambda c: c.execute(select(orm.Node.key).where(orm.Node.id > 0)).all())
        rows = database(lambda c: c.execute(select(RUNS.c.uid)).all())
        sources = database(lambda c: c.execute(select(orm.DataSource.node_id)).all())
    assert sorted(key for (key,) in nodes) == sorted(uids)
    assert sorted(uid for (uid,) in rows) == sorted(uids)
    assert len(sources) == len(set(sources)) == len(uids)
    for uid in uids:
        (directory,) = (here.storage / uid[:2] / uid).iterdir()
        want = [(e.name, str(e.document)) for e in read_log(here.logs / f"{uid}.doclog")]
        assert [(e.name, str(e.document)) for e in read_log(directory / f"{uid}.doclog")] == want


@pytest.mark.parametrize("times", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_killed_at_any_moment_nothing_is_lost_and_nothing_twice(here, times):
    rng = random.Random(7)
    uids = [
        here.write(raw_run({"x": np.arange(n), "a": rng.random() * np.ones((n, 3, 3))}, page=50))
        for n in rng.choices(range(50, 3000), k=20)
    ]
    kills = 0
    for _ in range(times):
        with service(here) as process:
            time.sleep(rng.random() * 0.7)  # the moment is what is tried
            kills += process.poll() is None
            process.kill()
    here.ingest()
    assert kills
    assert {log.state for log in state(here).values()} == {"complete"}
    check_whole(here, uids)
    with here.client() as client:
        for uid in uids[::7]:
            documents = list(client[uid].documents())
            assert len(documents) == len(list(read_log(here.logs / f"{uid}.doclog")))
            events = sum(len(d["seq_num"]) for n, d in documents if n == "event_page")
            assert client[uid].primary["x"].read().tolist() == list(range(events))


def test_a_repetition_changes_nothing(here):
    uid = here.write(raw_run({"x": [1, 2]}))
    first = here.ingest()
    assert here.ingest() == first
    assert first[uid].generation == 1
    check_whole(here, [uid])


def test_one_bad_run_is_quarantined_and_tried_again_when_it_is_restored(here):
    good = [here.write(raw_run({"x": [i]})) for i in range(3)]
    bad = here.write(raw_run({"x": list(range(50))}))
    path = here.logs / f"{bad}.doclog"
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 255
    path.write_bytes(broken)
    empty = here.logs / "empty.doclog"
    empty.write_bytes(b"")
    result = here.ingest()
    assert {result[uid].state for uid in good} == {"complete"}
    assert result[bad].state == "quarantined"
    assert "intact frames follow" in result[bad].reason
    assert result["empty"].reason == "the log has no documents"
    assert here.ingest() == result
    path.write_bytes(whole)
    empty.unlink()
    assert here.ingest()[bad].state == "complete"
    check_whole(here, [*good, bad])


def malformed_run(count, **start):
    """Return a run of three events, and so many behind each that have no seq_num."""
    documents = raw_run({"x": [1, 2, 3]}, **start)
    return [
        (name, copy)
        for name, document in documents
        for copy in [document, *[without(document, "seq_num")] * (name == "event") * count]
    ]


def without(document, key):
    return {k: v for k, v in document.items() if k != key}


def test_documents_that_fit_nowhere_are_left_out_alone(here, caplog):
    uid = here.write(malformed_run(20))
    with DocumentLog(here.logs) as log:
        log.append("start", {"uid": "no-time"})
    result = here.ingest()
    assert result["no-time"].reason == "the start document has no time"
    assert (result[uid].state, here.ingest()) == ("complete", result)
    said = result[uid].reason
    assert said.startswith("60 documents left out: document 3 (event): KeyError: 'seq_num'; docum")
    assert said.count("KeyError") == 5
    assert said.endswith("; ...")
    assert caplog.text.count(uid) == 1
    with here.client() as client:
        assert client[uid].primary["x"].read().tolist() == [1, 2, 3]
        assert client[uid].primary["seq_num"].read().tolist() == [1, 2, 3]
        assert client[uid].stop["exit_status"] == "success"
        assert len(list(client[uid].documents())) == len(malformed_run(20))


def test_a_start_document_that_is_nested_too_deeply_is_no_run(here):
    value = 1
    for _ in range(200):
        value = [value]
    uid = here.write(raw_run({"x": [1]}, nested=value))
    assert here.ingest()[uid].reason.startswith("the start document: it is nested deeper than")


def test_a_run_without_stop_comes_as_incomplete_and_again_when_it_goes_on(here):
    documents = raw_run({"x": list(range(10))})
    uid = documents[0][1]["uid"]
    half = DocumentLog(here.logs)
    for name, document in documents[:7]:
        half.append(name, document)
    assert here.ingest() == {}  # its writer is there
    half.close()
    assert here.ingest()[uid].state == "incomplete"
    with here.client() as client:
        assert client[uid].metadata.get("stop") is None
        assert client[uid].primary["x"].read().tolist() == list(range(5))
    with DocumentLog(here.logs) as log:
        log.reopen(uid)
        for name, document in documents[7:]:
            log.append(name, document)
    result = here.ingest()
    assert (result[uid].state, result[uid].generation) == ("complete", 2)
    check_whole(here, [uid])
    with here.client() as client:
        assert client[uid].stop["exit_status"] == "success"
        assert client[uid].primary["x"].read().tolist() == list(range(10))


def test_the_service_follows_and_catches_up_after_an_outage(tmp_path):
    here = place("sqlite", tmp_path, None)
    first = here.write(raw_run({"x": [1]}))
    with service(here) as process:
        wait_until(lambda: first in state(here))
        second = here.write(raw_run({"x": [2]}))
        wait_until(lambda: second in state(here))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    missed = [here.write(raw_run({"x": [n]})) for n in range(5)]
    with service(here, "--once") as process:
        assert process.wait(60) == 0
    assert set(missed) <= set(state(here))
    check_whole(here, [first, second, *missed])


def test_one_archive_has_one_ingestion(tmp_path):
    here = place("sqlite", tmp_path, None)
    with StorageLock(here.storage), pytest.raises(ArchiveLockedError):
        StorageLock(here.storage)


def test_a_database_that_fails_is_no_bad_run(here):
    uid = here.write(raw_run({"x": [1]}))
    here.ingest()
    with Database(here.database) as database:
        database(lambda c: c.exec_driver_sql("DROP TABLE data_source_asset_association"))
    other = here.write(raw_run({"x": [2]}))
    with pytest.raises(UnavailableError):
        here.ingest()
    assert set(state(here)) == {uid}
    assert not (here.storage / other[:2] / other / "2").exists()


def test_a_database_that_is_not_there_is_said_to_be():
    with (
        Database("postgresql://nobody@127.0.0.1:9/none") as database,
        pytest.raises(UnavailableError, match="does not answer"),
    ):
        database(lambda c: c.exec_driver_sql("SELECT 1"))


@pytest.mark.slow
def test_who_starts_an_archive_is_told_which_database_is_away(tmp_path):
    here = place("sqlite", tmp_path, None)
    here.database = "postgresql://me:s3cret@127.0.0.1:9/runs"
    config, key = str(here.configuration()), here.root / "key"
    starts = {
        "from p06bs.services.archive import main": (1, [config]),
        "from p06bs.services.server import main": (1, [config, "--api-key-file", f"{key}"]),
        "from p06bs.cli import main": (1, ["archive", "init", "--config", config]),
    }
    for start, (status, arguments) in starts.items():
        at_once = "from p06bs.server.archive import database; database.INITIALIZE_SECONDS = 0"
        command = [sys.executable, "-c", f"{at_once}; {start}; main()", *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        said = " ".join(done.stderr.split())
        assert done.returncode == status
        assert "Traceback" not in said
        assert "the database postgresql://me:[hidden]@127.0.0.1:9/runs does not answer" in said
        assert "[server.archive] database" in said
        assert "s3cret" not in said + done.stdout


def test_a_log_that_may_not_be_read_costs_no_other_run(here, monkeypatch):
    bad, good = here.write(raw_run({"x": [1]})), here.write(raw_run({"x": [2]}))
    read = ingest.read_log

    def refuse(path):  # root may read everything
        if path.stem == bad:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(ingest, "read_log", refuse)
    here.ingest()
    states = state(here)
    assert states[good].state == "complete"
    assert states[bad].state == "quarantined"
    assert "cannot be read" in states[bad].reason


class Killed(BaseException):
    """What ends a process at once."""


def killed(*args, **kwargs):
    raise Killed


def test_what_a_killed_ingestion_left_is_swept(here, monkeypatch):
    documents = raw_run({"x": list(range(10))})
    uid = here.write(documents[:7])
    here.ingest()
    with DocumentLog(here.logs) as log:
        log.reopen(uid)
        for name, document in documents[7:]:
            log.append(name, document)
    with monkeypatch.context() as patch:  # when the new generation is shown
        patch.setattr(ingest, "keep_only", killed)
        with pytest.raises(Killed):
            here.ingest()
    generations = here.storage / uid[:2] / uid
    assert {path.name for path in generations.iterdir()} == {"1", "2"}
    lost = here.write(raw_run({"x": [1]}))
    with monkeypatch.context() as patch:  # before it is shown, and then the log is lost
        patch.setattr(ingest, "put_runs", killed)
        with pytest.raises(Killed):
            here.ingest()
    assert (here.storage / lost[:2] / lost / "1").is_dir()
    (here.logs / f"{lost}.doclog").unlink()
    left = here.logs / f".incoming-{socket.gethostname()}-left"
    old, new = here.logs / ".incoming-other-old", here.logs / ".incoming-other-new"
    for directory in (left, old, new):
        directory.mkdir()
    os.utime(old, (0, 0))
    with incoming(here.logs) as arriving:
        here.ingest()
        assert arriving.is_dir()
    assert {path.name for path in generations.iterdir()} == {"2"}
    assert not (here.storage / lost[:2] / lost).exists()
    assert (left.exists(), old.exists(), new.exists()) == (False, False, True)
    check_whole(here, [uid])


def test_runs_that_come_together_are_shown_together_but_for_the_bad_one(here, monkeypatch):
    uids = [here.write(raw_run({"x": [n]})) for n in range(5)]
    put = ingest.put_runs

    def refuse(connection, records):
        if any(record.log.run == uids[2] for record in records):
            raise ValueError("no such value")
        put(connection, records)

    monkeypatch.setattr(ingest, "put_runs", refuse)
    result = here.ingest()
    assert {uid: log.state for uid, log in result.items()} == {
        uid: "quarantined" if uid == uids[2] else "complete" for uid in uids
    }
    assert result[uids[2]].reason == "ValueError: no such value"
    check_whole(here, [uid for uid in uids if uid != uids[2]])


@pytest.mark.slow
def test_the_server_shows_the_figures_of_the_ingestion(tmp_path):
    here = place("sqlite", tmp_path, None)
    for n in range(3):
        here.write(malformed_run(n))
    (here.logs / "bad.doclog").write_bytes(b"nonsense" * 10)
    with service(here, "--patience", "0"):
        status = here.storage / ".status.json"
        wait_until(lambda: status.exists() and '"quarantined": 1' in status.read_text())
    left = here.logs / f".incoming-{socket.gethostname()}-left"
    left.mkdir()
    config, key = here.configuration(), here.root / "key"
    key.touch(0o600)
    key.write_text("k3y")
    more = f'[server]\nport = 0\napi_key_file = "{key}"'
    config.write_text(config.read_text().replace("[server]", more))
    command = [sys.executable, "-m", "p06bs.services.server", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().split()[2]
        assert not left.exists()
        headers = {"Authorization": "Apikey k3y"}
        lines = httpx.get(f"{url}/api/v1/metrics", headers=headers).text.splitlines()
        status.unlink()
        os.mkfifo(status)  # a storage that hangs
        for _ in range(2):
            assert httpx.get(f"{url}/api/v1/metrics", headers=headers).status_code == 200
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
    found = dict(line.rsplit(" ", 1) for line in lines if line.startswith("p06bs_"))
    assert found['p06bs_archive_runs{state="complete"}'] == "3.0"
    assert found['p06bs_archive_runs{state="quarantined"}'] == "1.0"
    assert found["p06bs_archive_waiting_logs"] == found["p06bs_archive_lag_seconds"] == "0.0"
    assert found["p06bs_archive_ingested_total"] == "4.0"
    assert found["p06bs_archive_left_out_documents_total"] == "9.0"
    assert float(found["p06bs_archive_ingest_seconds_total"]) > 0
    assert time.time() - float(found["p06bs_archive_ingestion_timestamp_seconds"]) < 300
    assert found["p06bs_sink_evicted_runs_total"] == "0.0"
    assert found["p06bs_sink_dropped_rows_total"] == "0.0"


# Tiled's alembic.ini is older than alembic.
@pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")
def test_command_line(here, capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["p06bs", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    config = ("--config", str(here.configuration()))
    here.logs.mkdir()
    assert run("archive", "init", *config)[0] == 0
    good = here.write(malformed_run(1, plan_name="scan", scan_id=3))
    (here.logs / "bad.doclog").write_bytes(b"nonsense" * 10)
    with Database(here.database) as database:  # as earlier versions said it of an incomplete run
        database(put_logs, [Log("old", "incomplete", 1, 1, 1, "no stop document")])
    status, _, said = run("archive", "ingest", *config, "--patience", "0")
    assert status == 1
    assert "1 runs ingested" in said
    assert "of 1 runs some documents were left out" in said
    assert "1 runs were left out" in said
    status, out, _ = run("archive", "status", *config, "--json")
    shown = json.loads(out)
    assert (status, shown["ingesting"]) == (0, False)
    assert shown["runs"] == {"complete": 1, "incomplete": 1, "quarantined": 1}
    assert [log["run"] for log in shown["left_out"]] == ["bad"]
    assert [log["run"] for log in shown["partly_left_out"]] == [good]
    listed = run("archive", "status", *config)[1]
    assert "bad  quarantined" in listed
    assert f"{good}  complete\n  3 documents left out: document 3 (event)" in listed
    (row,) = json.loads(run("archive", "ls", *config, "--json")[1])
    assert (row["uid"], row["scan_id"], row["plan_name"]) == (good, 3, "scan")
    listed = run("archive", "ls", *config)[1]
    began = datetime.fromtimestamp(row["time"]).strftime("%Y-%m-%d %H:%M")
    assert "…" not in listed
    assert all(len(line) <= 80 for line in listed.splitlines())
    assert f"{good[:8]} " in listed
    for uid, when in (("nan", float("nan")), ("never", 1e300)):
        here.write([("start", {"uid": uid, "time": when})])
    assert run("archive", "ingest", *config, "--patience", "0")[0] == 0
    listed = run("archive", "ls", *config)[1]
    assert all(uid in listed for uid in ("nan", "never", good[:8]))
    with here.client() as client:
        assert list(client.keys().page_size(1)) == ["nan", good, "never"]
    assert began in listed
    here.write([("start", {"uid": "fresh", "time": 1.0})])
    (here.logs / "bad.doclog").unlink()
    assert run("archive", "retry", "bad", *config)[0] == 0
    assert run("archive", "retry", "unknown", *config)[0] == 1
    assert run("archive", "upgrade", *config) == (0, "", "the offline DB is of this version\n")
    missing = run("archive", "status", "--config", str(here.root / "nothing.toml"))
    assert missing[0] == 1


FILES = st.builds(
    LogFile,
    st.sampled_from(["a", "b", "c"]),
    st.integers(0, 3),
    st.integers(0, 3).map(lambda s: s * 10**9),
)
STATES = st.sampled_from(["complete", "incomplete", "quarantined", "retry"])


@given(st.lists(st.tuples(FILES, STATES)), FILES)
def test_only_what_is_not_there_as_it_is_now_is_news(history, file):
    intake = Intake([])
    for known, result in history:
        intake.note(Log(known.run, result, known.nbytes, known.changed))
    last = next(((k, r) for k, r in reversed(history) if k.run == file.run), None)
    news = intake.news([file])
    if last is None or last[1] == "retry" or last[0].nbytes != file.nbytes:
        assert news == [file]
    elif last[1] == "quarantined":
        assert news == ([] if last[0].changed == file.changed else [file])
    else:
        assert news == []
    open_runs = {k.run for k, _ in history}
    complete = {r for r in open_runs if intake.log(r).state == "complete"}
    assert intake.open == open_runs - complete


@given(st.floats(0, 100), st.floats(0, 100), st.booleans(), st.booleans(), st.floats(0, 50))
def test_an_unfinished_log_is_due_when_its_writer_is_gone(now, changed, finished, locked, patience):
    file = LogFile("a", 1, int(changed * 1e9))
    due = Intake([], patience).due(file, now, finished=finished, locked=locked)
    quiet = now - file.changed / 1e9 >= patience
    assert due == (finished or (quiet and not locked))


def test_the_directory_is_listed_when_it_has_changed(tmp_path):
    intake = Intake([], patience=0.0)
    directory = LogDirectory(tmp_path, intake)

    def found(*names, changed=None):
        for name in names:
            (tmp_path / f"{name}.doclog").touch()
        if changed is not None:
            os.utime(tmp_path, (changed, changed))
        return {file.run for file in directory.due()}

    assert found("a", changed=1) == {"a"}
    assert found("b", changed=1) == {"a"}  # nothing says that it has come
    assert found(changed=2) == {"a", "b"}
    for run, result in (("a", "complete"), ("b", "incomplete")):
        intake.note(Log(run, result, 0, 0))
    assert found() == set()
    for run in "ab":
        (tmp_path / f"{run}.doclog").write_bytes(b"more")
    assert found() == {"b"}  # a complete one does not grow
    assert found("c") == {"b", "c"}
    assert found("d") == {"b", "c", "d"}  # it may come within the same tick


def test_a_log_that_cannot_be_looked_at_holds_up_no_other(tmp_path, caplog):
    (tmp_path / "good.doclog").touch()
    (tmp_path / "odd.doclog").symlink_to("odd.doclog")
    directory = LogDirectory(tmp_path, Intake([], patience=0.0))
    for _ in range(3):
        assert {file.run for file in directory.due()} == {"good"}
    assert caplog.text.count("log of run odd cannot be looked at") == 1
