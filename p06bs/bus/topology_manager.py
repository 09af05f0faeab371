"""The Topology Manager: where services register, and find each other."""

import logging
import os
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import zmq

from p06bs.bus import enquiry
from p06bs.bus.closing import Closing
from p06bs.bus.curve import Keys
from p06bs.bus.errors import WireError
from p06bs.bus.sockets import SocketFile, bind
from p06bs.bus.topology import Topology

logger = logging.getLogger(__name__)

ADDRESS = "tcp://127.0.0.1:5569"
TTL = 15.0
"""Seconds that a lease lasts; it is renewed three times as often."""
LOOK_SECONDS = 0.5
"""Interval at which ended leases are looked for."""
AT_ONCE = 1000
"""So many questions are answered before it looks again whether it is to end."""
GATHER_SECONDS = 5e-6
"""Questions that come within it, times the number of leases, are answered together: one by one
each would wake the process."""


class TopologyManager(Closing):
    """Answer questions at a fixed address until it is closed.

    What it holds is soft: after a restart services register again with their next renewal,
    and go on with the addresses that they know until then.

    Parameters
    ----------
    address : str
        ``tcp://127.0.0.1:port`` (port ``*`` for a free one) or ``ipc://path``.
    ttl : float
        See `TTL`.
    keys : Keys, optional
        With them only authorised peers are answered, also of other hosts.

    Attributes
    ----------
    address : str
        The one in use.
    refused : Counter
        Number of questions by what was wrong with them; the first of a kind is logged.

    Raises
    ------
    ValueError
        If the address is not on this host and there are no keys.
    zmq.ZMQError
        If it is in use.
    """

    def __init__(
        self, address: str = ADDRESS, *, ttl: float = TTL, keys: Keys | None = None
    ) -> None:
        # Larger than any of its former lives: nobody takes a new list for one that is known.
        self.topology = Topology(ttl, time.monotonic(), revision=time.time_ns() // 1_000_000)
        self.refused: Counter[str] = Counter()
        self._closing = threading.Event()
        self._lock = threading.Lock()  # held while the socket is in use
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.MAXMSGSIZE, enquiry.LARGEST)
        self._socket.set(zmq.RCVHWM, 0)  # bounded by the number of services
        self._socket.set(zmq.SNDHWM, 100)
        try:
            self.address = bind(self._socket, address, keys)
            self._file = SocketFile(self.address)
        except (ValueError, zmq.ZMQError):
            self._give_back()
            raise
        self._poller = zmq.Poller()
        self._poller.register(self._wake, zmq.POLLIN)
        self._poller.register(self._socket, zmq.POLLIN)

    def serve(self) -> None:
        """Answer until `close` is called from another thread."""
        with self._lock:
            look_at = 0.0
            while not self._closing.is_set():
                if self._poller.poll(int(LOOK_SECONDS * 1000)):
                    self._closing.wait(GATHER_SECONDS * len(self.topology))
                now = time.monotonic()
                self._answer(now)
                if now >= look_at:
                    look_at = now + LOOK_SECONDS
                    for service in self.topology.expire(now):
                        logger.warning("%s on %s is silent", service.name, service.host)

    def stop(self) -> None:
        """End `serve` soon; from any thread."""
        if not self._closing.is_set():
            self._closing.set()
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """End `serve`, and close; from another thread than that of `serve`, or after it."""
        self.stop()
        with self._lock:
            if not self._socket.closed:
                self._give_back()
                self._file.remove()

    def _give_back(self) -> None:
        self._socket.close()
        self._context.term()
        os.close(self._wake)

    def _answer(self, now: float) -> None:
        for _ in range(AT_ONCE):
            try:
                who, *parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            number, answer = self._answer_to(parts, now)
            with suppress(zmq.Again):  # it does not read its answers; it will ask again
                self._socket.send_multipart([who, enquiry.packed(number, *answer)], zmq.NOBLOCK)

    def _answer_to(self, parts: list[bytes], now: float) -> tuple[int, list[Any]]:
        number = 0
        try:
            (data,) = parts
            number, *question = enquiry.unpacked(data)
            return number, enquiry.answered(self.topology, question, now)
        except (WireError, ValueError) as error:
            kind = type(error).__name__
            self.refused[kind] += 1
            if self.refused[kind] == 1:
                logger.warning("a question is refused: %s (further ones are only counted)", error)
            return number, ["refused", str(error)[:500]]
