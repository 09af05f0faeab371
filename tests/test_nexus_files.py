"""NeXus files are complete or absent, never replaced, and their errors are clear."""

import subprocess
import sys
import threading
from pathlib import Path

import bluesky.plans as bp
import h5py
import pytest

from p06bs.writers.nexus import Serializer, export
from p06bs.writers.validate import validate
from tests.nexus_runs import check_lossless, derived_run, run, run_with_frames, stage, write


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    _, det = stage()
    documents = run(bp.count([det], 2))
    path = write(documents, tmp_path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="never overwrites"):
        export(documents, tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_concurrent_writers_of_one_run_leave_one_whole_file(tmp_path: Path) -> None:
    documents = run_with_frames("s3://bucket/x.h5")
    together = threading.Barrier(4)
    won: list[Path] = []
    lost: list[str] = []

    def writer() -> None:
        with Serializer(tmp_path) as serializer:
            serializer(*documents[0])
            together.wait()
            for name, doc in documents[1:-1]:
                serializer(name, doc)
            together.wait()
            try:
                serializer(*documents[-1])
            except FileExistsError as error:
                lost.append(str(error))
            else:
                won.extend(serializer.artifacts["all"])

    threads = [threading.Thread(target=writer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 3)
    check_lossless(won[0], documents)
    assert [p.name for p in tmp_path.iterdir()] == [won[0].name]


def test_interleaved_runs_in_one_process(tmp_path: Path) -> None:
    runs = [derived_run([(n, float(n * k), True) for n in range(1, 13)]) for k in (1, 2)]
    writers = [Serializer(tmp_path), Serializer(tmp_path)]
    for both in zip(*runs, strict=True):
        for writer, (name, doc) in zip(writers, both, strict=True):
            writer(name, doc)
    for writer, documents in zip(writers, runs, strict=True):
        writer.close()
        check_lossless(writer.artifacts["all"][0], documents)


def test_a_run_without_stop_is_discarded_or_kept(tmp_path: Path) -> None:
    documents = run_with_frames("s3://bucket/x.h5")[:-1]
    with pytest.raises(ValueError, match="hold no complete run"):
        export(documents, tmp_path)
    assert list(tmp_path.iterdir()) == []
    (path,) = export(documents, tmp_path, unfinished="keep")["all"]
    assert validate(path) == []
    with h5py.File(path) as file:
        assert file["entry/bluesky"].attrs["exit_status"] == "unfinished"
        assert "end_time" not in file["entry"]
        assert len(file["entry/bluesky/streams/primary/uid"]) == 6


def test_file_prefix(tmp_path: Path) -> None:
    _, det = stage()
    documents = run(bp.count([det], 1, md={"sample": "../../up"}))
    scan = documents[0][1]["scan_id"]
    path = write(documents, tmp_path, file_prefix="sub/scan_{start[scan_id]:05d}")
    assert path == tmp_path / "sub" / f"scan_{scan:05d}.nxs"
    with pytest.raises(ValueError, match="out of the directory"):
        export(documents, tmp_path, "{start[sample]}")
    with pytest.raises(ValueError, match="asks for 'title', which the start document lacks"):
        export(documents, tmp_path, "{start[title]}")


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    documents = run_with_frames("s3://bucket/x.h5")
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", Path("/proc/self/nexus")):
        with pytest.raises(OSError, match=f"cannot write {directory.resolve()}/"):
            export(documents, directory)


FILLS_THE_DISK = """
import resource, signal, sys
import numpy as np, event_model
from p06bs.writers.nexus import Serializer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
bundle = event_model.compose_run()
keys = {"a": {"source": "s", "dtype": "array", "shape": [100_000], "dtype_numpy": "<f8"}}
stream = bundle.compose_descriptor(name="primary", data_keys=keys)
rng = np.random.default_rng(0)
with Serializer(sys.argv[1]) as write:
    write("start", bundle.start_doc)
    write("descriptor", stream.descriptor_doc)
    try:
        for i in range(40):
            write("event", stream.compose_event(
                data={"a": rng.normal(size=100_000)}, timestamps={"a": 0.0}, validate=False))
        write("stop", bundle.compose_stop())
    except OSError as error:
        print(error)
"""


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FILLS_THE_DISK, str(tmp_path)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert f"cannot write {tmp_path}" in done.stdout
    assert "File too large" in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_documents_that_contradict_each_other(tmp_path: Path) -> None:
    documents = run_with_frames("s3://bucket/x.h5")
    named = dict(documents)
    with Serializer(tmp_path) as serializer:
        with pytest.raises(ValueError, match="it comes before start"):
            serializer(*documents[1])
        serializer(*documents[0])
        with pytest.raises(ValueError, match="two start documents"):
            serializer(*documents[0])
        with pytest.raises(ValueError, match="which has not come"):
            serializer("event_page", named["event_page"])
        for document in documents[1:3]:
            serializer(*document)
        with pytest.raises(ValueError, match=r"stream_resource .* which has not come"):
            serializer("stream_datum", named["stream_datum"])
        with pytest.raises(ValueError, match=r"'primary', event 1: .*by data/i0"):
            serializer("event_page", {**named["event_page"], "data": {}})
        with pytest.raises(ValueError, match="is no document"):
            serializer("greeting", {})
        for document in documents[3:]:
            serializer(*document)
        with pytest.raises(ValueError, match="closed already"):
            serializer(*documents[-1])
    check_lossless(serializer.artifacts["all"][0], documents)


def test_validate_finds_errors(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "bad.nxs", "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        entry.create_group("no class")
    (error,) = validate(tmp_path / "bad.nxs")
    assert "/entry/no class: This group has no NeXus base class assigned" in error
    (error,) = validate(tmp_path / "absent.nxs")[-1:]
    assert "broke off" in error
