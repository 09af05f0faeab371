"""The command line: data as JSON, errors in one line, tracebacks only when asked for."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from p06bs import DocumentLog, Follower, process
from p06bs.model.documents import NamedDocument
from p06bs.services.proxy import Proxy
from tests.documents import raw_run, rows_of, write
from tests.techniques import Histogram, Scale

SCALE = "tests.techniques:Scale"


@pytest.fixture
def recorded(tmp_path) -> tuple[Path, list[NamedDocument]]:
    raw = raw_run({"x": np.arange(30.0)}, page=8, plan_name="scan", scan_id=7, sample="[/b] [odd")
    write(tmp_path / "log", raw)
    return tmp_path / "log", raw


def test_process_prints_sums_and_leaves_log_and_nexus_file(run, recorded, tmp_path):
    log, raw = recorded
    options = ("--modality", SCALE, "--settings", "factor=3", "--inputs", "x=x")
    status, out, err = run("process", log, *options, "--out", tmp_path / "out", "--json")
    assert (status, err) == (0, "")
    (result,) = json.loads(out)
    assert (result["raw"], result["events"], result["invalid"]) == (raw[0][1]["uid"], 30, 0)
    numbers = {"sum": 1305, "mean": 43.5, "min": 0, "max": 87}
    assert result["columns"]["y"] == {"unit": "1", "shape": [], **numbers}
    logged, nexus = map(Path, result["files"])
    with DocumentLog(tmp_path / "out") as derived:
        documents = list(derived.read(result["derived"]))
    assert logged.stem == result["derived"]
    reference = process(Scale(factor=3.0, inputs={"x": "x"}), raw)
    assert rows_of(documents, "y", "raw_uid") == rows_of(reference, "y", "raw_uid")
    with h5py.File(nexus) as file:
        assert file.attrs["default"]
    status, _, err = run("process", log, *options, "--out", tmp_path / "out")
    assert status == 1
    assert err.startswith(f"p06bs: {logged} is there already")


@pytest.mark.parametrize("where", ["out", "store"])
def test_process_goes_on_with_the_runs_that_are_not_computed_yet(run, recorded, tmp_path, where):
    log, raw = recorded
    options = ("--modality", SCALE, "--inputs", "x=x", "--json")
    options += ("--out", tmp_path / "out") if where == "out" else ("--store",)
    assert run("process", log, *options)[0] == 0
    new = write(log, raw_run({"x": np.arange(3.0)}))
    status, out, err = run("process", log, *options)
    assert status == 0
    assert [result["raw"] for result in json.loads(out)] == [new]
    left, counted = err.splitlines()
    assert left.startswith(f"run {raw[0][1]['uid']} left out: ")
    assert "is there already" in left
    assert counted == "1 of 2 runs had been computed before"
    status, out, err = run("process", log, *options)
    assert (status, json.loads(out)) == (0, [])
    assert err.endswith("2 of 2 runs had been computed before\n")


def test_process_as_a_table_and_of_one_file(run, recorded):
    log, raw = recorded
    file = DocumentLog(log).path(raw[0][1]["uid"])
    status, out, _ = run("process", file, "--modality", SCALE, "--inputs", "x=x")
    assert status == 0
    assert "30 events, 0 invalid" in out
    assert "870" in out  # the sum of y


def test_process_passes_over_results_of_the_whole_run(run, recorded):
    options = ("--modality", "tests.techniques:Histogram", "--inputs", "x=x")
    status, out, err = run("process", recorded[0], *options, "--json")
    assert (status, err) == (0, "")
    columns = json.loads(out)[0]["columns"]
    assert columns["y"]["sum"] == 870
    assert "counts" not in columns  # of snapshots
    status, out, _ = run("process", recorded[0], *options)
    assert status == 0
    assert "870" in out


def test_process_sums_arrays_too(run, tmp_path):
    raw = raw_run({"n": np.ones((30, 2)), "gate": np.full(30, 0.5)}, plan_name="scan")
    write(tmp_path / "log", raw)
    inputs = ("--inputs", "counts=n", "--inputs", "gate_time=gate")
    status, out, _ = run("process", tmp_path / "log", "--modality", "counters", *inputs)
    assert status == 0
    assert "rate [2]" in out
    assert "120" in out  # of 60 counts, each 2 counts/s


def test_process_leaves_out_the_runs_that_lack_an_input(run, recorded):
    log, raw = recorded
    write(log, raw_run({"other": np.arange(3.0)}))
    options = ("--modality", SCALE, "--inputs", "x=x", "--json")
    status, out, err = run("process", log, *options)
    assert status == 0
    assert [r["raw"] for r in json.loads(out)] == [raw[0][1]["uid"]]
    assert "left out: scale cannot work on this run" in err
    status, _, err = run("process", log, "--run", raw[0][1]["uid"][:8], *options)
    assert (status, err) == (0, "")


def test_process_like_makes_a_derived_run_again(run, recorded, tmp_path):
    log, raw = recorded
    uids = [u for n, d in raw if n == "event_page" for u in d["uid"]]
    history = [(uids[9], {"factor": 3.0}), (uids[20], {"square": True})]
    modality = Scale(inputs={"x": "primary/x"}, bad=[4.0])
    online = process(modality, raw, history, reprocessing=2)
    uid = write(log, online)
    status, out, _ = run("process", log, "--like", uid[:8], "--out", tmp_path / "out", "--json")
    assert status == 0
    (result,) = json.loads(out)
    assert (result["derived"], result["invalid"]) == (uid, 1)
    with DocumentLog(tmp_path / "out") as made:
        again = list(made.read(uid))
    keys = ("raw_uid", "n", "valid", "invalid_reason")
    assert rows_of(again, *keys) == rows_of(online, *keys)
    status, out, _ = run("process", log, "--like", uid, "--settings", "bad=[]", "--json")
    (other,) = json.loads(out)
    assert other["invalid"] == 0
    assert other["derived"] != uid


def test_log_ls_and_show(run, recorded):
    log, raw = recorded
    uid = raw[0][1]["uid"]
    derived = write(log, process(Scale(inputs={"x": "x"}), raw)[:-1])
    folded = write(log, process(Histogram(inputs={"x": "x"}), raw))
    _, out, _ = run("log", "ls", log, "--json")
    listed = {row.pop("uid"): row for row in json.loads(out)}
    assert listed[uid] == {
        "scan_id": 7,
        "what": "scan",
        "original_run_uid": None,
        "documents": len(raw),
        "events": 30,
        "status": "success",
    }
    assert listed[derived]["what"] == "scale"
    assert listed[derived]["original_run_uid"] == uid
    assert listed[derived]["status"] == "running or unfinished"
    assert listed[folded]["events"] == 30  # snapshots are none
    _, out, _ = run("log", "ls", log)
    assert uid in out
    _, out, _ = run("log", "show", log, "--run", uid[:8], "--json")
    shown = [json.loads(line) for line in out.splitlines()]
    assert [name for name, _ in shown] == [name for name, _ in raw]
    assert shown[2][1]["data"]["x"] == list(range(8))
    odd = write(log, raw_run({"x": [1.0, np.nan, np.inf]}, page=3, limit=float("-inf")))
    _, out, _ = run("log", "show", log, "--run", odd, "--json")
    documents = dict(json.loads(line, parse_constant=pytest.fail) for line in out.splitlines())
    assert documents["start"]["limit"] is None
    assert documents["event_page"]["data"]["x"] == [1.0, None, None]
    _, out, _ = run("log", "show", log, "--run", uid, "--name", "event_page", "--limit", 2)
    assert out.count("event_page") == 2
    assert "[/b] [odd" in run("log", "show", log, "--run", uid, "--limit", 1)[1]
    with DocumentLog(log) as longer:
        longer.append("start", {"uid": f"{uid}-2", "time": 0.0})
    assert run("log", "show", log, "--run", uid, "--json")[1].count("\n") == len(raw)
    assert "2 runs in" in run("log", "show", log, "--run", uid[:8])[2]


def test_replay_publishes_to_a_proxy_and_a_follower_gets_it(run, recorded, tmp_path):
    log, raw = recorded
    proxy = Proxy("tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
    forwarding = threading.Thread(target=proxy.start)
    forwarding.start()
    found: list[NamedDocument] = []
    try:
        with Follower(proxy.out_port, tmp_path / "new") as follower:
            words = ("replay", log, "--address", proxy.in_port, "--to", tmp_path / "new")
            status, out, _ = run(*words)
            for item in follower:
                found.append(item)
                if item[0] == "stop":
                    break
            assert status == 0
            uid = out.strip()
            status, out, _ = run(*words, "--keep-uid")
            assert out.strip() == raw[0][1]["uid"]
    finally:
        proxy.stop()
        forwarding.join()
    assert found[0][1]["uid"] == uid != raw[0][1]["uid"]
    assert [n for n, _ in found] == [n for n, _ in raw]
    x = [v for n, d in found if n == "event_page" for v in d["data"]["x"]]
    assert x == list(range(30))
    again = process(Scale(inputs={"x": "x"}), found)
    assert [r[3] for r in rows_of(again, "y")] == [2.0 * v for v in range(30)]


def test_modalities_and_schema(run):
    status, out, _ = run("modalities", "--json")
    assert status == 0
    assert json.loads(out)["counters"] == "p06bs.callbacks.counters:Counters"
    assert "region_sums" in run("modalities")[1]
    assert "pipelines" in json.loads(run("schema")[1])["properties"]


def test_check_passes_what_is_right(run):
    status, out, _ = run("check", "region_sums", "--json")
    assert status == 0
    assert set(json.loads(out)["findings"].values()) == {""}


def test_check_says_in_words_what_fails(run):
    status, out, _ = run("check", "tests.wrong_techniques:Averages")
    assert status == 1
    assert "ok outputs are as declared" in out
    assert "fails same results in batches of 1" in out


def test_check_of_what_a_fresh_process_cannot_import(run, monkeypatch, tmp_path):
    (tmp_path / "only_here.py").write_text(
        "from tests.techniques import Scale as Base\n\n\nclass Scale(Base):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    status, out, _ = run("check", "only_here:Scale", "--json")
    assert status == 1
    assert (
        "No module named 'only_here'"
        in json.loads(out)["findings"]["importable in a fresh process"]
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("process", "{log}", "--modality", "nothing"), "no modality 'nothing'; installed are"),
        (("process", "{log}", "--modality", SCALE), "scale cannot work on this run: input 'x'"),
        (("process", "{log}"), "say which modality with --modality"),
        (("process", "{log}", "--modality", SCALE, "--settings", "limit=-1"),
         "limit: Input should be greater than 0, got -1"),
        (("process", "{log}", "--modality", SCALE, "--settings", "limit"), "write key=value"),
        (("process", "{log}", "--modality", SCALE, "--inputs", "z=x"), "its inputs are x"),
        (("process", "{log}", "--modality", SCALE, "--run", "zzz"), "0 runs in"),
        (("process", "{log}", "--like", "{uid}"), "no settings history"),
        (("process", "/nowhere", "--modality", SCALE), "/nowhere does not exist"),
        (("process", "dead", "--log", "{log}", "--modality", SCALE),
         "begin with 'dead'; no API key"),
        (("process", "{log}/note.txt", "--modality", SCALE), "is no document log"),
        (("replay", "{log}/empty"), "there is no raw run in"),
        (("log", "ls", "{log}/empty"), "there is no run in"),
        (("log", "ls", "/nowhere"), "/nowhere does not exist"),
        (("log", "show", "{log}", "--run", "zzz"), "0 runs in"),
        (("check", "a:b"), "cannot import modality"),
        (("check", SCALE, "--settings", "factor=red"), "factor: Input should be a valid number"),
        (("up", "/nowhere.toml"), "cannot read /nowhere.toml"),
        (("replay", "{log}", "--to", "{log}/x", "--address", "udp://1"), "udp://1"),
    ],
)  # fmt: skip
def test_an_error_is_one_line(run, recorded, words: Any, said):
    log, raw = recorded
    (log / "note.txt").touch()
    (log / "empty").mkdir()
    filled = [w.format(log=log, uid=raw[0][1]["uid"]) for w in words]
    status, out, err = run(*filled)
    assert status == 1
    assert said in err
    assert err.startswith("p06bs: ")
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing",), "No such command 'nothing'; see p06bs --help"),
        (("process",), "Missing argument 'RUN'; see p06bs process --help"),
        (("log", "ls", "--al"), "No such option: --al"),
        (("demo", "--nx", "1"), "'--nx'"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(run, words, said):
    status, out, err = run(*words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("p06bs: ")
    assert said in err


def test_without_arguments_help_is_all_there_is(run):
    status, out, err = run()
    assert (status, err) == (2, "")
    assert "Usage" in out


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def test_a_damaged_log_costs_its_own_run_only(run, recorded):
    log, raw = recorded
    uid = raw[0][1]["uid"]
    bad = write(log, raw_run({"x": np.arange(30.0)}, page=4))
    damage(log / f"{bad}.doclog")
    status, out, err = run("log", "ls", log, "--json")
    assert status == 1
    assert [row["uid"] for row in json.loads(out)] == [uid]
    left, last = err.splitlines()
    assert left.startswith(f"run {bad} left out: {log}/{bad}.doclog, offset ")
    assert last == "p06bs: 1 of 2 runs could not be read"
    status, out, err = run("process", log, "--modality", SCALE, "--inputs", "x=x", "--json")
    assert status == 1
    assert [row["raw"] for row in json.loads(out)] == [uid]
    assert err.endswith("p06bs: 1 of 2 runs could not be read\n")
    for words in (("log", "show", log, "--run", bad), ("process", log, "--run", bad)):
        status, _, err = run(*words, *(("--modality", SCALE) if words[0] == "process" else ()))
        assert (status, err.count("\n")) == (1, 1)
        assert f"{bad}.doclog, offset " in err


def test_what_may_not_be_read_is_said_in_one_line(run, recorded, monkeypatch):
    log, raw = recorded

    def refuse(path, *_args, **_options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))

    monkeypatch.setattr(os, "open", refuse)  # root may read everything
    status, _, err = run("log", "show", log)
    assert (status, err) == (1, f"p06bs: {log}/{raw[0][1]['uid']}.doclog: Permission denied\n")


def complete(*words: object) -> list[str]:
    """Return what ``p06bs`` proposes for the last word, as a shell asks for it."""
    done = subprocess.run(
        [sys.executable, "-m", "p06bs.cli"],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "_P06BS_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(map(str, ("p06bs", *words))),
            "COMP_CWORD": str(len(words)),
        },
    )
    return done.stdout.split()


def test_shells_complete_modalities_runs_and_documents(recorded, tmp_path):
    log, raw = recorded
    uid = raw[0][1]["uid"]
    assert complete("check", "co") == ["counters"]
    assert complete("process", log, "--modality", "reg") == ["region_sums"]
    assert complete("process", log, "--run", uid[:3]) == [uid]
    assert complete("log", "show", log, "--name", "event_") == ["event_page"]
    assert complete("replay", tmp_path / "none", "--run", uid[:3]) == []
    assert not (tmp_path / "none").exists()


def test_help_imports_nothing_heavy():
    heavy = ("bluesky", "event_model", "h5py", "numpy", "pydantic", "zmq", "distributed", "tiled")
    code = f"""
import sys
from p06bs import cli
sys.argv = ["p06bs", "--help"]
try:
    cli.main()
finally:
    print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: p06bs" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_tracebacks_only_with_debug(tmp_path):
    command = [sys.executable, "-m", "p06bs.cli"]
    words = ["log", "ls", str(tmp_path / "none")]
    for debug in (False, True):
        done = subprocess.run(
            [*command, *(["--debug"] if debug else []), *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) is debug
        assert "does not exist" in done.stderr
