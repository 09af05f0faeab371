"""The runs that are held, and how they give way when others need memory."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter

from p06bs.model.documents import Document
from p06bs.model.positions import corrects
from p06bs.server.sink.held import Change, Held, Listeners, Run
from p06bs.server.sink.retention import Drop, Leave, NoRoomError, Retention
from p06bs.server.sink.shares import Shares
from p06bs.server.sink.stream import Stream

logger = logging.getLogger(__name__)

ROUTE_BYTES = 512
"""What Python keeps about a uid that other documents refer to."""
PLACE_BYTES = 64


class Holding:
    """Hold runs; do what `Retention` says before they grow.

    Parameters
    ----------
    shares : Shares
    clock : callable
        Returns the time of touches, s.

    Attributes
    ----------
    lock : RLock
        Held while what readers look at changes.
    feeding : Lock
        Held by whoever changes something: one at a time.
    runs : dict
        By uid.
    corrections : dict
        Uid of a raw run -> uids of the derived runs that correct its positions.
    version : int
        Another one when a run came or left, or has other documents.
    listeners : Listeners
        Told of changes by `tell`.
    evicted : int
        Number of runs that left memory because others needed it.
    dropped : int
        Number of rows that left memory, and are in the log, while their run stayed.
    """

    def __init__(self, shares: Shares, clock: Callable[[], float]) -> None:
        self.shares = shares
        self.clock = clock
        self.retention = Retention(shares.held, shares.pinned)
        self.lock = threading.RLock()
        self.feeding = threading.Lock()
        self.runs: dict[str, Run] = {}
        self.corrections: dict[str, list[str]] = {}
        self.version = 0
        self._folders: dict[str, str | None] | None = None
        self.listeners = Listeners()
        self.evicted = 0
        self.dropped = 0
        self._routes: dict[str, tuple[Run, Stream | Document]] = {}
        self._changes: list[Change] = []

    def add(self, run: Run, older: bool = False) -> None:
        """Hold a run, which gives way before all others if it is `older`.

        Raises
        ------
        NoRoomError
            If nothing can give way to it.
        """
        self.make_room(run.uid, run.nbytes)
        with self.lock:
            self.runs[run.uid] = run
            if raw := corrects(run.metadata["start"]):
                self.corrections.setdefault(raw, []).append(run.uid)
            self.list_anew()
            self.retention.started(run.uid, self.clock(), older=older)
            self.count(run)
        self.note(Change(run.uid, None, "run"))

    def leave(self, run: Run) -> None:
        """Hold a run no more."""
        with self.lock:
            del self.runs[run.uid]
            raw = corrects(run.metadata["start"])
            others = [uid for uid in self.corrections.pop(raw, ()) if uid != run.uid]
            if others:
                self.corrections[raw] = others
            self.list_anew()
            self.retention.left(run.uid)
            self.forget_routes(run)
            # Who reads it this moment is served from the log.
            for stream in run.streams.values():
                stream.drop(stream.data_bytes)
        self.note(Change(run.uid, None, "gone"))

    def list_anew(self) -> None:
        """Note that a run came or left, or has other documents."""
        self.version += 1
        self._folders = None

    def folders(self) -> dict[str, str | None]:
        """Return the folder of each run, in the order of their start times; it never changes."""
        with self.lock:
            if self._folders is None:
                ordered = sorted(self.runs.values(), key=attrgetter("time"))
                self._folders = {run.uid: run.folder for run in ordered}
            return self._folders

    def note(self, change: Change) -> None:
        """Keep a change until `tell`."""
        self._changes.append(change)

    def tell(self) -> None:
        """Tell the listeners what changed."""
        changes, self._changes = self._changes, []
        for change in changes:
            self.listeners.tell(change)

    def held(self, run: Run, now: float) -> Held:
        """Return what is held of a run."""
        streams = run.streams.values()
        return Held(
            uid=run.uid,
            metadata=run.metadata,
            running=run.running,
            pinned=self.retention.is_pinned(run.uid),
            rows=sum(stream.rows for stream in streams),
            in_log=sum(stream.by_reference for stream in streams),
            external=sum(column.rows for s in streams for column in s.external.values()),
            nbytes=run.nbytes,
            idle=now - self.retention.used(run.uid),
        )

    def route(self, run: Run, uid: str, to: Stream | Document) -> None:
        """Note what other documents mean by a uid: a stream, or a stream resource."""
        self._routes[uid] = run, to
        run.routes.append(uid)
        run.document_bytes += ROUTE_BYTES

    def routed(self, uid: str) -> tuple[Run, Stream | Document]:
        """Return the run and what `route` was told of a uid.

        Raises
        ------
        KeyError
            If it was told nothing, or the run has stopped or left.
        """
        return self._routes[uid]

    def forget_routes(self, run: Run) -> None:
        """Forget the uids of a run, to which no document refers any more."""
        run.document_bytes -= ROUTE_BYTES * len(run.routes)
        for uid in run.routes:
            self._routes.pop(uid, None)
        run.routes = []

    @contextmanager
    def growing(self, run: Run, nbytes: int) -> Iterator[None]:
        """Make room for what happens to a run within, and count it."""
        self.make_room(run.uid, nbytes)
        with self.lock:
            try:
                yield
            finally:
                self.count(run)

    def count(self, run: Run) -> None:
        """Count what a run takes now."""
        self.retention.changed(run.uid, run.nbytes, run.droppable)

    def make_room(self, uid: str, nbytes: int) -> None:
        """Let others give way until a run, held or new, can have so many bytes more.

        Raises
        ------
        NoRoomError
            If nothing can give way to it.
        """
        self._let_go(uid, lambda: nbytes)

    def room_for_rows(self, run: Run, needs: Callable[[], int], in_log: bool) -> bool:
        """Make room for rows; return False if they have to stay in the log.

        Raises
        ------
        NoRoomError
            If they are not `in_log`, and nothing can give way to them.
        """
        try:
            # Letting rows go changes what is needed: the last block may be gone.
            self._let_go(run.uid, lambda: needs() + PLACE_BYTES)
        except NoRoomError:
            if not in_log:
                raise
            return False
        return True

    def leave_in_log(self, run: Run, stream: Stream) -> None:
        """Let all rows of a stream go, because what follows is too large for memory."""
        with self.lock:
            self._drop(stream, stream.data_bytes)
            self.count(run)
        self.make_room(run.uid, PLACE_BYTES)

    def _drop(self, stream: Stream, nbytes: int) -> None:
        before = stream.by_reference
        stream.drop(nbytes)
        self.dropped += stream.by_reference - before

    def _let_go(self, uid: str, needs: Callable[[], int]) -> None:
        while True:
            with self.lock:  # readers touch and pin runs
                action = self.retention.room(uid, needs())
                if action is None:
                    return
                self._give_way(action)

    def _give_way(self, action: Leave | Drop) -> None:
        run = self.runs[action.run]
        if isinstance(action, Drop):
            largest = max(
                (stream for stream in run.streams.values() if stream.logged),
                key=lambda stream: stream.data_bytes,
            )
            self._drop(largest, action.nbytes)
            self.count(run)
            return
        self.leave(run)
        self.evicted += 1
        if run.running:
            logger.warning(
                "run %s leaves memory while it runs, its further documents are refused here: "
                "the budget of %d bytes is too small for the runs that go on",
                run.uid,
                self.shares.budget,
            )
