"""Large arrays leave both trees at once, in little memory; what is too large is refused."""

import re
from pathlib import Path

import httpx
import numpy as np
import pandas
import pytest
from tiled.client import from_uri

from p06bs.bus.log import DocumentLog
from p06bs.server.app import Operation, build_app
from p06bs.server.archive.archived import Archive
from p06bs.server.sink.sink import Sink
from tests.archives import KEY, place
from tests.documents import raw_run
from tests.live_server import serving
from tests.test_server import launch, leave, until

ROWS, IMAGE = 80, (512, 512)
IMAGES = {"dtype": "array", "dtype_numpy": "<u4", "shape": list(IMAGE), "source": "x"}
MIB = 1 << 20


def images(first, count):
    """What the run holds: known truth."""
    rows = np.arange(first, first + count, dtype="u4")[:, None, None]
    return rows * 1000 + np.arange(IMAGE[1], dtype="u4") + np.zeros((IMAGE[0], 1), "u4")


def write_images(directory):
    """Write a run of 80 MiB."""
    with DocumentLog(directory) as log:
        log.append("start", {"uid": "large", "time": 1.0})
        descriptor = {
            "uid": "d", "run_start": "large", "time": 1.0, "name": "primary",
            "data_keys": {"image": IMAGES}, "configuration": {}, "hints": {}, "object_keys": {},
        }  # fmt: skip
        log.append("descriptor", descriptor)
        for first in range(0, ROWS, 8):
            seq = np.arange(first, first + 8) + 1
            page = {
                "descriptor": "d", "seq_num": seq, "time": seq * 1.0, "uid": [f"e{i}" for i in seq],
                "data": {"image": images(first, 8)}, "timestamps": {"image": seq * 1.0},
            }  # fmt: skip
            log.append("event_page", page)
        log.append(
            "stop", {"uid": "s", "run_start": "large", "time": 2.0, "exit_status": "success"}
        )


def memory(process, field):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024


@pytest.fixture
def server(tmp_path):
    """A server process with sink and archive, and a stock client of it."""
    here = place("sqlite", tmp_path, None)
    write_images(here.logs)
    here.ingest()
    config = here.configuration()
    config.write_text(config.read_text().replace("[server]", '[server]\nbudget = "200MB"', 1))
    process = launch(here.logs, tmp_path, str(config))
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]
        client = from_uri(url, api_key=(tmp_path / "key").read_text().strip())
        yield process, client
        client.context.close()
    finally:
        _, err = leave(process)
    assert "Traceback" not in err


def test_an_array_of_80_mib_is_read_at_once_in_little_memory(server):
    process, client = server
    until(lambda: "stop" in client["live"]["large"].metadata)
    truth = images(0, ROWS)
    assert truth.nbytes == 80 * MIB
    for tree in ("live", "archive"):
        array = client[tree]["large"]["primary"]["image"]
        array[:2]  # what is loaded once
        idle = memory(process, "VmRSS")
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak begins anew
        assert array.fetch_count() == 1
        assert np.array_equal(array.read(), truth)
        print(f"{tree}: {(memory(process, 'VmHWM') - idle) / MIB:.1f} MiB over idle")
        assert memory(process, "VmHWM") < idle + 32 * MIB
        assert np.array_equal(array[::-3, 5, ::100], truth[::-3, 5, ::100])


LIMIT = 100_000
ARRAY = ["application/octet-stream", "text/csv", "application/json", "image/png", "text/html"]
TABLE = ["text/csv", "application/vnd.apache.arrow.file", "application/json-seq"]


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """A server where one request may read 100 kB; the uid of a run in both trees."""
    here = place("sqlite", tmp_path_factory.mktemp("limited"), None)
    sink = Sink(50_000_000)
    documents = raw_run({"x": np.arange(20_000.0), "y": np.arange(20_000.0)})
    uid = here.write(documents)
    for name, document in documents:
        sink(name, document)
    here.ingest()
    archive = Archive(here.database, here.storage, here.roots)
    operation = Operation(response=LIMIT)
    with (
        serving(build_app(sink, KEY, archive=archive, operation=operation)) as url,
        httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"Apikey {KEY}"}) as http,
    ):
        yield http, uid


def test_the_limit_holds_for_what_is_written(limited):
    http, _ = limited
    client = from_uri(str(http.base_url), api_key=KEY)
    made = client["live"].create_container("written")
    numbers = np.arange(20_000.0)
    made.write_array(numbers, key="array")
    made.write_table(pandas.DataFrame({"x": numbers}), key="table")
    client.context.close()
    for route, node, formats in (("array", "array", ARRAY), ("table", "table", TABLE)):
        for media_type in formats:
            url = f"/{route}/full/live/written/{node}"
            answer = http.get(url, params={"format": media_type})
            assert answer.status_code == 400, media_type
            assert str(LIMIT) in answer.text


@pytest.mark.parametrize("tree", ["live", "archive"])
@pytest.mark.parametrize(
    ("route", "node", "formats", "less", "advice"),
    [
        ("array/full", "x", ARRAY, {"slice": "5:100"}, "Use slicing ('?slice=...')"),
        ("table/full", "internal", TABLE, {"column": "time"}, "Select a subset of the columns"),
        ("node/full", "internal", TABLE, None, "Select a subset of the columns"),
    ],
)
def test_one_limit_holds_for_both_trees_and_every_format(
    limited, tree, route, node, formats, less, advice
):
    http, uid = limited
    for media_type in formats:
        url = f"/{route}/{tree}/{uid}/primary/{node}".rstrip("/")
        answer = http.get(url, params={"format": media_type})
        assert (answer.status_code, advice in answer.text) == (400, True), media_type
        assert str(LIMIT) in answer.text
        if route == "array/full":
            answer = http.get(url, params={"format": media_type, **less})
            assert answer.status_code == 200, answer.text
    # What is read counts, not what is left of it.
    if route == "array/full":
        assert http.get(url, params={"slice": "::100"}).status_code == 400
