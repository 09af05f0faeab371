"""The sink: the newest runs, raw and derived, in memory under a byte budget."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from p06bs.metadata import folder_of
from p06bs.model.documents import Document
from p06bs.server.files.roots import FileRoots
from p06bs.server.sink.held import Change, Held, Listener, Listeners, Run, RunView, Sized
from p06bs.server.sink.names import node_name
from p06bs.server.sink.pages import LoggedPage, page_of
from p06bs.server.sink.places import Place
from p06bs.server.sink.retention import Drop, Leave, NoRoomError, Retention
from p06bs.server.sink.shares import Shares
from p06bs.server.sink.stream import PATIENCE_SECONDS, Stream
from p06bs.server.sink.values import plain, size_of
from p06bs.server.sink.views import StreamView

__all__ = ["Change", "DocumentError", "Held", "Listener", "RunView", "Sink"]

logger = logging.getLogger(__name__)

EVERYWHERE = FileRoots()

ROUTE_BYTES = 512
"""What Python keeps about a uid that other documents refer to."""
PLACE_BYTES = 64


class DocumentError(ValueError):
    """A document that does not fit what came before; it left no trace in the sink."""


class Sink:
    """Keep the newest runs in memory: a plain ``(name, document)`` callable.

    One thread at a time feeds it, any number of threads look at it. Before runs hold more
    than their share of the budget something gives way, as `Retention` decides: the run
    that nobody has read for longest leaves, or lets its oldest rows go if it is running.
    Such rows stay readable from the log of the run.

    Parameters
    ----------
    budget : int
        Bytes. `Shares` says how much of it runs hold: what their arrays have allocated,
        their text, their documents, indexes and references.
    clock : callable
        Returns the time of touches, s.
    roots : FileRoots
        Where files of detectors may lie; everywhere by default, which is for a single user.

    Attributes
    ----------
    refused : Counter
        Number of documents that were refused, by kind of document and of error.
    evicted : int
        Number of runs that left memory because others needed it.
    dropped : int
        Number of rows that left memory, and are in the log, while their run stayed.
    """

    def __init__(
        self,
        budget: int,
        clock: Callable[[], float] = time.monotonic,
        roots: FileRoots = EVERYWHERE,
    ) -> None:
        self.shares = Shares(budget)
        self._roots = roots
        self.refused: Counter[str] = Counter()
        self.evicted = 0
        self.dropped = 0
        self._retention = Retention(self.shares.held, self.shares.pinned)
        self._clock = clock
        self._lock = threading.RLock()
        self._runs: dict[str, Run] = {}
        self._streams: dict[str, tuple[Run, Stream]] = {}
        self._resources: dict[str, tuple[Run, Document]] = {}
        self._feeding = threading.Lock()  # one document at a time
        self._listeners = Listeners()
        self._changes: list[Change] = []

    @property
    def budget(self) -> int:
        """Bytes that the sink may take, what is in flight included."""
        return self.shares.budget

    @property
    def nbytes(self) -> int:
        """Bytes that the runs hold."""
        return self._retention.nbytes

    def __call__(self, name: str, document: Document, place: Place | None = None) -> None:
        """Take one document.

        Parameters
        ----------
        place : Place, optional
            Where it lies in the log of its run. Rows without one cannot be let go while
            the run goes on.

        Raises
        ------
        DocumentError
            If it does not fit what came before, or names what never came.
        """
        with self._feeding:
            try:
                self._put(name, document, place)
            finally:
                self._tell()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after each change; return what ends that. From any thread.

        It is called in the thread that feeds, when the change can be seen, with no
        lock that readers need: it may look at the sink, should return soon, and must
        not feed. What it raises is logged.
        """
        with self._lock:
            self._listeners.add(listener)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners.remove(listener)

        return unsubscribe

    def hold(self, start: Document, written: Sized, *, finished: bool) -> None:
        """Hold what was written over HTTP, as a run that `start` says the uid, time and folder of.

        Raises
        ------
        KeyError
            If there is a run of that uid.
        NoRoomError
            If nothing can give way to it.
        """
        run = Run(start, written)
        with self._feeding:
            if run.uid in self._runs:
                raise KeyError(run.uid)
            try:
                self._add(run)
                if finished:
                    self._retention.finished(run.uid)
            finally:
                self._tell()

    @contextmanager
    def writing(
        self, written: Sized, uid: str, stream: str | None
    ) -> Iterator[tuple[Run, Callable[[int], None]]]:
        """Change what was written: nobody else changes or reads it meanwhile; tell of it after.

        Gives the run, and what makes room: to be called before so many bytes more are taken.

        Raises
        ------
        KeyError
            If it is not held any more.
        NoRoomError
            If nothing can give way to it.
        """
        with self._feeding:
            run = self._runs[uid]
            if run.written is not written:
                raise KeyError(uid)
            try:
                with self._lock:
                    try:
                        yield run, partial(self._make_room, uid)
                    finally:
                        self._count(run)
                    if not run.running:
                        self._retention.finished(uid)
                self._changes.append(Change(uid, stream, "stop" if stream is None else "stream"))
            finally:
                self._tell()

    def let_go(self, written: Sized, uid: str) -> None:
        """Forget what was written.

        Raises
        ------
        KeyError
            If it is not held any more.
        """
        with self._feeding:
            run = self._runs[uid]
            if run.written is not written:
                raise KeyError(uid)
            self._leave(run)
            self._tell()

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
            return RunView(run.metadata, streams, lambda: self.touch(uid), run.written)

    def touch(self, uid: str) -> None:
        """Note that somebody reads data of the run."""
        with self._lock:
            self._retention.touched(uid, self._clock())

    def pin(self, uid: str) -> None:
        """Keep a run in memory until it is unpinned, or the process ends.

        Raises
        ------
        KeyError
            If the run is not in the sink.
        PinError
            If pinned runs would take more than their share.
        """
        with self._lock:
            self._retention.pin(uid)

    def unpin(self, uid: str) -> None:
        """Let a run give way again when its turn comes.

        Raises
        ------
        KeyError
            If the run is not in the sink.
        """
        with self._lock:
            self._retention.unpin(uid)

    def held(self) -> list[Held]:
        """Return what is held of each run, in the order of their start times."""
        with self._lock:
            now = self._clock()
            return [self._held(self._runs[uid], now) for uid in self.runs()]

    def _held(self, run: Run, now: float) -> Held:
        streams = run.streams.values()
        return Held(
            uid=run.uid,
            metadata=run.metadata,
            running=run.running,
            pinned=self._retention.is_pinned(run.uid),
            rows=sum(stream.rows for stream in streams),
            in_log=sum(stream.in_log for stream in streams),
            external=sum(column.rows for s in streams for column in s.external.values()),
            nbytes=run.nbytes,
            idle=now - self._retention.used(run.uid),
        )

    def _viewer(self, stream: Stream) -> Callable[[], StreamView]:
        def view() -> StreamView:
            with self._lock:
                return stream.view()

        return view

    def _put(self, name: str, document: Document, place: Place | None) -> None:
        try:
            if name == "event_page":
                self._append(document, place)
            elif name == "event":
                self._append(page_of(document), place)
            else:
                self._take(name, document)
        except Exception as error:
            # Whatever one document holds, those of other runs go on.
            self.refused[f"{name}: {type(error).__name__}"] += 1
            self._interrupt(document)
            problem = f"{type(error).__name__}: {error}"
            raise DocumentError(f"{name} document refused: {problem}") from error

    def _interrupt(self, document: Any) -> None:
        """Note in the index of a stream that not all that lies in the log is in its rows."""
        descriptor = document.get("descriptor") if isinstance(document, Mapping) else None
        if isinstance(descriptor, str) and descriptor in self._streams:
            self._streams[descriptor][1].refused()

    def _take(self, name: str, document: Document) -> None:
        match name:
            case "start":
                self._start(document)
            case "descriptor":
                self._descriptor(document)
            case "stream_resource":
                self._stream_resource(document)
            case "stream_datum":
                self._stream_datum(document)
            case "stop":
                self._stop(document)
            case "resource" | "datum" | "datum_page":
                pass  # the events hold the datum ids, and that is what the column shows
            case _:
                raise ValueError("no such kind of document")

    def _start(self, document: Document) -> None:
        uid = document["uid"]
        if not isinstance(uid, str) or not uid or node_name(uid) != uid:
            raise ValueError(f"{uid!r} cannot be a part of a path")
        start = plain(document)
        start["time"] = float(start["time"])
        held = self._runs.get(uid)
        if held is not None and held.written is None:
            raise ValueError(f"run {uid} has started before")
        if held is not None:
            self._leave(held)  # what somebody wrote under the uid of a run
        self._add(Run(start))

    def _run(self, uid: str) -> Run:
        run = self._runs[uid]
        if run.written is not None:
            raise KeyError(uid)
        return run

    def _add(self, run: Run) -> None:
        self._make_room(run.uid, run.nbytes)
        with self._lock:
            self._runs[run.uid] = run
            self._retention.started(run.uid, self._clock())
            self._count(run)
        self._changes.append(Change(run.uid, None, "run"))

    def _tell(self) -> None:
        changes, self._changes = self._changes, []
        for change in changes:
            self._listeners.tell(change)

    def _descriptor(self, document: Document) -> None:
        run = self._run(document["run_start"])
        descriptor = plain(document)
        uid = descriptor["uid"]
        name = node_name(descriptor.get("name", "primary"))
        stream = run.streams.get(name)
        if stream is None:
            roots = self._roots.of(folder_of(run.metadata["start"]))
            stream = Stream(name, descriptor, self.shares, self._lock, roots)
            with self._growing(run, stream.nbytes + ROUTE_BYTES):
                run.streams[name] = stream
                self._route(run, uid)
        else:
            with self._growing(run, size_of(descriptor) + ROUTE_BYTES):
                stream.update(descriptor)
                self._route(run, uid)
        self._streams[uid] = run, stream
        self._changes.append(Change(run.uid, name, "stream"))

    def _stream_resource(self, document: Document) -> None:
        run = self._run(document["run_start"])
        resource = plain(document)
        nbytes = size_of(resource)
        with self._growing(run, nbytes + ROUTE_BYTES):
            run.document_bytes += nbytes
            self._route(run, resource["uid"])
            self._resources[resource["uid"]] = run, resource

    def _route(self, run: Run, uid: str) -> None:
        run.routes.append(uid)
        run.document_bytes += ROUTE_BYTES

    def _append(self, document: Document, place: Place | None) -> None:
        run, stream = self._streams[document["descriptor"]]
        page = LoggedPage(document, place, patience=PATIENCE_SECONDS)
        fitted = stream.fit(page)
        in_log = stream.logged and place is not None
        if place is not None and in_log and place.nbytes > self.shares.held // 8:
            self._leave_in_log(run, stream)
            keep = False
        else:
            keep = self._room_for_rows(run, lambda: stream.needs(fitted), in_log)
        if run.uid not in self._runs:
            raise NoRoomError(f"run {run.uid} left memory for want of room")
        try:
            if keep:
                stream.put(fitted)  # readers go on meanwhile
            with self._lock:
                if not keep:
                    stream.skip(fitted)
                stream.commit(fitted, place)
        finally:
            with self._lock:
                self._count(run)
        self._changes.append(Change(run.uid, stream.name, "rows"))

    def _room_for_rows(self, run: Run, needs: Callable[[], int], in_log: bool) -> bool:
        """Make room for rows; return False if they have to stay in the log."""
        while True:
            try:
                # Letting rows go changes what is needed: the last block may be gone.
                action = self._retention.room(run.uid, needs() + PLACE_BYTES)
            except NoRoomError:
                if not in_log:
                    raise
                return False
            if action is None:
                return True
            self._give_way(action)

    def _leave_in_log(self, run: Run, stream: Stream) -> None:
        """Let all rows of a stream go, because what follows is too large for memory."""
        with self._lock:
            self._drop(stream, stream.data_bytes)
            self._count(run)
        self._make_room(run.uid, PLACE_BYTES)

    def _drop(self, stream: Stream, nbytes: int) -> None:
        before = stream.in_log
        stream.drop(nbytes)
        self.dropped += stream.in_log - before

    def _stream_datum(self, document: Document) -> None:
        run, stream = self._streams[document["descriptor"]]
        _, resource = self._resources[document["stream_resource"]]
        indices = document["indices"]
        start, stop = int(indices["start"]), int(indices["stop"])
        with self._growing(run, ROUTE_BYTES):
            stream.announce(resource["data_key"], resource, start, stop)
        self._changes.append(Change(run.uid, stream.name, "rows"))

    def _stop(self, document: Document) -> None:
        run = self._run(document["run_start"])
        stop = plain(document)
        nbytes = size_of(stop)
        with self._growing(run, nbytes):
            # A new dict: views hold the old one.
            run.metadata = {**run.metadata, "stop": stop}
            run.document_bytes += nbytes - ROUTE_BYTES * len(run.routes)
            self._forget_routes(run)
            self._retention.finished(run.uid)
        self._changes.append(Change(run.uid, None, "stop"))

    def _forget_routes(self, run: Run) -> None:
        for route in run.routes:
            self._streams.pop(route, None)
            self._resources.pop(route, None)
        run.routes = []

    @contextmanager
    def _growing(self, run: Run, nbytes: int) -> Iterator[None]:
        """Make room for what happens to a run within, and count it."""
        self._make_room(run.uid, nbytes)
        with self._lock:
            yield
            self._count(run)

    def _count(self, run: Run) -> None:
        self._retention.changed(run.uid, run.nbytes, run.droppable)

    def _make_room(self, uid: str, nbytes: int) -> None:
        while (action := self._retention.room(uid, nbytes)) is not None:
            self._give_way(action)

    def _give_way(self, action: Leave | Drop) -> None:
        run = self._runs[action.run]
        with self._lock:
            if isinstance(action, Drop):
                largest = max(
                    (stream for stream in run.streams.values() if stream.logged),
                    key=lambda stream: stream.data_bytes,
                )
                self._drop(largest, action.nbytes)
                self._count(run)
                return
        self._leave(run)
        self.evicted += 1
        if run.running:
            logger.warning(
                "run %s leaves memory while it runs, its further documents are refused here: "
                "the budget of %d bytes is too small for the runs that go on",
                run.uid,
                self.budget,
            )

    def _leave(self, run: Run) -> None:
        with self._lock:
            del self._runs[run.uid]
            self._retention.left(run.uid)
            self._forget_routes(run)
            # Who reads it this moment is served from the log.
            for stream in run.streams.values():
                stream.drop(stream.data_bytes)
        self._changes.append(Change(run.uid, None, "gone"))
