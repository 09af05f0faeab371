"""What services write into ``/live`` with stock clients, and bluesky's TiledWriter."""

import contextlib
import json
import resource
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import bluesky.plans as bp
import dask.array
import httpx
import numpy as np
import pandas
import pyarrow
import pytest
from bluesky import RunEngine
from bluesky_tiled_plugins import TiledWriter
from hypothesis import given
from hypothesis import strategies as st
from ophyd.sim import det, motor
from starlette.exceptions import HTTPException
from tiled.client import from_uri
from tiled.client.utils import ClientError
from tiled.structures.array import ArrayStructure
from tiled.structures.table import TableStructure

from p06bs.server.app import build_app
from p06bs.server.sink.sink import Sink
from p06bs.server.tree.arrays import SIZES
from p06bs.server.tree.written import Tree
from p06bs.server.tree.written_nodes import made
from p06bs.server.tree.written_tables import MOST_PARTS
from tests.live_runs import add_page, begin
from tests.live_server import KEY, serving
from tests.test_subscriptions import Policy, Shown, Updates, news, plain, receive

HEADERS = {"Authorization": f"Apikey {KEY}"}
ARROW = "application/vnd.apache.arrow.file"
OCTETS = "application/octet-stream"
pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used:DeprecationWarning")


def test_arrays_are_written_whole_in_blocks_and_by_appending(sink, live):
    top = live.create_container("written-arrays", metadata={"colour": "blue"})
    before = sink.nbytes
    values = np.arange(24.0).reshape(4, 6)
    whole = top.write_array(values, key="whole", metadata={"unit": "mm"}, dims=("y", "x"))
    assert np.array_equal(whole.read(), values)
    assert np.array_equal(live["written-arrays"]["whole"][1:3, ::2], values[1:3, ::2])
    assert live["written-arrays"]["whole"].metadata["unit"] == "mm"
    assert live["written-arrays"]["whole"].dims == ("y", "x")
    assert sink.nbytes >= before + values.nbytes
    blocks = top.write_array(dask.array.from_array(values, chunks=(2, 3)), key="blocks")
    assert blocks.chunks == ((2, 2), (3, 3))
    assert np.array_equal(blocks.read(), values)
    grown = top.write_array(values[:2], key="grown")
    for row in range(2, 4):
        grown.patch(values[row : row + 1], offset=(row,), extend=True)
    assert grown.shape == (4, 6)
    assert np.array_equal(live["written-arrays"]["grown"].read(), values)
    grown.patch(np.zeros((1, 2)), offset=(0, 1))
    assert grown.read()[0].tolist() == [0, 0, 0, 3, 4, 5]
    assert top.write_array(np.array(["a", "bcd"]), key="text").read().tolist() == ["a", "bcd"]
    assert top.write_array(np.float64(3.5), key="scalar").read() == 3.5


def test_tables_are_written_whole_and_by_appending(live):
    top = live.create_container("written-tables")
    frame = pandas.DataFrame({"x": [1.5, 2.5], "name": ["a", "b"], "n": [1, 2]})
    table = top.write_table(frame, key="whole")
    pandas.testing.assert_frame_equal(table.read(), frame, check_dtype=False)
    assert table.read(["n"])["n"].tolist() == [1, 2]
    assert live["written-tables"]["whole"]["x"].read().tolist() == [1.5, 2.5]
    schema = pyarrow.schema([("x", pyarrow.float64()), ("name", pyarrow.string())])
    growing = top.create_appendable_table(schema, key="growing")
    for i in range(200):
        growing.append_partition(0, pyarrow.table({"x": [float(i)], "name": [f"row {i}"]}))
    read = live["written-tables"]["growing"].read()
    assert read["x"].tolist() == list(range(200))
    assert read["name"].tolist() == [f"row {i}" for i in range(200)]


def test_metadata_are_updated_replaced_and_searched(live):
    node = live.create_container("written-metadata", metadata={"a": 1, "b": {"c": 2}})
    node.update_metadata({"b": {"d": 3}})
    assert live["written-metadata"].metadata["b"] == {"c": 2, "d": 3}
    node.replace_metadata({"z": 26}, drop_revision=True)
    assert dict(live["written-metadata"].metadata) == {"z": 26}


def test_nodes_are_deleted_only_when_that_is_meant(sink, live):
    before = sink.nbytes
    top = live.create_container("written-delete")
    top.create_container("inner").write_array(np.ones(1000), key="data")
    with pytest.raises(ClientError, match="409"):
        top.delete()
    with pytest.raises(ClientError, match="409"):
        top.delete(recursive=True)
    top["inner"].delete(recursive=True, external_only=False)
    assert list(live["written-delete"]) == []
    top.delete()
    assert "written-delete" not in list(live)
    assert sink.nbytes == before


def test_subscribers_see_what_is_written_and_then_the_end(live):
    runs = Updates(live)
    top = live.create_container("written-live", metadata={"start": {"sample": "leaf"}})
    children = Updates(top)
    array = top.write_array(np.arange(3.0), key="array")
    schema = pyarrow.schema([("x", pyarrow.float64()), ("name", pyarrow.string())])
    table = top.create_appendable_table(schema, key="table")
    rows, lines = Updates(array, 1), Updates(table)
    for i in range(3, 6):
        array.patch(np.array([float(i)]), offset=(i,), extend=True)
        table.append_partition(0, pyarrow.table({"x": [float(i)], "name": ["n"]}))
    rows.wait(lambda got: got and got[-1].sequence == 6)
    lines.wait(lambda got: got and got[-1].sequence == 3)
    for node in (array, table, top):
        node.close_stream()
    for one in (rows, lines, children):
        assert one.closed.wait(30)
    assert [v for u in rows.end() for v in u.data()] == [0, 1, 2, 3, 4, 5]
    assert [v for u in lines.end() for v in u.data()["x"]] == [3, 4, 5]
    assert news(children.end()) == [("created", "array"), ("created", "table")]
    assert ("created", "written-live") in news(runs.end())


def test_tiled_writer_writes_a_run(live):
    engine = RunEngine(call_returns_result=True)
    engine.subscribe(TiledWriter(live, batch_size=2))
    (uid,) = engine(bp.scan([det], motor, -1, 1, 5, md={"sample": "leaf"})).run_start_uids
    run = live[uid]
    assert type(run).__name__ == "BlueskyRunV3"
    assert run.metadata["start"]["sample"] == "leaf"
    assert run.metadata["stop"]["exit_status"] == "success"
    data = run["primary"].read()
    assert data["motor"].values.tolist() == [-1, -0.5, 0, 0.5, 1]
    assert data["det"].values.argmax() == 2


def at_once(served, count, write):
    """Let so many clients write at the same time; `write` is called with a client and a number."""
    together = threading.Barrier(count)

    def run(number):
        with httpx.Client(base_url=f"{served[1]}/api/v1", headers=HEADERS, timeout=60) as client:
            together.wait()
            write(client, number)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(run, range(count)))


def arrow(compression=None, **columns):
    buffer = pyarrow.BufferOutputStream()
    table = pyarrow.table(columns)
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with pyarrow.ipc.new_file(buffer, table.schema, options=options) as writer:
        writer.write_table(table)
    return buffer.getvalue().to_pybytes()


WRITERS, EACH = 4, 15


def test_rows_that_several_writers_append_at_once_are_all_there_once(served, sink, live):
    top = live.create_container("at-once")
    schema = pyarrow.schema([("n", pyarrow.int64())])
    top.create_appendable_table(schema, key="table")
    top.write_array(np.zeros((1, 3)), key="array")
    top.write_array(np.zeros((1, 2)), key="wide")
    top.write_array(dask.array.zeros((WRITERS * EACH, 4), chunks=(1, 4)), key="blocks")
    rows = Updates(top["array"], 1)
    lines = Updates(top["table"], 1)

    def write(client, number):
        def send(method, path, content, **params):
            headers = {"Content-Type": ARROW if "table" in path else OCTETS}
            path = path.replace("/at-once", "/live/at-once")
            client.request(
                method, path, content=content, headers=headers, params=params
            ).raise_for_status()

        for i in range(number, WRITERS * EACH, WRITERS):
            row = np.full((1, 3), i + 1.0).tobytes()
            at = {"shape": "1,3", "offset": f"{i + 1},0", "extend": "true"}
            send("PATCH", "/array/full/at-once/array", row, **at)
            send("PATCH", "/table/partition/at-once/table", arrow(n=[i]), partition=0)
            at = {"shape": "1,1", "offset": f"{i % 7},{i}", "extend": "true"}
            send("PATCH", "/array/full/at-once/wide", np.float64(i).tobytes(), **at)
            block = np.full(4, float(i)).tobytes()
            send("PUT", "/array/block/at-once/blocks", block, block=f"{i},0")
            child = {**array_node(f"child-{i}"), "id": f"child-{i}"}
            client.post("/metadata/live/at-once", json=child).raise_for_status()

    at_once(served, WRITERS, write)
    count = WRITERS * EACH
    node = live["at-once"]
    assert np.array_equal(node["array"].read(), np.arange(count + 1.0)[:, None] * np.ones(3))
    assert sorted(node["table"].read()["n"]) == list(range(count))
    wide = np.zeros((7, count))
    wide[np.arange(count) % 7, np.arange(count)] = np.arange(count)
    assert np.array_equal(node["wide"].read(), wide)
    assert np.array_equal(node["blocks"].read(), np.arange(count * 1.0)[:, None] * np.ones(4))
    assert len(node) == 4 + count
    for key in ("array", "table"):
        node[key].close_stream()
    assert rows.closed.wait(30)
    assert lines.closed.wait(30)
    seen = [value for update in rows.end() for value in update.data()]
    assert np.array_equal(seen, node["array"].read())
    heard = [n for update in lines.end() for n in update.data()["n"]]
    assert sorted(heard) == list(range(count))
    held = {one.uid: one.nbytes for one in sink.held()}["at-once"]
    tree = sink.view("at-once").written
    assert tree.nbytes == tree.top.nbytes <= held


def test_nodes_that_are_written_and_deleted_at_once_leave_nothing(served, sink, live):
    before = sink.nbytes
    live.create_container("to-and-fro")
    answers = Counter()

    def write(client, number):
        for i in range(10):
            key = f"node-{i % 2}"
            answer = client.post("/metadata/live/to-and-fro", json=array_node(key))
            answers["made", answer.status_code] += 1
            answer = client.put(
                f"/array/full/live/to-and-fro/{key}", content=bytes(48),
                headers={"Content-Type": OCTETS},
            )  # fmt: skip
            answers["written", answer.status_code] += 1
            answer = client.delete(
                f"/metadata/live/to-and-fro/{key}", params={"external_only": False}
            )
            answers["deleted", answer.status_code] += 1

    at_once(served, 4, write)
    assert set(answers) <= {
        ("made", 200), ("made", 409), ("written", 200), ("written", 404), ("deleted", 200),
        ("deleted", 404),
    }  # fmt: skip
    assert answers["deleted", 200] == answers["made", 200]
    tree = sink.view("to-and-fro").written
    assert tree.nbytes == tree.top.nbytes
    live["to-and-fro"].delete()
    assert sink.nbytes == before


def array_node(key, shape=(2, 3), kind="f", itemsize=8, chunks=None):
    data_type = {"endianness": "little", "kind": kind, "itemsize": itemsize}
    structure = {
        "data_type": data_type, "shape": shape, "chunks": chunks or [[n] for n in shape],
        "dims": None, "resizable": False,
    }  # fmt: skip
    return {"id": key, **described("array", structure)}


def described(family, structure):
    source = {
        "structure_family": family, "structure": structure, "mimetype": "x", "parameters": {},
        "assets": [], "management": "writable",
    }  # fmt: skip
    return {"structure_family": family, "metadata": {}, "specs": [], "data_sources": [source]}


def odd_times(http):
    """Return the answers to times and integers that nobody can be sent."""
    answers = {}
    for odd in ("1" + "0" * 400, "NaN", "-Infinity", '"today"'):
        body = described("container", None) | {"data_sources": [], "metadata": {}, "id": "odd-time"}
        for name, metadata in {
            "start": f'{{"start": {{"time": {odd}}}}}',
            "stop": f'{{"stop": {{"time": {odd}}}}}',
        }.items():
            for method, path in (("POST", "/metadata/live"), ("PUT", "/metadata/live/refused")):
                answers[f"{method} {name} time {odd}"] = http.request(
                    method,
                    path,
                    content=json.dumps(body).replace('"metadata": {}', f'"metadata": {metadata}'),
                    headers={"Content-Type": "application/json"},
                )
    answers["large integer"] = http.put(
        "/metadata/live/refused", json={"metadata": {"serial": 1 << 64}}
    )
    return answers


def test_what_does_not_fit_is_refused_and_changes_nothing(sink, live, http):
    top = live.create_container("refused")
    top.write_array(np.zeros((2, 3)), key="a")
    schema = pyarrow.schema([("x", pyarrow.float64())])
    top.create_appendable_table(schema, key="t")
    updates = Updates(live["refused"]["a"])
    before = sink.nbytes
    octets = {"Content-Type": OCTETS}

    def put(path, content, headers=octets, method="PUT", **params):
        return http.request(method, path, content=content, headers=headers, params=params)

    array, table = "/array/full/live/refused/a", "/table/partition/live/refused/t?partition=0"
    table_type = {"Content-Type": ARROW}
    patch = {"method": "PATCH"}
    answers = {
        "too few bytes": put(array, b"x" * 47),
        "too many bytes": put(array, b"x" * 49),
        "other media type": put(array, b"x" * 48, {"Content-Type": "text/csv"}),
        "no such media type": put(array, b"x" * 48, {"Content-Type": "no/such"}),
        "no media type": put(array, b"x" * 48, {}),
        "no such block": put("/array/block/live/refused/a", b"x" * 48, block="1,0"),
        "block of other axes": put("/array/block/live/refused/a", b"x" * 48, block="0"),
        "patch outside": put(array, b"x" * 24, **patch, shape="1,3", offset="2,0"),
        "patch of other axes": put(array, b"x" * 24, **patch, shape="3", offset="0"),
        "patch of many axes": put(array, b"x" * 24, **patch, shape="1,3", offset="0,0,0"),
        "patch without bytes": put(array, b"", **patch, shape="1,3", offset="2,0", extend="true"),
        "patch of everything": put(
            array, b"", **patch, shape="99999999999,3", offset="2,0", extend="true"
        ),
        "patch far away": put(
            array, b"x" * 24, **patch, shape="1,3", offset="999999999999,0", extend="true"
        ),
        "no arrow": put(table, b"nonsense", table_type, **patch),
        "other columns": put(table, arrow(y=[1.0]), table_type, **patch),
        "other types": put(table, arrow(x=["text"]), table_type, **patch),
        "csv": put(table, b"x\n1", {"Content-Type": "text/csv"}, **patch),
        "compressed": put(table, arrow("zstd", x=[1.0]), table_type, **patch),
        "dictionary": put(
            table, arrow(x=pyarrow.array([1.0] * 9).dictionary_encode()), table_type, **patch
        ),
        "nulls without end": put(table, arrow(x=pyarrow.nulls(10**9)), table_type, **patch),
        "no such partition": put(table.replace("=0", "=1"), arrow(x=[1.0]), table_type, **patch),
        "rows into an array": put(array.replace("array/full", "table/full"), b"", table_type),
        "child of an array": http.post("/metadata/live/refused/a", json=array_node("b")),
        "doubled key": http.post("/metadata/live/refused", json=array_node("a")),
        "negative shape": http.post("/metadata/live/refused", json=array_node("n", (-1, 3))),
        "odd chunks": http.post("/metadata/live/refused", json=array_node("n", chunks=[[1], [3]])),
        "objects": http.post("/metadata/live/refused", json=array_node("n", kind="O")),
        "no kind": http.post("/metadata/live/refused", json=array_node("n", kind="?")),
        "too large": http.post("/metadata/live", json=array_node("n", (1 << 41, 1 << 41))),
        "sparse": http.post("/metadata/live/refused", json=described("sparse", {})),
        "nothing": http.post("/metadata/live/refused", json=described("array", {})),
        "shape of text": http.post("/metadata/live/refused", json=array_node("n", ["2", 3])),
        "no chunks": http.post("/metadata/live/refused", json=array_node("n", chunks=[["2"], 3])),
        "odd itemsize": http.post("/metadata/live/refused", json=array_node("n", itemsize=7)),
        "no itemsize": http.post("/metadata/live/refused", json=array_node("n", itemsize="x")),
        "no schema": http.post(
            "/metadata/live/refused",
            json=described("table", {"arrow_schema": "x", "npartitions": 1, "columns": []}),
        ),
        "columns that the schema has not": http.post(
            "/metadata/live/refused",
            json=described(
                "table",
                {
                    "arrow_schema": top["t"].structure().arrow_schema,
                    "npartitions": 1,
                    "columns": ["y"],
                },
            ),
        ),
        "revisions": http.get("/revisions/live/refused"),
        **odd_times(http),
    }
    odd = {
        what: (a.status_code, a.text) for what, a in answers.items() if a.status_code // 100 != 4
    }
    assert not odd
    for key in ("", ".", "..", "a/b", "../x", "%2e%2e", "a?b", "x" * 300, "a\0b"):
        for parent in ("live", "live/refused"):
            answer = http.post(f"/metadata/{parent}", json={**array_node("n"), "id": key})
            assert key == "" or answer.status_code == 422, (key, answer.text)
    assert live["refused"]["a"].read().tolist() == [[0] * 3] * 2
    assert len(live["refused"]["t"].read()) == 0
    assert not updates.end()
    assert set(live["refused"]) - {"a", "t"} <= {k for k in live["refused"] if len(k) == 36}
    assert sink.nbytes < before + 50_000


def test_absurd_shapes_are_refused_and_take_no_memory(sink, live, http):
    top = live.create_container("absurd")
    top.write_array(np.zeros((2, 0)), key="empty")
    top.write_array(np.zeros((2, 3)), key="a")
    before, held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, sink.nbytes
    runs = sink.runs()
    large = 10**18

    def patch(key, shape, offset, content=b""):
        params = {"shape": shape, "offset": offset, "extend": "true"}
        headers = {"Content-Type": OCTETS}
        path = f"/array/full/live/absurd/{key}"
        return http.patch(path, content=content, headers=headers, params=params)

    nodes = {
        "endless": array_node("n", [large]),
        "endless, though empty": array_node("n", [large, 0]),
        "large in all": array_node("n", [1 << 39, 1 << 39]),
        "larger than memory": array_node("n", [1 << 39], itemsize=1, kind="u"),
        "negative": array_node("n", [-3], chunks=[[-3]]),
        "negative chunks": array_node("n", [3], chunks=[[5, -2]]),
        "of many axes": array_node("n", [1] * 10_000),
        "of no axes, with chunks": array_node("n", [], chunks=[[1]]),
        "of many chunks": array_node("n", [200_000], chunks=[[1] * 200_000]),
        "of empty chunks": array_node("n", [1], chunks=[[0] * 200_000 + [1]]),
        "of many blocks": array_node("n", [1000, 1000], chunks=[[1] * 1000, [1] * 1000]),
        "of nothing": array_node("n", kind="U", itemsize=0),
        "of void": array_node("n", kind="V"),
        "of endless text": array_node("n", kind="U", itemsize=10**30),
        "of negative size": array_node("n", kind="U", itemsize=-4),
        "of bits": array_node("n", kind="t"),
    }
    answers = {what: http.post("/metadata/live/absurd", json=node) for what, node in nodes.items()}
    answers |= {
        "axis that is too long": patch("empty", f"{large},0", "0,0"),
        "rows that no memory has": patch("a", "1,3", f"{(1 << 40) - 2},0", bytes(24)),
        "many axes": patch("a", ",".join(["1"] * 100), "0", bytes(8)),
        "negative offset": patch("a", "1,3", "-1,0", bytes(24)),
    }
    statuses = {what: (answer.status_code, answer.text[:200]) for what, answer in answers.items()}
    assert {status for status, _ in statuses.values()} == {413, 422}, statuses
    assert all("detail" in answer.json() for answer in answers.values())
    assert patch("empty", f"{1 << 39},0", "0,0").status_code == 200  # it is empty still
    assert len(http.get("/metadata/live/absurd/empty").content) < 200_000
    assert http.get("/array/full/live/absurd/empty").content == b""
    for shape in ([], [0], [0, 5], [1] * 16):
        made = http.post(
            "/metadata/live/absurd", json=array_node(f"fits-{len(shape)}{shape[:1]}", shape)
        )
        assert made.status_code == 200, made.text
    assert top["a"].read().tolist() == [[0] * 3] * 2
    assert held < sink.nbytes < held + 1_000_000
    assert sink.runs() == runs  # nobody gave way to what cannot be
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100_000  # KiB


def test_runs_from_the_bus_are_not_written_and_not_shadowed(sink, live, http):
    begin(sink, "from-the-bus")
    add_page(sink, "from-the-bus", 1, 3)
    path = "/metadata/live/from-the-bus"
    answers = {
        "same key": http.post("/metadata/live", json={**array_node("from-the-bus")}),
        "child": http.post(path, json=array_node("x")),
        "child of a stream": http.post(f"{path}/primary", json=array_node("x")),
        "metadata": http.put(path, json={"metadata": {"a": 1}}),
        "delete": http.delete(path, params={"recursive": True, "external_only": False}),
        "data": http.put(
            "/array/full/live/from-the-bus/primary/Fe_K", content=b"x" * 24,
            headers={"Content-Type": OCTETS},
        ),
        "close": http.delete("/stream/close/live/from-the-bus"),
    }  # fmt: skip
    statuses = {what: answer.status_code for what, answer in answers.items()}
    assert statuses.pop("same key") == 409
    assert set(statuses.values()) == {405}, statuses
    assert live["from-the-bus"]["primary"]["Fe_K"].read().tolist() == [0.25, 0.5, 0.75]
    live.create_container("first-written")
    begin(sink, "first-written")  # a run has the right to its uid
    assert list(live["first-written"]) == ["primary"]


def test_written_nodes_are_in_the_budget_and_leave_when_untouched():
    sink = Sink(2_000_000)
    with serving(build_app(sink, KEY)) as url:
        client = from_uri(url, api_key=KEY)
        live = client["live"]
        for i in range(12):
            live.write_array(np.full(25_000, float(i)), key=f"written-{i:02}")
            live["written-00"].read()  # it is looked at again and again
            assert sink.nbytes <= sink.budget
        left = list(live)
        assert "written-00" in left
        assert "written-11" in left
        assert len(left) < 12
        with pytest.raises(ClientError, match="413"):
            live.write_array(np.zeros(1_000_000), key="too-large")
        client.context.close()
    assert sink.nbytes <= sink.budget


def test_json_subscriber_of_a_written_table(live, served):
    schema = pyarrow.schema([("x", pyarrow.float64()), ("tags", pyarrow.list_(pyarrow.int64()))])
    table = live.create_appendable_table(schema, key="written-json")
    table.append_partition(0, pyarrow.table({"x": [0.5], "tags": [[1, 2]]}))
    with plain(served[1], "live/written-json", 1) as socket:
        assert receive(socket)["type"] == "table-schema"
        assert receive(socket)["payload"] == {"x": [0.5], "tags": [[1, 2]]}
    assert json.dumps(table.read()["x"].tolist()) == "[0.5]"


def test_who_writes_may_see_the_beamtime_folder_and_it_stays():
    viewer = Shown()
    viewer.hidden.add("/closed")
    sink = Sink(10_000_000)
    with serving(build_app(sink, KEY, policy=Policy(viewer))) as url:
        client = from_uri(url, api_key=KEY)
        live = client["live"]
        start = {"start": {"beamtime_folder": "/open", "sample": "leaf"}}
        node = live.create_container("of-the-beamtime", metadata=start)
        node.update_metadata({"stop": {"exit_status": "success"}})
        with pytest.raises(ClientError, match="403"):
            live.create_container("of-another", metadata={"start": {"beamtime_folder": "/closed"}})
        with pytest.raises(ClientError, match="409"):
            node.update_metadata({"start": {"beamtime_folder": "/elsewhere"}})
        assert sink.folders() == {"of-the-beamtime": "/open"}
        viewer.hidden.add("/open")
        assert list(live) == []
        with pytest.raises(ClientError, match="404"):
            node.write_array(np.zeros(3), key="late")
        client.context.close()


def top_node(family, structure, budget=50_000_000):
    """Return a node at the top of a sink of its own."""
    sink = Sink(budget)
    tree = Tree(sink, "top", SIZES)
    source = SimpleNamespace(structure=structure)
    node = made(tree, ("top",), structure_family=family, metadata={}, data_sources=[source])
    tree.top, tree.nbytes = node, node.nbytes
    sink.hold(node.documents()["start"], tree, finished=True)
    return node


def table_node(schema):
    return top_node("table", TableStructure.from_schema(schema, 1))


@pytest.mark.parametrize("axis", [0, 1])
def test_parts_that_are_appended_copy_the_array_seldom(axis):
    node = top_node("array", ArrayStructure.from_array(np.zeros((1, 1))))
    copies = set()
    for i in range(300):
        offset = (i, 0) if axis == 0 else (0, i)
        node.patch((1, 1), offset, True, OCTETS, np.float64(i).tobytes())
        copies.add(node.values.shape)
    assert len(copies) < 20
    assert node.array().ravel().tolist() == list(range(300))


def test_array_grows_by_what_comes_where_there_is_no_memory_for_more():
    # 4.5 MB are held, and for the copy as many again: half more is too much
    node = top_node("array", ArrayStructure.from_array(np.zeros(562_500)), budget=10_500_000)
    node.patch((1,), (562_500,), True, OCTETS, b"\0" * 8)
    node.patch((1,), (562_501,), True, OCTETS, b"\0" * 8)
    assert node.shape == (562_502,)
    assert node.tree.sink.nbytes <= node.tree.sink.shares.held


def test_readers_go_on_while_something_is_written():
    node = top_node("array", ArrayStructure.from_array(np.zeros(3)))
    with node.changing(), ThreadPoolExecutor(1) as reader:
        assert reader.submit(node.tree.sink.view, "top").result(timeout=60).metadata


def test_rows_keep_nothing_of_what_they_came_in():
    node = table_node(pyarrow.schema([("x", pyarrow.int64()), ("why", pyarrow.string())]))
    index = {f"__index_level_{i}__": [b"x" * 1000] * 4 for i in range(9)}
    body = arrow(x=[1, 2, 3, 4], why=["a", None, "ä", ""], **index)
    references = sys.getrefcount(body)
    appended = 2 * MOST_PARTS + 3
    for _ in range(appended):
        node.append(0, ARROW, body)
        assert node.tree.sink.nbytes >= node.data_bytes >= node.table().nbytes
    assert sys.getrefcount(body) == references
    assert node.data_bytes < appended * 1000
    assert node.table().to_pydict() == {
        "x": [1, 2, 3, 4] * appended,
        "why": ["a", None, "ä", ""] * appended,
    }


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pyarrow.float64(), [1, None]),
        (pyarrow.string(), [None, None]),
        (pyarrow.list_(pyarrow.float64()), [[], [1, 2]]),
        (pyarrow.list_(pyarrow.int64()), [[], []]),
        (pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), ["a", "a"]),
        (pyarrow.timestamp("us"), [None, 7]),
    ],
)
def test_types_that_clients_send_become_those_of_the_table(kind, values):
    node = table_node(pyarrow.schema([("x", kind)]))
    dictionary = pyarrow.types.is_dictionary(kind)
    node.append(0, ARROW, arrow(x=pyarrow.array(values, kind if dictionary else None)))
    assert node.table()["x"].type == kind
    assert node.table()["x"] == pyarrow.chunked_array([pyarrow.array(values, kind)])


@given(st.data())
def test_rows_that_are_damaged_are_refused_or_taken(data):
    node = table_node(pyarrow.schema([("x", pyarrow.int64()), ("why", pyarrow.string())]))
    body = bytearray(arrow(x=[1, 2, 3], why=["a", None, "b"]))
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=4)):
        body[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(HTTPException):
        node.append(0, ARROW, bytes(body[: data.draw(st.integers(0, len(body)))]))
    assert len(node.table()) == node.rows
