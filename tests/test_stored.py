"""Recorded runs by their uid: from a directory of logs or a server, and derived runs kept there."""

import contextlib
import json

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs import DocumentLog, process
from p06bs.remote import Server, ServerError, records
from p06bs.server.app import build_app
from p06bs.server.sink.sink import Sink
from tests.archives import place
from tests.chains import Encoder, Interferometer, Position
from tests.documents import raw_run, rows_of, write
from tests.doors import KEY
from tests.live_server import serving
from tests.techniques import Scale
from tests.test_cli import SCALE

OPTIONS = ("--modality", SCALE, "--settings", "factor=3", "--inputs", "x=x", "--json")


@pytest.fixture
def recorded(tmp_path):
    raw = raw_run({"x": np.arange(30.0)}, page=8, plan_name="scan", scan_id=7)
    write(tmp_path / "log", raw)
    return tmp_path / "log", raw


@pytest.fixture
def server(recorded, monkeypatch):
    """A server that has the run; gives its URL."""
    monkeypatch.setenv("P06BS_API_KEY", KEY)
    log, raw = recorded
    sink = Sink(50_000_000)
    for name, document in raw:
        sink(name, document)
    with DocumentLog(log) as documents, serving(build_app(sink, KEY, log=documents)) as url:
        yield url


def reference(raw):
    return process(Scale(factor=3.0, inputs={"x": "x"}), raw)


def same_rows(documents, raw):
    keys = ("y", "raw_uid", "raw_seq_num", "valid")
    return rows_of(list(documents), *keys) == rows_of(reference(raw), *keys)


def test_a_run_on_a_server_is_processed_and_the_derived_run_kept_there(run, server, recorded):
    log, raw = recorded
    uid = raw[0][1]["uid"]
    status, out, err = run("process", uid[:8], "--server", server, *OPTIONS, "--store")
    assert (status, err) == (0, "")
    (result,) = json.loads(out)
    assert (result["raw"], result["events"], result["stored"]) == (uid, 30, server)
    derived = DocumentLog(log)
    assert same_rows(derived.read(result["derived"]), raw)
    assert [p.name for p in log.iterdir() if p.name.startswith(".")] == []
    status, _, err = run("process", uid, "--server", server, *OPTIONS, "--store")
    assert status == 1
    assert "409" in err
    assert "is here already" in err


def test_a_uid_is_looked_for_in_the_logs_first(run, recorded):
    log, raw = recorded
    uid = raw[0][1]["uid"]
    status, out, err = run("process", uid[:8], "--log", log, *OPTIONS, "--store")
    assert (status, err) == (0, "")
    (result,) = json.loads(out)
    assert result["stored"] == str(log / f"{result['derived']}.doclog")
    assert same_rows(DocumentLog(log).read(result["derived"]), raw)
    status, _, err = run("process", uid, "--log", log, *OPTIONS, "--store")
    assert status == 1
    assert "has been stored before" in err


def test_a_derived_run_is_made_again_from_the_server(run, server, recorded):
    log, raw = recorded
    uid = raw[0][1]["uid"]
    _, out, _ = run("process", uid, "--server", server, *OPTIONS, "--store")
    derived = json.loads(out)[0]["derived"]
    with Server(server, KEY) as runs:
        assert runs.find(uid[:6]) == uid
        documents = list(runs.documents(uid))
    assert [name for name, _ in documents] == [name for name, _ in raw]
    assert documents[0][1] == json.loads(json.dumps(raw[0][1]))
    status, out, _ = run("process", log, "--like", derived, "--json")
    assert status == 0
    assert json.loads(out)[0]["derived"] == derived


def test_derived_runs_on_a_server_feed_others(run, tmp_path, monkeypatch):
    """In whichever tree they are: the memory, the archive, or both."""
    monkeypatch.setenv("P06BS_API_KEY", KEY)
    raw = raw_run({"signal": np.arange(30.0)}, page=8)
    coarse = process(Encoder(inputs={"x": "signal"}), raw)
    fine = process(Interferometer(inputs={"x": "signal"}, factor=2.5), raw)
    other = process(Encoder(inputs={"x": "x"}), raw_run({"x": np.arange(3.0)}))
    here = place("sqlite", tmp_path, None)
    sink = Sink(50_000_000)
    for documents in (raw, coarse, other):
        for name, document in documents:
            sink(name, document)
    for documents in (raw, coarse, fine):
        here.write(documents)
    here.ingest()
    uid = raw[0][1]["uid"]
    with here.served(sink=sink) as url:
        with Server(url, KEY) as runs:
            assert sorted(runs.derived(uid)) == sorted(r[0][1]["uid"] for r in (coarse, fine))
            assert runs.derived(other[0][1]["original_run_uid"]) == [other[0][1]["uid"]]
            assert runs.derived("nowhere") == []
        options = ("--modality", "tests.chains:Position", "--json")
        status, out, err = run("process", uid[:8], "--server", url, *options)
    assert (status, err) == (0, "")
    (result,) = json.loads(out)
    assert result["inputs"] == {"coarse": "encoder/primary/x", "fine": "interferometer/primary/x"}
    made = process(Position(), raw, upstream=[*coarse, *fine])
    assert (result["derived"], result["events"]) == (made[0][1]["uid"], 30)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("process", "nowhere0", "--log", "/nonexistent"), "/nonexistent does not exist"),
        (("process", "nowhere0", "--server", "{url}"), "0 runs at {url} begin with 'nowhere0'"),
        (("process", "u", "--server", "http://127.0.0.1:9"), "cannot use the server at"),
    ],
)
def test_what_is_not_there_is_said(run, server, words, said):
    status, _, err = run(*(word.format(url=server) for word in words), *OPTIONS)
    assert status == 1
    assert err.count("\n") == 1
    assert said.format(url=server) in err


@contextlib.contextmanager
def door(url):
    with httpx.Client(base_url=url, headers={"Authorization": f"Apikey {KEY}"}) as http:
        yield http


def put(url, uid, content, **headers):
    with door(url) as http:
        return http.put(f"/api/p06bs/v1/runs/{uid}", content=content, headers=headers)


def test_what_is_no_whole_log_of_a_derived_run_is_refused(server, recorded, tmp_path):
    log, raw = recorded
    derived = reference(raw)
    uid = write(tmp_path / "made", derived)
    content = (tmp_path / "made" / f"{uid}.doclog").read_bytes()
    bad = bytearray(content)
    bad[len(bad) // 2] ^= 255
    other = write(tmp_path / "raw", raw_run({"x": np.arange(3.0)}))
    cut = write(tmp_path / "cut", derived[:-1])
    tries = {
        "damaged": (uid, bytes(bad), 422),
        "cut off": (uid, content[:-10], 422),
        "without stop": (cut, (tmp_path / "cut" / f"{cut}.doclog").read_bytes(), 422),
        "raw": (other, (tmp_path / "raw" / f"{other}.doclog").read_bytes(), 422),
        "another run's": ("another", content, 422),
        "empty": (uid, b"", 422),
        "garbage": (uid, b"\0" * 4096, 422),
        "no uid": ("a b", content, 400),
    }
    for what, (name, body, status) in tries.items():
        answer = put(server, name, body)
        assert answer.status_code == status, (what, answer.text)
        assert ".incoming" not in answer.text
        assert str(log) not in answer.text
    assert "holds run" in put(server, "another", content).json()["detail"]
    assert sorted(log.iterdir()) == [log / f"{raw[0][1]['uid']}.doclog"]
    assert put(server, uid, content).status_code == 201
    assert put(server, uid, content).status_code == 409
    assert (log / f"{uid}.doclog").read_bytes() == content


def test_nobody_stores_without_a_key(server, recorded):
    with httpx.Client(base_url=server) as http:
        assert http.put("/api/p06bs/v1/runs/x", content=b"x").status_code == 401


DOCUMENTS = st.lists(
    st.tuples(
        st.sampled_from(["start", "event"]),
        st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False), max_size=3),
    )
)


@given(documents=DOCUMENTS, separator=st.booleans(), cuts=st.lists(st.integers(1, 20)))
def test_records_come_whole_however_the_text_is_cut(documents, separator, cuts):
    text = "".join(
        ("\x1e" if separator else "") + json.dumps({"name": n, "doc": d}) + "\n"
        for n, d in documents
    )
    blocks, at = [], 0
    for cut in cuts:
        blocks.append(text[at : at + cut])
        at += cut
    assert list(records([*blocks, text[at:]])) == documents


def test_a_broken_answer_is_an_error():
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        list(records(['{"name": "start", "doc": {"uid']))
    assert issubclass(ServerError, ValueError)
