"""The sink: the newest runs, raw and derived, in memory under a byte budget."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from p06bs.model.documents import Document
from p06bs.model.positions import is_valid_correction
from p06bs.server.files.roots import FileRoots
from p06bs.server.sink.held import Change, Held, Listener, Run, RunView, Sized
from p06bs.server.sink.holding import Holding
from p06bs.server.sink.places import Place
from p06bs.server.sink.router import DocumentError, Router
from p06bs.server.sink.shares import Shares
from p06bs.server.sink.stream import Stream
from p06bs.server.sink.views import StreamView

__all__ = ["Change", "DocumentError", "Held", "Listener", "Sink"]

EVERYWHERE = FileRoots()


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
    """

    def __init__(
        self,
        budget: int,
        clock: Callable[[], float] = time.monotonic,
        roots: FileRoots = EVERYWHERE,
    ) -> None:
        self.shares = Shares(budget)
        self._holding = Holding(self.shares, clock)
        self._router = Router(self._holding, roots)

    @property
    def refused(self) -> Counter[str]:
        """Number of documents that were refused, by kind of document and of error."""
        return self._router.refused

    @property
    def evicted(self) -> int:
        """Number of runs that left memory because others needed it."""
        return self._holding.evicted

    @property
    def dropped(self) -> int:
        """Number of rows that left memory, and are in the log, while their run stayed."""
        return self._holding.dropped

    @property
    def budget(self) -> int:
        """Bytes that the sink may take, what is in flight included."""
        return self.shares.budget

    @property
    def nbytes(self) -> int:
        """Bytes that the runs hold."""
        return self._holding.retention.nbytes

    @property
    def filled(self) -> bool:
        """Whether older runs had better not come: newer ones would have to give way to them."""
        return self.evicted > 0 or self.nbytes >= self.shares.held // 16 * 15

    def __call__(
        self, name: str, document: Document, place: Place | None = None, older: bool = False
    ) -> None:
        """Take one document.

        Parameters
        ----------
        place : Place, optional
            Where it lies in the log of its run. Rows without one cannot be let go while
            the run goes on.
        older : bool
            Whether a run that begins gives way before those that are held, until it is read.

        Raises
        ------
        DocumentError
            If it does not fit what came before, or names what never came.
        """
        with self._holding.feeding:
            try:
                self._router.put(name, document, place, older)
            finally:
                self._holding.tell()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after each change; return what ends that. From any thread.

        It is called in the thread that feeds, when the change can be seen, with no
        lock that readers need: it may look at the sink, should return soon, and must
        not feed. What it raises is logged.
        """
        with self._holding.lock:
            self._holding.listeners.add(listener)

        def unsubscribe() -> None:
            with self._holding.lock:
                self._holding.listeners.remove(listener)

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
        with self._holding.feeding:
            if run.uid in self._holding.runs:
                raise KeyError(run.uid)
            try:
                self._holding.add(run)
                if finished:
                    with self._holding.lock:
                        self._holding.retention.finished(run.uid)
            finally:
                self._holding.tell()

    @contextmanager
    def writing(
        self, written: Sized, uid: str, stream: str | None
    ) -> Iterator[tuple[Run, Callable[[int], None]]]:
        """Change what was written: nobody else changes it meanwhile; tell of it after.

        Gives the run, and what makes room: to be called before so many bytes more are taken.
        Readers go on, and see what is replaced as a whole: copies may take long.

        Raises
        ------
        KeyError
            If it is not held any more.
        NoRoomError
            If nothing can give way to it.
        """
        with self._holding.feeding:
            run = self._holding.runs[uid]
            if run.written is not written:
                raise KeyError(uid)
            try:
                yield run, partial(self._holding.make_room, uid)
                self._holding.note(Change(uid, stream, "stop" if stream is None else "stream"))
            finally:
                with self._holding.lock:
                    self._holding.count(run)
                    if stream is None:
                        self._holding.list_anew()
                    if not run.running:
                        self._holding.retention.finished(uid)
                self._holding.tell()

    def let_go(self, written: Sized, uid: str) -> None:
        """Forget what was written.

        Raises
        ------
        KeyError
            If it is not held any more.
        """
        with self._holding.feeding:
            run = self._holding.runs[uid]
            if run.written is not written:
                raise KeyError(uid)
            self._holding.leave(run)
            self._holding.tell()

    def runs(self) -> list[str]:
        """Return the uids of the runs, in the order of their start times."""
        return list(self._holding.folders())

    def folders(self) -> Mapping[str, str | None]:
        """Return the beamtime folder of each run, in the order of their start times."""
        return self._holding.folders()

    def documents(self, uid: str) -> tuple[Mapping[str, Any], Any]:
        """Return the start and stop documents of a run, and what was `written` under its uid.

        Raises
        ------
        KeyError
            If the run is not in the sink (any more).
        """
        run = self._holding.runs[uid]
        return run.metadata, run.written

    @property
    def version(self) -> int:
        """Another number when a run came or left, or has other documents."""
        return self._holding.version

    def __len__(self) -> int:
        return len(self._holding.runs)

    def view(self, uid: str) -> RunView:
        """Return a run as it is now.

        Raises
        ------
        KeyError
            If the run is not in the sink (any more).
        """
        with self._holding.lock:
            run = self._holding.runs[uid]
            streams = {name: self._viewer(stream) for name, stream in run.streams.items()}
            raw = str(run.metadata["start"].get("original_run_uid", uid))
            touch, corrected = partial(self.touch, uid), partial(self.corrected, raw)
            return RunView(run.metadata, streams, touch, run.written, corrected)

    def corrected(self, raw: str) -> RunView | None:
        """Return the newest derived run that corrects the positions of a raw run; None without one.

        See `is_valid_correction`.
        """
        with self._holding.lock:
            known = self._holding.corrections.get(raw, ())
            found = [self.view(uid) for uid in reversed(known)]  # of equal times the last one
        valid = [
            run
            for run in found
            if is_valid_correction(run.metadata["start"], run.metadata.get("stop"))
        ]
        return max(valid, key=lambda run: run.metadata["start"]["time"], default=None)

    def touch(self, uid: str) -> None:
        """Note that somebody reads data of the run."""
        with self._holding.lock:
            self._holding.retention.touched(uid, self._holding.clock())

    def pin(self, uid: str) -> None:
        """Keep a run in memory until it is unpinned, or the process ends.

        Raises
        ------
        KeyError
            If the run is not in the sink.
        PinError
            If pinned runs would take more than their share.
        """
        with self._holding.lock:
            self._holding.retention.pin(uid)

    def unpin(self, uid: str) -> None:
        """Let a run give way again when its turn comes.

        Raises
        ------
        KeyError
            If the run is not in the sink.
        """
        with self._holding.lock:
            self._holding.retention.unpin(uid)

    def held(self) -> list[Held]:
        """Return what is held of each run, in the order of their start times."""
        with self._holding.lock:
            now = self._holding.clock()
            return [self._holding.held(self._holding.runs[uid], now) for uid in self.runs()]

    def _viewer(self, stream: Stream) -> Callable[[], StreamView]:
        def view() -> StreamView:
            with self._holding.lock:
                return stream.view()

        return view
