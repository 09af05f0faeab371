"""Streams and data keys with names that no path can have, through a stock client."""

import pytest
from tiled.client import from_uri

from p06bs.server.app import build_app
from p06bs.server.sink.names import node_name
from p06bs.server.sink.sink import Sink
from tests.live_server import serving
from tests.test_server import KEY, begin

KEYS = ["a/b", "..", ".", "_x", "50%", "a?b#c", "μ m", "x y", "a=2Fb"]


@pytest.fixture(scope="module")
def run():
    sink = Sink(10_000_000)
    number = {"dtype": "number", "shape": [], "source": "x"}
    begin(sink, "odd-names", keys=dict.fromkeys(KEYS, number))
    page = {
        "descriptor": "odd-names-primary-d", "seq_num": [1, 2], "time": [0.0, 0.5],
        "uid": ["a", "b"],
        "data": {key: [i, i + 0.5] for i, key in enumerate(KEYS)}, "timestamps": {},
    }  # fmt: skip
    sink("event_page", page)
    with serving(build_app(sink, KEY)) as url:
        client = from_uri(url, api_key=KEY)
        yield client["live"]["odd-names"]["primary"]
        client.context.close()


@pytest.mark.parametrize("key", KEYS)
def test_stock_client_reads_every_key(run, key):
    array = run[node_name(key)]
    number = KEYS.index(key)
    assert array.read().tolist() == [number, number + 0.5]
    assert array.metadata.get("data_key", node_name(key)) == key


def test_table_has_them_too(run):
    table = run.base["internal"].read() if hasattr(run, "base") else run["internal"].read()
    assert [name for name in table if name == node_name("a/b")]
    assert "_x" not in table  # Tiled keeps such names of columns for itself: it is an array alone
