"""A bridge to LaVue in this process, and what stands for LaVue: a subscriber of its own."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import zmq

from p06bs.bus.membership import Membership
from p06bs.bus.service import Surroundings
from p06bs.services.lavue import LavueDefinition, LavueService

SECONDS = 60.0


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
