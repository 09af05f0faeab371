"""The loop that computes batches: one long-running Dask task per Dask worker.

It asks a pipeline process for batches over 0MQ, reads the columns itself, and
sends the results back. It ends when the pipeline says so or falls silent.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import zmq

from p06bs.bus.codec import pack_document
from p06bs.bus.curve import Keys
from p06bs.bus.errors import WireError
from p06bs.bus.frames import Frames
from p06bs.bus.framing import LogError, frame_of, read_frame
from p06bs.bus.sockets import connect
from p06bs.model.compute import Setup, compute
from p06bs.model.documents import Document
from p06bs.model.gather import NotYetError, UnreadableError, gather
from p06bs.model.modality import Modality
from p06bs.model.page import Stream, compose_page
from p06bs.model.reference import load
from p06bs.pipeline import collector, lane

log = logging.getLogger(__name__)

BEAT = 0.4
SILENCE = 5.0
CREDIT = 2
SETUPS = 256
PAGES = 8


def warm_up(modalities: Iterable[str | type[Modality]]) -> None:
    """Warm modalities up; what goes wrong is only told, because no run needs it yet."""
    for modality in modalities:
        try:
            (load(modality) if isinstance(modality, str) else modality).warm_up()
        except Exception as error:  # it is refused, with this reason, when a run needs it
            log.warning("cannot warm up %s: %s", modality, error)


def own_process(
    address: str,
    worker: str,
    epoch: str,
    modalities: Sequence[str] = (),
    keys: str | None = None,
) -> str:
    """Do a worker's `work` in a process that is there for nothing else.

    Parameters
    ----------
    modalities : sequence of str
        ``module:Class`` of what will probably be computed, to be warmed up.
    """
    warm_up(modalities)
    collector.calm()
    return work(address, worker, epoch, keys)


def work(address: str, worker: str, epoch: str, keys: str | None = None) -> str:
    """Compute batches for the pipeline process at `address` until it ends; return why it ended.

    Parameters
    ----------
    address : str
        0MQ address of the pipeline's lane.
    worker : str
        Name of this loop, unique among all that the pipeline ever had.
    epoch : str
        The pipeline process's identity; another one at the same address ends the loop.
    keys : str, optional
        Directory of this worker's keys, needed to connect to another host.

    Raises
    ------
    ValueError
        If there are no keys and the address is beyond this host, or they cannot be used.
    """
    ours = None if keys is None else Keys(keys)
    with zmq.Context() as context:
        pulse = _Pulse(context, address, worker, epoch, ours)
        try:
            return _Loop(context, address, worker, pulse, ours).run()
        finally:
            pulse.close()


class _Pulse:
    """Show signs of life from a thread of its own, because a batch may compute for long."""

    def __init__(
        self,
        context: zmq.Context[Any],
        address: str,
        worker: str,
        epoch: str,
        keys: Keys | None,
    ) -> None:
        self.ended = ""
        self.rejoin = threading.Event()
        self.computing_since: float | None = None
        self.preparing = False
        self._stop = threading.Event()
        self._args = (context, address, worker, epoch, keys)
        self._thread = threading.Thread(target=self._run, name=f"pulse-{worker}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        context, address, worker, epoch, keys = self._args
        heard = began = time.monotonic()
        joined = False
        with context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            connect(socket, address, keys)
            while not self._stop.is_set():
                since = self.computing_since
                busy = 0.0 if since is None else time.monotonic() - since
                socket.send(lane.encode(lane.ALIVE, worker, busy, self.preparing))
                if socket.poll(int(BEAT * 1000)):
                    kind, said, known = lane.decode(socket.recv())
                    if kind != lane.BEAT or said != epoch:
                        self.ended = "the pipeline has another epoch"
                        return
                    heard = time.monotonic()
                    joined = joined or bool(known)
                    # Unknown at first means that the other socket's JOIN is still on its way.
                    # To join anew then would deny the batches that come after it.
                    if not known and (joined or heard - began > SILENCE):
                        self.rejoin.set()
                    self._stop.wait(BEAT)
                elif time.monotonic() - heard > SILENCE:
                    self.ended = f"the pipeline was silent for {SILENCE:g} s"
                    return

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


@dataclass(frozen=True, slots=True)
class _Ready:
    """What a worker has made ready for a run and its settings."""

    setup: Setup
    stream: Stream
    log: str | None
    frames: Frames


class _Loop:
    def __init__(
        self,
        context: zmq.Context[Any],
        address: str,
        worker: str,
        pulse: _Pulse,
        keys: Keys | None,
    ) -> None:
        self.pulse = pulse
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 1000
        self.socket.setsockopt(zmq.IDENTITY, worker.encode())
        connect(self.socket, address, keys)
        self.setups: OrderedDict[str, _Ready] = OrderedDict()
        self.pages: OrderedDict[tuple[str, int], Document] = OrderedDict()

    def run(self) -> str:
        try:
            self._send(lane.JOIN, CREDIT)
            while not self.pulse.ended:
                if self.pulse.rejoin.is_set():
                    self.pulse.rejoin.clear()
                    self._send(lane.JOIN, CREDIT)
                if not self.socket.poll(int(BEAT * 1000)):
                    continue
                message = lane.decode(self.socket.recv())
                if message[0] == lane.STOP:
                    self._send(lane.BYE)
                    return "the pipeline stopped it"
                if message[0] == lane.FORGET:
                    self._forget(message[1])
                if message[0] == lane.BATCH:
                    self.pulse.computing_since = time.monotonic()
                    self._batch(*message[1:])
                    self.pulse.computing_since = None
            return self.pulse.ended
        finally:
            for ready in self.setups.values():
                ready.frames.close()
            self.socket.close()

    def _send(self, *message: Any) -> None:
        self.socket.send(lane.encode(*message))

    def _batch(
        self,
        key: str,
        number: int,
        attempt: int,
        rows: list[Any],
        resources: dict[str, Document],
        final: bool,
        record: dict[str, Any] | None,
        carried: dict[str, bytes] | None,
    ) -> None:
        if record is not None and key not in self.setups:
            try:
                self._prepare(key, record)
            except (Exception, SystemExit) as error:  # whatever prepare raises is its refusal
                log.warning("cannot prepare %s: %s", record["modality"], error, exc_info=True)
                said = f"{type(error).__name__}: {error}"
                self._send(lane.REFUSED, key, number, attempt, said)
                return
            # The batch is given back first: who dies over it from now on dies of its events.
            self._send(lane.READY, key, number, attempt)
            return
        if key not in self.setups:
            self._send(lane.NEED, key, number, attempt)
            return
        self.setups.move_to_end(key)
        ready = self.setups[key]
        batch = lane.decode_rows(rows)

        def read_events(where: lane.Where) -> Document:
            if carried is not None:
                try:
                    return frame_of(carried[lane.frame_key(where)]).document
                except LogError as error:
                    raise UnreadableError(str(error)) from error
            return self._page(ready.log, where)

        ready.frames.final = final
        begun = time.perf_counter()
        try:
            columns, reasons = gather(
                ready.setup.binding, len(batch), batch.spans, resources, read_events, ready.frames
            )
        except NotYetError as late:  # others need not wait for it
            self._send(lane.LATE, key, number, attempt, late.place, list(late.progress))
            return
        except (
            OSError,
            LogError,
        ) as error:  # this machine does not see the log: let the batch carry columns
            self._send(lane.UNREAD, key, number, attempt, str(error))
            return
        except Exception as error:  # documents that are not what event-model says
            log.warning("batch %d of %s cannot be read", number, key, exc_info=True)
            columns, reasons = {}, [f"{type(error).__name__}: {error}"] * len(batch)
        result = compute(ready.setup, columns, reasons)
        lease = (key, number, attempt)
        if ready.setup.modality.scan is not None:
            seconds = time.perf_counter() - begun
            self._send(lane.COLUMNS, *lease, *lane.encode_result(result), seconds, result.parts)
            return
        page = compose_page(ready.stream, ready.setup.outputs, batch, result, time.time())
        packed = pack_document("event_page", page)
        invalid = sum(map(bool, result.reasons))
        seconds = time.perf_counter() - begun
        head = lane.encode(lane.PAGE, *lease, len(batch), invalid, seconds, result.parts)
        self.socket.send_multipart([head, packed.body, *lane.pieces(packed.buffers)])

    def _prepare(self, key: str, record: dict[str, Any]) -> None:
        self.pulse.preparing = True
        try:
            setup = lane.make_setup(record)
        finally:
            self.pulse.preparing = False
            self.pulse.computing_since = time.monotonic()
        self.setups[key] = _Ready(setup, Stream(**record["stream"]), record["log"], Frames())
        while len(self.setups) > SETUPS:
            self.setups.popitem(last=False)[1].frames.close()

    def _forget(self, run: str) -> None:
        """Let go of what belongs to a run that is over."""
        for key in [key for key in self.setups if key.rpartition("/")[0] == run]:
            self.setups.pop(key).frames.close()

    def _page(self, log: str | None, where: lane.Where) -> Document:
        """Read one frame of a run's log; neighbouring batches often share one."""
        if log is None:
            raise WireError("a batch without a log must carry its columns")
        path, offset, nbytes = lane.frame_place(log, where)
        page = self.pages.get((path, offset))
        if page is None:
            page = read_frame(path, offset, nbytes).document  # opened afresh, see bus.reader
            self.pages[path, offset] = page
            while len(self.pages) > PAGES:
                self.pages.popitem(last=False)
        self.pages.move_to_end((path, offset))
        return page
