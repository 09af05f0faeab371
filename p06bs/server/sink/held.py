"""What is known of a run that the sink holds, and who is told of changes."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from p06bs.metadata import folder_of
from p06bs.model.documents import Document
from p06bs.server.sink.stream import Stream
from p06bs.server.sink.values import size_of
from p06bs.server.sink.views import StreamView

logger = logging.getLogger(__name__)

RUN_BYTES = 4096
"""What Python keeps about a run."""


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
    """A run at one moment; its streams are looked at when they are asked for.

    `corrected` returns the run, if there is one, that corrects the positions of the scan.
    """

    metadata: Mapping[str, Any]
    streams: Mapping[str, Callable[[], StreamView]]
    touch: Callable[[], None]
    written: Any = None
    corrected: Callable[[], "RunView | None"] = lambda: None


@dataclass(frozen=True, slots=True)
class Held:
    """What the sink holds of a run.

    Attributes
    ----------
    rows, in_log : int
        Rows of its events, and how many of them are by reference: in the log, not in memory.
    external : int
        Rows that lie in files of detectors.
    nbytes : int
        Bytes that it takes in memory.
    idle : float
        Seconds since somebody read its data, or since it began to be held.
    """

    uid: str
    metadata: Mapping[str, Any]
    running: bool
    pinned: bool
    rows: int
    in_log: int
    external: int
    nbytes: int
    idle: float


class Sized(Protocol):
    """What takes memory."""

    @property
    def nbytes(self) -> int: ...


class Run:
    """A run that is held: its metadata, its streams, and the uids that lead to it.

    One that was written over HTTP has no streams, but is `written`.
    """

    def __init__(self, start: Document, written: Sized | None = None) -> None:
        self.uid: str = start["uid"]
        self.metadata: dict[str, Any] = {"start": start}
        self.folder = folder_of(start)
        self.written = written
        self.streams: dict[str, Stream] = {}
        self.routes: list[str] = []
        self.document_bytes = RUN_BYTES + size_of(start)

    @property
    def time(self) -> float:
        start_time: float = self.metadata["start"]["time"]
        return start_time

    @property
    def running(self) -> bool:
        return "stop" not in self.metadata

    @property
    def nbytes(self) -> int:
        written = 0 if self.written is None else self.written.nbytes
        return self.document_bytes + written + sum(s.nbytes for s in self.streams.values())

    @property
    def droppable(self) -> int:
        return sum(stream.data_bytes for stream in self.streams.values() if stream.logged)


class Listeners:
    """Who wants to know of changes."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()

    def add(self, listener: Listener) -> None:
        """Tell `listener` from now on."""
        self._listeners = (*self._listeners, listener)

    def remove(self, listener: Listener) -> None:
        """Tell `listener` no more."""
        self._listeners = tuple(one for one in self._listeners if one is not listener)

    def tell(self, change: Change) -> None:
        """Tell all; what one of them raises is logged."""
        for listener in self._listeners:
            try:
                listener(change)
            except Exception:
                # The documents must go on for everybody else.
                logger.exception("a listener failed at %s", change)
