"""Memory of a real server process: bounded by its budget while runs larger than it go by."""

import re
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from tiled.client import from_uri

from p06bs.bus.log import DocumentLog
from p06bs.bus.publish import Publisher
from tests.test_server import launch, leave, until

SLACK = 1.1
IMAGE = (64, 256)
IMAGES = {"image": {"dtype": "array", "dtype_numpy": "<u4", "shape": list(IMAGE), "source": "x"}}
COLUMNS = {f"c{i}": {"dtype": "number", "dtype_numpy": "<f8", "shape": [], "source": "x"}
           for i in range(20)}  # fmt: skip
ROWS = {"image": 20, "c0": 1000}


def data_of(keys, seq):
    """What the columns hold in the rows `seq`: known truth."""
    if "image" in keys:
        return {"image": (seq[:, None, None] + np.zeros(IMAGE)).astype("u4")}
    return {key: seq * 1.0 + i for i, key in enumerate(keys)}


def publish_run(publish, uid, keys, nbytes):
    """Publish a run of about so many bytes; return its number of rows."""
    publish("start", {"uid": uid, "time": float(uid.rpartition("-")[2]), "plan_name": "map"})
    publish(
        "descriptor",
        {
            "uid": f"{uid}-d", "run_start": uid, "time": 1.0, "name": "primary",
            "data_keys": keys, "configuration": {}, "hints": {}, "object_keys": {},
        },
    )  # fmt: skip
    count = ROWS[next(iter(keys))]
    row = sum(8 + 8 * int(np.prod(k["shape"])) // (2 if k["shape"] else 1) for k in keys.values())
    rows = 0
    while rows * row < nbytes:
        seq = np.arange(rows + 1, rows + count + 1)
        page = {
            "descriptor": f"{uid}-d", "seq_num": seq, "time": seq * 0.5,
            "uid": [f"{uid}/{i:032}" for i in seq], "data": data_of(keys, seq),
            "timestamps": dict.fromkeys(keys, seq * 0.5),
        }  # fmt: skip
        publish("event_page", page)
        rows += count
    publish("stop", {"uid": f"{uid}-s", "run_start": uid, "time": 2.0, "exit_status": "success"})
    return rows


class Measured:
    """A server process: its peak of resident memory, and what it says that it holds."""

    def __init__(self, directory, tmp_path, budget):
        self.budget = budget
        self.process = launch(directory, tmp_path, "--budget", str(budget))
        self.url = re.search(r"http://127\.0\.0\.1:\d+", self.process.stdout.readline())[0]
        self.key = (tmp_path / "key").read_text().strip()
        self.http = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Apikey {self.key}"}, timeout=60
        )
        self.most = 0
        assert self.held() == {}
        self.idle = self._status("VmRSS")
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")  # the peak begins anew

    def _status(self, field):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024

    def held(self):
        """Return what is held, by run; never more than the budget."""
        found = self.http.get("/api/p06bs/v1/sink").json()
        self.most = max(self.most, found["bytes"])
        assert found["bytes"] <= found["budget"] == self.budget
        assert found["refused"] == {}
        return {run["uid"]: run for run in found["runs"]}

    def done(self, uid, rows):
        run = self.held().get(uid)
        return run is not None and run["state"] == "done" and run["rows"] == rows

    def check(self):
        peak = self._status("VmHWM")
        assert peak <= self.idle + SLACK * self.budget, (self.idle, peak)
        assert self.most > 0.5 * self.budget, "the budget was not used"

    def close(self):
        self.http.close()
        out, err = leave(self.process)
        assert "Traceback" not in err
        return out


@contextmanager
def measured(tmp_path, budget):
    directory = tmp_path / "log"
    with DocumentLog(directory) as log, Publisher(f"ipc://{tmp_path}/in", log) as publish:
        server = Measured(directory, tmp_path, budget)
        try:
            yield server, publish
        finally:
            server.close()


@contextmanager
def reading(server, read, count):
    """Let stock clients read meanwhile; what they find is checked in the end."""
    ended, found = threading.Event(), []

    # Dask shares what equal requests of several clients need: they are closed together.
    clients = [from_uri(server.url, api_key=server.key) for _ in range(count)]

    def go(client):
        while not ended.is_set():
            for uid in list(client["live"]):
                try:
                    run = client["live"][uid]["primary"]
                except KeyError:
                    continue  # it left meanwhile
                try:
                    found.append(read(run))
                except Exception as error:
                    # A run may leave while it is read.
                    if uid in server.held():
                        found.append(repr(error))

    readers = [threading.Thread(target=go, args=(client,)) for client in clients]
    for reader in readers:
        reader.start()
    try:
        yield found
    finally:
        ended.set()
        for reader in readers:
            reader.join()
        for client in clients:
            client.context.close()


def read_image(run):
    image = run["image"].read()
    return bool((image[:, 5, 7] == np.arange(1, len(image) + 1)).all())


def read_columns(run):
    table = run.base["internal"].read() if hasattr(run, "base") else run["internal"].read()
    column = run["c7"].read()
    rows = np.arange(1, len(table) + 1)
    return bool(
        (table["c3"].to_numpy() == rows + 3.0).all()
        and (column == np.arange(1, len(column) + 1) + 7.0).all()
    )


def run_larger_than_the_budget(tmp_path, budget, keys, read, times, readers=3):
    with measured(tmp_path, budget) as (server, publish):
        with reading(server, read, readers) as found:
            rows = publish_run(publish, "large-1", keys, times * budget)
            until(lambda: server.done("large-1", rows), 200)
            until(lambda: len(found) >= readers, 200)
        assert [one for one in found if one is not True] == []
        assert 0 < server.held()["large-1"]["rows_in_log"] < rows
        server.check()


def maps_larger_than_the_budget(tmp_path, budget, keys, read, times, readers=3):
    with measured(tmp_path, budget) as (server, publish):
        with reading(server, read, readers) as found:
            for number in range(int(4 * times)):
                rows = publish_run(publish, f"scan-{number}", keys, budget / 4)
                last = f"scan-{number}"
                until(lambda last=last, rows=rows: server.done(last, rows), 200)
            until(lambda: len(found) >= readers, 200)
        assert [one for one in found if one is not True] == []
        assert f"scan-{number}" in server.held()
        assert len(server.held()) < number  # whoever was read may have stayed
        server.check()


@pytest.mark.slow
def test_run_larger_than_the_budget_stays_within_it_and_readable(tmp_path):
    run_larger_than_the_budget(tmp_path, 64_000_000, IMAGES, read_image, 1.3, readers=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("budget", [64_000_000, 256_000_000])
@pytest.mark.parametrize(("keys", "read"), [(IMAGES, read_image), (COLUMNS, read_columns)])
@pytest.mark.parametrize("what", [run_larger_than_the_budget, maps_larger_than_the_budget])
def test_memory_is_bounded_by_the_budget(tmp_path, what, budget, keys, read):
    what(tmp_path, budget, keys, read, 3.0)


@pytest.mark.slow
def test_run_read_last_survives_those_untouched_and_a_restart_holds_the_newest(tmp_path):
    budget = 20_000_000
    with measured(tmp_path, budget) as (server, publish):
        rows = publish_run(publish, "scan-0", IMAGES, budget / 4)
        until(lambda: server.done("scan-0", rows))
        for number in range(1, 7):
            path = "/api/v1/array/full/live/scan-0/primary/image?slice=0"
            assert server.http.get(path).status_code == 200
            rows = publish_run(publish, f"scan-{number}", IMAGES, budget / 4)
            last = f"scan-{number}"
            until(lambda last=last, rows=rows: server.done(last, rows))
        survivors = list(server.held())
        assert survivors[0] == "scan-0"
        assert survivors[-1] == "scan-6"
        assert "scan-1" not in survivors
    again = Measured.__new__(Measured)
    again.process = launch(tmp_path / "log", tmp_path, "--budget", str(budget))
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+", again.process.stdout.readline())[0]
        again.budget, again.most = budget, 0
        key = (tmp_path / "key").read_text().strip()
        with httpx.Client(base_url=url, headers={"Authorization": f"Apikey {key}"}) as again.http:
            until(lambda: again.done("scan-6", rows))
            until(lambda: all(run["state"] == "done" for run in again.held().values()))
            held = list(again.held())
            assert held[-1] == "scan-6"
            assert held == [f"scan-{n}" for n in range(7 - len(held), 7)]
    finally:
        leave(again.process)
