"""Powder diffraction of runs: frames in HDF5 files beside I0 in events, three ways to the same."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from p06bs import callback, process
from p06bs.callbacks.xrd import PowderDiffraction
from p06bs.model.documents import NamedDocument
from tests.documents import frame_documents, raw_run, rows_of, validate
from tests.online import PATIENCE, beamline, elastic_of
from tests.powder import SIDE, SQUARE, counted, run

EVENTS = 23
FLOATS = ("intensity", "sigma", "cake", "peak", "peak_sigma", "total")


def recorded(path: Path) -> tuple[np.ndarray, np.ndarray, list[NamedDocument]]:
    """Return frames, I0 and the documents of a fly scan: frames in a file, I0 in events."""
    frames = counted(np.full((SIDE, SIDE), 6.0), events=EVENTS, dtype=np.uint32)
    frames[:, 10:13] = 2**32 - 1
    frames[9] = 2**32 - 1
    frames[11, 30, :7] = 2**32 - 1
    i0 = np.linspace(1000, 2000, EVENTS)
    i0[4] = 0
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "/entry/data", data=frames, chunks=(1, SIDE, SIDE), **hdf5plugin.Bitshuffle(cname="lz4")
        )
    devices = {"det": "diffraction", "i0": "incident_flux"}
    start, *middle, stop = raw_run(
        {"i0": i0}, page=4, units={"i0": "counts"}, devices=devices,
        aligned_streams=["frames", "primary"],
    )  # fmt: skip
    described = frame_documents(
        start[1]["uid"], path, EVENTS, (SIDE, SIDE), dtype="<u4", dims=["y", "x"]
    )
    return frames, i0, [start, *described, *middle, stop]


def table(documents: list[NamedDocument], name: str) -> Any:
    return np.array([row[3] for row in rows_of(documents, name)])


def snapshot(documents: list[NamedDocument]) -> dict[str, Any]:
    last = dict([d["data"] for n, d in documents if n == "event"][-1])
    assert last.pop("final")
    return {name: np.asarray(value) for name, value in last.items()}


def assert_same(one: list[NamedDocument], other: list[NamedDocument]) -> None:
    keys = ("raw_seq_num", "valid", "invalid_reason", "n_invalid", "n_saturated")
    assert rows_of(one, *keys) == rows_of(other, *keys)
    for name in FLOATS:
        np.testing.assert_array_equal(table(one, name), table(other, name), err_msg=name)
    results = snapshot(one), snapshot(other)
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        np.testing.assert_allclose(value, results[1][name], rtol=1e-9, err_msg=name)


def test_callback_pipeline_and_process_give_the_same(tmp_path: Path) -> None:
    frames, i0, raw = recorded(tmp_path / "frames.h5")
    ring = {"low": 5, "high": 8, "background": [(3, 4), (9, 10)]}
    modality = PowderDiffraction(
        poni=SQUARE, bins=40, azimuthal_bins=3, rings={"peak": ring}, normalise=True,
        mask=np.arange(SIDE * SIDE).reshape(SIDE, SIDE) // SIDE == 12,
    )  # fmt: skip
    reference = process(modality, raw, batch_size=1)
    validate([d for d in reference if d[0] != "event"])
    assert_same(process(modality, raw, batch_size=7), reference)
    live: list[NamedDocument] = []
    subscriber = callback(modality, lambda name, document: live.append((name, document)))
    for document in raw:
        subscriber(*document)
    assert_same(live, reference)
    with beamline(tmp_path, [modality], workers=1) as (pipelines, publish, listener):
        end = time.monotonic() + PATIENCE
        while not elastic_of(pipelines).pool.leases.workers:  # pyFAI takes its time to import
            assert time.monotonic() < end, "no worker joined"
            time.sleep(0.02)
        for document in raw:
            publish(*document)
        online = listener.wait(raw[0][1]["uid"], "xrd")
    assert_same(online, reference)

    reasons = dict(enumerate(table(reference, "invalid_reason").tolist()))
    assert {k: r for k, r in reasons.items() if r} == {
        4: "incident flux is 0",
        9: f"all {SIDE * (SIDE - 1)} used pixels are invalid",
    }
    good = [k for k in range(EVENTS) if not reasons[k]]
    direct, _ = run(modality, {"incident_flux": "counts"}, frames=frames, incident_flux=i0)
    for name in FLOATS:
        np.testing.assert_array_equal(table(online, name)[good], direct[name][good])
    assert table(online, "n_invalid")[[0, 11]].tolist() == [2 * SIDE, 2 * SIDE + 7]
    mean = snapshot(online)["mean_intensity"]
    np.testing.assert_allclose(
        mean, np.average(direct["intensity"][good], axis=0, weights=i0[good]), rtol=0.02
    )


def test_settings_that_the_run_recorded_make_it_again(tmp_path: Path) -> None:
    """The start document holds geometry and mask, and not their files."""
    _, _, raw = recorded(tmp_path / "frames.h5")
    poni = tmp_path / "a.poni"
    lines = {**SQUARE, "pixelsize1": SQUARE["pixel1"], "pixelsize2": SQUARE["pixel1"]}
    poni.write_text("".join(f"{k.capitalize()}: {v}\n" for k, v in lines.items() if k != "pixel1"))
    np.save(tmp_path / "mask.npy", np.eye(SIDE))
    derived = process(PowderDiffraction(poni=str(poni), mask=str(tmp_path / "mask.npy")), raw)
    poni.unlink()
    (tmp_path / "mask.npy").unlink()
    recorded_settings = derived[0][1]["process"]["settings"]
    again = process(PowderDiffraction(**json.loads(recorded_settings)), raw)
    assert again[0][1]["uid"] == derived[0][1]["uid"]
    np.testing.assert_array_equal(table(again, "intensity"), table(derived, "intensity"))


def test_without_pyfai_or_numba_the_extra_is_named() -> None:
    for package in ("pyFAI", "numba"):
        script = f"""
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == {package!r} else find(name, *a)
from p06bs.callbacks.xrd import PowderDiffraction
assert not {{"pyFAI", "numba"}} & sys.modules.keys()
PowderDiffraction.warm_up()
modality, _ = PowderDiffraction.example()
try:
    modality.prepare(modality.settings, {{}})
except ImportError as error:
    print(error)
"""
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == (
            f'Powder diffraction needs {package}, which is not installed: pip install "p06bs[xrd]"'
        )
