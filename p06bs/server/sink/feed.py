"""The thread that carries documents from a follower to the sink."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from p06bs.bus.follow import Follower
from p06bs.model.documents import Document
from p06bs.server.sink.places import Place
from p06bs.server.sink.sink import DocumentError

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Documents without end, until another thread closes it: a Follower, or `Placed`."""

    def __iter__(self) -> Iterator[tuple[Any, ...]]: ...

    def close(self) -> None: ...


class Placed:
    """The documents of a follower, each with its place in the log of its run.

    Parameters
    ----------
    follower : Follower
        Best one that leaves large arrays in the log (``arrays=False``). Closed with this.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._closing = threading.Event()

    def __iter__(self) -> Iterator[tuple[str, Document, Place, bool]]:
        """Yield ``(name, document, place, older)`` until `close` is called; see `Sink`."""
        path = run = None
        while not self._closing.is_set():
            for entry in self._follower.entries(timeout=60):
                if self._closing.is_set():
                    return
                if path is None or entry.run != run:
                    path, run = self._follower.log.path(entry.run), entry.run
                place = Place(path, entry.offset, entry.nbytes)
                yield entry.name, entry.document, place, self._follower.is_older(entry.run)

    def close(self) -> None:
        """End the iteration and close the follower; from any thread."""
        self._closing.set()
        self._follower.close()


class Feed:
    """Carry documents from `source` to `sink` in a thread of its own.

    A document that the sink refuses is passed over: the first of a kind is
    logged. The sink counts them.

    Parameters
    ----------
    source : Source
        Closed by `close`.
    sink : callable
        Takes what the source yields: name, document, and more of it where the source says
        it; raises DocumentError for what does not fit.
    failed : callable, optional
        Called, from the thread, when the source fails and nothing more will come.
    """

    def __init__(
        self,
        source: Source,
        sink: Callable[..., None],
        failed: Callable[[], None] | None = None,
    ) -> None:
        self.documents = 0
        self._source = source
        self._sink = sink
        self._failed = failed
        self._closing = False
        self._logged: set[str] = set()  # kinds of refusals
        self._thread = threading.Thread(target=self._run, name="sink-feed", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether documents still come."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Close the source and wait for the thread to end."""
        self._closing = True
        self._source.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            for item in self._source:
                self.documents += 1
                try:
                    self._sink(*item)
                except DocumentError as refusal:
                    self._refuse(item[0], refusal)
        except Exception:
            # Whatever ended the source, the server must not go on serving old data as live.
            logger.exception("the documents stopped coming: the source failed")
        else:
            if not self._closing:
                logger.error("the documents stopped coming: the source ended by itself")
        if not self._closing and self._failed is not None:
            self._failed()

    def _refuse(self, name: str, refusal: DocumentError) -> None:
        kind = f"{name}: {type(refusal.__cause__).__name__}"
        if kind not in self._logged:
            self._logged.add(kind)
            logger.warning("%s (further ones like it are only counted)", refusal)
