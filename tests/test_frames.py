"""Frames: rows of HDF5 files, also of those that another process is writing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from p06bs import process
from p06bs.bus.frames import OPEN_FILES, Frames, FramesMissingError, dataset_of
from p06bs.model.gather import NotYetError
from p06bs.model.modality import BoundInput
from tests.documents import frame_documents, raw_run, rows_of
from tests.techniques import Brightness

SHAPE = (2, 3)

# A detector: it does what its standard input says, and answers each line.
WRITER = """
import sys, h5py, numpy as np
path, kind, chunk = sys.argv[1], sys.argv[2], int(sys.argv[3])
file = h5py.File(path, "w", libver="latest")
data = file.create_dataset("d", (0, 2, 3), "u2", maxshape=(None, 2, 3), chunks=(chunk, 2, 3))
if kind == "swmr":
    file.swmr_mode = True
print("open", flush=True)
for line in sys.stdin:
    act, *numbers = line.split()
    if act == "write":
        start, stop = map(int, numbers)
        data.resize(max(len(data), stop), axis=0)
        data[start:stop] = np.arange(start, stop)[:, None, None]
    elif act == "resize":
        data.resize(int(numbers[0]), axis=0)
    elif act == "close":
        file.close()
        print("closed", flush=True)
        break
    data.flush()
    print("done", flush=True)
"""


@contextmanager
def detector(path: Path, kind: str = "swmr", chunk: int = 1) -> Iterator[Any]:
    """Start a process that writes frames; yield what tells it to."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), kind, str(chunk)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdout.readline()

        def tell(*words: object) -> str:
            print(*words, file=writer.stdin, flush=True)
            return writer.stdout.readline().strip()  # type: ignore[union-attr]

        yield tell
        writer.stdin.close()
    assert writer.returncode == 0


def resource(path: Path, dataset: str = "d", **more: Any) -> dict[str, Any]:
    about = {"uid": "r", "uri": f"file://localhost{path}", "mimetype": "application/x-hdf5"}
    return {**about, "parameters": {"dataset": dataset}, **more}


def bound(shape: tuple[int, ...] = SHAPE) -> BoundInput:
    return BoundInput("frames", "det", True, shape, shape, "<u2")


def numbers(rows: Any) -> list[int]:
    """Return what each frame holds, and make sure that it is the same in all pixels."""
    flat = np.asarray(rows).reshape((len(rows), -1))
    assert (flat == flat[:, :1]).all()
    return [int(v) for v in flat[:, 0]]


def test_a_growing_file_is_read_row_by_row(tmp_path):
    path = tmp_path / "f.h5"
    with detector(path) as tell, Frames(final=True) as read:
        for start in range(0, 12, 3):
            tell("write", start, start + 3)
            rows = read(resource(path), start, 3, bound())
            assert rows.shape == (3, 1, *SHAPE)
            assert numbers(rows) == [start, start + 1, start + 2]
        assert numbers(read(resource(path), 0, 12, bound())) == list(range(12))


@pytest.mark.parametrize("chunk", [1, 4])
def test_rows_that_are_announced_too_early_are_not_there_yet(tmp_path, chunk):
    path = tmp_path / "f.h5"
    with detector(path, chunk=chunk) as tell, Frames() as read:
        tell("resize", 8)  # the dataset has its rows, but nothing is written: they read as zeros
        seen = set()
        for start in range(0, 8, chunk):
            with pytest.raises(NotYetError, match=f"row {start} of d in .*f.h5 was not") as late:
                read(resource(path), 0, 8, bound())
            assert late.value.place == f"{path}#d"
            seen.add(late.value.progress)
            tell("write", start, start + chunk)
        assert len(seen) == 8 // chunk
        assert numbers(read(resource(path), 0, 8, bound())) == list(range(8))
        read.final = True
        with pytest.raises(FramesMissingError, match="row 8"):
            read(resource(path), 0, 9, bound())


def test_readers_of_one_process_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "f.h5"
    with detector(path) as tell, Frames(final=True) as one, Frames(final=True) as other:
        for start in range(0, 12, 3):
            tell("write", start, start + 3)
            for read in (one, other, one):
                assert numbers(read(resource(path), start, 3, bound())) == [
                    *range(start, start + 3)
                ]
        with pytest.raises(FramesMissingError, match="nowhere"):
            Frames(final=True)(resource(path, "nowhere"), 0, 1, bound())
        other.close()
        assert numbers(one(resource(path), 0, 2, bound())) == [0, 1]


def test_a_file_that_comes_late_is_read_once_it_is_closed(tmp_path):
    path = tmp_path / "f.h5"
    with Frames() as read:
        with pytest.raises(NotYetError) as late:
            read(resource(path), 0, 2, bound())
        assert late.value.place == str(path)  # all of its datasets are waited for at once
        with detector(path, "plain") as tell:  # nobody may read until it closes the file
            tell("write", 0, 2)
            with pytest.raises(NotYetError, match="could not be opened"):
                read(resource(path), 0, 2, bound())
            tell("close")
        assert numbers(read(resource(path), 0, 2, bound())) == [0, 1]


def test_a_detector_may_open_its_file_again_while_it_is_read(tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("d", data=np.zeros((2, *SHAPE), "u2"), maxshape=(None, *SHAPE))
    more = "import sys, h5py; f = h5py.File(sys.argv[1], 'a'); f['d'].resize(4, 0); f['d'][2:] = 7"
    with Frames(final=True) as read:
        assert numbers(read(resource(path), 0, 2, bound())) == [0, 0]
        subprocess.run([sys.executable, "-c", more, str(path)], check=True)
        assert numbers(read(resource(path), 2, 2, bound())) == [7, 7]


@pytest.mark.parametrize(
    "storage",
    [
        {"chunks": (1, *SHAPE), **hdf5plugin.Bitshuffle(cname="lz4")},
        {"chunks": (4, *SHAPE), "compression": "gzip"},
        {"chunks": (1, 1, 3)},
        {"chunks": None},
    ],
    ids=["bslz4", "gzip", "split", "contiguous"],
)
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_every_storage_is_read(tmp_path, storage, libver):
    path = tmp_path / "a file.h5"
    frames = np.arange(10)[:, None, None] * np.ones(SHAPE, int)
    with h5py.File(path, "w", libver=libver) as file:
        file.create_dataset("entry/data", data=frames.astype("u2"), **storage)
    described = resource(path, "/entry/data", uri=path.as_uri())
    assert "%20" in described["uri"]
    with Frames(final=True) as read:
        assert numbers(read(described, 3, 5, bound())) == [3, 4, 5, 6, 7]


def test_several_rows_make_one_event(tmp_path):
    path = tmp_path / "f.h5"
    frames = np.arange(10)[:, None, None] * np.ones(SHAPE, int)
    with h5py.File(path, "w") as file:
        file["d"] = frames.astype("u2")
    with Frames(final=True) as read:
        rows = read(resource(path), 1, 3, bound((2, *SHAPE)))
        assert rows.shape == (3, 2, *SHAPE)
        assert numbers(rows.reshape((6, *SHAPE))) == [2, 3, 4, 5, 6, 7]
        assert read(resource(path), 1, 3, bound((1, *SHAPE))).shape == (3, 1, *SHAPE)


def test_more_files_than_stay_open(tmp_path):
    with Frames(final=True) as read:
        for number in range(OPEN_FILES + 5):
            path = tmp_path / f"{number}.h5"
            with h5py.File(path, "w") as file:
                file["d"] = np.full((1, *SHAPE), number, "u2")
            assert numbers(read(resource(path), 0, 1, bound())) == [number]
        assert len(read._open) == OPEN_FILES


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mimetype": "image/tiff"}, "only HDF5"),
        ({"uri": "https://example.org/f.h5"}, "only file: URIs"),
        ({"parameters": {}}, "names no dataset"),
        ({"parameters": {"dataset": "scalar"}}, "has no rows"),
        ({"parameters": {"dataset": "nowhere"}}, "could not be opened"),
        ({"parameters": {"dataset": "entry"}}, r"a group of \[data_1, data_2\]: each needs a "),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, changed, message):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file["scalar"] = 1
        for name in ("data_1", "data_2"):
            file[f"entry/{name}"] = h5py.ExternalLink("not-there-yet.h5", "data")
    with Frames(final=True) as read, pytest.raises((OSError, ValueError), match=message):
        read(resource(path, **changed), 0, 1, bound())


def test_a_uri_with_a_host_and_escapes_is_a_path():
    found = dataset_of({**resource(Path("x")), "uri": "file://localhost/data/a%20b%23.h5"})
    assert found[0] == Path("/data/a b#.h5")


def joined(tmp_path: Path, files: list[int], per: int = 1) -> tuple[Any, list[Any]]:
    """Return a run whose frames lie in several files of so many events, `per` rows each."""
    count = sum(files)
    raw = raw_run({"i0": np.ones(count)}, aligned_streams=["primary", "frames"])
    start, *middle, stop = raw
    documents, descriptor, first = [], None, 0
    for number, length in enumerate(files):
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as file:
            rows = np.repeat(np.arange(first, first + length), per)[:, None, None]
            file["d"] = (rows * np.ones(SHAPE, int)).astype("u2")
        shape = SHAPE if per == 1 else (per, *SHAPE)
        made = frame_documents(
            start[1]["uid"], path, length, shape, first=first, descriptor=descriptor, dataset="d"
        )
        descriptor = descriptor or made[0][1]
        documents += made
        first += length
    return Brightness(inputs={"frame": "det", "monitor": "i0"}), [start, *middle, *documents, stop]


def test_several_files_are_one_series(tmp_path):
    modality, raw = joined(tmp_path, [5, 1, 7])
    rows = rows_of(process(modality, raw, batch_size=4), "sum")
    assert [r[3] for r in rows] == [6 * i for i in range(13)]


def test_two_rows_per_event_do_not_fit_one_image_and_say_so(tmp_path):
    modality, raw = joined(tmp_path, [4], per=2)
    with pytest.raises(LookupError, match=r"frames/det .*shape \[2, 2, 3\].* has 3 axes"):
        process(modality, raw)


def test_a_missing_file_costs_its_events_and_nothing_else(tmp_path):
    modality, raw = joined(tmp_path, [5, 4, 3])
    (tmp_path / "1.h5").unlink()
    documents = process(modality, raw, deadline=0.05)
    rows = rows_of(documents, "sum", "valid", "invalid_reason")
    assert [r[4] for r in rows] == [True] * 5 + [False] * 4 + [True] * 3
    assert all("1.h5 could not be opened" in r[5] for r in rows[5:9])
    assert [r[3] for r in rows if r[4]] == [6 * i for i in range(12) if i not in range(5, 9)]
    assert documents[-1][1]["num_invalid"] == {"primary": 4}


def test_a_pipe_is_never_opened_and_neither_are_sources_that_cannot_be_listed(tmp_path):
    """Opening a pipe would stop the process; a pattern may stand for one."""
    pipe = tmp_path / "many_0.h5"
    os.mkfifo(pipe)
    linked = tmp_path / "linked.h5"
    with h5py.File(linked, "w") as file:
        file["d"] = h5py.ExternalLink("many_0.h5", "d")
        file["group"] = h5py.SoftLink("/d")
    rows = h5py.h5s.create_simple((1, *SHAPE), (h5py.h5s.UNLIMITED, *SHAPE))
    rows.select_hyperslab(
        (0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1), stride=(1, *SHAPE), block=(1, *SHAPE)
    )
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_virtual(rows, b"many_%b.h5", b"d", h5py.h5s.create_simple((1, *SHAPE)))
    virtual = tmp_path / "virtual.h5"
    with h5py.File(virtual, "w", libver="latest") as file:
        h5py.h5d.create(file.id, b"d", h5py.h5t.NATIVE_UINT16, rows, dcpl=made)
    with Frames(final=True) as read:
        for path, name, said in (
            (pipe, "d", "no regular file"),
            (linked, "d", "no regular file"),
            (linked, "group", "no regular file"),
            (virtual, "d", "any number of sources"),
        ):
            with pytest.raises(ValueError, match=said):
                read(resource(path, name), 0, 1, bound())


def test_damaged_metadata_is_given_up_soon(tmp_path):
    """HDF5 by itself would try for minutes, and no other thread would run meanwhile."""
    path = tmp_path / "f.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["d"] = np.ones((3, *SHAPE), "u2")
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"OHDR") + 8] ^= 1
    path.write_bytes(damaged)
    with Frames(final=True) as read, pytest.raises(FramesMissingError, match="read attempts"):
        read(resource(path), 0, 3, bound())
