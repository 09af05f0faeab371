"""Kill each service once while a run goes on: how long nothing comes, and whether all comes."""

import os
import signal
import socket
import time
from functools import partial
from itertools import pairwise

import numpy as np
import psutil

from benchmarks.documents import single_events
from benchmarks.pages import INPUTS, NORMALISE
from benchmarks.report import Row
from benchmarks.services import Bus, services
from benchmarks.traffic import Arrivals

REPEAT = 1
VICTIMS = ("worker", "pipelines", "proxy", "server")
LEAD = 2.0
BETWEEN = 12.0
RATE = 50.0
SERVER = """
[server]
port = {port}
api_key_file = "{folder}/key"
"""


def kill(bus: Bus, victim: str) -> None:
    """Kill a service, or a worker of the pipelines, with SIGKILL."""
    pid = bus.services.pids["pipelines" if victim == "worker" else victim]
    if victim == "worker":
        pid = next(
            child.pid
            for child in psutil.Process(pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        )
    os.kill(pid, signal.SIGKILL)


def longest(arrivals: Arrivals, killed: float, until: float) -> float:
    """Return the longest time without a row after a kill and before the next one, s."""
    times = np.unique(arrivals.times)
    first = max(0, int(np.searchsorted(times, killed)) - 1)
    return float(np.diff(times[first : int(np.searchsorted(times, until, "right"))]).max())


def measure(repeat: int, seconds: float) -> list[Row]:
    """Kill worker, pipelines, proxy and server; `seconds` has no meaning here."""
    events = round(RATE * (LEAD + BETWEEN * len(VICTIMS)))
    gaps: dict[str, list[float]] = {victim: [] for victim in VICTIMS}
    lost, double = [], []
    for _ in range(repeat):
        with services(NORMALISE, INPUTS, more=SERVER, port=_free_port()) as bus:
            killed: list[float] = []

            def kills(bus: Bus = bus, killed: list[float] = killed) -> None:
                time.sleep(LEAD)
                for victim in VICTIMS:
                    killed.append(time.monotonic())
                    kill(bus, victim)
                    time.sleep(BETWEEN)

            arrivals = bus.send(
                partial(single_events, events=events), every=1 / RATE, meanwhile=kills
            )
            for victim, (begin, end) in zip(
                VICTIMS, pairwise([*killed, float(arrivals.times[-1])]), strict=True
            ):
                gaps[victim].append(longest(arrivals, begin, end))
            different = len(np.unique(arrivals.raw_seq_num))
            lost.append(float(events - different))
            double.append(float(len(arrivals.raw_seq_num) - different))
    rows = [
        Row(f"longest gap after kill -9 of {v}", "s", tuple(g), at_most=5.0)
        for v, g in gaps.items()
    ]
    return [
        *rows,
        Row("events lost", "", tuple(lost), at_most=0.0),
        Row("events that came twice", "", tuple(double), at_most=0.0),
    ]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
