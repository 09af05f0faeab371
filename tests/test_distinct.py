"""Distinct values of metadata over HTTP, at keys of any kind of value."""

import json
from collections import Counter

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiled.adapters.mapping import MapAdapter

from p06bs.server.app import build_app
from p06bs.server.sink.sink import Sink
from p06bs.server.tree.distinct import DistinctMap
from tests import archives
from tests.archives import DATABASES, place, running_postgres  # noqa: F401
from tests.live_server import serving

KEY = "k3y"
SAMPLES = [{"name": "leaf", "n": 1}, {"n": 1, "name": "leaf"}, {"name": "root"}, "leaf", ["Fe"]]


@pytest.fixture(scope="module")
def http():
    sink = Sink(200_000_000)
    for number, sample in enumerate(SAMPLES):
        uid = f"run{number}"
        sink("start", {"uid": uid, "time": float(number), "sample": sample})
        keys = {"x": {"dtype": "number", "shape": [], "source": "x"}}
        sink(
            "descriptor",
            {"uid": f"{uid}-d", "run_start": uid, "time": 1.0, "name": "primary",
             "data_keys": keys, "configuration": {}, "hints": {"x": {"fields": ["x"]}},
             "object_keys": {}},
        )  # fmt: skip
    with (
        serving(build_app(sink, KEY)) as url,
        httpx.Client(
            base_url=f"{url}/api/v1/distinct",
            headers={"Authorization": f"Apikey {KEY}"},
            timeout=60,
        ) as client,
    ):
        yield client


def counted(http, path, key):
    answer = http.get(path, params={"metadata": key, "counts": True})
    assert answer.status_code == 200, answer.text
    return [(item["value"], item["count"]) for item in answer.json()["metadata"][key]]


def test_values_are_counted_whatever_they_are(http):
    assert counted(http, "/live", "start.sample") == [
        ("leaf", 1), (["Fe"], 1), (SAMPLES[0], 2), (SAMPLES[2], 1),
    ]  # fmt: skip
    assert counted(http, "/live", "start.sample.name") == [("leaf", 2), ("root", 1)]
    assert len(counted(http, "/live", "start")) == len(SAMPLES)
    ((hints, number),) = counted(http, "/live/run1", "hints")
    assert (hints, number) == ({"x": {"fields": ["x"]}}, 1)
    ((described, number),) = counted(http, "/live/run1", "data_keys.x")
    assert (described["dtype"], number) == ("number", 1)


@pytest.mark.parametrize("key", ["start.time.x", "start.sample.name.x", "a..b", "", ".", "x" * 999])
def test_keys_where_nothing_is(http, key):
    for path in ("/live", "/live/run0", "/live/run0/primary", "/live/run0/maps"):
        answer = http.get(path, params={"metadata": key})
        assert answer.status_code in (200, 404, 405), (path, answer.text)
        assert not any(answer.json().get("metadata", {}).values())


def identity(value):
    return isinstance(value, bool), value


@given(st.lists(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)))  # fmt: skip
def test_counts_are_those_of_the_values(values):
    nodes = {str(i): MapAdapter({}, metadata={"at": {"v": v}}) for i, v in enumerate(values)}
    found = DistinctMap(nodes).get_distinct(["at.v"], False, False, True)["metadata"]["at.v"]
    there = [value for value in values if value is not None]
    assert sum(item["count"] for item in found) == len(there)
    plain = Counter(identity(v) for v in there if not isinstance(v, dict | list))
    assert plain == {
        identity(item["value"]): item["count"]
        for item in found
        if not isinstance(item["value"], dict | list)
    }
    nested = Counter(json.dumps(v, sort_keys=True) for v in there if isinstance(v, dict | list))
    assert nested == {
        json.dumps(item["value"], sort_keys=True): item["count"]
        for item in found
        if isinstance(item["value"], dict | list)
    }


MIXED = [
    {"scan_id": 3, "plan_name": "scan", "sample": {"name": "b", "elements": ["Fe", "Cu", "Fe"]}},
    {"scan_id": 12, "plan_name": "scan", "sample": {"name": "a", "elements": ["Cu"]}},
    {"scan_id": "3", "plan_name": 7, "sample": {"elements": "Fe"}, "notes": ["x", "y"]},
    {"scan_id": 12, "sample": {"elements": ["Fe", 1]}, "notes": ["x", "y"], "good": True},
    {"sample": "b", "notes": "x"},
]
KEYS = (
    "start.sample.elements", "start.sample.name", "start.scan_id", "start.plan_name",
    "start.notes", "start.good", "start.nothing",
)  # fmt: skip


@pytest.mark.parametrize("kind", DATABASES)
def test_live_and_archive_say_the_same(tmp_path, kind, running_postgres):  # noqa: F811
    here, sink = place(kind, tmp_path, running_postgres), Sink(10_000_000)
    for number, start in enumerate(MIXED):
        run = [("start", {"uid": f"u{number}", "time": 1.0 + number, **start})]
        here.write(run)
        sink(*run[0])
    here.ingest()
    with here.served(sink=sink) as url, httpx.Client(base_url=f"{url}/api/v1") as http:
        http.headers["Authorization"] = f"Apikey {archives.KEY}"

        def said(path, **params):
            answer = http.get(path, params=params)
            assert answer.status_code == 200, answer.text
            return answer.json()

        for key in KEYS:
            live, archive = (
                said(f"/distinct/{tree}", metadata=key, counts=True)["metadata"][key]
                for tree in ("live", "archive")
            )
            assert live == archive, key
        for key in KEYS[1:4]:
            for sort in (
                [key], [f"-{key}"], [f"-{key}", "start.technique"], [key, "-"],
                ["-start.time", key],
            ):  # fmt: skip
                live, archive = (
                    [run["id"] for run in said(f"/search/{tree}", sort=sort)["data"]]
                    for tree in ("live", "archive")
                )
                assert live == archive, sort
