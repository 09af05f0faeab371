"""Which runs give way when the server's memory is full, and how."""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leave:
    """The run is to leave memory."""

    run: str


@dataclass(frozen=True, slots=True)
class Drop:
    """The run is to let its oldest rows go, of about so many bytes; the log has them."""

    run: str
    nbytes: int


class NoRoomError(Exception):
    """Nothing can give way any more."""


class PinError(ValueError):
    """A run cannot be pinned; says why."""


@dataclass(slots=True)
class _Held:
    used: float
    nbytes: int = 0
    droppable: int = 0
    finished: bool = False


class Retention:
    """Decide what gives way so that all runs together never hold more than `limit` bytes.

    The run that nobody has touched for longest gives way first. One that is finished
    leaves; one that is running lets its oldest rows go, as long as it has rows that can
    be read from its log, and stays. So a running run that somebody watches outlives idle
    finished ones, and one that alone is larger than the limit keeps its newest rows.
    A pinned run never leaves; it lets rows go only while it runs, and when nothing else
    can give way or pinned runs exceed their share. Only when all this is not enough do
    running runs leave, those whose rows lie in no log included.

    No clock, no lock and no I/O: the caller says what happened and when, and does what it
    is told; one thread at a time.
    Beginning is a touch; growing is none.

    Parameters
    ----------
    limit : int
        Bytes that all runs together may hold.
    pinned_limit : int
        Bytes that pinned runs together may hold for another one to be pinned.
    """

    def __init__(self, limit: int, pinned_limit: int) -> None:
        self.limit = limit
        self.pinned_limit = pinned_limit
        self.nbytes = 0
        self.pinned_bytes = 0
        # The longest untouched first. A plain dict is slow to find its first item where many
        # before it went.
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._pinned: set[str] = set()

    def started(self, run: str, now: float, *, older: bool = False) -> None:
        """Note that a run begins to be held: as touched now, or before all others if `older`."""
        self._held[run] = _Held(now)
        if older:
            self._held.move_to_end(run, last=False)

    def changed(self, run: str, nbytes: int, droppable: int) -> None:
        """Note how many bytes a run holds now, and how many of them are rows that it may drop."""
        held = self._held[run]
        self._count(run, nbytes - held.nbytes)
        held.nbytes, held.droppable = nbytes, droppable

    def touched(self, run: str, now: float) -> None:
        """Note that somebody read data of a run."""
        held = self._held.get(run)
        if held is not None:
            held.used = now
            self._held.move_to_end(run)

    def finished(self, run: str) -> None:
        """Note that a run is complete."""
        self._held[run].finished = True

    def left(self, run: str) -> None:
        """Note that a run is not held any more."""
        held = self._held.pop(run)
        self._count(run, -held.nbytes)
        self._pinned.discard(run)

    def pin(self, run: str) -> None:
        """Keep a run until it is unpinned.

        Raises
        ------
        KeyError
            If it is not held.
        PinError
            If pinned runs would hold more than their share.
        """
        held = self._held[run]
        if run in self._pinned:
            return
        if self.pinned_bytes + held.nbytes > self.pinned_limit:
            raise PinError(
                f"pinned runs would hold {self.pinned_bytes + held.nbytes} bytes, they may hold "
                f"{self.pinned_limit}: unpin another run, or give the server a larger budget"
            )
        self._pinned.add(run)
        self.pinned_bytes += held.nbytes

    def unpin(self, run: str) -> None:
        """Let a run go again when its turn comes.

        Raises
        ------
        KeyError
            If it is not held.
        """
        held = self._held[run]
        if run in self._pinned:
            self._pinned.discard(run)
            self.pinned_bytes -= held.nbytes

    def used(self, run: str) -> float:
        """Return when somebody touched a run last."""
        return self._held[run].used

    def is_pinned(self, run: str) -> bool:
        """Return whether a run is pinned."""
        return run in self._pinned

    def room(self, run: str, nbytes: int) -> Leave | Drop | None:
        """Return what is to be done next for `run`, new or held, to hold `nbytes` more.

        Ask again when it is done and `changed` or `left` have been told; None: there is room.

        Raises
        ------
        NoRoomError
            If not enough can give way: then nothing has to.
        """
        grown = self._held.get(run)
        if grown is not None and run in self._pinned and grown.droppable:
            more = self.pinned_bytes + nbytes - self.pinned_limit
            if more > 0:
                return self._drop(run, more)
        wanted = self.nbytes + nbytes - self.limit
        if wanted <= 0:
            return None
        if nbytes > self.limit - self._staying(run):
            raise NoRoomError(self._full(run, nbytes))
        for name, held in self._held.items():
            if name in self._pinned:
                continue
            if held.finished and name != run:
                return Leave(name)
            if not held.finished and held.droppable:
                return self._drop(name, wanted)
        for name, held in self._held.items():
            if name in self._pinned and not held.finished and held.droppable:
                return self._drop(name, wanted)
        for name in self._held:
            if name not in self._pinned and name != run:
                return Leave(name)
        raise NoRoomError(self._full(run, nbytes))

    def _staying(self, run: str) -> int:
        """Return how many bytes are there whatever gives way to `run`."""
        staying = [self._held[name] for name in self._pinned | {run} if name in self._held]
        return sum(held.nbytes - (0 if held.finished else held.droppable) for held in staying)

    def _full(self, run: str, nbytes: int) -> str:
        return (
            f"{nbytes} bytes more for run {run}: runs hold {self.nbytes} of {self.limit} bytes, "
            f"and not so many can give way"
        )

    def _drop(self, run: str, wanted: int) -> Drop:
        """Let go of some more than is wanted, so that it does not happen at every page."""
        return Drop(run, max(wanted, self.limit // 64))

    def _count(self, run: str, news: int) -> None:
        self.nbytes += news
        if run in self._pinned:
            self.pinned_bytes += news

    def __contains__(self, run: object) -> bool:
        return run in self._held

    def __len__(self) -> int:
        return len(self._held)
