"""What subscribers cost the server, and how late a row is with a stock Tiled client."""

import json
import statistics
import subprocess
import sys
import threading
import time

import numpy as np

from benchmarks.report import Row

REPEAT = 3
KEY = "k3y"
RATE = 1000.0
"""Events a second, of one row each."""
COUNTS = (0, 1, 20)
"""Subscribers."""


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure with none, one and some subscribers to a column of a run that grows."""
    found: dict[int, list[dict[str, float]]] = {count: [] for count in COUNTS}
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.subscribe"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        for turn in range(repeat):
            for count in COUNTS:
                run = f"turn-{turn}-{count}"
                print(f"begin {run}", file=server.stdin, flush=True)
                server.stdout.readline()
                clients = [Client(url, run) for _ in range(count)]
                print(f"feed {run} {seconds}", file=server.stdin, flush=True)
                fed = json.loads(server.stdout.readline())
                for client in clients:
                    fed.update(client.result(fed["rows"]))
                found[count].append(fed)
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()

    def values(count: int, key: str) -> tuple[float, ...]:
        return tuple(one[key] for one in found[count])

    alone, one, some = COUNTS
    cost = [
        1e3 * (b["cpu"] - a["cpu"]) / b["messages"]
        for a, b in zip(found[alone], found[one], strict=True)
    ]
    shared = [
        1e3 * (b["cpu"] - a["cpu"]) / b["messages"] / some
        for a, b in zip(found[alone], found[some], strict=True)
    ]
    slower = [b["put"] / a["put"] for a, b in zip(found[alone], found[some], strict=True)]
    return [
        Row("rows to a stock subscriber", "rows/s", values(one, "rate")),
        Row("rows in one message", "rows", values(one, "together")),
        Row("row to callback, median", "ms", values(one, "late"), at_most=30.0),
        Row(f"row to callback, median, {some} subscribers", "ms", values(some, "late")),
        Row("server's CPU per message", "ms", tuple(cost)),
        Row(f"server's CPU per message, {some} subscribers", "ms", tuple(shared)),
        Row(f"time to feed a row, {some} subscribers / none", "", tuple(slower), at_most=2.0),
    ]


class Client:
    """A stock subscriber to the column that holds the times at which rows were made."""

    def __init__(self, url: str, run: str) -> None:
        from tiled.client import from_uri

        self._late: list[float] = []
        self._messages = 0
        self._ends: list[float] = []
        self._closed = threading.Event()
        node = from_uri(url, api_key=KEY)["live"][run]["primary"]["made"]
        self._subscription = node.subscribe()
        self._subscription.new_data.add_callback(self._take)
        self._subscription.stream_closed.add_callback(self._close)
        self._subscription.start_in_thread(1)

    def _take(self, update: object) -> None:
        now = time.time()
        self._messages += 1
        self._ends.append(now)
        self._late += (now - update.data()).tolist()  # type: ignore[attr-defined]

    def _close(self, subscription: object) -> None:
        self._closed.set()

    def result(self, rows: int) -> dict[str, float]:
        """Return rate, lateness (ms) and rows per message."""
        assert self._closed.wait(60)
        assert len(self._late) == rows
        self._subscription.disconnect()
        return {
            "late": 1e3 * statistics.median(self._late),
            "rate": rows / (self._ends[-1] - self._ends[0]),
            "together": rows / self._messages,
            "messages": self._messages,
        }


def serve() -> None:
    """Serve a sink that is fed as the lines from standard input say."""
    from p06bs.server.app import build_app
    from p06bs.server.loopback import LoopbackServer
    from p06bs.server.sink.sink import Sink

    sink = Sink(1 << 30)
    ready = threading.Event()
    server = LoopbackServer(build_app(sink, KEY), ready=lambda url: ready.set())
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    ready.wait()
    print(server.url, flush=True)
    for line in sys.stdin:
        what, run, *seconds = line.split()
        if what == "begin":
            _begin(sink, run)
            print("begun", flush=True)
        else:
            print(json.dumps(_feed(sink, run, float(seconds[0]))), flush=True)
    server.stop()
    thread.join()


def _begin(sink, run):  # type: ignore[no-untyped-def]
    key = {"dtype": "number", "dtype_numpy": "<f8", "shape": [], "source": "benchmark"}
    sink("start", {"uid": run, "time": time.time()})
    descriptor = {
        "uid": f"{run}-d", "run_start": run, "time": time.time(), "name": "primary",
        "data_keys": {"made": key}, "configuration": {}, "hints": {}, "object_keys": {},
    }  # fmt: skip
    sink("descriptor", descriptor)


def _feed(sink, run, seconds):  # type: ignore[no-untyped-def]
    took = []
    rows = round(seconds * RATE)
    cpu, begun = time.process_time(), time.perf_counter()
    for i in range(rows):
        wait = begun + i / RATE - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        now = time.time()
        event = {
            "uid": f"{run}/{i}", "descriptor": f"{run}-d", "seq_num": i + 1, "time": now,
            "data": {"made": now}, "timestamps": {"made": now},
        }  # fmt: skip
        before = time.perf_counter()
        sink("event", event)
        took.append(time.perf_counter() - before)
    time.sleep(0.2)  # the last rows are on their way
    cpu = time.process_time() - cpu
    sink("stop", {"uid": f"{run}-s", "run_start": run, "time": time.time()})
    return {"rows": rows, "cpu": cpu, "put": float(np.median(took))}


if __name__ == "__main__":
    serve()
