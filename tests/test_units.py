"""systemd units of a configuration: what systemd itself says of them, and what they start."""

import configparser
import os
import shutil
import subprocess
import sys

import pytest

FILE = """
[bus]
topology = "ipc://{0}/topology"
inbound = "ipc://{0}/in"
outbound = "ipc://{0}/out"
log = "{0}/log"
[services.example]
replicas = 3
environment = {{ NOTE = "50 % of \\"$HOME\\" \\\\ done" }}
[services.elsewhere]
kind = "example"
runs_on = "another-host"
"""


def read(path):
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str
    parser.read_string("\n".join(path.read_text().splitlines()[1:]))
    return parser


@pytest.fixture(params=["plain", "Ordner; 50 % $HOME 'x' #1 ü"])
def folder(request, tmp_path):
    made = tmp_path / request.param
    made.mkdir()
    return made


def test_systemd_accepts_the_units_of_any_folder(folder, run, monkeypatch):
    file = folder / "services.toml"
    file.write_text(FILE.format("/tmp/p06bs"))
    monkeypatch.chdir(folder)
    units = folder / "units"
    status, _, said = run("units", file, "--directory", units)
    assert (status, said.count("wrote 4 units")) == (0, 1)
    names = {"p06bs.target", "p06bs-topology.service", "p06bs-proxy.service"}
    assert {path.name for path in units.iterdir()} == {*names, "p06bs-example@.service"}
    example = read(units / "p06bs-example@.service")
    assert example["Service"]["RestartPreventExitStatus"] == "2"
    assert example["Service"]["ExecStart"].endswith("example-%i")
    assert "p06bs-topology.service p06bs-proxy.service" in example["Unit"]["After"]
    assert "p06bs-proxy.service" not in read(units / "p06bs-topology.service")["Unit"]["After"]
    wanted = [line for line in (units / "p06bs.target").read_text().splitlines() if "Wants" in line]
    assert len(wanted) == 5
    file.write_text(
        file.read_text().replace("[services.example]", "[services.other]\nkind='example'")
    )
    assert "removed p06bs-example@.service" in run("units", file, "--directory", units)[2]
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    instances = [units / f"p06bs-other@{n}.service" for n in (1, 2)]
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", units / "p06bs.target", *instances],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"},
    )
    ours = [line for line in said.stderr.splitlines() if "p06bs" in line]
    assert (said.returncode, ours) == (0, [])


def test_units_are_printed_and_those_of_a_user_want_no_network(tmp_path, run):
    file = tmp_path / "services.toml"
    file.write_text(FILE.format(tmp_path))
    status, printed, _ = run("units", file, "--user")
    assert status == 0
    assert "# p06bs.target" in printed
    assert "WantedBy=default.target" in printed
    assert "network-online" not in printed
    assert f'ExecStart="{sys.executable}" -m p06bs.services "{file}" topology' in printed
    file.write_text("topology = false\nproxy = false\n[services.example]\nruns_on = 'elsewhere'\n")
    assert "describes no service for this host" in run("units", file)[2]
