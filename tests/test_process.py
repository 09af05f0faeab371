"""The reference `process`: the same rows from any order and any cut of a run's documents."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p06bs import callback, process
from p06bs.callbacks.xrf import RegionSums
from p06bs.model.documents import NamedDocument
from tests.documents import frame_documents, raw_run, rows_of, validate
from tests.techniques import Brightness, Scale, Total

CHANNELS = 64


def recorded_scan(count: int, page: int, shape: list[int | None]) -> tuple[Any, list[Any]]:
    """Return spectra, and a run that has them as lists of integers, as JSON brings them."""
    spectra = np.random.default_rng(5).poisson(3000, (count, CHANNELS))
    raw = raw_run({"mca": spectra, "x": np.arange(count)}, page=page)
    described = raw[1][1]["data_keys"]["mca"]
    del described["dtype_numpy"]
    described.update(dtype="array", shape=shape)
    return spectra, json.loads(json.dumps(raw, default=lambda value: value.tolist()))


@pytest.mark.parametrize("page", [0, 100])
@pytest.mark.parametrize("shape", [[CHANNELS], [None], [1, CHANNELS]])
def test_recorded_spectra_give_whole_counts_exactly(page, shape):
    spectra, raw = recorded_scan(2804, page, shape)
    modality = RegionSums(regions={"a": (3, 20), "b": (0, 63)}, inputs={"spectrum": "mca"})
    documents = process(modality, raw)
    validate(documents)
    rows = rows_of(documents, "a", "b", "valid")
    assert [r[3:] for r in rows] == [
        (a, b, True)
        for a, b in zip(spectra[:, 3:21].sum(1).tolist(), spectra.sum(1).tolist(), strict=True)
    ]
    keys = documents[1][1]["data_keys"]
    assert (keys["a"]["dtype"], keys["a"]["dtype_numpy"]) == ("integer", "<i8")


def test_the_first_event_with_numbers_says_the_dtype():
    spectra, raw = recorded_scan(20, 0, [CHANNELS])
    raw[2][1]["data"]["mca"] = None
    del raw[3][1]["data"]["mca"]
    modality = RegionSums(regions={"a": (0, 63)}, inputs={"spectrum": "mca"})
    documents = process(modality, raw)
    rows = rows_of(documents, "a", "valid")
    assert [r[4] for r in rows] == [False] * 2 + [True] * 18
    assert [r[3] for r in rows[2:]] == spectra[2:].sum(1).tolist()
    assert documents[1][1]["data_keys"]["a"]["dtype"] == "integer"


def test_a_run_that_never_says_its_dtype_is_computed_at_its_stop():
    _, raw = recorded_scan(3, 0, [CHANNELS])
    for _, event in raw[2:-1]:
        event["data"]["mca"] = "?"
    modality = RegionSums(regions={"a": (0, 63)}, inputs={"spectrum": "mca"})
    rows = rows_of(process(modality, raw), "valid", "invalid_reason")
    assert [r[3:] for r in rows] == [(False, "spectrum (mca) holds a str")] * 3


@pytest.mark.parametrize("kind", [Scale, Total])
def test_how_batches_are_cut_makes_no_difference(kind):
    raw = raw_run({"x": np.arange(300.0)}, page=13)
    reference = process(kind(inputs={"x": "x"}), raw)
    column = "total" if kind is Total else "y"
    for size in (1, 7, 64):
        other = process(kind(inputs={"x": "x"}), raw, batch_size=size)
        assert rows_of(other, column, "raw_seq_num") == rows_of(reference, column, "raw_seq_num")
        assert other[-1][1]["num_events"] == {"primary": 300}
        assert sum(n == "event_page" for n, _ in other) == -(-300 // size)


SCRIPT = """
import json, sys
from p06bs import process
from tests.techniques import Scale
raw = json.load(open(sys.argv[1]))
derived = process(Scale(inputs={"x": "x"}, bad=[3.0]), raw)
print(json.dumps([d["uid"] for _, d in derived]))
"""


def test_uids_are_the_same_in_every_process(tmp_path):
    raw = raw_run({"x": np.arange(50)})
    file = tmp_path / "raw.json"
    file.write_text(json.dumps(raw, default=lambda value: value.tolist()))
    found = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(file)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    here = process(Scale(inputs={"x": "x"}, bad=[3.0]), raw)
    assert found[0] == [d["uid"] for _, d in here]
    again = process(Scale(inputs={"x": "x"}, bad=[3.0]), raw, reprocessing=1)
    assert not {d["uid"] for _, d in here if isinstance(d["uid"], str)} & {
        d["uid"] for _, d in again if isinstance(d["uid"], str)
    }


def test_several_runs_interleaved_and_one_without_a_stop():
    runs = [raw_run({"x": np.arange(n) * 1.0}, page=p, stop=n != 30) for n, p in SIZES]
    mixed = interleaved(runs, random.Random(3))
    documents = process(Scale(inputs={"x": "x"}), mixed, batch_size=7)
    validate(documents)
    by_run: dict[str, list[NamedDocument]] = {}
    owner: dict[str, str] = {}
    for name, document in documents:
        uid = document["uid"] if name == "start" else document.get("run_start")
        uid = uid or owner[document["descriptor"]]
        if name == "descriptor":
            owner[document["uid"]] = uid
        by_run.setdefault(uid, []).append((name, document))
    assert len(by_run) == 3
    by_raw = {derived[0][1]["original_run_uid"]: derived for derived in by_run.values()}
    for raw in runs:
        derived = by_raw[raw[0][1]["uid"]]
        assert [r[3] for r in rows_of(derived, "raw_uid")] == [
            uid for n, d in raw if n.startswith("event") for uid in np.atleast_1d(d["uid"]).tolist()
        ]
    stops = {d["exit_status"]: d["reason"] for n, d in documents if n == "stop"}
    assert stops == {"success": "", "abort": "the raw run has no stop document"}


SIZES = [(20, 0), (30, 4), (25, 7)]


def interleaved(runs: list[list[NamedDocument]], chance: random.Random) -> list[NamedDocument]:
    """Mix runs, each in its own order."""
    waiting = [list(run) for run in runs]
    mixed = [run.pop(0) for run in waiting]
    while any(waiting):
        mixed.append(chance.choice([run for run in waiting if run]).pop(0))
    return mixed


def test_a_run_without_events_is_an_empty_derived_run():
    raw = [d for d in raw_run({"x": np.arange(3.0)}) if d[0] != "event"]
    documents = process(Scale(inputs={"x": "x"}), raw)
    validate(documents)
    assert [n for n, _ in documents] == ["start", "stop"]
    assert documents[1][1]["num_events"] == {}


def test_the_derived_run_says_where_it_comes_from():
    copied = {"plan_name": "scan", "scan_id": 7, "sample": {"name": "Fe foil"}, "shape": [5]}
    raw = raw_run({"x": np.arange(5.0)}, units={"x": "counts"}, secret="kept", **copied)
    documents = process(Scale(inputs={"x": "x"}, factor=4.0), raw)
    start, descriptor = documents[0][1], documents[1][1]
    assert {k: start[k] for k in copied} == copied
    assert "secret" not in start
    assert start["derived_from"] == [raw[0][1]["uid"]]
    assert start["process"]["inputs"] == {"x": {"stream": "primary", "data_key": "x"}}
    assert start["process"]["modality"] == "tests.techniques:Scale"
    assert descriptor["hints"] == {"scale": {"fields": ["y", "n"]}}
    assert descriptor["data_keys"]["n"]["units"] == "counts"
    recorded = descriptor["configuration"]["scale"]["data"]
    assert json.loads(recorded["settings"])["factor"] == 4.0
    assert recorded["settings_digest"] == start["process"]["settings_digest"]


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_settings_change_at_an_exact_event(batch_size):
    raw = raw_run({"x": np.arange(30.0)}, page=8)
    uids = [u for n, d in raw if n == "event_page" for u in d["uid"]]
    history = [
        (uids[10], {"factor": 3.0}),
        (uids[20], {"factor": 3.0, "square": True}),
        (uids[25], {"factor": 5.0, "square": True}),
    ]
    modality = Scale(inputs={"x": "x"})
    documents = process(modality, raw, history, batch_size=batch_size)
    validate(documents)
    factors = [2.0] * 10 + [3.0] * 15 + [5.0] * 5
    rows = rows_of(documents, "y")
    assert [r[3] for r in rows] == [f * i for i, f in enumerate(factors)]
    assert [r[0] for r in rows] == ["primary"] * 20 + ["primary_r2"] * 10
    assert [r[1] for r in rows] == [*range(1, 21), *range(1, 11)]
    descriptors = [d for n, d in documents if n == "descriptor"]
    assert [d["name"] for d in descriptors] == ["primary", "primary", "primary_r2", "primary_r2"]
    assert descriptors[0]["data_keys"] == descriptors[1]["data_keys"]
    assert documents[-1][1]["num_events"] == {"primary": 20, "primary_r2": 10}
    at_once = process(modality, raw, [(uids[0], {"square": True})], batch_size=batch_size)
    assert {r[0] for r in rows_of(at_once, "y")} == {"primary_r1"}
    with pytest.raises(ValueError, match=r"limit: Input should be greater than 0, got -1"):
        process(modality, raw, [(uids[3], {"limit": -1})])


def joined_run(path: Path, count: int) -> tuple[list[NamedDocument], list[NamedDocument]]:
    """Return a run's own documents, and those of an aligned stream of frames."""
    with h5py.File(path, "w") as file:
        frames = np.arange(count)[:, None, None] * np.ones((1, 2, 3), int)
        file.create_dataset("/entry/data", data=frames.astype("u2"), chunks=(1, 2, 3))
    raw = raw_run({"i0": np.arange(1.0, count + 1)}, page=4, aligned_streams=["frames", "primary"])
    return raw, frame_documents(raw[0][1]["uid"], path, count, (2, 3))


JOINED = {"frame": "det", "monitor": "i0"}


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1, 7, 256]))
def test_any_order_of_documents_gives_the_same_rows(tmp_path_factory, seed, size):
    path = tmp_path_factory.getbasetemp() / "joined.h5"
    raw, frames = joined_run(path, 23)
    validate([d for d in frames if d[0] != "descriptor"])
    chance = random.Random(seed)
    descriptor, resource, *datums = frames
    if chance.random() < 0.5:  # its schema does not ask for it
        resource = (resource[0], {k: v for k, v in resource[1].items() if k != "run_start"})
    datums.insert(chance.randrange(len(datums) + 1), resource)
    start, *middle, stop = raw
    mixed = [start, *interleaved([middle, [descriptor, *datums]], chance), stop]
    documents = process(Brightness(inputs=JOINED), mixed, batch_size=size)
    rows = rows_of(documents, "sum", "ratio", "raw_seq_num", "valid")
    assert [r[3:] for r in rows] == [(6 * i, 6 * i / (i + 1), i + 1, True) for i in range(23)]
    assert "source_counts" not in documents[-1][1]


def test_missing_frames_leave_out_their_events_and_are_counted(tmp_path):
    raw, frames = joined_run(tmp_path / "f.h5", 23)
    start, *middle, stop = raw
    del frames[4]  # the datum of rows 6, 7, 8
    documents = process(Brightness(inputs=JOINED), [start, *middle, *frames[:-2], stop])
    rows = rows_of(documents, "sum", "raw_seq_num")
    there = [i for i in range(18) if i not in (6, 7, 8)]
    assert [r[3:] for r in rows] == [(6 * i, i + 1) for i in there]
    assert documents[-1][1]["source_counts"] == {"frames/det": 18, "primary": 23}
    assert re.search(
        "23 rows were expected: frames lacks 5; rows are paired by", documents[-1][1]["warnings"][0]
    )


@pytest.mark.parametrize("status", ["success", "abort"])
@pytest.mark.parametrize(
    ("rows", "expected", "there", "warned"),
    [
        (20, 23, 23, {"frames/det": 20, "primary": 23, "num_points": 23}),
        (24, 23, 23, {"frames/det": 24, "primary": 23, "num_points": 23}),
        (20, 20, 20, {}),
        (20, None, 20, {}),
    ],
)
def test_what_a_detector_lacks_is_told_though_nothing_else_is_an_input(
    tmp_path, rows, expected, there, warned, status
):
    md = {} if expected is None else {"num_points": expected}
    raw = raw_run({"i0": np.ones(there)}, page=4, aligned_streams=["frames", "primary"], **md)
    start, *middle, (_, stop) = raw
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["/entry/data"] = np.ones((rows, 2, 3), "u2")
    frames = frame_documents(start[1]["uid"], tmp_path / "f.h5", rows, (2, 3))
    stop |= {"exit_status": status, "num_events": {"frames": rows, "primary": there}}
    modality = Brightness(inputs={"frame": "det"})
    derived = process(modality, [start, *middle, *frames, ("stop", stop)])
    found = derived[-1][1]
    assert sum(found["num_events"].values()) == rows
    if status == "abort":  # it may have ended before its time
        warned = {name: n for name, n in warned.items() if name != "num_points"}
    assert found.get("source_counts", {}) == warned
    assert [re.findall("(?:lacks|has) .*?;", said)[0] for said in found.get("warnings", ())] == (
        ["lacks 3;" if rows < there else "has 1 more;" if status == "success" else "lacks 1;"]
        if warned
        else []
    )


def test_a_step_scan_that_lacks_points_says_so(caplog):
    raw = raw_run({"x": np.arange(4.0)}, num_points=6)
    stop = process(Scale(inputs={"x": "x"}), raw)[-1][1]
    assert stop["source_counts"] == {"primary": 4, "num_points": 6}
    assert "primary lacks 2" in stop["warnings"][0]
    follow = callback(Scale(inputs={"x": "x"}))
    for document in raw:
        follow(*document)
    assert "primary lacks 2" in caplog.text


def test_a_device_that_is_configured_anew_is_told_of_in_the_stop_document():
    raw = raw_run({"x": np.arange(4.0)})
    start, first, *events, stop = raw

    def configured(uid: str, gain: float) -> Any:
        data = {"x-gain": gain}
        configuration = {"x": {"data": data, "timestamps": data, "data_keys": {}}}
        return "descriptor", {**first[1], "uid": uid, "configuration": configuration}

    for gain, said in ((1.0, None), (2.0, ["x"])):
        again = [(n, {**d, "descriptor": "again"}) for n, d in events[2:]]
        documents = [start, configured(first[1]["uid"], 1.0), *events[:2]]
        documents += [configured("again", gain), *again, stop]
        derived = process(Scale(inputs={"x": "x"}), documents)
        assert derived[-1][1].get("reconfigured_inputs") == said
        assert [r[3] for r in rows_of(derived, "y")] == [0, 2, 4, 6]


@pytest.mark.parametrize("size", [1, 2, 64])
@pytest.mark.parametrize(
    "odd", [2 + 1j, np.datetime64("2026-11-26"), np.timedelta64(3, "s"), "text", None, [1.0, 2.0]]
)
def test_a_value_of_another_kind_costs_its_own_event_only(odd, size):
    raw = raw_run({"x": np.arange(4.0)})
    raw[3][1]["data"]["x"] = odd
    derived = process(Scale(inputs={"x": "x"}), raw, batch_size=size)
    assert [r[3] for r in rows_of(derived, "valid")] == [True, False, True, True]


def test_an_event_page_whose_parts_differ_in_length_is_refused():
    raw = raw_run({"x": np.arange(3.0)}, page=3)
    raw[2][1]["uid"].pop()
    with pytest.raises(ValueError, match="differ in length"):
        process(Scale(inputs={"x": "x"}), raw)
