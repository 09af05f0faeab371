"""The follower: a subscriber that never misses a document.

Live messages come over 0MQ, which loses some; what is missing is read from the
logs. A message that is next in its run is delivered without touching the file.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zmq

from p06bs.bus import wire
from p06bs.bus.backlog import Backlog
from p06bs.bus.closing import Closing
from p06bs.bus.curve import Keys
from p06bs.bus.envelope import Envelope, run_of
from p06bs.bus.errors import WireError
from p06bs.bus.log import DocumentLog
from p06bs.bus.reader import HEADER, Entry
from p06bs.bus.sequence import Action
from p06bs.bus.sockets import HIGH_WATER_MARK, MAX_MESSAGE, Address, Connection, check_prefix

logger = logging.getLogger(__name__)

LIVE_MESSAGES = 256
LIVE_BYTES = 1 << 24


class Follower(Closing):
    """Deliver every document of every run exactly once, in the order of its run.

    What is in the logs already comes in parts, run by run in turn, so that no run
    waits for another to be read to its end. A slow consumer loses nothing and costs
    no memory: what 0MQ dropped meanwhile is read from the log when it is asked for.

    Parameters
    ----------
    address : str, callable or None
        Where the proxy gives documents out, or what returns that as often as it is asked, since
        a proxy may move (see `sockets.Connection`); None to follow the logs alone.
    log : DocumentLog or path
        Where the publishers write.
    since : float, optional
        Unix time, s: runs whose logs were last written before it are left out
        until a live message of theirs comes, or they grow.
    more : callable, optional
        Asked before each log that is there at the start, from the one written last on,
        whether to read it; live messages come in between. Once it says no the older ones
        are left out until a live message of theirs comes, or they grow.
    runs : callable, optional
        Says of a run uid whether to follow it; asked once per run.
    prefix : bytes
        Only messages with this prefix wake the follower; all, if empty. (The
        logs hold all runs: use `runs` to choose.)
    arrays : bool
        False leaves the large arrays of events in the log: a `LoggedArray` stands for
        each.
    keys : Keys, optional
        With them everything is encrypted, and other hosts may be connected to.

    Attributes
    ----------
    dropped : Counter
        Number of messages by what was wrong with them; the first of a kind is logged.
    socket : zmq.Socket or None
        For a poller of the consumer's own.
    caught_up : threading.Event
        Set once what was in the logs at the start, as far as it is wanted, has been
        delivered, and the consumer has come back for more.
    """

    def __init__(
        self,
        address: Address | None,
        log: DocumentLog | str | Path,
        *,
        since: float | None = None,
        more: Callable[[], bool] | None = None,
        runs: Callable[[str], bool] | None = None,
        prefix: bytes = b"",
        arrays: bool = True,
        keys: Keys | None = None,
    ) -> None:
        self._prefix = check_prefix(prefix)
        self.log = log if isinstance(log, DocumentLog) else DocumentLog(log)
        self.dropped: Counter[str] = Counter()
        self.caught_up = threading.Event()
        self.socket: zmq.Socket[bytes] | None = None
        self._connection: Connection | None = None
        self._arrays = arrays
        self._backlog = Backlog(self.log, since=since, more=more, wanted=runs, arrays=arrays)
        self._lock = threading.Lock()  # held while the sockets are in use
        self._closing = threading.Event()
        self._context = zmq.Context()
        if address is not None:
            self.socket, self._connection = self._subscribe(address, keys)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poller = zmq.Poller()
        self._poller.register(self._wake, zmq.POLLIN)
        if self.socket is not None:
            self._poller.register(self.socket, zmq.POLLIN)

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ``(name, document)`` until `close` is called."""
        while not self._closing.is_set():
            for entry in self.entries(timeout=60):
                if self._closing.is_set():
                    return
                yield entry.name, entry.document

    def entries(self, timeout: float) -> list[Entry]:
        """Return what is new, waiting at most `timeout` seconds for something.

        The number is bounded (some MB); call again for more. Call it every
        0.5 s or so even if `socket` in a poller of yours stays silent: lost
        last messages and new logs are noticed only here.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            while not self._closing.is_set():
                if time.monotonic() >= self._backlog.look_at:
                    self._backlog.look()
                    if self._connection is not None:
                        self._connection.look()
                if self._backlog.refilling:
                    entries = self._receive()
                    entries += (
                        self._backlog.fill() if self._backlog.behind else self._backlog.refill()
                    )
                    if not entries:
                        continue
                elif self._backlog.behind:
                    entries = self._backlog.fill()
                else:
                    if self._backlog.is_listed:
                        self.caught_up.set()
                    entries = self._receive()
                if entries:
                    return entries
                if not self._backlog.behind:
                    now = time.monotonic()
                    if now >= deadline:
                        break
                    wait = min(deadline, self._backlog.look_at) - now
                    self._poller.poll(max(0, int(wait * 1000) + 1))
        return []

    def is_older(self, run: str) -> bool:
        """Return whether a run that begins is older than all that began before it; see `more`.

        Of an entry of the last `entries` only.
        """
        return self._backlog.is_older(run)

    def close(self) -> None:
        """End the iteration and close; from any thread, may be called twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        os.eventfd_write(self._wake, 1)
        with self._lock:
            if self.socket is not None:
                self.socket.close()
            self._context.term()
            os.close(self._wake)
        for reason, count in self.dropped.items():
            logger.info("dropped %d messages: %s", count, reason)

    def _subscribe(
        self, address: Address, keys: Keys | None
    ) -> "tuple[zmq.Socket[bytes], Connection]":
        socket = self._context.socket(zmq.SUB)
        try:
            socket.set(zmq.RCVHWM, HIGH_WATER_MARK)
            socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE)
            socket.set(zmq.LINGER, 0)
            socket.subscribe(self._prefix + b" " if self._prefix else b"")
            return socket, Connection(socket, address, keys)
        except BaseException:
            socket.close()
            self._context.term()
            raise

    def _receive(self) -> list[Entry]:
        """Take live messages until there are none, or one shows that a run is behind.

        They do not wait for a run that `Backlog.refill` began.
        """
        entries: list[Entry] = []
        nbytes = 0
        if self.socket is None:
            return entries
        for _ in range(LIVE_MESSAGES):
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            entry = self._live(parts)
            if entry is not None:
                entries.append(entry)
                nbytes += entry.nbytes
            if nbytes >= LIVE_BYTES or self._backlog.others_behind:
                break
        return entries

    def _live(self, parts: list[bytes]) -> Entry | None:
        """Return the entry of a message if it is the next one of its run."""
        if len(parts) != 1:
            self._drop("more than one part")
            return None
        try:
            _, named, payload = wire.split_message(parts[0])
            claimed = run_of(payload)
            if claimed and self._backlog.reader(claimed) is None:
                return None  # not followed: most messages are of other runs
            said = wire.unpack_payload(payload)
        except WireError as error:
            self._drop("not a document of this bus", str(error))
            return None
        if named != said.name.encode():
            self._drop("name and envelope differ")
            return None
        reader = self._backlog.reader(said.run)
        if reader is None:
            return None
        action = reader.sequence.offer(said.epoch, said.index)
        if action is Action.DELIVER and isinstance(said, Envelope):
            nbytes = HEADER.size + len(payload)
            at = (said.run, said.epoch, said.index)
            entry = Entry(*at, said.name, said.document, reader.offset, nbytes)
            reader.advance(entry)
            self._backlog.finish(reader)
            return entry
        if action is not Action.DROP and not self._backlog.catch_up(said.run):
            self._drop("ahead of the log of its run", f"index {said.index} of run {said.run}")
        return None

    def _drop(self, reason: str, detail: str = "") -> None:
        if not self.dropped[reason]:
            logger.warning(
                "dropped a message: %s%s (further ones are only counted)",
                reason,
                f" ({detail})" if detail else "",
            )
        self.dropped[reason] += 1
