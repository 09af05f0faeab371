"""``p06bs show`` and ``p06bs lavue``: what a user sees of runs that are in logs."""

import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from p06bs import process
from p06bs.bus.topology import Service
from p06bs.cli.drawing import DOTS, curve, heat_map
from p06bs.model.picture import Picture, PictureAxis
from p06bs.services._heatmap import show_pairs
from tests.documents import raw_run, write
from tests.techniques import Histogram
from tests.test_lavue import NX, NY, PLAN, VALUES, truth
from tests.test_ls import listed


@pytest.fixture
def log(tmp_path):
    """A directory with a scan that goes on, what was derived from it, and another scan before."""
    directory = tmp_path / "log"
    write(directory, raw_run({"other": VALUES}, **PLAN))
    raw = raw_run({"x": VALUES, "i0": 2 * VALUES}, units={"i0": "counts"}, stop=False, **PLAN)
    write(directory, raw)
    write(directory, process(Histogram(inputs={"x": "x"}), raw))
    return directory


def picture(values, kind="map", places=None):
    ny, nx = values.shape
    axes = PictureAxis("sy", "um", 0.0, ny - 1.0), PictureAxis("sx", "um", 0.0, nx - 1.0)
    return Picture(kind, values, "counts", *axes, values.size, places)


def test_all_that_a_scan_has_is_listed_and_the_first_is_drawn(run, log):
    status, out, errors = run("show", "-1", "--log", log)
    assert status == 0, errors
    for name in ("histogram.y", "histogram.n", "histogram.counts", "raw.i0", "raw.x"):
        assert name in out
    assert "raw.other" not in out
    assert "histogram.y (1), scan 7, 12 points" in out
    assert "12 of 12 values, 2 to 24, mean 13 1" in out
    assert "to the right: sx, upwards: sy" in out


def test_a_map_by_its_short_name_and_as_json(run, log):
    status, out, errors = run("show", "-1", "y", "--log", log, "--json")
    assert status == 0, errors
    (said,) = json.loads(out)["maps"]
    assert (said["name"], said["kind"], said["unit"], said["shape"]) == (
        "histogram.y", "map", "1", [NY, NX],
    )  # fmt: skip
    assert said["axes"][1] == {"name": "sx", "unit": None, "first": 6.0, "last": 0.0}
    assert said["statistics"]["max"] == 2 * truth().max()


def test_a_derived_run_has_its_own_maps_only_and_curves_are_drawn(run, log):
    uid = json.loads(run("show", "-1", "y", "--log", log, "--json")[1])["maps"][0]["run"]
    status, out, errors = run("show", uid[:8], "counts", "--log", log)
    assert status == 0, errors
    assert "to the right: bin" in out
    assert any(0x2800 < ord(letter) < 0x2900 for letter in out)
    assert run("show", uid, "raw.i0", "--log", log)[0] == 1


def test_pictures_in_files(run, log, tmp_path):
    for name in ("histogram.y", "histogram.counts"):
        file = tmp_path / f"{name}.png"
        status, _, errors = run("show", "-1", name, "--log", log, "--png", file)
        assert status == 0, errors
        assert str(file) in errors.replace("\n", "")
        with Image.open(file) as image:
            assert image.size == (960, 720)
            assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_what_cannot_be_shown_is_said(run, log, tmp_path):
    for words, said in (
        (("-1", "histogran.y", "--log", log), "histogram.y"),
        (("-1", "z" * 9, "--log", log), "without a name all are listed"),
        (("-9", "--log", log), "-9"),
        (("nobody", "--log", log), "nobody"),
        (("-1", "--log", tmp_path / "none"), "does not exist"),
        (("-1", "y", "--log", log, "--png", tmp_path / "none" / "a.png"), "none"),
    ):
        status, _, errors = run("show", *words)
        assert status == 1, words
        assert said in errors
        assert errors.count("\n") == 1, errors
    text = tmp_path / "text"
    write(text, raw_run({"x": np.array(["a", "b"])}))
    status, _, errors = run("show", "--log", text)
    assert (status, "neither maps nor curves" in errors) == (1, True)


def test_a_scan_along_a_line_is_curves(run, tmp_path):
    directory = tmp_path / "log"
    hints = {"dimensions": [[["i0"], "primary"]]}
    raw = raw_run({"x": VALUES, "i0": 2 * VALUES}, units={"i0": "counts"}, hints=hints)
    write(directory, raw)
    write(directory, process(Histogram(inputs={"x": "x"}), raw))
    status, out, errors = run("show", "-1", "y", "--log", directory)
    assert status == 0, errors
    assert "to the right: i0 (counts)" in out
    (said,) = json.loads(run("show", "-1", "raw.x", "--log", directory, "--json")[1])["maps"]
    assert (said["kind"], said["shape"], said["axes"][1]["name"]) == ("curve", [1, 12], "i0")
    assert run("show", "-1", "y", "--log", directory, "--png", tmp_path / "y.png")[0] == 0


def test_the_file_says_where_logs_are(run, log, tmp_path):
    file = tmp_path / "services.toml"
    file.write_text(f'[bus]\nlog = "{log}"\n')
    assert "histogram.y" in run("show", "-1", "--file", file)[1]


def test_runs_and_maps_are_completed(log, tmp_path):
    def completed(*words):
        line = " ".join(["p06bs", "show", "--log", str(log), *words])
        around = {
            **os.environ,
            "_P06BS_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        }
        program = shutil.which("p06bs", path=os.path.dirname(sys.executable))
        done = subprocess.run([program], env=around, capture_output=True, text=True, check=False)
        return done.stdout.split()

    assert len(completed("")) == 3
    made = completed("-1", "hist")
    assert "histogram.y" in made
    assert "raw.i0" not in made


sizes = st.integers(1, 70)


@given(ny=sizes, nx=sizes, width=st.integers(20, 100), height=st.integers(8, 40),
       colours=st.booleans(), data=st.data())  # fmt: skip
def test_maps_fit_where_they_are_drawn(ny, nx, width, height, colours, data):
    values = np.arange(float(ny * nx)).reshape(ny, nx)
    missing = data.draw(st.sampled_from([0, 1, ny * nx]))
    values.ravel()[:missing] = np.nan
    lines = heat_map(picture(values), 0.0, float(ny * nx), width, height, colours=colours)
    assert len(lines) <= height
    assert max(len(line.plain) for line in lines[:-3]) <= width


def test_every_pixel_has_its_colour_upwards_and_to_the_right():
    values = np.full((2, 8), np.nan)
    values[:, :2] = [[0.0, 1.0], [2.0, 3.0]]
    line, *_ = heat_map(picture(values), 0.0, 3.0, 19, 7, colours=True)
    assert line.plain[11:] == "▀▀      "
    left, right = (line.get_style_at_offset(Console(), at) for at in (11, 12))
    assert left.bgcolor.triplet == (68, 1, 84)  # 0, below 2
    assert right.color.triplet == (253, 231, 37)  # 3, above 1


def test_measured_maps_beside_expected_ones_show_what_lacks():
    measured, expected = np.full((2, 3, 4), np.nan)
    measured[0, 1:] = [np.inf, 1.0, 2.0]
    console = Console(file=io.StringIO(), color_system="truecolor", force_terminal=True, width=40)
    with console.capture() as shown:
        show_pairs(console, {"Fe": (measured, expected)})
    assert "Fe, measured" in shown.get()
    assert shown.get().count("▀") == 0
    assert shown.get().count("▄") == 3  # the first row is the lower half of the last line


def test_a_rising_curve_rises_and_gaps_stay():
    values = np.array([[0.0, 1.0, 2.0, np.nan, 4.0, 5.0]])
    lines = curve(picture(values, "curve"), 31, 10)
    drawn = [line.plain[11:] for line in lines[:-2]]
    dots = np.array([[ord(c) - 0x2800 for c in line] for line in drawn])
    cells = (dots[..., None, None] & DOTS) > 0
    field = cells.transpose(0, 2, 1, 3).reshape(4 * dots.shape[0], 2 * dots.shape[1])
    down, across = np.nonzero(field)
    assert (down[across == 0].max(), down[across == across.max()].min()) == (len(field) - 1, 0)
    gap = np.flatnonzero(~field.any(axis=0))
    assert len(gap)
    assert set(gap) == set(range(gap[0], gap[-1] + 1))


def test_the_command_for_lavue(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    address = f"ipc://{tmp_path}/topology"
    bridge = Service("lavue", "lavue", "1", "here", 1, {"lavue": "tcp://127.0.0.1:5590"})
    with listed(address, bridge):
        status, out, errors = run("lavue", "--topology", address)
    assert status == 0, errors
    assert out == (
        f"lavue --configuration-path {tmp_path}/p06bs/lavue -s zmq -c '127.0.0.1:5590/first|' "
        "-i linear -x\n"
    )
    made = (tmp_path / "p06bs" / "lavue" / "DESY" / "LaVue.conf").read_text()
    assert "AutoZMQStreamTopics=true" in made


def test_without_a_bridge_it_is_said_how_to_have_one(run, tmp_path, monkeypatch):
    monkeypatch.setattr("p06bs.cli.registered.HEARD_SECONDS", 0.0)
    address = f"ipc://{tmp_path}/topology"
    with listed(address, Service("other", "other", "1", "here", 1, {})):
        status, _, errors = run("lavue", "--topology", address)
    assert status == 1
    assert "[services.lavue]" in errors
