"""Compressed responses: any number of bytes, in one piece or several, as stock clients read it."""

import io
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiled.client.decoders import SUPPORTED_DECODERS

from p06bs.server.tree.compression import BLOSC, BloscFile
from tests.live_runs import add_page, begin, end

ROWS = 701
COLUMNS = {
    "f4": np.linspace(0, 1, ROWS, dtype="f4"),
    "image": np.arange(15 * ROWS, dtype="f4").reshape(ROWS, 3, 5) % 31,
    "bytes": np.arange(7 * ROWS, dtype="u1").reshape(ROWS, 7),
    "short": np.arange(ROWS, dtype="i2"),
    "flag": np.arange(ROWS) % 3 == 0,
    "text": np.array([f"row {n % 13}" for n in range(ROWS)]),
}


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_what_is_written_comes_back(pieces):
    file = io.BytesIO()
    compressor = BloscFile(file)
    for piece in pieces:
        compressor.write(memoryview(piece))
    compressor.close()
    decoder = SUPPORTED_DECODERS[BLOSC]()
    assert decoder.decode(file.getvalue()) + decoder.flush() == b"".join(pieces)


@pytest.fixture
def run(sink, live):
    kinds = {"i": "integer", "u": "integer", "f": "number", "b": "boolean", "U": "string"}
    keys = {}
    for name, values in COLUMNS.items():
        dtype = "array" if values.ndim > 1 else kinds[values.dtype.kind]
        keys[name] = {"source": "", "dtype": dtype, "shape": list(values.shape[1:])}
        if values.dtype.kind != "U":
            keys[name]["dtype_numpy"] = values.dtype.str
    uid = str(uuid.uuid4())
    begin(sink, uid, keys=keys)
    add_page(sink, uid, 1, ROWS, data=COLUMNS)
    end(sink, uid)
    return live[uid]


def test_stock_clients_read_any_number_of_bytes(run):
    stream = run["primary"]
    for name, values in COLUMNS.items():
        assert np.array_equal(stream[name].read(), values)
    assert np.array_equal(stream["f4"][10:601], COLUMNS["f4"][10:601])
    dataset = stream.read()
    assert np.array_equal(dataset["short"], COLUMNS["short"])


@pytest.mark.parametrize("name", ["f4", "image", "bytes", "short"])
def test_it_is_compressed(run, http, name):
    answer = http.get(
        f"/array/full/live/{run.metadata['start']['uid']}/primary/{name}",
        headers={"Accept": "application/octet-stream", "Accept-Encoding": BLOSC},
    )
    assert answer.headers["content-encoding"] == BLOSC
    assert answer.content == COLUMNS[name].tobytes()
