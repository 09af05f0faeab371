"""Exports of containers are measured before they are read."""

import io
import re

import h5py
import httpx
import numpy as np
import pandas as pd
import pytest
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.mapping import MapAdapter
from tiled.adapters.table import TableAdapter
from tiled.media_type_registration import default_serialization_registry

from p06bs.server.app import build_app
from p06bs.server.sink.sink import Sink
from p06bs.server.tree.documents import serialization_registry
from p06bs.server.tree.exports import limit_exports, mend
from tests.documents import raw_run
from tests.doors import KEY, Gated
from tests.live_server import serving


class Unread(ArrayAdapter):
    """An array that must not be read."""

    def read(self, *args, **kwargs):
        raise AssertionError("this was read before it was measured")

    read_block = read


def test_large_exports_are_refused_before_they_are_read():
    small = MapAdapter({"x": ArrayAdapter.from_array(np.arange(10.0))})
    big = MapAdapter({f"x{i}": Unread.from_array(np.zeros(1000)) for i in range(10)})
    many = MapAdapter({f"x{i}": Unread.from_array(np.zeros(0)) for i in range(30)})
    root = MapAdapter({"live": MapAdapter({"small": small, "big": big, "many": many})})
    registry = serialization_registry()
    limit_exports(registry, nbytes=50_000, nodes=20)
    gated = Gated(root=root, serialization_registry=registry)
    headers = {"Authorization": f"Apikey {KEY}"}
    with serving(gated.gate) as url, httpx.Client(base_url=url, headers=headers) as http:
        hdf5 = {"format": "application/x-hdf5"}
        good = http.get("/api/v1/container/full/live/small", params=hdf5)
        assert (good.status_code, good.content[:4]) == (200, b"\x89HDF")
        for kind in ("container/full", "node/full"):
            for node, why in (("big", "50000 bytes"), ("many", "20 arrays"), ("", "export a part")):
                answer = http.get(f"/api/v1/{kind}/live/{node}", params=hdf5)
                assert (answer.status_code, why in answer.text) == (400, True), (kind, node)
        names = http.get("/api/v1/container/full/live/many", params={"format": "json"})
        assert names.status_code == 400


@pytest.mark.slow
def test_what_is_made_as_a_whole_costs_a_share_of_the_budget_whatever_the_format():
    sink = Sink(64_000_000)
    rows = 20_000
    columns = {name: np.random.default_rng(0).random(rows).tolist() for name in "abc"}
    for document in raw_run(columns):
        sink(*document)
    (uid,) = sink.runs()
    headers = {"Authorization": f"Apikey {KEY}"}
    with (
        serving(build_app(sink, KEY)) as url,
        httpx.Client(base_url=f"{url}/api/v1", headers=headers, timeout=60) as http,
    ):
        table, array = f"full/live/{uid}/primary/internal", f"full/live/{uid}/primary/a"
        xlsx = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
        wanted = {
            f"table/{table}?format=application/vnd.apache.arrow.file": 400,
            f"table/{table}?column=a&column=b": 200,
            f"table/{table}?format={xlsx}": 400,
            f"table/{table}?format={xlsx}&column=a": 400,
            f"table/{table}?format=text/csv": 400,
            f"table/{table}?format=text/csv&column=a": 200,
            f"array/{array}?format=text/csv": 200,
            f"array/{array}": 200,
        }
        answers = {path: http.get(f"/{path}") for path in wanted}
        assert {path: answer.status_code for path, answer in answers.items()} == wanted
        refused = [answer.json()["detail"] for answer in answers.values() if answer.is_error]
        assert all(re.search("another format|partition by partition", said) for said in refused)


@pytest.mark.logs_errors  # without the mending
def test_empty_arrays_and_html_are_answers():
    values = np.array([["<script>", "b"]])
    numbers = ArrayAdapter.from_array(np.ones((3, 4)))
    table = TableAdapter.from_pandas(pd.DataFrame({"n": [1, 2], "t": ["a", "b"]}), npartitions=1)
    run = MapAdapter({"t": ArrayAdapter.from_array(values), "n": numbers, "table": table})
    headers = {"Authorization": f"Apikey {KEY}"}
    for mended in (False, True):
        registry = serialization_registry()
        if mended:
            mend(registry)
        gated = Gated(root=MapAdapter({"live": run}), serialization_registry=registry)
        with serving(gated.gate) as url, httpx.Client(base_url=url, headers=headers) as http:
            html = http.get("/api/v1/array/full/live/t", params={"format": "text/html"})
            if not mended:  # that is why; an empty array even ends the connection
                assert html.status_code == 500
                continue
            empty = http.get("/api/v1/array/full/live/n", params={"slice": "0:0"})
            assert (empty.status_code, empty.content) == (200, b"")
            assert (html.status_code, "<script>" in html.text) == (200, False)
            assert "&lt;script&gt;" in html.text
            hdf5 = http.get(
                "/api/v1/table/full/live/table", params={"format": "application/x-hdf5"}
            )
            with h5py.File(io.BytesIO(hdf5.content)) as file:
                assert file["n"][()].tolist() == [1, 2]
                assert file["t"].asstr()[()].tolist() == ["a", "b"]


def test_tileds_own_registry_is_left_alone():
    before = dict(default_serialization_registry.media_types("container"))
    limit_exports(serialization_registry(), 1)
    assert dict(default_serialization_registry.media_types("container")) == before
