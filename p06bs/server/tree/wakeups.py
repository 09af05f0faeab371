"""From the thread that feeds the sink to the subscribers in the event loop."""

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator

from p06bs.server.sink.sink import Change, Sink

COALESCE_SECONDS = 0.015
"""Subscribers are woken at most so often; the first change after a pause wakes at once."""

LOOK_SECONDS = 1.0
"""Interval at which every subscriber looks by itself, above all at what its user may see."""

Topic = tuple[str, str] | None
"""A stream of a run, "" being the run itself; None is the list of runs."""


class Wakeups:
    """Wake what waits for a run, a stream, or the list of runs.

    The thread that feeds only notes what changed: a set grows by what somebody
    waits for, and the event loop is called once until it has answered.

    Parameters
    ----------
    sink : Sink
    """

    def __init__(self, sink: Sink) -> None:
        self._waiting: defaultdict[Topic, set[asyncio.Event]] = defaultdict(set)
        self._lock = threading.Lock()
        self._changed: set[Topic] = set()
        self._called = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken_at = 0.0
        self._looking: asyncio.TimerHandle | None = None
        sink.subscribe(self.note)

    @contextlib.contextmanager
    def waiting(self, topic: Topic) -> Iterator[asyncio.Event]:
        """Give an event that is set when the topic changes; called in the event loop."""
        self._loop = asyncio.get_running_loop()
        event = asyncio.Event()
        self._waiting[topic].add(event)
        if self._looking is None:
            self._looking = self._loop.call_later(LOOK_SECONDS, self._look)
        try:
            yield event
        finally:
            self._waiting[topic].discard(event)
            if not self._waiting[topic]:
                del self._waiting[topic]

    def note(self, change: Change) -> None:
        """Note a change; from any thread."""
        run, stream = change.run, change.stream or ""
        topics: list[Topic] = [(run, stream)] if change.kind == "rows" else []
        if change.kind == "stream":
            topics = [(run, ""), (run, stream)]
        elif change.kind != "rows":
            # Everything below the run; few changes, so all that wait are asked.
            topics = [None, *(t for t in list(self._waiting) if t is not None and t[0] == run)]
        wanted = [topic for topic in topics if topic in self._waiting]
        loop = self._loop
        if not wanted or loop is None:
            return
        with self._lock:
            self._changed.update(wanted)
            called, self._called = self._called, True
        if not called:
            loop.call_soon_threadsafe(self._answer, loop)

    def _answer(self, loop: asyncio.AbstractEventLoop) -> None:
        pause = self._woken_at + COALESCE_SECONDS - loop.time()
        if pause > 0:
            loop.call_later(pause, self._wake, loop)
        else:
            self._wake(loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        self._woken_at = loop.time()
        with self._lock:
            changed, self._changed = self._changed, set()
            self._called = False
        for topic in changed:
            for event in self._waiting.get(topic, ()):
                event.set()

    def _look(self) -> None:
        self._looking = None
        for events in self._waiting.values():
            for event in events:
                event.set()
        if self._waiting and self._loop is not None:
            self._looking = self._loop.call_later(LOOK_SECONDS, self._look)
