"""The publisher: a RunEngine callback that logs a document, then publishes it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import zmq

from p06bs.bus import codec, wire
from p06bs.bus.bulk import pages_of
from p06bs.bus.closing import Closing
from p06bs.bus.codec import Packed
from p06bs.bus.curve import Keys
from p06bs.bus.log import DocumentLog
from p06bs.bus.reader import LogError
from p06bs.bus.run_log import Appended
from p06bs.bus.sockets import HIGH_WATER_MARK, Address, Connection, check_prefix

logger = logging.getLogger(__name__)

PROXY_MS = 1000
"""How long the constructor waits for the proxy, ms."""
RETRY_SECONDS = 0.5
"""Interval at which documents that could not be logged are tried again, s."""
LINGER_MS = 1000


class LogWriteError(LogError):
    """Documents that could not be logged exceed their bound, or are left at the end."""


class Pausable(Protocol):
    """What the publisher needs of a RunEngine."""

    @property
    def state(self) -> str:
        """``"running"`` while a plan runs."""
        ...

    def request_pause(self, defer: bool = False) -> object:
        """Ask for a pause; blocks until the event loop has taken it up."""
        ...


class Publisher(Closing):
    """Log documents, then publish them; subscribe it to a RunEngine, or call it from anywhere.

    Documents are encoded when the call comes and not kept. Publishing never
    blocks: what 0MQ cannot deliver, followers read from the log.

    When the log cannot be written or synced (a full disk), documents stay in memory in
    their order, the RunEngine is asked to pause, and writing is tried again
    with every document, every `RETRY_SECONDS`, and at `close`.

    Parameters
    ----------
    address : str or callable
        Where the proxy takes documents in: ``tcp://127.0.0.1:port`` or ``ipc://path``; or what
        returns that as often as it is asked, since a proxy may move (see `sockets.Connection`).
    log : DocumentLog or path
        A directory is opened, and closed with the publisher.
    run_engine : RunEngine, optional
        Asked to pause while the log cannot be written.
    prefix : bytes
        Distinguishes publishers on one proxy; no space.
    max_pending_bytes : int
        Bound on what waits in memory, bytes.
    on_log_failure : callable, optional
        Called with the OSError when writing begins to fail, or syncing, from any thread.
    keys : Keys, optional
        With them everything is encrypted, and other hosts may be connected to.
    """

    def __init__(
        self,
        address: Address,
        log: DocumentLog | str | Path,
        *,
        run_engine: Pausable | None = None,
        prefix: bytes = b"",
        max_pending_bytes: int = 256 << 20,
        on_log_failure: Callable[[OSError], None] | None = None,
        keys: Keys | None = None,
    ) -> None:
        self.prefix = check_prefix(prefix)
        self.max_pending_bytes = max_pending_bytes
        self._run_engine = run_engine
        self._on_log_failure = on_log_failure
        self._own_log = not isinstance(log, DocumentLog)
        self.log = log if isinstance(log, DocumentLog) else DocumentLog(log)
        self.log.on_sync_failure = self._on_sync_failure
        self._lock = threading.RLock()
        self._pending: deque[tuple[Callable[[], object], int]] = deque()  # what to do, bytes
        self._pending_bytes = 0
        self._closing = threading.Event()
        self._retrying: threading.Thread | None = None
        self._pausing: threading.Thread | None = None
        self._context = zmq.Context()
        # XPUB, because it says when the proxy has subscribed, and messages go through
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.set(zmq.SNDHWM, HIGH_WATER_MARK)
        self._socket.set(zmq.LINGER, LINGER_MS)
        try:
            self._connection = Connection(self._socket, address, keys)
        except BaseException:
            self._give_back()
            raise
        self._await_proxy(keys)

    @property
    def address(self) -> str | None:
        """Where the proxy is; None if nobody has known yet."""
        return self._connection.endpoint

    @property
    def pending(self) -> int:
        """Number of documents in memory that could not be logged yet."""
        with self._lock:
            return sum(nbytes > 0 for _, nbytes in self._pending)

    def __call__(self, name: str, document: Mapping[str, Any] | Packed) -> None:
        """Log and publish a document; see `append`."""
        self.append(name, document)

    def append(self, name: str, document: Mapping[str, Any] | Packed) -> Appended | None:
        """Log and publish a document; return where it went, or None if it waits in memory.

        Of a larger document only its place is published: followers read it from the log.

        Raises
        ------
        LogWriteError
            If more would wait in memory than allowed. It aborts a plan.
        LogError, TypeError
            If the document fits no run, or cannot travel; see `DocumentLog.append`.
        """
        *before, (name, document) = pages_of(name, document)
        for page in before:
            self.append(*page)
        with self._lock:
            if self._closing.is_set():
                raise LogError("the publisher is closed")
            try:
                self._flush()
                return self._publish(name, document)
            except OSError as error:
                self._keep(name, document, error)
                return None

    def release(self, run: str) -> None:
        """Close the log of a run that is not written any further, when all of it is written."""
        with self._lock:
            if self._pending:
                self._pending.append((partial(self.log.release, run), 0))
            else:
                self.log.release(run)

    def close(self) -> None:
        """Write and send what is left, then close; may be called twice.

        Raises
        ------
        LogWriteError
            If documents could not be logged; they are lost.
        """
        self._closing.set()
        for thread in (self._retrying, self._pausing):
            if thread is not None:
                thread.join()
        with self._lock:
            if self._socket.closed:
                return
            try:
                self._flush()
            except OSError as error:
                raise LogWriteError(
                    f"{self.pending} documents could not be written to {self.log.directory} "
                    f"and are lost: {error}"
                ) from error
            finally:
                self._give_back()

    def _give_back(self) -> None:
        self._socket.close()
        self._context.term()
        if self._own_log:
            self.log.close()

    def _await_proxy(self, keys: Keys | None) -> None:
        until = time.monotonic() + PROXY_MS / 1000
        while not self._socket.poll(50):
            if time.monotonic() > until:
                logger.warning(
                    "no proxy at %s%s: documents are logged in %s, and published when it comes",
                    self.address or "a known address",
                    "" if keys is None else f", or it refuses {keys} (its log says why)",
                    self.log.directory,
                )
                return
            self._connection.look()

    def _publish(self, name: str, document: Mapping[str, Any] | Packed) -> Appended:
        self._connection.look()
        appended = self.log.append(name, document)
        # XPUB drops rather than blocks, as PUB does
        self._socket.send(wire.message(self.prefix, name, appended))
        return appended

    def _publish_kept(self, name: str, kept: bytes) -> Appended:
        return self._publish(name, codec.unpack(kept))

    def _flush(self) -> None:
        while self._pending:
            write, nbytes = self._pending[0]
            try:
                write()
            except (LogError, TypeError):  # refused for good: it must not block those behind it
                logger.exception("a document that waited in memory was refused")
            self._pending.popleft()
            self._pending_bytes -= nbytes
            if not self._pending:
                logger.warning("%s can be written again", self.log.directory)

    def _keep(self, name: str, document: Mapping[str, Any] | Packed, error: OSError) -> None:
        if isinstance(document, Packed):
            write = partial(self._publish, name, document)
            nbytes = len(document.body) + document.nbytes
        else:
            kept = codec.pack(document)  # in band: the arrays may change meanwhile
            write = partial(self._publish_kept, name, kept)
            nbytes = len(kept)
        if self._pending_bytes + nbytes > self.max_pending_bytes:
            raise LogWriteError(
                f"{self.log.directory} cannot be written ({error}), and {self.pending} documents "
                f"({self._pending_bytes} bytes) wait in memory already; free space first"
            ) from error
        first = not self._pending
        self._pending.append((write, nbytes))
        self._pending_bytes += nbytes
        if first:
            logger.error(
                "%s cannot be written (%s): documents wait in memory; free space, then resume",
                self.log.directory,
                error,
            )
            self._retrying = threading.Thread(target=self._retry, name="log retry", daemon=True)
            self._retrying.start()
            if self._on_log_failure is not None:
                self._on_log_failure(error)
        self._ask_to_pause()

    def _on_sync_failure(self, error: OSError) -> None:
        """Have the plan pause at once: the next document will have to wait in memory."""
        if self._on_log_failure is not None:
            self._on_log_failure(error)
        self._ask_to_pause()

    def _retry(self) -> None:
        while self._pending and not self._closing.wait(RETRY_SECONDS):
            with self._lock:
                try:
                    self._flush()
                except OSError as error:
                    logger.debug("still not writable: %s", error)

    def _ask_to_pause(self) -> None:
        """Ask from a thread of its own: we are in the RunEngine's loop, which must take it up."""
        engine = self._run_engine
        if engine is None or engine.state != "running":
            return
        if self._pausing is None or not self._pausing.is_alive():
            self._pausing = threading.Thread(
                target=_pause, args=(engine,), name="pause request", daemon=True
            )
            self._pausing.start()


def _pause(engine: Pausable) -> None:
    try:
        engine.request_pause(defer=False)
    except RuntimeError as error:  # its TransitionError: no plan runs any more
        logger.warning("the RunEngine was asked to pause and could not: %s", error)
