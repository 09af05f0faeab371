"""The demo: what its checks measure, odd phantoms, and that nothing is left when it is stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from p06bs import process
from p06bs.model.documents import NamedDocument
from p06bs.services._recorder import Recorder
from p06bs.services._truth import Likeness, Truth
from p06bs.sim.beamline import Beamline
from p06bs.sim.phantom import Phantom
from tests.documents import raw_run
from tests.techniques import Histogram, Scale

DEMO = [sys.executable, "-m", "p06bs.cli", "demo", "--once"]


class Stream:
    """A follower of what is already there."""

    def __init__(self, documents: list[NamedDocument]) -> None:
        self.documents = documents

    def __iter__(self) -> Iterator[NamedDocument]:
        return iter(self.documents)

    def close(self) -> None:
        pass


def runs() -> tuple[list[NamedDocument], list[NamedDocument]]:
    raw = raw_run({"x": np.arange(12.0)}, page=4)
    return raw, process(Scale(inputs={"x": "x"}), raw, batch_size=4)


def test_rows_count_as_early_if_they_came_before_the_raw_stop_document():
    raw, derived = runs()
    pages = [i for i, (name, _) in enumerate(derived) if name == "event_page"]
    late = pages[-1]
    # The last page comes after the raw run's stop document, whatever its own times say.
    order = [*raw[:-1], *derived[:late], raw[-1], *derived[late:]]
    seen: list[int] = []
    uid, other = raw[0][1]["uid"], derived[0][1]["uid"]
    with Recorder(Stream(order), lambda _, events: seen.append(events)) as recorder:
        assert recorder.wait(lambda: recorder.stopped(uid, {"scale"}), 10)
    stop = recorder.runs[uid].arrivals[-1]
    assert recorder.derived(uid) == {"scale": other}
    assert recorder.events(other) == 12
    assert recorder.events(other, stop) == 8
    assert recorder.events(uid, stop) == 12
    assert recorder.points(uid, stop, seconds=0.0) == 12
    assert recorder.points(uid, stop, seconds=60.0) == 0
    assert seen == [4] * 6


def test_a_recorder_waits_for_every_modality():
    raw, derived = runs()
    uid = raw[0][1]["uid"]
    with Recorder(Stream([*raw, *derived[:-1]])) as recorder:
        assert not recorder.wait(lambda: recorder.stopped(uid, {"scale"}), 0.2)
        recorder(*derived[-1])
        assert recorder.stopped(uid, {"scale"})
        assert not recorder.stopped(uid, {"scale", "other"})
        assert not recorder.stopped("nobody", ())


def test_points_of_a_scan_are_there_when_all_devices_have_told_of_them():
    raw = raw_run({"x": np.arange(12.0)}, page=4)
    recorder, run = Recorder(Stream([])), {"run_start": raw[0][1]["uid"]}
    for document in raw[:3]:  # start, descriptor, and four events
        recorder(*document)
    descriptor = raw[1][1]["uid"]
    recorder("stream_resource", {"uid": "file", **run})
    told = {"stream_resource": "file", "descriptor": descriptor}
    recorder("stream_datum", {**told, "seq_nums": {"start": 1, "stop": 4}})
    recorder("stop", {**run})
    recorder("stream_datum", {**told, "seq_nums": {"start": 4, "stop": 13}})
    stop = recorder.runs[run["run_start"]].arrivals[-2]
    assert recorder.points(run["run_start"], stop, seconds=0.0) == 3


def test_snapshots_are_no_events_to_a_recorder():
    raw = raw_run({"x": np.arange(12.0)}, page=4)
    derived = process(Histogram(inputs={"x": "x"}), raw, batch_size=4)
    assert any(name == "event" for name, _ in derived)
    recorder = Recorder(Stream([]))
    for document in derived:
        recorder(*document)
    assert recorder.events(derived[0][1]["uid"]) == 12


def test_a_recorder_leaves_out_what_belongs_to_no_run():
    recorder = Recorder(Stream([]))
    recorder("datum", {"datum_id": "1", "resource": "2"})
    assert recorder.runs == {}


@pytest.mark.parametrize(
    ("measured", "expected", "points", "good"),
    [
        (0.995, 0.9999, 1681, True),  # good enough anyway
        (0.98, 0.9999, 1681, False),  # a transposed map is much worse than this
        (0.95, 0.952, 1681, True),  # noise allows no more
        (0.95, 0.98, 1681, False),
        (0.5, 0.99, 4, True),  # four points say nothing
        (float("-1"), 0.99, 1681, False),
    ],
)
def test_a_map_is_as_good_as_noise_allows(measured, expected, points, good):
    assert Likeness(measured, expected, points).good is good


def write_maps(file: Path, **maps: Any) -> Path:
    import h5py

    with h5py.File(file, "w") as opened:
        for name, values in maps.items():
            opened[f"entry/maps/{name}"] = values
    return file


def test_likeness_knows_noise_and_what_does_not_vary(tmp_path):
    ramp = np.tile(np.linspace(0, 1, 20), (20, 1))
    truth = Truth(Beamline(Phantom({"XRFSpectrum": ramp, "Steel": 0 * ramp})), 20, 20, 200.0)
    rate = 1e5 * (1 + ramp)
    noisy = np.random.default_rng(1).normal(rate, np.sqrt(200 * rate))
    maps = {"Cu_K": rate, "Zn_K": noisy, "Se_K": 0 * rate, "Fe_K": rate}
    found = truth.likeness("region_sums", write_maps(tmp_path / "a.nxs", **maps))
    assert set(found) == {"Cu_K", "Zn_K"}  # no counts, or nothing to be compared with
    assert found["Cu_K"].measured == pytest.approx(1)
    assert found["Zn_K"].measured == pytest.approx(found["Zn_K"].expected, abs=0.02)
    assert all(likeness.good for likeness in found.values())
    turned = write_maps(tmp_path / "b.nxs", Cu_K=rate.T, Cu_K_errors=np.ones_like(rate))
    assert not truth.likeness("xrf", turned)["xrf:Cu_K"].good


@pytest.mark.slow
def test_a_small_phantom_of_the_users_own_beside_an_older_demo(tmp_path):
    weights = np.random.default_rng(5).random((7, 4)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", sample=weights)
    out = tmp_path / "an older demo"
    out.mkdir()
    (out / "summary.json").write_text("{}")
    options = ["--nx", "6", "--ny", "5", "--workers", "1", "--out", "an older demo"]
    done = subprocess.run(
        [*DEMO, "--phantom", "mine.npz", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["ok"]
    limited = {"counters", "encoders", "interferometers", "positions", "xrf", "xrd"}
    assert summary["truth"].keys() == limited
    pipelines = (*limited, "region_sums")
    assert summary["events"] == dict.fromkeys(pipelines, 30)
    assert set(summary["share_before_stop"]) == set(summary["events"])
    assert "Fe_K" not in summary["correlation"]
    assert min(summary["correlation"].values()) > 0.99
    assert len(list((out / "nexus").glob("*.nxs"))) == 1 + len(pipelines)


def test_a_phantom_that_cannot_be_used_starts_nothing(tmp_path):
    np.savez(tmp_path / "grey.npz", sample=np.full((3, 3), 200, np.uint8))
    out = tmp_path / "out"
    done = subprocess.run(
        [*DEMO, "--phantom", tmp_path / "grey.npz", "--out", out],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = "p06bs: map 'sample' must hold weights in 0..1, not 200..200\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert not out.exists()


def marked(mark: str) -> list[str]:
    """Return the processes that were started, however indirectly, with a mark."""
    found = []
    for started in psutil.process_iter():
        try:
            if started.environ().get("DEMO_MARK") == mark:
                found.append(f"{started.pid}: {started.cmdline()}")
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(
    ("number", "begun"),
    [
        pytest.param(signal.SIGTERM, "services.toml", id="start-up"),
        pytest.param(signal.SIGINT, "data/*.h5", id="scan", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_left_when_it_is_stopped(tmp_path, number, begun):
    mark = str(uuid.uuid4())
    with subprocess.Popen(
        [*DEMO, "--out", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "DEMO_MARK": mark},
    ) as demo:
        while not list(tmp_path.glob(begun)) and demo.poll() is None:
            threading.Event().wait(0.05)
        threading.Event().wait(0.5)
        demo.send_signal(number)
        _, said = demo.communicate(timeout=60)
    assert (demo.returncode, said) == (128 + number, "stopped; what was started has ended\n")
    assert marked(mark) == []
    assert not (tmp_path / "summary.json").exists()
