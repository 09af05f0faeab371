"""Columns in the archive: every kind of value, files of detectors, roots, a million events."""

import json
import math
import os

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from tiled.client.utils import ClientError

from p06bs.bus.log import DocumentLog
from p06bs.server.archive.columnfile import ColumnFileWriter, ColumnView, Layout, read_columns
from p06bs.server.archive.layouts import Column, conform, layout_of
from p06bs.server.files.roots import FileRoots
from tests.archives import place
from tests.documents import acquisition, frame_documents, raw_run
from tests.system_users import needs_root
from tests.test_rights import hanging, needs_fuse

LAYOUTS = {
    "int": Layout("numbers", "<i8"),
    "small": Layout("numbers", "|u1"),
    "bool": Layout("numbers", "|b1"),
    "half": Layout("numbers", "<f2"),
    "complex": Layout("numbers", "<c16"),
    "time": Layout("numbers", "<M8[ns]"),
    "image": Layout("numbers", "<u2", (2, 3)),
    "mask": Layout("numbers", "|b1", (5,)),
    "waves": Layout("numbers", "<c8", (2, 2)),
    "times": Layout("numbers", "<m8[ms]", (2,)),
    "nothing": Layout("numbers", "<f4", (0,)),
    "text": Layout("text", "<U9"),
}


def values_for(layout, rows, rng):
    if layout.kind == "text":
        return [f"é{n}" for n in rng.integers(0, 1000, rows)]
    shape = (rows, *layout.shape)
    return rng.integers(0, 2, shape).astype(layout.dtype)


@given(
    st.lists(st.integers(0, 9), max_size=12),
    st.integers(1, 8),
    st.integers(0, 60),
    st.integers(0, 60),
)
def test_any_rows_of_a_column_file(tmp_path_factory, pages, per_batch, start, stop):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("columns") / "c.arrow"
    parts = [{n: values_for(one, rows, rng) for n, one in LAYOUTS.items()} for rows in pages]
    with ColumnFileWriter(path, LAYOUTS, per_batch) as file:
        for part in parts:
            file.append(part)
    rows = sum(pages)
    views = {n: ColumnView(path, n, one, rows, per_batch) for n, one in LAYOUTS.items()}
    together = read_columns(views, start, stop)
    for name, layout in LAYOUTS.items():
        if layout.kind == "text":
            want = [text for part in parts for text in part[name]][start:stop]
            assert together[name] == want
            assert views[name].read(start, stop).tolist() == want
            continue
        none = np.empty((0, *layout.shape), layout.dtype)
        want = np.concatenate([none, *(part[name] for part in parts)])[start:stop]
        for got in (views[name].read(start, stop), together[name]):
            assert got.dtype == want.dtype
            assert got.shape == want.shape
            assert np.array_equal(got, want)


WIDE = st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1])
"""Integers about the longest that floats hold."""
NUMBERS = st.one_of(st.integers(-5, 5), WIDE, st.floats(allow_nan=False, width=32), st.none())
PAGES = st.lists(
    st.one_of(
        st.lists(NUMBERS, min_size=1, max_size=4),
        st.lists(st.lists(st.one_of(WIDE, st.just(0.5)), min_size=2, max_size=2), max_size=3),
        st.lists(WIDE, min_size=1, max_size=3).map(np.array),
        st.lists(st.text(max_size=3), min_size=1, max_size=4),
        st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), min_size=1, max_size=3),
        st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=3),
        st.lists(st.dictionaries(st.text(max_size=2), st.integers()), min_size=1, max_size=3),
        st.lists(st.none(), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=5,
)


@given(PAGES)
def test_values_of_any_kind_are_kept(pages):
    column = Column()
    for page in pages:
        column.see(page)
    layout = column.final()
    values = [value for page in pages for value in page]
    got = [v for page in pages for v in conform(page, layout, len(page))]
    for value, stored in zip(values, got, strict=True):
        if layout.kind == "text":
            assert stored == value
        elif layout.kind == "json":
            assert stored == value if isinstance(value, str) else json.loads(stored) == value
        elif value is None:
            assert np.isnan(stored).all()
        else:
            assert np.asarray(stored).tolist() == np.asarray(value, object).tolist()


def test_types_are_those_of_the_values():
    assert layout_of([1, 2])[0].dtype == "<i8"
    assert layout_of([True, False])[0].dtype == "|b1"
    assert layout_of(np.zeros((3, 2), ">u2"))[0] == Layout("numbers", "<u2", (2,))
    assert layout_of([1, "a"])[0].kind == "json"
    assert layout_of([b"a"])[0].kind == "json"
    assert layout_of([2**70])[0].kind == "json"
    mixed = Column()
    mixed.see([1])
    mixed.see([1.5])
    assert mixed.final() == Layout("numbers", "<f8")
    mixed.see([2**53 + 1])
    assert mixed.final().kind == "json"


def events(count, data, timestamps=None, keys=None):
    """Return a run of single events whose values `data(n)` says."""
    first = data(0)
    described = {key: {"source": "x", "dtype": "array", "shape": []} for key in keys or first}
    documents = raw_run({"x": list(range(count))})
    documents[1] = ("descriptor", {**documents[1][1], "data_keys": described})
    return [
        (name, doc)
        if name != "event"
        else (name, {**doc, "data": data(doc["data"]["x"]), "timestamps": {}})
        for name, doc in documents
    ]


def test_ragged_lists_text_dicts_and_gaps(tmp_path):
    here = place("sqlite", tmp_path, None)

    def data(n):
        row = {
            "ragged": list(range(n)),
            "arrays": np.arange(3 + n % 2) * 0.5,
            "text": "ä" * n,
            "dict": {"a": n},
            "late": None if n < 3 else n,
            "image": np.full((2, 2), n, ">i2"),
            "seq_num": n,
            "a/b": n,
            "c": complex(n, 1),
        }
        return row if n != 5 else {**row, "more": 1.0}

    uid = here.write(events(8, data, keys=data(5)))
    assert here.ingest()[uid].state == "complete"
    with here.client() as client:
        stream = client[uid].primary
        assert [json.loads(v) for v in stream["ragged"].read()] == [
            list(range(n)) for n in range(8)
        ]
        assert json.loads(stream["arrays"].read()[1]) == [0.0, 0.5, 1.0, 1.5]
        assert stream["text"].read().tolist() == ["ä" * n for n in range(8)]
        assert json.loads(stream["dict"].read()[4]) == {"a": 4}
        assert np.array_equal(stream["late"].read(), [math.nan] * 3 + list(range(3, 8)), True)
        assert np.isnan(stream["more"].read()).tolist() == [n != 5 for n in range(8)]
        image = stream["image"].read()
        assert (image.dtype, image.shape) == (np.dtype("<i2"), (8, 2, 2))
        assert image[:, 1, 1].tolist() == list(range(8))
        assert stream["seq_num"].read().tolist() == list(range(1, 9))
        assert stream["seq_num_"].read().tolist() == list(range(8))
        assert stream["a=2Fb"].read().tolist() == list(range(8))
        assert stream["a=2Fb"].metadata["data_key"] == "a/b"
        assert stream["c"].read().tolist() == [complex(n, 1) for n in range(8)]
        assert stream.read()["text"].values.tolist() == ["ä" * n for n in range(8)]


def test_large_arrays_in_events_and_rewinds(tmp_path):
    here = place("sqlite", tmp_path, None)
    seqs = acquisition([(5, 3), (4, 1), (3, 0)])
    frames = np.random.default_rng(1).random((len(seqs), 64, 65))
    uid = here.write(raw_run({"x": np.arange(len(seqs)), "frame": frames}, seqs=seqs))
    paged = here.write(raw_run({"frame": frames}, page=4))
    here.ingest()
    with here.client() as client:
        stream = client[uid].primary
        assert stream["seq_num"].read().tolist() == seqs
        assert np.array_equal(stream["frame"].read(), frames)
        assert np.array_equal(stream["frame"][3:9:2, 1], frames[3:9:2, 1])
        assert np.array_equal(client[paged].primary["frame"].read(), frames)


def test_several_descriptors_and_streams_without_rows(tmp_path):
    here = place("sqlite", tmp_path, None)
    documents = raw_run({"x": [1, 2]})
    first = documents[1][1]
    again = {**first, "uid": "again", "time": 1001.0}
    empty = {**first, "uid": "empty", "name": "dark/1"}
    event = {**documents[2][1], "descriptor": "again", "uid": "later", "seq_num": 3}
    uid = here.write(
        [*documents[:-1], ("descriptor", again), ("descriptor", empty), ("event", event)]
    )
    here.ingest()
    with here.client() as client:
        assert sorted(client[uid]) == ["dark=2F1", "primary"]
        assert client[uid].primary["x"].read().tolist() == [1, 2, 1]
        assert [d["uid"] for d in client[uid].primary.descriptors] == [first["uid"], "again"]
        assert len(client[uid]["dark=2F1"].read()) == 0


@pytest.fixture
def data(tmp_path):
    """A directory that is a root, and one that is not."""
    inside, outside = tmp_path / "data", tmp_path / "secret"
    inside.mkdir()
    outside.mkdir()
    return inside, outside


FRAMES = np.arange(6 * 4 * 5, dtype="<u2").reshape(6, 4, 5)


def write_hdf5(path, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/data", data=FRAMES, chunks=(1, 4, 5), **options)


def run_of(here, path, mimetype="application/x-hdf5", **parameters):
    """Write a run with a detector's file; return its uid."""
    return here.write(frame_run(path, mimetype, **parameters))


def frame_run(path, mimetype="application/x-hdf5", **parameters):
    """Return a run with a detector's file."""
    start, *_ = raw_run({"x": [1]})
    uid = start[1]["uid"]
    documents = frame_documents(uid, path, 6, (4, 5), dtype="<u2")
    documents = [
        (name, {**doc, "mimetype": mimetype, "parameters": {**doc["parameters"], **parameters}})
        if name == "stream_resource"
        else (name, doc)
        for name, doc in documents
    ]
    stop = {"uid": "s", "run_start": uid, "time": 9.0, "exit_status": "success"}
    return [start, *documents, ("stop", {**stop, "uid": f"{uid}-s"})]


def read(client, uid):
    return client[uid]["frames"]["det"].read()


def refused(client, uid, status):
    with pytest.raises(ClientError) as error:
        read(client, uid)
    assert error.value.response.status_code == status
    return str(error.value)


def test_detector_files_are_served_from_under_the_roots(tmp_path, data):
    inside, outside = data
    here = place("sqlite", tmp_path, None, FileRoots([inside]))
    write_hdf5(inside / "a.h5")
    zarr.create_array(inside / "b.zarr", data=FRAMES, chunks=(1, 4, 5))
    group = zarr.open_group(inside / "c.zarr", mode="w", zarr_format=2)
    group.create_array("deep/det", data=FRAMES, chunks=(2, 4, 5))
    write_hdf5(outside / "d.h5")
    os.mkfifo(inside / "g.h5")
    (inside / "h.h5").write_bytes((inside / "a.h5").read_bytes()[:8] + bytes(range(256)) * 20)
    zarr.create_array(inside / "j.zarr", data=FRAMES, chunks=(1, 4, 5), zarr_format=2)
    (inside / "j.zarr/.zarray").unlink()
    os.mkfifo(inside / "j.zarr/.zarray")
    uids = {
        "a": run_of(here, inside / "a.h5"),
        "b": run_of(here, inside / "b.zarr", "application/x-zarr", dataset=""),
        "c": run_of(here, inside / "c.zarr", "application/x-zarr", dataset="deep/det"),
        "d": run_of(here, outside / "d.h5"),
        "e": run_of(here, inside / "gone.h5"),
        "f": run_of(here, inside / "a.tiff", "multipart/related;type=image/tiff"),
        "g": run_of(here, inside / "g.h5"),
        "h": run_of(here, inside / "h.h5"),
        "i": run_of(here, inside / "a.h5", dataset="entry"),
        "j": run_of(here, inside / "j.zarr", "application/x-zarr", dataset=""),
    }
    assert {log.state for log in here.ingest().values()} == {"complete"}
    with here.client() as client:
        for name in "abc":
            assert np.array_equal(read(client, uids[name]), FRAMES), name
        array = client[uids["a"]]["frames"]["det"]
        assert np.array_equal(array[2:5, 1], FRAMES[2:5, 1])
        (source,) = array.data_sources()
        assert source.mimetype == "application/x-hdf5"
        assert source.parameters["dataset"] == "/entry/data"
        assert [asset.data_uri for asset in source.assets] == [f"file://localhost{inside}/a.h5"]
        assert client[uids["d"]]["frames"]["det"].shape == (6, 4, 5)
        assert "outside the directories" in refused(client, uids["d"], 403)
        assert "not there" in refused(client, uids["e"], 404)
        assert "not there" in refused(client, uids["h"], 404)
        for name in "fgij":
            assert "of a kind that is not read" in refused(client, uids[name], 415), name
        outside_array = client[uids["d"]]["frames"]["det"]
        assert outside_array.data_sources() == []
    with here.client() as client:
        assert len(client) == 10


def test_files_that_lead_out_of_the_roots(tmp_path, data):
    inside, outside = data
    here = place("sqlite", tmp_path, None, FileRoots([inside]))
    write_hdf5(outside / "secret.h5")
    (outside / "raw.bin").write_bytes(FRAMES.tobytes())
    (inside / "link.h5").symlink_to(outside / "secret.h5")
    with h5py.File(inside / "external.h5", "w") as file:
        file["entry/data"] = h5py.ExternalLink(str(outside / "secret.h5"), "/entry/data")
    with h5py.File(inside / "raw.h5", "w") as file:
        file.create_dataset(
            "entry/data", (6, 4, 5), "<u2", external=[(str(outside / "raw.bin"), 0, FRAMES.nbytes)]
        )
    layout = h5py.VirtualLayout((6, 4, 5), "<u2")
    layout[:] = h5py.VirtualSource(str(outside / "secret.h5"), "entry/data", (6, 4, 5))
    with h5py.File(inside / "virtual.h5", "w") as file:
        file.create_virtual_dataset("entry/data", layout)
    write_hdf5(inside / "good.h5")
    layout = h5py.VirtualLayout((6, 4, 5), "<u2")
    layout[:] = h5py.VirtualSource("good.h5", "entry/data", (6, 4, 5))
    with h5py.File(inside / "master.h5", "w") as file:
        file.create_virtual_dataset("entry/data", layout)
    zarr.create_array(inside / "z.zarr", data=FRAMES, chunks=(1, 4, 5), compressors=None)
    chunk = inside / "z.zarr" / "c" / "2" / "0" / "0"
    chunk.unlink()
    chunk.symlink_to(outside / "raw.bin")
    climbing = inside / ".." / "secret" / "secret.h5"
    bad = [run_of(here, inside / f"{n}.h5") for n in ("link", "external", "raw", "virtual")]
    bad.append(run_of(here, inside / "z.zarr", "application/x-zarr", dataset=""))
    bad.append(run_of(here, climbing))
    good = run_of(here, inside / "master.h5")
    here.ingest()
    with here.client() as client:
        for uid in bad:
            assert "outside the directories" in refused(client, uid, 403)
        assert np.array_equal(read(client, good), FRAMES)


@needs_root
@needs_fuse
def test_a_beamtime_folder_that_hangs_is_asked_when_its_files_are_read_only(tmp_path, data):
    inside, folder = data
    here = place("sqlite", tmp_path, None, FileRoots([inside], [tmp_path]))
    write_hdf5(inside / "a.h5")
    start, *rest = frame_run(inside / "a.h5")
    uid = here.write([("start", {**start[1], "beamtime_folder": str(folder)}), *rest])
    here.ingest()
    with here.client() as client:
        with hanging(folder):
            assert [run.start["uid"] for run in client.values()] == [uid]
            stream = client[uid]["frames"]
            assert stream["det"].shape == (6, 4, 5)
        assert (stream["det"].read() == FRAMES).all()


def test_descriptors_that_say_too_little(tmp_path):
    here = place("sqlite", tmp_path, None)
    start, *_ = raw_run({"x": [1]})
    uid = start[1]["uid"]
    documents = frame_documents(uid, tmp_path / "a.h5", 6, (None, 5))
    here.write([start, *documents])
    assert here.ingest()[uid].state == "incomplete"
    with here.client() as client:
        assert "no usable shape" in refused(client, uid, 415)


@pytest.mark.slow
def test_a_million_events(tmp_path):
    here = place("sqlite", tmp_path, None)
    count, page = 1_000_000, 10_000
    documents = raw_run({"x": [0], "f": [0.0], "t": ["a"]})
    with DocumentLog(here.logs) as log:
        for name, document in documents[:2]:
            log.append(name, document)
        descriptor = documents[1][1]["uid"]
        for first in range(0, count, page):
            rows = np.arange(first, first + page)
            stamps = rows * 1.0
            document = {
                "descriptor": descriptor,
                "uid": [f"e{n}" for n in rows],
                "seq_num": rows + 1,
                "time": stamps,
                "data": {"x": rows, "f": rows / 7, "t": [f"t{n % 1000}" for n in rows]},
                "timestamps": {"x": stamps, "f": stamps, "t": stamps},
            }
            log.append("event_page", document)
        log.append(*documents[-1])
    uid = documents[0][1]["uid"]
    assert here.ingest()[uid].state == "complete"
    with here.client() as client:
        stream = client[uid].primary
        assert np.array_equal(stream["x"].read(), np.arange(count))
        assert stream["t"][999_999] == "t999"
        assert np.array_equal(stream["f"][500_000:500_003], np.arange(500_000, 500_003) / 7)
        dataset = stream.read(["x", "f"])
        assert np.array_equal(dataset["f"], np.arange(count) / 7)
        assert len(client[uid].primary.base["internal"].read()) == count
    largest = max(os.path.getsize(f) for f in here.storage.rglob("*.arrow"))
    assert largest < 40 * count
