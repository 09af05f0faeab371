"""Detector files that lag, in a notebook: rows come later, in order, once, and equal to others'."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider, init_devices

from p06bs import callback, process
from p06bs.model.documents import NamedDocument
from p06bs.pipeline import late
from p06bs.plans.maps import fly_map
from p06bs.sim.beamline import Beamline
from p06bs.sim.detectors import AreaDetector
from p06bs.sim.diffraction import Geometry, PowderRings
from p06bs.sim.rows_file import Dataset, Recording, RowsFile
from p06bs.sim.stage import TriggerBox
from tests.chains import Contrast, Lit
from tests.documents import frame_documents, raw_run, rows_of
from tests.engines import end
from tests.online import assert_equal, beamline
from tests.techniques import Brightness

SHAPE = (4, 5)
GROUP = "/entry/instrument/det"
ROWS = 12


@pytest.fixture
def engine() -> Iterator[RunEngine]:
    made = RunEngine({})
    yield made
    end(made)


class Detector:
    """Writes frames of which each holds its number, when it is told to."""

    def __init__(self, path: Path) -> None:
        about = Dataset("image", "counts", "<u2", ("y", "x"), SHAPE)
        self.file = RowsFile(path, GROUP, {"data": about}, "none")

    def write(self, *numbers: int, missing: frozenset[int] = frozenset()) -> None:
        frames = np.array(numbers, "u2")[:, None, None] * np.ones(SHAPE, "u2")
        self.file.append({"data": frames}, np.array([n in missing for n in numbers]))


@pytest.fixture
def detector(tmp_path: Path) -> Iterator[Detector]:
    made = Detector(tmp_path / "det.h5")
    yield made
    made.file.close()


def scan(tmp_path: Path, count: int = ROWS) -> list[NamedDocument]:
    """Return a run with a signal in events and frames, one document for each."""
    start, *events, stop = raw_run(
        {"signal": np.arange(float(count))}, aligned_streams=["primary", "frames"]
    )
    path, dataset = tmp_path / "det.h5", f"{GROUP}/data"
    images = frame_documents(start[1]["uid"], path, count, SHAPE, dataset=dataset, per=1)
    return [start, *events, *images, stop]


def sums(derived: list[NamedDocument]) -> list[int]:
    return [row[3] for row in rows_of(derived, "sum")]


def test_a_lagging_detector_makes_the_same_in_a_notebook_a_pipeline_and_offline(engine, tmp_path):
    rings = PowderRings(
        Beamline().phantom, geometry=Geometry((40, 48), (6e-4, 6e-4)), gap=(20, 22), bits=16
    )
    paths = StaticPathProvider(UUIDFilenameProvider(), tmp_path / "data")
    with init_devices():
        box = TriggerBox(Beamline(), name="panda")
        eiger = AreaDetector(rings, box, paths, Recording(lag=0.4), "eiger")
    modality = Brightness(inputs={"frame": "eiger"})
    raw: list[NamedDocument] = []
    live: list[NamedDocument] = []
    with beamline(tmp_path, [modality], workers=1) as (_, publish, listener):
        engine.subscribe(lambda name, document: raw.append((name, document)))
        engine.subscribe(publish)
        engine.subscribe(callback(modality, lambda name, document: live.append((name, document))))
        engine(fly_map([eiger], box, nx=6, ny=5, rate=100, gate_time=0.005, collect_every=0.02))
        online = listener.wait(raw[0][1]["uid"], modality.name)
    for derived in (live, online):
        assert_equal(derived, modality, raw)
        assert derived[-1][1]["num_invalid"] == {"primary": 0}
        assert len(rows_of(derived)) == 30


def test_late_rows_come_with_later_documents_and_nobody_waits_for_them(
    detector, tmp_path, monkeypatch
):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    monkeypatch.setattr(late, "RETRY", 0.0)
    live: list[NamedDocument] = []
    modality = Brightness(inputs={"frame": "det"})
    analyse = callback(modality, lambda name, document: live.append((name, document)))
    *documents, stop = scan(tmp_path)
    behind = 5
    datums = [document for document in documents if document[0] == "stream_datum"]
    for document in documents[: -len(datums)]:
        analyse(*document)
    for number, datum in enumerate(datums):
        if number >= behind:
            detector.write(number - behind)
        analyse(*datum)
        assert sums(live) == [20 * k for k in range(number - behind + 1)]
    detector.write(*range(ROWS - behind, ROWS))
    analyse(*stop)
    assert_equal(live, modality, [*documents, stop])
    assert live[-1][1]["num_invalid"] == {"primary": 0}


@pytest.mark.parametrize("there", [0, 7])
def test_rows_that_never_come_are_invalid_and_the_others_are_there(detector, tmp_path, there):
    """One in the middle of many, and the end of a file that grows no more."""
    missing = frozenset({2, 5})
    raw = scan(tmp_path)
    if there:
        detector.write(*range(there), missing=missing)
    modality = Brightness(inputs={"frame": "det"})
    live: list[NamedDocument] = []
    analyse = callback(modality, lambda name, document: live.append((name, document)), deadline=0.2)
    for document in raw:
        analyse(*document)
    reasons = {row[3]: row[4] for row in rows_of(live, "raw_seq_num", "invalid_reason")}
    assert list(reasons) == list(range(1, ROWS + 1))
    absent = [n for n in range(ROWS) if n in missing or n >= there]
    assert [seq - 1 for seq, reason in reasons.items() if reason] == absent
    assert all(f"row {n} of {GROUP}/data in" in reasons[n + 1] for n in absent)
    reference = process(modality, raw, deadline=0.2, batch_size=1)
    keys = ("raw_uid", "valid", "invalid_reason")
    assert rows_of(live, *keys) == rows_of(reference, *keys)


def test_a_file_that_never_comes_is_waited_for_once(tmp_path, caplog):
    raw = scan(tmp_path, 60)
    modality = Brightness(inputs={"frame": "det"})
    live: list[NamedDocument] = []
    analyse = callback(modality, lambda name, document: live.append((name, document)), deadline=0.2)
    for document in raw:
        analyse(*document)
    assert live[-1][1]["num_invalid"] == {"primary": 60}
    assert caplog.text.count("waiting for a detector") == 1


def test_what_comes_before_may_be_late_too(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(late, "RETRY", 0.0)
    raw = scan(tmp_path)
    bright = Lit(inputs={"frame": "det"})
    modality = Contrast(inputs={"x": "signal"})
    live: list[NamedDocument] = []
    analyse = callback(
        modality,
        lambda name, document: live.append((name, document)),
        after=[bright],
        deadline=0.2,
    )
    written: Any = iter(range(ROWS - 1))  # the last one never comes
    for name, document in raw:
        if name == "stop":
            detector.write(*written)
        elif name == "stream_datum" and document["indices"]["start"] > 3:
            detector.write(next(written))
        analyse(name, document)
    before = process(bright, raw, deadline=0.2)
    assert_equal(live, modality, raw, before)
    assert live[-1][1]["num_invalid"] == {"primary": 1}
    assert "was not written" in rows_of(live, "invalid_reason")[-1][3]
