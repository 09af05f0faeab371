"""``p06bs settings`` with the services of a configuration; what the server shows of a change."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiled.client import from_uri

from p06bs import Publisher, process
from p06bs.services.supervision import Supervision
from tests.documents import raw_run, rows_of
from tests.online import Listener, assert_equal
from tests.supervised import supervised, wait
from tests.techniques import Scale
from tests.test_settings import assert_no_gap, descriptors, second

REPOSITORY = Path(__file__).parents[1]
CONFIGURATION = """
[bus]
inbound = "ipc://{0}/in"
outbound = "ipc://{0}/out"
topology = "ipc://{0}/topology"
log = "{0}/log"
[server]
port = {1}
api_key_file = "{0}/key"
[server.archive]
database = "sqlite:///{0}/archive.db"
storage = "{0}/archive"
[workers]
min = 1
max = 2
[[pipelines]]
modality = "tests.techniques:Scale"
inputs = {{ x = "x" }}
"""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short path: those of sockets may have 107 characters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _surroundings(
    own_runtime_directory: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("P06BS_TOPOLOGY", f"ipc://{tmp_path}/topology")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def services(tmp_path: Path, unused_port: int) -> Any:
    file = tmp_path / "services.toml"
    file.write_text(CONFIGURATION.format(tmp_path, unused_port))
    with supervised(file) as started:
        yield started


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def settings(*words: object) -> Any:
    command = [sys.executable, "-m", "p06bs.cli", "settings", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def shape(points: int) -> dict[str, Any]:
    rows = points // 20
    return {
        "shape": [rows, 20],
        "extents": [[0.0, rows - 1.0], [0.0, 19.0]],
        "snaking": [False, False],
        "motors": ["sy", "sx"],
    }


@contextmanager
def server(tmp_path: Path, port: int) -> Iterator[Any]:
    client = from_uri(f"http://127.0.0.1:{port}", api_key=(tmp_path / "key").read_text().strip())
    try:
        yield client
    finally:
        client.context.close()


@pytest.mark.slow
def test_a_change_in_mid_scan_is_in_documents_and_maps_whatever_is_killed(
    services, tmp_path, unused_port
):
    index = np.arange(400.0)
    raw = raw_run({"x": index}, page=10, scan_id=7, **shape(400))
    uid = raw[0][1]["uid"]
    log = tmp_path / "log"
    with (
        Publisher(f"ipc://{tmp_path}/in", log) as publish,
        Listener(f"ipc://{tmp_path}/out", log) as listener,
        server(tmp_path, unused_port) as client,
    ):
        for document in raw[:12]:
            publish(*document)
        listener.wait(uid, "scale", rows=100)
        derived = listener.recorder.derived(uid)["scale"]
        wait(lambda: derived in client["live"])
        assert "square" not in client["live"][derived]["maps"]

        refused = settings("scale", "limit=-1")
        assert refused.returncode == 1
        for word in ("limit", "-1", "> 0", "<= 1000000000"):
            assert word in refused.stderr
        changed = settings("scale", "factor=3", "--by", "Ada", "--json")
        assert changed.returncode == 0, changed.stderr
        record = json.loads(changed.stdout)["scale"]
        assert (record["changed_by"], record["revision"]) == ("Ada", 1)
        for document in raw[12:20]:
            publish(*document)
        listener.wait(uid, "scale", rows=180)
        shown = settings("scale").stdout
        assert "scan 7" in shown
        assert "holds from event 101 on, in stream primary" in shown

        # Accepted, and killed before an event comes under it.
        changed = settings("scale", "square=true", "--by", "Bea", "--reprocess")
        assert changed.returncode == 0, changed.stderr
        os.kill(services.statuses()["pipelines"].pid, signal.SIGKILL)
        for document in raw[20:30]:
            publish(*document)
        listener.wait(uid, "scale", rows=280)
        # The scan goes on, and what is listed has the new stream and its map.
        wait(lambda: "square" in client["live"][derived]["maps"])
        assert "primary_r2" in client["live"][derived]
        wait(lambda: client["live"][derived]["maps"]["square"].metadata["rows"] >= 280)
        square = client["live"][derived]["maps"]["square"].read().ravel()
        np.testing.assert_array_equal(square[180:280], index[180:280] ** 2)
        assert np.isnan(square[:180]).all()
        y = client["live"][derived]["maps"]["y"].read().ravel()[:280]
        np.testing.assert_array_equal(y, index[:280] * np.repeat([2.0, 3.0], [100, 180]))

        for document in raw[30:]:
            publish(*document)
        online = listener.wait(uid, "scale")
        wait(lambda: any(name == "stop" for name, _ in second(listener, uid)))
        again = second(listener, uid)
        wait(lambda: derived in client["archive"] and again[0][1]["uid"] in client["archive"])
        archived = client["archive"][derived]
        assert {"primary", "primary_r2", "maps"} <= set(archived)
        square = archived["maps"]["square"].read().ravel()
        np.testing.assert_array_equal(square[180:], index[180:] ** 2)
    modality = Scale(inputs={"x": "x"})
    assert_equal(online, modality, raw)
    assert_no_gap(online, "scale", raw)
    found = descriptors(online, "scale")
    assert [name for name, _ in found] == ["primary", "primary", "primary_r2"]
    assert [data["first_row"] for _, data in found] == [0, 100, 180]
    assert [data["changed_by"] for _, data in found] == ["", "Ada", "Bea"]
    new = Scale(inputs={"x": "x"}, factor=3.0, square=True)
    reference = process(new, raw, reprocessing=1, rows=180)
    assert again[0][1]["uid"] == reference[0][1]["uid"]
    assert rows_of(again, "y", "square") == rows_of(reference, "y", "square")


@pytest.mark.slow
def test_settings_are_listed_kept_as_presets_and_completed(tmp_path, run):
    file = tmp_path / "services.toml"
    without_server = CONFIGURATION.replace("[server]", "[x]").split("[x]")[0]
    pools = CONFIGURATION[CONFIGURATION.index("[workers]") :].replace("min = 1", "min = 0")
    file.write_text((without_server + pools).format(tmp_path, 0))
    services = Supervision(file)

    def asked(*words: object) -> Any:
        status, out, err = run("settings", *words, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)

    services.start()
    try:
        assert services.wait_ready()
        assert "scale" in settings().stdout
        shown = settings("scale", "-f", file).stdout
        assert "number > 0, <= 1000000000" in shown
        asked("scale", "factor=4", "--save", "four", "--sample", "leaf")
        preset = tmp_path / "log" / "settings" / "presets" / "scale" / "four.toml"
        assert 'sample = "leaf"' in preset.read_text()
        asked("scale", "factor=5", "bad=[1, 2]")
        presets = asked("scale", "--presets")
        assert [(p["name"], p["sample"], p["problem"]) for p in presets] == [("four", "leaf", "")]
        loaded = asked("scale", "--load", "four")["scale"]
        assert (loaded["values"]["factor"], loaded["values"]["bad"]) == (4.0, [])
        assert (loaded["preset"], loaded["revision"]) == ("four", 3)
        assert asked("scale", "factor", "bad") == {"factor": 4.0, "bad": []}
        only = settings("scale", "factor", "-f", file).stdout
        assert ("factor" in only, "bad" in only) == (True, False)
        for words, said in (
            (["scala"], "no service offers a pipeline 'scala'; there are: scale"),
            (["scale", "faktor"], "there is no faktor: in settings there is bad, factor"),
            (["scale", "factor", "bad=[1]"], "write key=value to change it"),
            (["factor=3"], "name it first"),
            (["--presets"], "say of which pipeline"),
            (["scale", "factor=7", "--presets"], "--presets lists presets and changes nothing"),
            (["scale", "--presets", "--load", "four"], "say it alone"),
            (["scale", "--load", "five"], "no preset 'five'"),
            (["scale", "faktor=3"], "there are factor, bad"),
        ):
            status, _, err = run("settings", *words)
            assert status == 1
            assert said in err
        page = (REPOSITORY / "docs/how-to/change-settings.md").read_text()
        program = page.partition("## From Python\n\n```text\n")[2].partition("```")[0]
        for shown, here in (
            ("tcp://127.0.0.1:5569", f"ipc://{tmp_path}/topology"),
            ("xrf", "scale"),
            ("noise", "factor"),
        ):
            program = program.replace(shown, here)
        exec(program, {})
        assert asked("scale", "factor") == {"factor": 0.09}
        assert completed("settings sc") == ["scale"]
        assert completed("settings scale fac") == ["factor="]
    finally:
        codes = services.stop()
    assert set(codes.values()) == {0}
    assert "no Topology Manager answers" in run("settings")[2]


def completed(line: str) -> list[str]:
    """Return what bash completes a line of the command to."""
    words = f"p06bs {line}"
    environment = {
        **os.environ,
        "_P06BS_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    command = [sys.executable, "-m", "p06bs.cli"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.split()
