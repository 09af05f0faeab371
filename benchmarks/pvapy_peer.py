"""PvaPy's side of the benchmark `pages`; runs in PvaPy's own environment, without p06bs.

``python pvapy_peer.py publish|consume ...``; `Normalise` is the processor class that
``pvapy-hpc-consumer`` loads. What the consumer has got is told to the publisher through a
number in a file, so that the publisher stays so few pages ahead that no queue overflows:
PvaPy drops what a queue does not take.
"""

import argparse
import mmap
import signal
import struct
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pvaccess
from pvapy.hpc.userDataProcessor import UserDataProcessor

EVENTS_PER_PAGE = 100
WARM_UP = 20
"""Pages before the first that counts: each PvaPy process skips the first that it gets."""
PATIENCE = 30.0
NUMBER = struct.Struct("<q")
COLUMNS = ("signal", "reference", "gate_time", "position")
RAW = {
    "uniqueId": pvaccess.INT,
    "seq_num": [pvaccess.LONG],
    "time": [pvaccess.DOUBLE],
    **{name: [pvaccess.DOUBLE] for name in COLUMNS},
}
DERIVED = {
    "uniqueId": pvaccess.INT,
    "seq_num": [pvaccess.LONG],
    "time": [pvaccess.DOUBLE],
    "normalised": [pvaccess.DOUBLE],
}


class Normalise(UserDataProcessor):
    """Divide a signal by a reference, as `benchmarks.techniques.Normalise` does."""

    def process(self, page: Any) -> Any:
        """Publish the derived page of a raw page."""
        made = {
            "uniqueId": page["uniqueId"],
            "seq_num": page["seq_num"],
            "time": page["time"],
            "normalised": page["signal"] / page["reference"],
        }
        derived = pvaccess.PvObject(DERIVED, made)
        self.updateOutputChannel(derived)
        return derived

    def getOutputPvObjectType(self, page: Any) -> Any:  # noqa: N802  PvaPy calls it by this name
        """Return an empty derived page."""
        return pvaccess.PvObject(DERIVED)


class Progress:
    """The number of the last page that the consumer has got, in a file that both map."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), NUMBER.size)

    @property
    def page(self) -> int:
        """Number of the last page, 0 at first."""
        number: int = NUMBER.unpack(self._map[:])[0]
        return number

    @page.setter
    def page(self, number: int) -> None:
        self._map[:] = NUMBER.pack(number)


def page_of(number: int, columns: Mapping[str, Any]) -> Any:
    """Return raw page `number`, from 1."""
    first = (number - 1) * EVENTS_PER_PAGE
    values = {
        "uniqueId": number,
        "seq_num": np.arange(first + 1, first + 1 + EVENTS_PER_PAGE),
        "time": np.full(EVENTS_PER_PAGE, time.time()),
        **columns,
    }
    return pvaccess.PvObject(RAW, values)


def publish(arguments: argparse.Namespace) -> None:
    """Publish pages as fast as the window allows; print when the first one that counts went."""
    progress = Progress(arguments.progress)
    random = np.random.default_rng(6)
    columns = {name: random.uniform(1.0, 2.0, EVENTS_PER_PAGE) for name in COLUMNS}
    server = pvaccess.PvaServer()
    server.addRecord(arguments.channel, pvaccess.PvObject(RAW), None)
    server.start()
    print("ready", flush=True)
    number = 0
    given_up = time.monotonic() + PATIENCE
    while progress.page == 0:  # until a page has come through: monitors connect when they like
        if time.monotonic() > given_up:
            sys.exit(f"no page came through in {PATIENCE:g} s")
        number += 1
        server.update(arguments.channel, page_of(number, columns))
        time.sleep(0.05)
    print(f"connected {number}", flush=True)
    for _ in range(arguments.warm_up):
        number += 1
        server.update(arguments.channel, page_of(number, columns))
        time.sleep(0.02)
    first = number + 1
    print(f"began {first} {time.monotonic()}", flush=True)
    until = time.monotonic() + arguments.seconds
    while time.monotonic() < until:
        if number - max(progress.page, first - 1) >= arguments.window:
            time.sleep(0.0002)
            continue
        number += 1
        server.updateUnchecked(arguments.channel, page_of(number, columns))
    print(f"ended {number} {time.monotonic()}", flush=True)
    sys.stdin.readline()
    server.stop()


def consume(arguments: argparse.Namespace) -> None:
    """Take derived pages; print how many came, how many out of order, and when the last did."""
    progress = Progress(arguments.progress)
    got: list[tuple[int, float]] = []
    changed = threading.Lock()

    def take(page: Any) -> None:
        now = time.monotonic()
        number = page["uniqueId"]
        with changed:  # each channel has a thread of its own
            got.append((number, now))
            progress.page = max(progress.page, number)

    channels = [pvaccess.Channel(name) for name in arguments.channels.split(",")]
    for channel in channels:
        channel.monitor(take, f"record[queueSize={arguments.queue}]field()")
    print("ready", flush=True)
    sys.stdin.readline()
    for channel in channels:
        channel.stopMonitor()
    with changed:
        for number, when in got:
            print(number, when)
    print("end", flush=True)


def main() -> None:
    """Start from the command line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["publish", "consume"])
    parser.add_argument("--progress", required=True, type=Path)
    parser.add_argument("--channel", default="p06bs:raw")
    parser.add_argument("--channels", default="p06bs:derived:1,p06bs:derived:2")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--window", type=int, default=200)
    parser.add_argument("--queue", type=int, default=1000)
    parser.add_argument("--warm-up", type=int, default=WARM_UP)
    arguments = parser.parse_args()
    {"publish": publish, "consume": consume}[arguments.role](arguments)


if __name__ == "__main__":
    main()
