"""Who is let in at sockets that bind with keys: libzmq asks, this answers.

What is asked of a peer's key comes over ZAP (https://rfc.zeromq.org/spec/27), once per
connection. `zmq.auth.Authenticator` answers such questions, too, but tells nobody whom it
refused, and refuses with status 400, on which libzmq gives up for good: a peer that is added
later would stay out until somebody restarts it.
"""

import itertools
import logging
import os
import queue
import socket as system
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from p06bs.bus import certificates
from p06bs.bus.certificates import KeysError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Interval at which running services look who is authorised."""
DOMAIN = b"p06bs"
ENDED = zmq.EVENT_MONITOR_STOPPED
EVENTS = (
    zmq.EVENT_LISTENING
    | zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | ENDED
)
NO_KEY = "it showed no key"  # a peer without keys hangs up, or is hung up on
WRONG_BUS = "its bus.key is not ours"
UNKNOWN_KEY = "its key is not authorised"

Refuse = Callable[[str, str, str], None]
"""Takes the address of a peer that is refused, the reason, and its key or ""."""

_authenticators: dict[int, "Authenticator"] = {}  # by context; each removes itself
_lock = threading.Lock()


def let_in(socket: "zmq.Socket[Any]", peers: Path, refuse: Refuse) -> None:
    """Have a socket that binds let only those in whose certificates are in a directory.

    Its context gets a thread that knows them, which ends with the context.

    Raises
    ------
    KeysError, OSError
        If the directory cannot be read, or others may write it.
    """
    context = socket.context
    with _lock:
        authenticator = _authenticators.get(context.underlying)
        if authenticator is None:
            authenticator = Authenticator(context, peers, refuse)
            _authenticators[context.underlying] = authenticator
    # Without an enforced domain libzmq may let everybody in where nobody answers.
    socket.set(zmq.ZAP_DOMAIN, DOMAIN)
    socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
    authenticator.watch(socket)


class Peers:
    """Who is authorised: the certificates in a directory, as it is now."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: Any = None  # the directory as it was read; None if it cannot be now
        self._names: dict[bytes, str] = {}

    def name_of(self, key: bytes) -> str | None:
        """Return whose key it is; None if nobody's who may connect."""
        return None if self._seen is None else self._names.get(key)

    def look(self) -> dict[bytes, str]:
        """Read the directory if it has changed; return who is no longer authorised.

        A certificate that cannot be read is told of and left out.

        Raises
        ------
        KeysError, OSError
            If the directory cannot be read, or others may write it. Nobody is authorised then.
        """
        try:
            certificates.check_directory(self._directory)
            seen = [(path, _change(path)) for path in sorted(self._directory.glob("*.key"))]
        except (KeysError, OSError):
            self._seen = None
            raise
        if seen == self._seen:
            return {}
        names: dict[bytes, str] = {}
        for path, _ in seen:
            try:
                names[certificates.public_key(path)] = path.stem
            except KeysError as error:
                logger.warning("a certificate is left out: %s", error)
        gone = {key: name for key, name in self._names.items() if key not in names}
        self._seen, self._names = seen, names
        return gone


class Authenticator:
    """Answer libzmq's questions about the peers of one context, in a thread of its own.

    A peer that is no longer authorised loses its connections: all that were let in are shut
    down, and the others come again by themselves.
    """

    def __init__(self, context: "zmq.Context[Any]", peers: Path, refuse: Refuse) -> None:
        self._peers = Peers(peers)
        self._refuse = refuse
        self._peers.look()
        self._failing = False
        self._admitted: set[bytes] = set()
        self._monitors: queue.SimpleQueue[zmq.Socket[bytes]] = queue.SimpleQueue()
        self._ends: set[str] = set()  # where the sockets listen
        self._accepted: dict[int, str] = {}  # address of the peer, by file descriptor
        self._failed: dict[zmq.Socket[bytes], str] = {}  # why the last one was, by monitor
        self._numbers = itertools.count()
        # A shadow, so that who destroys its context leaves these sockets to our thread.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(context.underlying)
        self._zap = self._context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind("inproc://zeromq.zap.01")
        threading.Thread(target=self._run, name="authenticator", daemon=True).start()

    def watch(self, socket: "zmq.Socket[Any]") -> None:
        """Tell of those, too, who are refused before their key is asked for."""
        name = f"inproc://monitor-{next(self._numbers)}"
        socket.monitor(name, EVENTS)
        monitor = self._context.socket(zmq.PAIR)
        monitor.linger = 0
        monitor.connect(name)
        self._monitors.put(monitor)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._zap, zmq.POLLIN)
        monitors: set[zmq.Socket[bytes]] = set()
        look_at = time.monotonic() + LOOK_SECONDS
        try:
            while True:
                ready = dict(poller.poll(int(LOOK_SECONDS * 500)))
                while not self._monitors.empty():
                    monitor = self._monitors.get()
                    monitors.add(monitor)
                    poller.register(monitor, zmq.POLLIN)
                try:
                    if self._zap in ready:
                        self._answer(self._zap.recv_multipart())
                    for monitor in monitors & ready.keys():
                        if not self._note(monitor, monitor.recv_multipart()):
                            poller.unregister(monitor)
                            monitors.remove(monitor)
                            monitor.close()
                    if time.monotonic() >= look_at:
                        look_at = time.monotonic() + LOOK_SECONDS
                        self._look()
                except zmq.ZMQError:
                    raise
                except Exception:  # without this thread nobody would be let in any more
                    logger.exception("a peer could not be judged")
        except zmq.ContextTerminated:
            pass
        finally:
            with _lock:  # first: what follows frees the context, and another may take its place
                if _authenticators.get(self._context.underlying) is self:
                    del _authenticators[self._context.underlying]
            while not self._monitors.empty():
                monitors.add(self._monitors.get())
            for socket in (self._zap, *monitors):
                socket.close()

    def _answer(self, question: list[bytes]) -> None:
        name = None
        try:
            _, _, _, address, _, mechanism, *credentials = question
            if mechanism == b"CURVE":
                key = z85.encode(credentials[0])
                self._look()  # it may have been added just now
                name = self._peers.name_of(key)
                if name is None:
                    said = f"the key {key.decode()!r}"
                    self._refuse(address.decode(), UNKNOWN_KEY, said)
                else:
                    self._admitted.add(key)
        finally:  # the next question comes only after an answer
            status = b"300" if name is None else b"200"
            self._zap.send_multipart([*question[:2], status, b"", (name or "").encode(), b""])

    def _note(self, monitor: "zmq.Socket[bytes]", message: list[bytes]) -> bool:
        """Take an event of a socket; return False after its last."""
        from zmq.utils.monitor import parse_monitor_message  # imports asyncio

        event = parse_monitor_message(message)
        kind, value = event["event"], event["value"]
        if kind == zmq.EVENT_LISTENING:
            self._ends.add(event["endpoint"].decode())
        elif kind == zmq.EVENT_ACCEPTED:
            self._accepted[value] = _peer_at(value)
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            wrong = value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC
            self._failed[monitor] = WRONG_BUS if wrong else NO_KEY
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._failed[monitor] = NO_KEY
        elif kind == zmq.EVENT_DISCONNECTED:  # comes right after the reason
            address = self._accepted.pop(value, "an unknown address")
            if reason := self._failed.pop(monitor, ""):
                self._refuse(address, reason, "")
        return bool(kind != ENDED)

    def _look(self) -> None:
        try:
            gone = self._peers.look()
        except (KeysError, OSError) as error:
            if not self._failing:
                logger.error("no peer is let in until this is mended: %s", error)
            self._failing = True
            return
        self._failing = False
        revoked = {key: name for key, name in gone.items() if key in self._admitted}
        if revoked:
            self._admitted.difference_update(revoked)
            logger.warning(
                "%s may no longer connect; all connections are made anew",
                ", ".join(sorted(revoked.values())),
            )
            _end_connections(self._ends)


def _change(path: Path) -> tuple[int, int] | None:
    """Return what differs after a change of a file, or of its mode; None if it is not there."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_ctime_ns, about.st_size


def _peer_at(descriptor: int) -> str:
    """Return the host at the other end of a connection of libzmq, if it is still there."""
    with _copy_of(descriptor) as connection:
        try:
            name = None if connection is None else connection.getpeername()
        except OSError:
            name = None
    if name is None:
        return "an unknown address"
    return str(name[0]) if isinstance(name, tuple) else "this host"


def _end_connections(ends: set[str]) -> None:
    """Shut down the connections of this process that were accepted at some endpoints.

    libzmq has no call for it; both sides take it for a connection that was lost.
    """
    ports = {end.rpartition(":")[2] for end in ends if end.startswith("tcp:")}
    paths = {end.removeprefix("ipc://") for end in ends}
    for name in os.listdir("/proc/self/fd"):
        with _copy_of(int(name)) as connection:
            if connection is None:
                continue
            try:
                here = connection.getsockname()
                ours = str(here[1]) in ports if isinstance(here, tuple) else here in paths
                if ours:
                    connection.getpeername()  # fails for one that listens, which shall go on
                    connection.shutdown(system.SHUT_RDWR)
            except OSError:
                pass  # closed meanwhile, or not connected


@contextmanager
def _copy_of(descriptor: int) -> Iterator[system.socket | None]:
    """Give a socket by its number, or None; a copy, since libzmq may close and reuse the number."""
    copy = -1
    try:
        copy = os.dup(descriptor)
        connection = system.socket(fileno=copy)
    except OSError:
        if copy >= 0:
            os.close(copy)
        yield None
        return
    with connection:
        yield connection
