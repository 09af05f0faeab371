"""Running pipelines: real processes, real sockets; online equals offline, whatever is killed."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from p06bs import Modality, Publisher
from p06bs.pipeline.declared import Pipeline
from p06bs.services.supervision import Supervision
from tests.documents import frame_documents, raw_run, rows_of
from tests.online import PATIENCE, Listener, assert_equal, beamline, elastic_of
from tests.techniques import Brightness, Deadly, Fussy, Histogram, Scale, Total

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _workers_find_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


@pytest.mark.parametrize("size", [1, 7, 64, None])
def test_online_equals_offline(tmp_path, size):
    modality = Scale(inputs={"x": "x"}, bad=[17.0, 400.0], flagged=[5.0])
    total = Total(inputs={"x": "x"})
    histogram = Histogram(inputs={"x": "x"}, flagged=[5.0])
    seqs = [*range(1, 301), *range(250, 601)]  # a rewind
    raw = raw_run({"x": np.arange(len(seqs), dtype=float)}, seqs=seqs, page=20)
    pipelines: list[Modality | Pipeline] = [
        Pipeline(modality=m, batch_size=size) for m in (modality, total, histogram)
    ]
    with beamline(tmp_path, pipelines) as (_, publish, listener):
        for document in raw:
            publish(*document)
        for each in (modality, total, histogram):
            assert_equal(listener.wait(raw[0][1]["uid"], each.name), each, raw)


def test_settings_change_at_an_exact_event(tmp_path):
    modality = Scale(inputs={"x": "x"})
    raw = raw_run({"x": np.arange(400.0)}, page=10)
    uid = raw[0][1]["uid"]
    with beamline(tmp_path, [modality]) as (pipelines, publish, listener):
        for document in raw[:12]:
            publish(*document)
        listener.wait(uid, "scale", rows=50)
        with pytest.raises(ValueError, match="limit"):
            pipelines.change("scale", {"limit": -1.0})
        pipelines.change("scale", {"factor": 3.0}, "Ada")
        for document in raw[12:25]:
            publish(*document)
        listener.wait(uid, "scale", rows=180)
        pipelines.change("scale", {"square": True})
        for document in raw[25:]:
            publish(*document)
        online = listener.wait(uid, "scale")
        assert_equal(online, modality, raw)
    descriptors = [d for n, d in online if n == "descriptor"]
    assert [d["name"] for d in descriptors] == ["primary", "primary", "primary_r2"]
    recorded = [d["configuration"]["scale"]["data"] for d in descriptors]
    assert [r["changed_by"] for r in recorded] == ["", "Ada", ""]
    assert [r["revision"] for r in recorded] == [0, 1, 2]


@pytest.mark.logs_errors
def test_settings_that_do_not_fit_the_run_are_refused_and_the_old_ones_stay(tmp_path, caplog):
    modality = Fussy(inputs={"x": "x"}, start=100.0)
    raw = raw_run({"x": np.ones(40)}, page=10)
    uid = raw[0][1]["uid"]
    with beamline(tmp_path, [modality]) as (pipelines, publish, listener):
        for document in raw[:4]:
            publish(*document)
        listener.wait(uid, "fussy", rows=20)
        pipelines.change("fussy", {"start": -1.0})
        while "keeps its settings: cannot start at -1" not in caplog.text:
            assert elastic_of(pipelines).pool.leases.workers  # it goes on
        for document in raw[4:]:
            publish(*document)
        online = listener.wait(uid, "fussy")
    assert_equal(online, modality, raw)
    assert len([d for n, d in online if n == "descriptor"]) == 1


def test_a_slow_prepare_holds_up_no_other_pipeline(tmp_path):
    gate = tmp_path / "gate"
    slow = Fussy(inputs={"x": "x"}, wait_for=str(gate))
    quick = Scale(inputs={"x": "x"})
    raw = raw_run({"x": np.arange(40.0)}, page=10)
    uid = raw[0][1]["uid"]
    with beamline(tmp_path, [slow, quick]) as (_, publish, listener):
        for document in raw:
            publish(*document)
        assert_equal(listener.wait(uid, "scale"), quick, raw)
        assert rows_of(listener.derived(uid, "fussy")) == []
        gate.touch()
        assert_equal(listener.wait(uid, "fussy"), slow, raw)


def test_a_file_that_is_late_holds_up_no_other_run(tmp_path):
    bright, quick = Brightness(inputs={"frame": "det"}), Scale(inputs={"x": "x"})
    file = tmp_path / "frames.h5"
    raw = raw_run({"x": np.arange(40.0)}, page=10)
    start = {"uid": str(uuid.uuid4()), "time": 1.0}
    frames = [
        ("start", start),
        *frame_documents(start["uid"], file, 9, (4, 5), stream="primary"),
        ("stop", {"uid": "s", "run_start": start["uid"], "time": 2.0, "exit_status": "success"}),
    ]
    with beamline(tmp_path, [bright, quick], workers=1, deadline=600) as (_, publish, listener):
        for document in [*frames, *raw]:
            publish(*document)
        assert_equal(listener.wait(raw[0][1]["uid"], "scale"), quick, raw)
        assert rows_of(listener.derived(start["uid"], "brightness")) == []
        with h5py.File(file, "w") as written:
            written["/entry/data"] = np.arange(9 * 20, dtype="u2").reshape(9, 4, 5)
        online = listener.wait(start["uid"], "brightness")
    assert online[-1][1]["num_invalid"] == {"primary": 0}
    assert_equal(online, bright, frames)


@pytest.mark.parametrize("poison", [0.0, pytest.param(13.0, marks=pytest.mark.slow)])
def test_a_batch_that_kills_workers_costs_one_event(tmp_path, poison):
    modality = Deadly(inputs={"x": "x"}, poison=poison)
    raw = raw_run({"x": np.arange(40.0)}, page=8)
    with beamline(tmp_path, [Pipeline(modality=modality, batch_size=4)]) as (_, publish, listener):
        for document in raw:
            publish(*document)
        online = listener.wait(raw[0][1]["uid"], "deadly")
    rows = rows_of(online, "valid", "invalid_reason")
    assert [r[3] for r in rows] == [i != poison for i in range(40)]
    assert "workers died" in rows[int(poison)][4]


def test_a_run_without_the_inputs_is_left_and_others_go_on(tmp_path, caplog):
    with beamline(tmp_path, [Scale(inputs={"x": "x"})]) as (_, publish, listener):
        left = raw_run({"other": np.arange(5.0)})
        for document in left:
            publish(*document)
        raw = raw_run({"x": np.arange(5.0)})
        for document in raw:
            publish(*document)
        listener.wait(raw[0][1]["uid"], "scale")
        assert listener.derived(left[0][1]["uid"], "scale") == []


def test_a_modality_that_cannot_be_imported_is_refused_with_a_reason(tmp_path):
    class Local(Scale):
        pass

    raw = raw_run({"x": np.arange(5.0)})
    with beamline(tmp_path, [Local(inputs={"x": "x"})]) as (_, publish, listener):
        for document in raw:
            publish(*document)
        online = listener.wait(raw[0][1]["uid"], "local")
    assert online[-1][1]["exit_status"] == "fail"
    assert "cannot import modality" in online[-1][1]["reason"]


test_a_modality_that_cannot_be_imported_is_refused_with_a_reason = pytest.mark.logs_errors(
    test_a_modality_that_cannot_be_imported_is_refused_with_a_reason
)

CONFIGURATION = """
[bus]
inbound = "ipc://{folder}/in"
outbound = "ipc://{folder}/out"
topology = "ipc://{folder}/topology"
log = "{folder}/log"
[server]
port = {port}
api_key_file = "{folder}/key"
[[pipelines]]
modality = "tests.techniques:Deadly"
settings = {{ seconds = 0.002 }}
inputs = {{ x = "x" }}
[[pipelines]]
modality = "tests.techniques:Histogram"
inputs = {{ x = "x" }}
[[pipelines]]
modality = "tests.techniques:Total"
inputs = {{ x = "x" }}
batch_size = 7
"""


@pytest.mark.slow
def test_nothing_is_lost_when_anything_is_killed(tmp_path, unused_port):
    file = tmp_path / "services.toml"
    file.write_text(CONFIGURATION.format(folder=tmp_path, port=unused_port))
    services = Supervision(file)
    services.start()
    try:
        services.wait_ready()
        raw = raw_run({"x": np.arange(3000.0)}, page=5)
        uid = raw[0][1]["uid"]
        inbound, outbound = f"ipc://{tmp_path}/in", f"ipc://{tmp_path}/out"
        with (
            Publisher(inbound, tmp_path / "log") as publish,
            Listener(outbound, tmp_path / "log") as listener,
        ):
            kills = ["worker", "pipelines", "proxy", "server", "worker"]
            for number, document in enumerate(raw):
                publish(*document)
                if number % 100 == 99 and kills:
                    listener.wait(uid, "deadly", rows=(number - 60) * 5)
                    _kill(services, kills.pop(0))
            for kind in (Deadly, Total, Histogram):
                modality = kind(inputs={"x": "x"})
                assert_equal(listener.wait(uid, modality.name), modality, raw)
    finally:
        codes = services.stop()
    assert not kills
    assert set(codes.values()) == {0}, codes


def _kill(services: Supervision, kind: str) -> None:
    pid = services.statuses()["pipelines" if kind == "worker" else kind].pid
    if kind == "worker":
        workers = [
            c for c in psutil.Process(pid).children() if "spawn_main" in " ".join(c.cmdline())
        ]
        pid = workers[0].pid
    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.slow
def test_up_stops_everything_on_sigterm(tmp_path, unused_port):
    file = tmp_path / "services.toml"
    file.write_text(CONFIGURATION.format(folder=tmp_path, port=unused_port))
    with subprocess.Popen(
        [sys.executable, "-m", "p06bs.cli", "up", str(file)], stdout=subprocess.PIPE, text=True
    ) as up:
        assert up.stdout is not None
        for line in up.stdout:
            if "all services are up" in line:
                break
        children = psutil.Process(up.pid).children(recursive=True)
        up.send_signal(signal.SIGTERM)
        up.communicate(timeout=PATIENCE)
        assert up.returncode == 0
    assert len(children) >= 3
    assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.logs_errors
def test_large_arrays_in_start_and_configuration_are_values(tmp_path):
    modality = Scale(inputs={"x": "x"})
    raw = raw_run({"x": np.arange(20.0)}, page=10, scan={"mask": np.zeros((100, 200))})
    described = raw[1][1]
    described["configuration"] = {
        "x": {
            "data": {"x-table": np.arange(20_000.0)},
            "timestamps": {"x-table": 0.0},
            "data_keys": {"x-table": {"source": "", "dtype": "array", "shape": [20_000]}},
        }
    }
    # A second pipeline that binds alike would write the same derived run.
    twin = Pipeline(modality=Scale(inputs={"x": "primary/x"}), name="twin")
    with beamline(tmp_path, [modality, twin]) as (_, publish, listener):
        for document in raw:
            publish(*document)
        online = listener.wait(raw[0][1]["uid"], "scale")
    assert_equal(online, modality, raw)
    assert online[0][1]["scan"]["mask"].shape == (100, 200)
