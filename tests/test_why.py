"""What pipelines make of runs, and why; who joins in mid-scan, and who stands by for another."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs import Publisher, process
from p06bs.bus.log import DocumentLog
from p06bs.bus.membership import Membership
from p06bs.metadata import Analysis
from p06bs.model.documents import NamedDocument
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.foreseen import foresee
from p06bs.pipeline.pipeline import Pipelines
from tests.documents import raw_run, rows_of, write
from tests.online import Listener, assert_equal, proxy, running
from tests.supervised import supervised, wait
from tests.techniques import Scale

REPOSITORY = Path(__file__).parents[1]
BUS = """
[bus]
inbound = "ipc://{0}/in"
outbound = "ipc://{0}/out"
topology = "ipc://{0}/topology"
log = "{0}/log"
"""
SCALE = """
[services.scale]
kind = "pipelines"
replicas = {1}
workers = {{ min = 1, max = 1 }}
pipelines = [{{ modality = "tests.techniques:Scale", inputs = {{ x = "x" }} }}]
"""
LATE = """
[services.late]
kind = "pipelines"
workers = {{ min = 1, max = 1 }}
pipelines = [{{ modality = "doubled", inputs = {{ x = "x" }} }}]
"""
DOUBLED = """
from tests.techniques import Scale


class Doubled(Scale):
    '''A modality that somebody installs while the services run.'''
"""


@pytest.fixture(autouse=True)
def _surroundings(
    own_runtime_directory: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(REPOSITORY), str(tmp_path / "site"))))
    monkeypatch.setenv("P06BS_TOPOLOGY", f"ipc://{tmp_path}/topology")


def written(folder: Path, *sections: str, replicas: int = 1) -> Path:
    file = folder / "services.toml"
    file.write_text("".join((BUS, *sections)).format(folder, replicas))
    return file


def p06bs(*words: object) -> Any:
    command = [sys.executable, "-m", "p06bs.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def why(run: Any) -> Callable[..., dict[str, dict[str, Any]]]:
    """Return what ``p06bs why`` says, by service and pipeline."""

    def asked(*words: object) -> dict[str, dict[str, Any]]:
        status, said, errors = run("why", *words, "--json")
        assert status == 0, errors
        return {f"{d['service']}/{d['pipeline']}": d for d in json.loads(said)["pipelines"]}

    return asked


def install(folder: Path) -> None:
    """Install a package with a modality, as pip does."""
    about = folder / "site" / "doubled-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "site" / "doubled.py").write_text(DOUBLED)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: doubled\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[p06bs.modalities]\ndoubled = doubled:Doubled\n")


@pytest.mark.slow
def test_why_and_a_pipeline_that_comes_in_mid_scan(tmp_path, run, why):
    file = written(tmp_path, SCALE)
    raw = raw_run({"x": np.arange(60.0)}, page=10, scan_id=7, plan_name="count")
    uid = raw[0][1]["uid"]
    lacking = raw_run({"other": np.arange(3.0)}, analysis="all of them")
    unwanted = raw_run({"x": np.arange(3.0)}, analysis={"skip": ["scale", "xrff"]})
    waits = raw_run({"x": np.arange(3.0)}, aligned_streams=["primary", "frames"], stop=False)
    with (
        supervised(file) as started,
        Publisher(f"ipc://{tmp_path}/in", tmp_path / "log") as publish,
        Listener(f"ipc://{tmp_path}/out", tmp_path / "log") as listener,
        Membership(f"ipc://{tmp_path}/topology") as peers,
    ):
        for documents in (lacking, unwanted, waits, raw[:4]):
            for document in documents:
                publish(*document)
        listener.wait(uid, "scale", rows=20)
        working = wait(lambda: next((one.runs for one in peers.services if uid in one.runs), None))
        assert working == (waits[0][1]["uid"], uid)
        assert uid in json.loads(run("ls", "--json")[1])[1]["runs"]
        found = why()["scale/scale"]  # the newest
        assert (found["state"], found["events"], found["invalid"]) == ("works", 20, 0)
        assert found["inputs"] == {"x": "primary/x"}
        assert found["settings"]["change"] == 0
        assert found["derived"] == listener.recorder.derived(uid)["scale"]
        found = why(waits[0][1]["uid"])["scale/scale"]
        assert (found["state"], found["computed"]) == ("waits", False)
        assert "stream frames, which aligned_streams announces" in found["why"]
        found = why(lacking[0][1]["uid"])["scale/scale"]
        assert found["state"] == "left"
        assert "bound to 'x', which is not there. The run has: primary/other" in found["why"]
        _, said, remarks = run("why", unwanted[0][1]["uid"][:13])
        assert "scale left: the run does not want it: analysis.skip names 'scale'" in said
        assert "analysis names xrff, which no pipeline here is called" in remarks
        _, _, remarks = run("why", lacking[0][1]["uid"])
        assert "analysis is 'all of them'; it must be a dict" in remarks

        # A package and a service come while the scan goes on; nothing else is started anew.
        before = {name: status.pid for name, status in started.statuses().items()}
        install(tmp_path)
        written(tmp_path, SCALE, LATE)
        assert p06bs("up", file).returncode == 0
        after = {name: status.pid for name, status in started.statuses().items()}
        assert before.items() <= after.items()
        listener.wait(uid, "doubled", rows=20)
        for document in raw[4:]:
            publish(*document)
        for name in ("scale", "doubled"):
            online = listener.wait(uid, name)
            assert_equal(online, Scale(inputs={"x": "x"}), raw) if name == "scale" else None
            assert [row[1] for row in rows_of(online)] == list(range(1, 61))
        done = wait(lambda: (f := why(uid)) and all(d["state"] == "done" for d in f.values()) and f)
        assert set(done) == {"scale/scale", "late/doubled"}
        assert {d["events"] for d in done.values()} == {60}
    status, _, refused = run("why", uid)
    assert status == 1
    assert "no Topology Manager answers" in refused
    assert "with --file FILE it is computed" in refused
    # Nobody is up: the same, from the logs and the file.
    written(tmp_path, SCALE)
    (computed,) = why(uid[:8], "-f", file).values()
    assert (computed["state"], computed["events"], computed["computed"]) == ("done", 60, True)
    assert computed["derived"] == done["scale/scale"]["derived"]
    assert why(unwanted[0][1]["uid"], "-f", file)["None/scale"]["state"] == "left"
    assert "aligned_streams" in why(waits[0][1]["uid"], "-f", file)["None/scale"]["why"]
    write(tmp_path / "log", raw_run({"x": np.arange(3.0)}))
    written(tmp_path, SCALE, LATE)
    (tmp_path / "site" / "doubled.py").write_text("from nowhere import nothing\n")
    said = p06bs("why", "-1", "-f", file).stdout
    assert "scale waits (computed now, not remembered): no service that is up hosts it" in said
    assert re.search(r"doubled refused \(computed now, not remembered\): .*nowhere", said)


@pytest.mark.slow
def test_a_standby_goes_on_with_what_another_process_makes_that_is_killed(tmp_path, why):
    file = written(tmp_path, SCALE, replicas=2)
    raw = raw_run({"x": np.arange(400.0)}, page=10)
    uid = raw[0][1]["uid"]
    with (
        supervised(file) as started,
        Publisher(f"ipc://{tmp_path}/in", tmp_path / "log") as publish,
        Listener(f"ipc://{tmp_path}/out", tmp_path / "log") as listener,
    ):
        for document in raw[:12]:
            publish(*document)
        listener.wait(uid, "scale", rows=100)
        said = wait(lambda: len(found := why(uid)) == 2 and found)
        states = {name.partition("/")[0]: d["state"] for name, d in said.items()}
        assert sorted(states.values()) == ["stands by", "works"]
        (working,) = [name for name, state in states.items() if state == "works"]
        (other,) = set(states) - {working}
        killed = started.statuses()[working].pid
        assert f"process {killed}" in said[f"{other}/scale"]["why"]
        os.kill(killed, signal.SIGKILL)
        for document in raw[12:]:
            publish(*document)
        online = listener.wait(uid, "scale")
        wait(lambda: started.statuses()[working].pid not in (0, killed))
        started.wait_ready()
        assert why(uid)[f"{other}/scale"]["state"] == "done"
        # The one that is back knows of the run, whenever it came back.
        wait(lambda: why(uid)[f"{working}/scale"]["state"] in ("done", "done before"))
    assert_equal(online, Scale(inputs={"x": "x"}), raw)
    uids = [row[2] for row in rows_of(online)]
    assert len(set(uids)) == len(uids) == 400
    with DocumentLog(tmp_path / "log") as log:
        derived = {uid for uid in log.runs() if uid != raw[0][1]["uid"]}
    assert derived == {online[0][1]["uid"]}


def test_of_two_pipelines_that_make_one_derived_run_the_second_stands_by(tmp_path):
    """They have other names, and so no settings in common that would tell them of each other."""
    raw = raw_run({"x": np.arange(300.0)}, page=10, num_points=301)
    uid = raw[0][1]["uid"]

    def pipelines(name: str) -> Pipelines:
        pipeline = Pipeline(modality=Scale(inputs={"x": "x"}), name=name)
        return Pipelines(*addresses, tmp_path / "log", [pipeline], workers=1)

    def states(*hosts: Pipelines) -> list[str]:
        return [host.decisions.why(uid)["pipelines"][0]["state"] for host in hosts]

    with (
        proxy(tmp_path) as addresses,
        running(pipelines("one")) as one,
        running(pipelines("other")) as other,
        Publisher(addresses[0], tmp_path / "log") as publish,
        Listener(addresses[1], tmp_path / "log") as listener,
    ):
        for document in raw[:12]:
            publish(*document)
        listener.wait(uid, "scale", rows=100)
        wait(lambda: sorted(states(one, other)) == ["stands by", "works"])
        working, standby = (one, other) if states(one) == ["works"] else (other, one)
        for document in raw[12:20]:
            publish(*document)
        listener.wait(uid, "scale", rows=180)
        (name,) = standby.adjustments.names
        (_, waiting), *_ = standby.under_way.going(name)
        assert waiting.raw.rows.available <= 100  # the others' names wait in the log
        working.stop()
        wait(lambda: states(standby) == ["works"])
        for document in raw[20:]:
            publish(*document)
        online = listener.wait(uid, "scale")
        wait(lambda: states(standby) == ["done"])
        (found,) = standby.decisions.why(uid)["pipelines"]
    assert found["warnings"] == online[-1][1]["warnings"]
    assert "301 rows were expected: primary lacks 1" in found["warnings"][0]
    assert_equal(online, Scale(inputs={"x": "x"}), raw)
    assert len(rows_of(online)) == 300


def test_a_last_document_that_is_cut_off_is_no_part_of_what_was_left(tmp_path):
    raw = raw_run({"x": np.arange(4000.0).reshape(4, 1000)}, page=2, stop=False)
    uid = write(tmp_path, raw)
    path = tmp_path / f"{uid}.doclog"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1  # in the array of the last page
    path.write_bytes(content)
    seen: list[NamedDocument] = []
    with DocumentLog(tmp_path) as log:
        log.claim(uid, lambda *document: seen.append(document))
    assert [name for name, _ in seen] == ["start", "descriptor", "event_page"]


@given(st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["pipelines", "skip", "x"]) , inner)))  # fmt: skip  # noqa: E501
def test_whatever_a_run_says_of_its_analysis_it_is_understood_or_said(said):
    wanted = Analysis.of({"analysis": said})
    assert isinstance(wanted.refusal("a", "b"), str)
    usable = said is None or (
        isinstance(said, dict)
        and said.keys() <= {"pipelines", "skip"}
        and all(
            isinstance(v, str) or (isinstance(v, list) and all(isinstance(n, str) for n in v))
            for v in said.values()
        )
    )
    assert bool(wanted.problems) != usable


def test_a_run_names_pipelines_or_modalities():
    only = Analysis.of({"analysis": {"pipelines": ["xrf", "map2"]}})
    assert (
        only.refusal("xrf", "xrf") == only.refusal("map2", "xrd") == only.refusal("a", "xrf") == ""
    )
    assert "analysis.pipelines names xrf, map2" in only.refusal("map1", "xrd")
    assert "names none" in Analysis.of({"analysis": {"pipelines": []}}).refusal("a", "b")
    assert "skip names 'xrd'" in Analysis.of({"analysis": {"skip": "xrd"}}).refusal("map1", "xrd")


def test_why_tells_what_a_derived_run_warns_of(tmp_path):
    raw = raw_run({"x": np.arange(4.0)}, num_points=6)
    with DocumentLog(tmp_path) as documents:
        for run in (raw, process(Scale(inputs={"x": "x"}), raw)):
            for document in run:
                documents.append(*document)
        pipeline = Pipeline(modality=Scale(inputs={"x": "x"}))
        uid = raw[0][1]["uid"]
        found = foresee(pipeline, documents, uid, tmp_path / "settings", hosted=False)
    assert found.state == "done"
    assert "primary lacks 2" in " ".join(found.warnings)
