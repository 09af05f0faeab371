"""The profile in a real IPython: alone, with services, with devices by a file."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest

from p06bs import DocumentLog
from p06bs.services.supervision import Supervision
from p06bs.session.devices import DevicesError, configured
from tests.doors import KEY, Gated
from tests.live_server import serving
from tests.peers import hosting, topology

pytestmark = pytest.mark.usefixtures("own_runtime_directory")

STARTUP = Path(__file__).parents[1] / "profile_collection" / "startup"
SERVICES = """
[bus]
inbound = "ipc://{0}/in"
outbound = "ipc://{0}/out"
topology = "ipc://{0}/topology"
log = "{0}/log"
[server]
port = 0
api_key_file = "{0}/key"
[workers]
max = 1
[[pipelines]]
modality = "region_sums"
[pipelines.settings.regions]
Fe_K = [518, 558]
"""

TAB = """
from IPython.core.completer import provisionalcompleter
def tab(text):
    with provisionalcompleter():
        return [one.text for one in get_ipython().Completer.completions(text, len(text))]
"""
"""What the tab key offers."""


def beginning(folder: Path, **environment: str) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of a session."""
    shutil.copytree(STARTUP, folder / "profile" / "startup")
    return [sys.executable, "-m", "IPython", f"--profile-dir={folder / 'profile'}"], {
        **os.environ,
        "P06BS_DATA": str(folder / "data"),
        "P06BS_LOG": str(folder / "log"),
        "P06BS_METADATA": str(folder / "metadata"),
        "P06BS_TOPOLOGY": f"ipc://{folder}/topology",
        "P06BS_API_KEY_FILE": str(folder / "key"),
        "P06BS_SEED": "3",
        "IPYTHONDIR": str(folder),
        **environment,
    }


def session(folder: Path, code: str, **more: str) -> str:
    """Run code at the prompt of a session, and return what it prints."""
    command, environment = beginning(folder, **more)
    done = subprocess.run(
        [*command, "-c", TAB + code],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def logged(folder):
    """Return the documents of all runs, the oldest run first."""
    with DocumentLog(folder / "log") as log:
        runs = [list(log.read(uid)) for uid in log.runs()]
    return sorted(runs, key=lambda run: run[0][1]["time"])


def test_alone_it_scans_and_says_what_is_not_there(tmp_path):
    code = """
import asyncio, numpy, ophyd.sim
try:
    sample(mount="pin 7")
except ValueError as error:
    print("refused:", error)
sample("leaf", elements="Fe Zn", mount="pin 6")
sample(mount="pin 7")
RE(fly_map(nx=6, ny=5, rate=numpy.inf))
def lose_beam(msg):
    if msg.command == "create" and msg.kwargs["name"] == "primary":  # a frame is taken
        RE.msg_hook = None
        RE.request_suspend(lambda: asyncio.sleep(0))
RE.msg_hook = lose_beam
RE(bp.count([ophyd.sim.det, xspress3], 2))
print("plans:", sorted(plans), "suspenders:", len(beam_suspenders), *beam_suspenders.offered)
beam_suspenders.on("i0", "top-up")
RE(top_up_gated(time_series(2, detectors=[scaler], dwell=0.1), dwell=0.1))
print("held by:", *beam_suspenders)
print("catalog:", catalog, "analysis:", analysis)
"""
    beamtime = tmp_path / "beamtime-metadata-1.json"
    beamtime.write_text(json.dumps({"beamtimeId": "1", "onlineAnalysis": {"userAccount": "x"}}))
    out = session(tmp_path, code, P06BS_BEAMTIME=str(tmp_path))
    assert out.count("There is no catalog: no server is registered") == 1
    assert out.count("No pipelines can be asked: no Topology Manager answers at ipc://") == 1
    assert "catalog: None analysis: <no pipelines: no Topology Manager answers" in out
    assert (
        "plans: ['energy_scan', 'fly_grid', 'fly_map', 'fly_spiral', 'fly_tomography', "
        "'knife_edge', 'line_scan', 'resume_tomography', 'spiral_map', 'step_map', 'time_series'] "
        "suspenders: 2 i0 top-up"
    ) in out
    assert "refused: of which sample? None was said yet: sample(name, mount)" in out
    assert "held by: ring shutter i0 top-up" in out
    assert "fly_map 5 x 6" in out
    assert re.search(r"points .* 30/30 .* left", out)
    assert "success: {'baseline': 2, 'xspress3': 30, 'eiger': 30, 'primary': 30}" in out
    assert "panda-i0" not in out  # a fly scan has no table
    assert re.search(r"\|\s+1 \|[^|]*\|\s+1.000 \|", out)  # and a step scan has one
    fly, count, gated = logged(tmp_path)
    start = fly[0][1]
    assert start["sample"] == {"name": "leaf", "elements": ["Fe", "Zn"], "mount": {"name": "pin 7"}}
    assert start["beam"]["energy"] == {"value": 17.5, "units": "keV"}
    assert start["beamtime_id"] == "1"
    assert "stream_datum" in {name for name, _ in fly}
    assert "event" in {name for name, _ in count}
    assert [run[-1][1]["exit_status"] for run in (fly, count, gated)] == ["success"] * 3


class Terminal:
    """A session that somebody types at."""

    def __init__(self, folder: Path) -> None:
        (command, *options), environment = beginning(folder)
        options += ["--simple-prompt", "--no-confirm-exit", "--colors=NoColor"]
        self.child = pexpect.spawn(
            *(command, options, 120),
            **{"env": environment, "cwd": str(folder), "encoding": "utf8", "dimensions": (50, 150)},
        )
        self.said = self.until_prompt()

    def until_prompt(self) -> str:
        self.child.expect(r"In \[\d+\]: ")
        return self.child.before

    def type(self, line: str) -> str:
        self.child.sendline(line)
        return self.until_prompt()

    def end(self) -> None:
        self.child.sendline("exit()")
        self.child.expect(pexpect.EOF)
        self.child.close()


def test_a_person_pauses_aborts_and_moves_the_shutter(tmp_path):
    terminal = Terminal(tmp_path)
    assert "There is no catalog: no server is registered" in terminal.said
    terminal.child.sendline("RE(time_series(1000, interval=0.1, detectors=[scaler]))")
    terminal.child.expect(r"3/1000")
    for _ in range(2):
        terminal.child.sendintr()
    paused = terminal.until_prompt()
    assert "RE.resume()" in paused
    assert "/1000" not in terminal.type("1 + 1")
    aborted = terminal.type("RE.abort('bad sample')")
    assert "abort: {'baseline': 2" in aborted
    assert "Traceback" not in aborted
    assert terminal.type("RE(energy_scan())").count("ValueError: ") == 1
    terminal.type("RE(bps.mv(shutter.state, 'closed'))")
    terminal.type("RE(bps.mv(shutter.state, 'open'))")
    assert "success: {'baseline': 2" in terminal.type("RE(time_series(2))")
    assert "Error" in terminal.type("analysis.xrf.last")
    with topology(f"ipc://{tmp_path}/topology") as address, serving(Gated().gate) as url:
        (tmp_path / "key").write_text(KEY)
        with hosting(address, "s", url, "server"):
            until = time.monotonic() + 60
            while "Container" not in (said := terminal.type("catalog")):
                assert time.monotonic() < until, said
            assert "run1" in terminal.type("list(runs['live'])")
    terminal.end()


@pytest.mark.slow
def test_metadata_are_kept_from_session_to_session(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name
        code = "import numpy; sample('leaf', elements='Fe Xx', bins=numpy.int64(0))"
        code = code if name == "one" else "print(sample()); RE(bp.count([scaler]))"
        kept = str(tmp_path / "metadata")
        code += "; RE(bp.count([scaler]))"
        out = session(folder, code, P06BS_METADATA=kept)
        told = "sample is kept as it was given: it: elements: Xx is no chemical symbol" in out
        assert told == (name == "one")
    assert "{'name': 'leaf', 'elements': 'Fe Xx', 'bins': 0}" in out
    assert [run[0][1]["scan_id"] for run in logged(tmp_path / "two")] == [2, 3]


def test_devices_by_a_file_and_those_that_are_missing(tmp_path):
    (tmp_path / "devices.toml").write_text("""
[devices.axis]
class = "ophyd.sim:SynAxis"
value = 4.0
[devices.lost]
class = "ophyd:EpicsSignalRO"
read_pv = "P06:NOTHING"
[devices.wrong]
class = "ophyd.sim:NoSuchClass"
[devices.RE]
class = "ophyd.sim:SynAxis"
[devices.sample]
class = "ophyd.sim:SynAxis"
[sources]
"beam.energy" = "axis"
""")
    code = """
print("devices:", sorted(devices), axis.position)
sample("leaf")
RE(bp.count([], num=1))
print("complete:", tab("axis.posit"), tab("analysis.pipe"), tab("time_s"))
"""
    out = session(tmp_path, code, P06BS_DEVICES=str(tmp_path / "devices.toml"))
    assert "devices: ['RE', 'axis', 'sample'] 4.0" in out
    assert "\nRE has another meaning here: the device is devices['RE']\n" in out
    assert "\nsample has another meaning here: the device is devices['sample']\n" in out
    assert re.search("^lost is not there: ", out, re.MULTILINE)
    assert re.search("^wrong is not there: AttributeError: .*NoSuchClass", out, re.MULTILINE)
    assert "complete: ['position'] ['pipelines'] ['time_series']" in out
    start = logged(tmp_path)[0][0][1]
    assert start["endstation"] == "p06"
    lost, wrong, *_ = start["metadata_warnings"]
    assert lost.startswith(("lost is not there: ", "wrong is not there: AttributeError"))
    assert wrong.startswith(("lost is not there: ", "wrong is not there: AttributeError"))


def test_without_devices_there_is_a_session(tmp_path):
    code = "RE(bp.count([])); print('plans:', sorted(plans)); find_catalog()"
    out = session(tmp_path, code, P06BS_PHANTOM=str(tmp_path / "nothing.npz"))
    assert re.search("^There are no devices: .*nothing.npz", out, re.MULTILINE)
    assert "plans: ['line_scan', 'spiral_map', 'step_map', 'time_series']" in out
    assert out.count("There is no catalog: ") == 2
    assert len(logged(tmp_path)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is no TOML"),
        ("", "devices: Field required"),
        ("[devices.x]", "devices.x.class: Field required"),
        ("[devices.x]\nclass = 'nothing'", "devices.x.class: String should match"),
    ],
)
def test_files_of_devices_that_cannot_be_used_are_refused(tmp_path, content, message):
    (file := tmp_path / "devices.toml").write_text(content)
    with pytest.raises(DevicesError, match=message):
        configured(file)


@pytest.mark.slow
def test_with_services_it_shows_runs_settings_and_results(tmp_path):
    file = tmp_path / "services.toml"
    file.write_text(SERVICES.format(tmp_path))
    services = Supervision(file)
    services.start()
    code = """
import numpy, time
print("pipelines:", analysis.pipelines)
print(analysis)
(uid,) = RE(fly_map(nx=6, ny=5, rate=numpy.inf))
sums = analysis.region_sums
def seen():
    try:
        return sums.last.metadata["start"]["original_run_uid"] == uid and sums.last.metadata["stop"]
    except (LookupError, TypeError):
        return False
until = time.monotonic() + 120
while not seen() and time.monotonic() < until:
    time.sleep(0.1)
results = sums.results
print("results:", results["Fe_K"].shape, "found:", uid in catalog)
sums.settings["regions.Fe_K"] = [519, 557]
settings = sums.settings
print("settings:", settings["regions"])
print("complete:", tab("analysis.region"), tab('results["Fe'), tab('settings["reg'))
RE(bp.count([scaler]))
"""
    try:
        assert services.wait_ready()
        out = session(tmp_path, code)
    finally:
        services.stop()
    assert "pipelines: ('region_sums',)" in out
    assert "region_sums: change 0 by nobody" in out
    assert "results: (30,) found: True" in out
    assert "settings: {'Fe_K': [519, 557]}" in out or "settings: {'Fe_K': [519.0, 557.0]}" in out
    assert "complete: ['region_sums'] ['Fe_K'] ['regions']" in out
    first, last = [run for run in logged(tmp_path) if "process" not in run[0][1]]
    digests = [run[0][1]["analysis_settings"]["pipelines"]["region_sums"] for run in (first, last)]
    assert digests[0] != digests[1]
    held = [
        document["data"]["metadata-analysis_settings"]
        for name, document in last
        if name == "event" and "metadata-analysis_settings" in document["data"]
    ]
    assert json.loads(held[0])["region_sums"]["values"]["regions"]["Fe_K"] == [519, 557]
