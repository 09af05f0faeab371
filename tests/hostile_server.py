"""A server process to be hostile to: sink and users, as at the beamline, in one directory.

``python -m tests.hostile_server DIRECTORY`` prints its URL and a service's key.
"""

import signal
import sys
from pathlib import Path

import numpy as np

from p06bs.bus.log import DocumentLog
from p06bs.config.server import Authentication
from p06bs.server.app import build_app
from p06bs.server.gate import redact
from p06bs.server.gate.gate import Guard
from p06bs.server.login import terms
from p06bs.server.login.authentication import providers_of, several_users
from p06bs.server.login.terms import Owner
from p06bs.server.login.tokens import Tokens
from p06bs.server.loopback import LoopbackServer
from p06bs.server.sink.sink import Sink

KEYS = {
    "Fe_K": {"dtype": "number", "dtype_numpy": "<f8", "shape": [], "source": "x"},
    "name": {"dtype": "string", "shape": [], "source": "x"},
    "mca": {"dtype": "array", "dtype_numpy": "<u4", "shape": [4, 16], "source": "x"},
}


def fill(sink):
    """Put two runs into a sink, one that has ended and one that goes on."""
    for uid, rows in (("run1", 50), ("run2", 5)):
        sink("start", {"uid": uid, "time": 1.0, "sample": "secretsample", "scan_id": 1})
        sink(
            "descriptor",
            {"uid": f"{uid}-d", "run_start": uid, "time": 1.0, "name": "primary",
             "data_keys": KEYS, "configuration": {}, "hints": {}, "object_keys": {"x": []}},
        )  # fmt: skip
        numbers = np.arange(rows)
        data = {
            "Fe_K": numbers * 0.5,
            "name": np.array([f"secretsample {i}" for i in numbers]),
            "mca": np.ones((rows, 4, 16), "u4"),
        }
        sink(
            "event_page",
            {"descriptor": f"{uid}-d", "seq_num": (numbers + 1).tolist(),
             "time": numbers.tolist(), "uid": [f"{uid}/{i}" for i in numbers], "data": data,
             "timestamps": dict.fromkeys(data, numbers * 1.0)},
        )  # fmt: skip
    sink("stop", {"uid": "s", "run_start": "run1", "time": 9.0, "exit_status": "success"})


def main(directory):
    """Serve until SIGTERM."""
    redact.install()
    config = Authentication(
        database=f"sqlite:///{directory}/tokens.db", secret_key_file=directory / "secret"
    )
    door = several_users(config)
    tokens = Tokens(config.database, providers_of(config))
    key, _ = tokens.create(Owner("service", "x"), terms.ROLES["service"], None, "")
    sink = Sink(200_000_000)
    fill(sink)
    (directory / "log").mkdir()
    gate = build_app(
        sink, door, log=DocumentLog(directory / "log"), guard=Guard(failed_logins=10**9)
    )

    def ready(url):
        print(url, key, flush=True)

    # Uvicorn sends itself the signal again when all has ended.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    LoopbackServer(gate, ready=ready).serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
