"""Files of detectors in the live tree: where they may lie, and of what kind they are."""

import os
import socket
import threading

import h5py
import httpx
import numpy as np
import pytest
import zarr
from fastapi import HTTPException
from hypothesis import given
from hypothesis import strategies as st
from tiled.client import from_uri
from tiled.client.utils import ClientError

from p06bs.server.app import build_app
from p06bs.server.files.announced import FLUSH_SECONDS, NOTE_SECONDS, Announcements, settled
from p06bs.server.files.detector import detector_view
from p06bs.server.files.roots import FileRoots
from p06bs.server.sink import Sink
from p06bs.server.sink.shares import Shares
from tests.doors import KEY
from tests.live_server import serving

FRAMES = np.arange(3 * 4 * 5, dtype="u1").reshape(3, 4, 5)
SECRET = b"root:secret:/root" + bytes(43)


def frames(path, **more):
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/data", **({"data": FRAMES} | more))
    return path


def external(path, target):
    """Frames whose bytes are those of another file."""
    with h5py.File(path, "w") as file:
        stored = [(str(target), 0, FRAMES.nbytes)]
        file.create_dataset("entry/data", shape=FRAMES.shape, dtype="u1", external=stored)
    return path


def linked(path, target):
    with h5py.File(path, "w") as file:
        file["entry/data"] = h5py.ExternalLink(str(target), "entry/data")
    return path


def virtual(path, target):
    layout = h5py.VirtualLayout(shape=FRAMES.shape, dtype="u1")
    layout[:] = h5py.VirtualSource(str(target), "entry/data", shape=FRAMES.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("entry/data", layout)
    return path


def symbolic(path, target):
    path.symlink_to(target)
    return path


def publish(sink, uid, path, mimetype="application/x-hdf5", uri=None, **start):
    key = {
        "source": "d",
        "dtype": "array",
        "shape": [4, 5],
        "dtype_numpy": "|u1",
        "external": "STREAM:",
    }
    sink("start", {"uid": uid, "time": 1.0, **start})
    sink("descriptor", {
        "uid": f"{uid}-d", "run_start": uid, "time": 1.0, "name": "primary",
        "data_keys": {"img": key}, "configuration": {}, "hints": {}, "object_keys": {},
    })  # fmt: skip
    sink("stream_resource", {
        "uid": f"{uid}-r", "run_start": uid, "data_key": "img", "mimetype": mimetype,
        "uri": uri or f"file://localhost{path}",
        "parameters": {"dataset": "entry/data" if "hdf5" in mimetype else ""},
    })  # fmt: skip
    sink("stream_datum", {
        "uid": f"{uid}-r/0", "stream_resource": f"{uid}-r", "descriptor": f"{uid}-d",
        "indices": {"start": 0, "stop": 3}, "seq_nums": {"start": 1, "stop": 4},
    })  # fmt: skip
    return uid


@pytest.fixture
def tree(tmp_path):
    """Directories: ``assets``, two beamtimes, and what lies outside."""
    for name in ("assets", "bt/mine", "bt/other", "out"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "out/passwd").write_bytes(SECRET)
    frames(tmp_path / "out/f.h5")
    frames(tmp_path / "bt/other/f.h5")
    frames(tmp_path / "bt/mine/f.h5")
    frames(tmp_path / "assets/f.h5")
    return tmp_path


@pytest.fixture
def served(tree):
    """Serve a sink that reads below ``assets``: the sink, and the URL."""
    sink = Sink(50_000_000, roots=FileRoots([tree / "assets"], [tree / "bt"]))
    with serving(build_app(sink, KEY)) as url:
        yield sink, url


@pytest.fixture
def server(served):
    """The sink, and what reads the frames of a run."""
    sink, url = served
    with httpx.Client(base_url=url, headers={"Authorization": f"Apikey {KEY}"}) as http:
        yield (
            sink,
            lambda uid, rows="": http.get(
                f"/api/v1/array/full/live/{uid}/primary/img", params={"slice": rows}
            ),
        )


def test_nothing_outside_is_read_however_a_file_leads_there(tree, server):
    sink, read = server
    assets, out = tree / "assets", tree / "out"
    leads = {
        "outside": out / "f.h5",
        "link": symbolic(assets / "link.h5", out / "f.h5"),
        "dots": assets / ".." / "out" / "f.h5",
        "external": external(assets / "external.h5", out / "passwd"),
        "hdf5link": linked(assets / "linked.h5", out / "f.h5"),
        "virtual": virtual(assets / "virtual.h5", out / "f.h5"),
        "other": tree / "bt/other/f.h5",
    }
    for name, path in leads.items():
        answer = read(publish(sink, name, path, beamtime_folder=str(tree / "bt/mine")))
        assert answer.status_code == 403, (name, answer.status_code)
        assert b"secret" not in answer.content
    escaped = f"file://localhost{assets}/%2e%2e/out/f.h5"
    assert read(publish(sink, "escaped", None, uri=escaped)).status_code == 403


def rewrite(path, target):
    """Let a virtual dataset lead elsewhere, in place and as if it had not changed."""
    about = path.stat() if path.exists() else None
    new = virtual(path.with_suffix(".new"), target)
    with open(path, "r+b" if about else "wb") as file:
        file.write(new.read_bytes())
    if about:
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_ino) == (about.st_size, about.st_ino)
    return path


@pytest.mark.parametrize("between", ["", "assets/outer.h5"])
def test_a_file_that_is_rewritten_as_if_it_had_not_changed_is_looked_into_again(
    tree, server, between
):
    sink, read = server
    good, bad = frames(tree / "assets/a.h5"), frames(tree / "out/a___.h5")
    rewritten = rewrite(tree / "assets/changing.h5", good)
    path = virtual(tree / between, rewritten) if between else rewritten
    run = publish(sink, "changing", path)
    for _ in range(2):
        assert read(run).content == FRAMES.tobytes()
    rewrite(rewritten, bad)
    assert read(run).status_code == 403


def test_sources_are_looked_for_where_hdf5_does(tree, server):
    sink, read = server
    symbolic(tree / "assets/beside.h5", tree / "out/f.h5")
    beside = virtual(tree / "assets/v.h5", tree / "assets/none/beside.h5")
    symbolic(tree / "assets/many_0.h5", tree / "out/f.h5")
    many = tree / "assets/many.h5"
    space = h5py.h5s.create_simple((3, 4, 5), (h5py.h5s.UNLIMITED, 4, 5))
    space.select_hyperslab(
        (0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1), stride=FRAMES.shape, block=FRAMES.shape
    )
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_virtual(space, b"many_%b.h5", b"entry/data", h5py.h5s.create_simple(FRAMES.shape))
    with h5py.File(many, "w", libver="latest") as file:
        group = file.create_group("entry")
        h5py.h5d.create(group.id, b"data", h5py.h5t.NATIVE_UINT8, space, dcpl=made)
    with h5py.File(many) as file:
        assert (file["entry/data"][:] == FRAMES).all()
    for name, path in (("beside", beside), ("many", many)):
        assert read(publish(sink, name, path)).status_code == 403, name


def test_assets_and_a_runs_own_beamtime_folder_are_read(tree, server):
    sink, read = server
    whose = {"beamtime_folder": str(tree / "bt/mine")}
    for name, path in (("a", tree / "assets/f.h5"), ("b", tree / "bt/mine/f.h5")):
        assert read(publish(sink, name, path, **whose)).content == FRAMES.tobytes()
    # A folder that all beamtimes lie in is nobody's own.
    everything = {"beamtime_folder": str(tree / "bt")}
    assert read(publish(sink, "c", tree / "bt/other/f.h5", **everything)).status_code == 403


def test_kinds_of_files(tree, server):
    sink, read = server
    where = tree / "assets/z.zarr"
    array = zarr.create_array(where, shape=FRAMES.shape, dtype="u1", chunks=(1, 4, 5))
    array[:] = FRAMES
    made = publish(sink, "zarr", where, "application/x-zarr")
    assert read(made).content == FRAMES.tobytes()
    assert read(publish(sink, "tiff", tree / "assets/f.h5", "image/tiff")).status_code == 415
    assert read(publish(sink, "http", None, uri="http://there/f.h5")).status_code == 415


def test_a_description_of_an_array_that_is_none_is_said_to_be_none(tree, server):
    sink, read = server
    (tree / "assets/z.zarr").mkdir()
    (tree / "assets/z.zarr/zarr.json").write_text("[]")
    assert read(publish(sink, "r", tree / "assets/z.zarr", "application/x-zarr")).status_code == 415


@pytest.mark.parametrize("compressor", ["zstd", "gzip", None])
def test_a_chunk_that_is_not_whole_is_waited_for_as_one_that_is_not_there(tree, server, compressor):
    """A detector may be writing it."""
    sink, read = server
    where = tree / "assets/z.zarr"
    codecs = None if compressor is None else [{"name": compressor, "configuration": {}}]
    array = zarr.create_array(
        where, shape=FRAMES.shape, dtype="u1", chunks=(1, 4, 5), compressors=codecs
    )
    array[:] = FRAMES
    chunk = where / "c/1/0/0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    run = publish(sink, "r", where, "application/x-zarr")
    assert read(run).status_code == 503
    assert read(run, "0").content == FRAMES[0].tobytes()
    chunk.write_bytes(whole)
    assert read(run).content == FRAMES.tobytes()


def write_hdf5(path, rows):
    with h5py.File(path, "w") as file:
        data = file.create_dataset("entry/data", FRAMES.shape, "u1", chunks=(1, 4, 5))
        data[:rows] = FRAMES[:rows]


def write_zarr(path, rows):
    zarr.create_array(path, shape=(rows, 4, 5), dtype="u1", chunks=(1, 4, 5))[:] = FRAMES[:rows]


@pytest.mark.parametrize("write", [write_hdf5, write_zarr])
def test_rows_that_do_not_come_are_an_error_and_those_before_them_are_read(
    tree, served, server, monkeypatch, caplog, write
):
    """Stock clients ask again for 45 s where a server answers 503."""
    (sink, url), (_, read) = served, server
    kind = write.__name__.removeprefix("write_")
    path = tree / f"assets/late.{kind}"
    run = publish(sink, "late", path, f"application/x-{kind}")
    caplog.set_level("INFO")
    answer = read(run)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    write(path, 2)
    assert read(run, "0:2").content == FRAMES[:2].tobytes()
    assert read(run, "0:3").status_code == 503
    # Time goes by, and no more is written.
    monkeypatch.setattr("p06bs.server.files.announced.FLUSH_SECONDS", 0.0)
    for rows, said in (("0:3", "rows 0 to 2"), ("2", "row 2")):
        answer = read(run, rows)
        assert answer.status_code == 404
        assert f"img: {said}" in answer.json()["detail"]
        assert str(tree) not in answer.text
    assert "cannot be read" not in caplog.text
    client = from_uri(url, api_key=KEY)
    image = client["live", run, "primary", "img"]
    assert np.array_equal(image[:2], FRAMES[:2])
    with pytest.raises(ClientError, match="img: rows 0 to 2 were announced"):
        image.read()
    client.context.close()


def test_no_response_begins_whose_last_rows_are_not_there(tree, monkeypatch):
    """It would break off, which clients take for a network that is down, and ask again."""
    monkeypatch.setattr(Shares, "piece", FRAMES[0].nbytes)
    sink = Sink(50_000_000)
    path = tree / "assets/late.h5"
    write_hdf5(path, 2)
    run = publish(sink, "late", path)
    with serving(build_app(sink, KEY)) as url:
        image = f"{url}/api/v1/array/full/live/{run}/primary/img"
        key = {"Authorization": f"Apikey {KEY}"}
        assert httpx.get(image, headers=key).status_code == 503
        write_hdf5(path, 3)
        assert httpx.get(image, headers=key).content == FRAMES.tobytes()


@given(
    st.lists(st.tuples(st.integers(1, 5), st.floats(0, 2 * FLUSH_SECONDS)), max_size=30),
    st.floats(0, 2 * FLUSH_SECONDS),
)
def test_rows_are_waited_for_as_long_as_is_said(announced, later):
    announcements, rows, now, times = Announcements(), 0, 0.0, []
    for count, passed in announced:
        now += passed
        announcements.note(rows, now)
        times += [now] * count
        rows += count
    now += later
    old = settled(rows, announcements.recent, now)
    assert all(now - when >= FLUSH_SECONDS - NOTE_SECONDS for when in times[:old])
    assert all(now - when < FLUSH_SECONDS for when in times[old:])
    assert len(announcements.recent) <= FLUSH_SECONDS / NOTE_SECONDS + 1


def test_file_systems_are_not_asked_in_the_event_loop(tree):
    """Not for reading, and not for saying where the files of a listing are."""
    asked, loops = set(), set()

    class Roots(FileRoots):
        def of(self, folder):
            return self

        def real(self, path):
            asked.add(threading.current_thread())
            return super().real(path)

    async def app(scope, receive, send):
        loops.add(threading.current_thread())
        await inner(scope, receive, send)

    sink = Sink(50_000_000, roots=Roots([tree / "assets"]))
    inner = build_app(sink, KEY)
    publish(sink, "run", tree / "assets/f.h5")
    with serving(app) as url:
        key = {"Authorization": f"Apikey {KEY}"}
        with httpx.Client(base_url=url, headers=key) as http:
            listing = "/api/v1/search/live/run/primary?include_data_sources=true"
            (*_, image) = http.get(listing).json()["data"]
            (source,) = image["attributes"]["data_sources"]
            assert source["assets"][0]["data_uri"] == f"file://localhost{tree}/assets/f.h5"
            http.get("/api/v1/array/full/live/run/primary/img").raise_for_status()
    assert asked
    assert not asked & loops


def test_a_single_user_reads_everything(tree):
    sink = Sink(50_000_000)
    publish(sink, "any", tree / "out/f.h5")
    with serving(build_app(sink, KEY)) as url:
        key = {"Authorization": f"Apikey {KEY}"}
        answer = httpx.get(f"{url}/api/v1/array/full/live/any/primary/img", headers=key)
        assert answer.content == FRAMES.tobytes()


@pytest.mark.parametrize("dtype", ["|O", "nonsense", "<U8"])
def test_a_type_that_no_file_has_costs_its_column_only(dtype):
    sink = Sink(50_000_000)
    keys = {
        "odd": {"source": "d", "dtype": "array", "shape": [4], "dtype_numpy": dtype,
                "external": "STREAM:"},
        "x": {"source": "d", "dtype": "number", "shape": []},
    }  # fmt: skip
    sink("start", {"uid": "r", "time": 1.0})
    sink("descriptor", {
        "uid": "d", "run_start": "r", "time": 1.0, "name": "primary", "data_keys": keys,
        "configuration": {}, "hints": {}, "object_keys": {},
    })  # fmt: skip
    sink("event", {
        "descriptor": "d", "uid": "e", "seq_num": 1, "time": 1.0, "data": {"x": 2.0},
        "timestamps": {"x": 1.0}, "filled": {},
    })  # fmt: skip
    with serving(build_app(sink, KEY)) as url:
        key = {"Authorization": f"Apikey {KEY}"}
        answer = httpx.get(f"{url}/api/v1/search/live/r/primary", headers=key)
        assert answer.status_code == 200
        assert (
            httpx.get(f"{url}/api/v1/array/full/live/r/primary/x", headers=key).status_code == 200
        )


def test_links_that_lead_to_themselves_are_outside(tree, server):
    sink, read = server
    loop = tree / "assets/loop.h5"
    loop.symlink_to(loop)
    assert read(publish(sink, "loop", loop)).status_code == 403


def through(path, middle, target):
    """Frames behind two external links."""
    return linked(path, linked(middle, target))


def piped(path):
    os.mkfifo(path)
    return path


def bound(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
    return path


def test_what_is_no_regular_file_is_never_opened(tree, server):
    """A named pipe would stop all threads of the server for ever."""
    sink, read = server
    assets = tree / "assets"
    pipe = piped(assets / "pipe.h5")
    group = frames(assets / "group.h5")
    with h5py.File(group, "w") as file:
        file.create_group("entry/data")
    leads = {
        "pipe": pipe,
        "socket": bound(assets / "socket.h5"),
        "directory": assets,
        "link": symbolic(assets / "link.h5", pipe),
        "external": external(assets / "external.h5", pipe),
        "hdf5link": linked(assets / "linked.h5", pipe),
        "chain": through(assets / "chain.h5", assets / "middle.h5", pipe),
        "virtual": virtual(assets / "virtual.h5", pipe),
        "nested": virtual(assets / "nested.h5", virtual(assets / "inner.h5", pipe)),
        "source": virtual(assets / "source.h5", linked(assets / "away.h5", pipe)),
        "group": group,
    }
    for name, path in leads.items():
        answer = read(publish(sink, name, path))
        assert answer.status_code == 415, (name, answer.status_code)
        assert str(tree) not in answer.text
    good = linked(assets / "good.h5", linked(assets / "also.h5", assets / "f.h5"))
    assert read(publish(sink, "good", good)).content == FRAMES.tobytes()


@pytest.mark.parametrize("name", ["zarr.json", "c/1/0/0"])
@pytest.mark.parametrize("put", [piped, os.mkdir])
def test_what_is_no_file_in_a_zarr_array_is_not_read(tree, server, name, put):
    sink, read = server
    where = tree / "assets/z.zarr"
    zarr.create_array(where, shape=FRAMES.shape, dtype="u1", chunks=(1, 4, 5))[:] = FRAMES
    run = publish(sink, "r", where, "application/x-zarr")
    (where / name).unlink()
    put(where / name)
    answer = read(run)
    # For a chunk it is as one that is not whole; it may yet be replaced.
    assert answer.status_code == (415 if name == "zarr.json" else 503)
    assert str(tree) not in answer.text


def answered(path, roots):
    """Return what is answered of three frames in a file that nobody writes any more."""
    resource = {
        "uid": "r", "uri": f"file://localhost{path}", "mimetype": "application/x-hdf5",
        "parameters": {"dataset": "entry/data"},
    }  # fmt: skip
    described = {"shape": [4, 5], "dtype_numpy": "|u1"}
    try:
        detector_view("img", described, [(resource, 0, 3)], roots).read(0, 3)
    except HTTPException as error:
        return 0 if str(path) in error.detail else error.status_code
    return 200


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_damaged_files_are_answered(tree, version):
    """Some are read nevertheless: the bytes were those of a frame, or nobody's."""
    path = tree / "assets/damaged.h5"
    with h5py.File(path, "w", libver=version) as file:
        file.create_dataset("entry/data", data=FRAMES, chunks=(1, 4, 5), compression="gzip")
    good = path.read_bytes()
    random = np.random.default_rng(5)
    roots = FileRoots([tree / "assets"])
    seen = set()
    for _ in range(150):
        damaged = np.frombuffer(good, "u1").copy()
        damaged[random.integers(0, len(good), 4)] ^= random.integers(1, 256, 4, "u1")
        path.write_bytes(damaged.tobytes())
        seen.add(answered(path, roots))
    assert {200, 404} <= seen <= {200, 404, 415}
    path.write_bytes(good[:8] + random.bytes(4000))
    assert answered(path, roots) == 404
