"""The sink: the newest runs, raw and derived, in memory under a byte budget."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from p06bs.metadata import folder_of
from p06bs.model.documents import Document
from p06bs.server.retention import Retention
from p06bs.server.stream import Stream, StreamView, node_name, page_of, plain, size_of

logger = logging.getLogger(__name__)


class DocumentError(ValueError):
    """A document that does not fit what came before; it left no trace in the sink."""


@dataclass(frozen=True, slots=True)
class Change:
    """What became different in the sink.

    Attributes
    ----------
    run : str
        Uid of the run.
    stream : str or None
        Name of the stream, as in `RunView.streams`; None where the whole run is meant.
    kind : str
        ``run`` began, ``stream`` has a new descriptor, ``rows`` came, ``stop`` came, the
        run is ``gone`` from memory.
    """

    run: str
    stream: str | None
    kind: Literal["run", "stream", "rows", "stop", "gone"]


Listener = Callable[[Change], None]


@dataclass(frozen=True, slots=True)
class RunView:
    """A run at one moment; its streams are looked at when they are asked for."""

    metadata: Mapping[str, Any]
    streams: Mapping[str, Callable[[], StreamView]]
    touch: Callable[[], None]


class _Run:
    def __init__(self, start: Document) -> None:
        self.uid: str = start["uid"]
        self.metadata: dict[str, Any] = {"start": start}
        self.streams: dict[str, Stream] = {}
        self.discarded = False
        self.routes: list[str] = []


class Sink:
    """Keep the newest runs in memory: a plain ``(name, document)`` callable.

    One thread feeds it, any number of threads look at it. When the runs need
    more than the budget the one whose data nobody has read for longest leaves,
    finished runs before running ones; later documents of a running run that had
    to leave are passed over.

    Parameters
    ----------
    budget : int
        Bytes that the runs together may hold: what their arrays have allocated,
        their text and their documents.
    clock : callable
        Returns the time that touches are compared by, s.
    """

    def __init__(self, budget: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._retention = Retention(budget)
        self._clock = clock
        self._lock = threading.RLock()
        self._runs: dict[str, _Run] = {}
        self._streams: dict[str, tuple[_Run, Stream]] = {}
        self._resources: dict[str, tuple[_Run, Document]] = {}
        self._evicted_running: dict[str, _Run] = {}
        self._feeding = threading.Lock()  # one document at a time
        self._listeners: tuple[Listener, ...] = ()
        self._changes: list[Change] = []

    @property
    def budget(self) -> int:
        """Bytes that the runs together may hold."""
        return self._retention.budget

    @property
    def nbytes(self) -> int:
        """Bytes that the runs hold."""
        return self._retention.nbytes

    def __call__(self, name: str, document: Document) -> None:
        """Take one document.

        Raises
        ------
        DocumentError
            If it does not fit what came before, or names what never came.
        """
        with self._feeding:
            try:
                self._put(name, document)
            finally:
                changes, self._changes = self._changes, []
                for change in changes:
                    self._tell(change)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after each change; return what ends that. From any thread.

        It is called in the thread that feeds, when the change can be seen, with no
        lock that readers need: it may look at the sink, should return soon, and must
        not feed. What it raises is logged.
        """
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(one for one in self._listeners if one is not listener)

        return unsubscribe

    def _tell(self, change: Change) -> None:
        for listener in self._listeners:
            try:
                listener(change)
            except Exception:
                # The documents must go on for everybody else.
                logger.exception("a listener failed at %s", change)

    def _put(self, name: str, document: Document) -> None:
        try:
            if name == "event_page":
                self._append(document)
            elif name == "event":
                self._append(page_of(document))
            else:
                with self._lock:
                    self._take(name, document)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise DocumentError(f"{name} document refused: {problem}") from error

    def runs(self) -> list[str]:
        """Return the uids of the runs, in the order of their start times."""
        with self._lock:
            return sorted(self._runs, key=lambda uid: self._runs[uid].metadata["start"]["time"])

    def folders(self) -> dict[str, str | None]:
        """Return the beamtime folder of each run, in the order of their start times."""
        with self._lock:
            return {uid: folder_of(self._runs[uid].metadata["start"]) for uid in self.runs()}

    def __len__(self) -> int:
        return len(self._runs)

    def view(self, uid: str) -> RunView:
        """Return a run as it is now.

        Raises
        ------
        KeyError
            If the run is not in the sink (any more).
        """
        with self._lock:
            run = self._runs[uid]
            streams = {name: self._viewer(stream) for name, stream in run.streams.items()}
            return RunView(run.metadata, streams, lambda: self.touch(uid))

    def touch(self, uid: str) -> None:
        """Note that somebody reads data of the run."""
        with self._lock:
            self._retention.touched(uid, self._clock())

    def _viewer(self, stream: Stream) -> Callable[[], StreamView]:
        def view() -> StreamView:
            with self._lock:
                return stream.view()

        return view

    def _take(self, name: str, document: Document) -> None:
        match name:
            case "start":
                self._start(document)
            case "descriptor":
                self._descriptor(document)
            case "stream_resource":
                run = self._run(document["run_start"])
                self._resources[document["uid"]] = run, plain(document)
                run.routes.append(document["uid"])
            case "stream_datum":
                self._stream_datum(document)
            case "stop":
                self._stop(document)
            case "resource" | "datum" | "datum_page":
                pass  # the events hold the datum ids, and that is what the column shows
            case _:
                raise ValueError("no such kind of document")

    def _start(self, document: Document) -> None:
        uid = node_name(document["uid"])
        if uid in self._runs:
            raise ValueError(f"run {uid} has started before")
        start = plain(document)
        start["time"] = float(start["time"])
        run = self._runs[uid] = _Run(start)
        self._changes.append(Change(uid, None, "run"))
        self._account(run, size_of(start))

    def _descriptor(self, document: Document) -> None:
        run = self._run(document["run_start"])
        descriptor = plain(document)
        uid = descriptor["uid"]
        name = node_name(descriptor.get("name", "primary"))
        stream = run.streams.get(name)
        if stream is None:
            for key in descriptor["data_keys"]:
                node_name(key)
            stream = run.streams[name] = Stream(name, descriptor)
        else:
            stream.update(descriptor)
        self._streams[uid] = run, stream
        run.routes.append(uid)
        self._changes.append(Change(run.uid, name, "stream"))
        self._count(run, stream)

    def _append(self, page: Document) -> None:
        run, stream = self._streams[page["descriptor"]]
        if run.discarded:
            return
        columns = stream.put(page)
        with self._lock:
            stream.commit(columns, len(page["seq_num"]))
            self._changes.append(Change(run.uid, stream.name, "rows"))
            self._count(run, stream)

    def _stream_datum(self, document: Document) -> None:
        run, stream = self._streams[document["descriptor"]]
        _, resource = self._resources[document["stream_resource"]]
        if run.discarded:
            return
        indices = document["indices"]
        stream.announce(resource["data_key"], resource, indices["start"], indices["stop"])
        self._changes.append(Change(run.uid, stream.name, "rows"))
        self._count(run, stream)

    def _stop(self, document: Document) -> None:
        uid = document["run_start"]
        run = self._run(uid)
        # A new dict: views hold the old one.
        run.metadata = {**run.metadata, "stop": plain(document)}
        for route in run.routes:
            self._streams.pop(route, None)
            self._resources.pop(route, None)
        self._evicted_running.pop(uid, None)
        self._retention.finished(uid)
        self._changes.append(Change(uid, None, "stop"))

    def _run(self, uid: str) -> _Run:
        return self._evicted_running.get(uid) or self._runs[uid]

    def _count(self, run: _Run, stream: Stream) -> None:
        """Count what a stream holds more than when it was counted last."""
        news = stream.nbytes - stream.counted
        stream.counted += news
        self._account(run, news)

    def _account(self, run: _Run, nbytes: int) -> None:
        """Count what a run holds more and let the runs leave that have to."""
        if run.discarded:
            return
        uid = run.metadata["start"]["uid"]
        for leaving in self._retention.added(uid, nbytes, self._clock()):
            gone = self._runs.pop(leaving)
            self._changes.append(Change(leaving, None, "gone"))
            if "stop" not in gone.metadata:
                gone.discarded = True
                self._evicted_running[leaving] = gone
                logger.warning(
                    "run %s leaves the server's memory while it runs: the budget is %d bytes; "
                    "its documents are in the log",
                    leaving,
                    self.budget,
                )
                for stream in gone.streams.values():
                    stream.columns.clear()
                    stream.external.clear()
