"""A bridge to LaVue in this process; what stands for LaVue, a subscriber; and the real one."""

import fcntl
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import zmq

from p06bs import Input, Modality, ModalitySettings, Output
from p06bs.bus.membership import Membership
from p06bs.bus.service import Surroundings
from p06bs.services.lavue import LavueDefinition, LavueService
from tests import tango_site

SECONDS = 60.0
REQUIREMENTS = Path(__file__).with_name("lavue-requirements.txt")
DEVICE = "p06/lavue/1"


@contextmanager
def bridge(outbound: str, log: Path, **fields: Any) -> Iterator[LavueService]:
    """Run a bridge on a free port; give the service once it is ready."""
    definition = LavueDefinition(kind="lavue", **{"address": "tcp://127.0.0.1:*", **fields})
    peers = cast(Membership, None)  # it asks nobody
    here = Surroundings(peers, log, lambda: None, lambda: outbound)
    service = LavueService("lavue", definition, here)
    ready = threading.Event()
    thread = threading.Thread(target=service.run, args=(ready.set,))
    thread.start()
    try:
        assert ready.wait(SECONDS)
        yield service
    finally:
        service.stop()
        thread.join()


class Viewer:
    """Subscribe as LaVue does, and keep the newest list and pictures."""

    def __init__(self, address: str, *topics: str) -> None:
        self.topics: list[str] = []
        self.names: list[str] = []
        self.abouts: dict[str, dict[str, Any]] = {}
        self.pictures: dict[str, np.ndarray[Any, Any]] = {}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set(zmq.RCVHWM, 2)
        self._socket.subscribe(b"datasources")
        for topic in topics:
            self._socket.subscribe(topic.encode())
        self._socket.connect(address)

    def receive(self) -> tuple[str, dict[str, Any]]:
        """Return the topic and what is said of the next message; keep the picture, (ny, nx)."""
        assert self._socket.poll(int(SECONDS * 1000))
        topic, *data, said, kind = self._socket.recv_multipart()
        assert kind == b"JSON"
        about = json.loads(said)
        self.topics = about["datasources"]
        if data:
            shown = np.frombuffer(data[0], about["dtype"]).reshape(about["shape"])
            self.pictures[topic.decode()] = shown.T
            self.abouts[topic.decode()] = about
            self.names.append(about["name"])
        return topic.decode(), about

    def until(self, condition: Any) -> None:
        """Receive until something holds."""
        until = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < until, (self.topics, self.names[-1:])
            self.receive()

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Line(Modality):
    """Give a line's map, which has the name that settings say."""

    x = Input(role="counter")

    class Settings(ModalitySettings):
        """Which line."""

        line: str = "Fe_K"

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {settings.line: Output(unit="counts"), f"{settings.line}_sigma": Output()}

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        return {setup.line: columns["x"], f"{setup.line}_sigma": np.sqrt(columns["x"])}


def environment() -> Path:
    """Return the directory of programs of LaVue's environment, made where there is none.

    Raises
    ------
    ConnectionError
        If what it needs cannot be had.
    """
    place = Path(__file__).parents[1] / ".venv-lavue"
    place.mkdir(exist_ok=True)
    made = place / "python"
    needed = REQUIREMENTS.read_bytes()
    stamp = made / "installed"
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of tests that run beside this one
        if not stamp.exists() or stamp.read_bytes() != needed:
            subprocess.run([sys.executable, "-m", "venv", "--clear", made], check=True)
            words = [made / "bin" / "python", "-m", "pip", "install", "-q", "-r", REQUIREMENTS]
            done = subprocess.run(words, check=False, capture_output=True, text=True)
            if done.returncode:
                raise ConnectionError(f"LaVue cannot be installed: {done.stderr[-2000:]}")
            stamp.write_bytes(needed)
    return made / "bin"


class Lavue:
    """LaVue, offscreen, and the Tango device that says what it shows."""

    def __init__(self, device: Any, state: Any) -> None:
        self._device = device
        self.state = state

    @property
    def topic(self) -> str:
        """Which topic it looks at."""
        _, _, topic = self.state().get("configuration", "").partition("/")
        return str(topic)

    def look_at(self, topic: str) -> None:
        """Have it show another topic."""
        place, _, _ = self.state()["configuration"].partition("/")
        self._device.LavueState = json.dumps({"configuration": f"{place}/{topic}"})

    def sums(self, *regions: tuple[int, int, int, int]) -> None:
        """Have it sum over regions: first and last pixel, (x, y, x, y), both included."""
        self._device.DetectorROIs = json.dumps({"all": [list(map(float, r)) for r in regions]})

    @property
    def values(self) -> list[float]:
        """The sums over what it shows."""
        return list(json.loads(self._device.DetectorROIsValues).get("all", []))


@contextmanager
def lavue(command: str, settings: Path, logs: Path) -> Iterator[Lavue]:
    """Run LaVue as a command says, and its LavueController on a database."""
    import tango

    programs = environment()
    # What makes it tell of sums beside what the command needs.
    with (settings / "DESY" / "LaVue.conf").open("a") as file:
        file.write("SendROIs=true\nShowAllROIs=true\n")
    with tango_site.database() as host, ExitStack() as stack:
        about = tango.DbDevInfo()
        about.name, about._class, about.server = DEVICE, "LavueController", "LavueController/p06"
        tango_site.known(host).add_device(about)
        around = {**os.environ, "TANGO_HOST": host, "QT_QPA_PLATFORM": "offscreen"}
        server = [programs / "LavueController", "p06", *tango_site.LOOPBACK]
        viewer = [programs / "lavue", *shlex.split(command)[1:], "-u", "roi", "-a", DEVICE]

        def run(words: list[Any], log: Path) -> None:
            said = stack.enter_context(log.open("wb"))
            process = subprocess.Popen(words, env=around, stdout=said, stderr=said)
            stack.callback(process.wait)
            stack.callback(process.kill)

        run(server, logs / "controller")
        device = tango_site.device(host, DEVICE)
        run(viewer, logs / "lavue")

        def state() -> dict[str, Any]:
            return dict(json.loads(device.LavueState or "{}"))

        tango_site.wait(lambda: state().get("connected"))
        yield Lavue(device, state)
