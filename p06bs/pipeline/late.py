"""Detector files that are late: ask again, and give up when they do not grow any more.

Decisions only: the time is an argument.
"""

import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

RETRY = 0.1
"""Seconds after which a file is looked at again, by one of the batches that wait for it."""
AT_ONCE = 8
"""Waiting batches that are tried when one of them has found its rows."""


@dataclass(slots=True)
class _File:
    progress: Any
    since: float | None  # when it was found so, while somebody waits
    given_up: bool = False
    waiting: list[Any] = field(default_factory=list)  # a heap
    look_at: float = 0.0


class Late(Generic[Item]):
    """Keep batches that cannot be computed yet, because a file lacks their rows.

    Parameters
    ----------
    deadline : float
        Seconds without any progress of a file after which its missing rows are given up.
        A file that was given up is not waited for again until it has grown.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._files: dict[str, _File] = {}
        self._place: dict[Item, str] = {}
        self._ready: list[Item] = []
        self._final: set[Item] = set()

    @property
    def waiting(self) -> int:
        """Number of batches that wait for a file."""
        return sum(len(file.waiting) for file in self._files.values())

    def held(self) -> list[Item]:
        """Return the batches that wait for a file."""
        return [item for file in self._files.values() for item in file.waiting]

    def places(self, mine: Callable[[Item], bool]) -> list[str]:
        """Return what batches that are `mine` wait for. Any thread."""
        files = list(self._files.items())
        return [place for place, file in files if any(map(mine, list(file.waiting)))]

    def report(self, item: Item, place: str, progress: Any, now: float) -> None:
        """Take a batch back that found rows missing at `place`, which is as far as `progress`."""
        file = self._files.get(place)
        if file is None:
            file = self._files[place] = _File(progress, now)
        elif file.progress != progress:
            file.progress, file.since, file.given_up = progress, now, False
        since = file.since = now if file.since is None else file.since
        self._place[item] = place
        if not file.waiting:
            file.look_at = now + RETRY
        heapq.heappush(file.waiting, item)
        if file.given_up or now - since > self.deadline:
            file.given_up = True
            self._final.update(file.waiting)
            self._ready.extend(file.waiting)
            file.waiting.clear()

    def due(self, now: float) -> list[Item]:
        """Return the batches that are to be tried now."""
        for file in self._files.values():
            if file.waiting and file.look_at <= now:
                file.look_at = now + RETRY
                self._ready.append(heapq.heappop(file.waiting))
        ready, self._ready = self._ready, []
        return ready

    def is_final(self, item: Item) -> bool:
        """Return whether a batch must do without what is missing."""
        return item in self._final

    def done(self, item: Item) -> None:
        """Forget a batch that is done; others that wait for its file are tried."""
        was_final = item in self._final
        self._final.discard(item)
        place = self._place.pop(item, None)
        if place is not None:
            if not was_final:
                self._files[place].since = None  # its rows came: there is progress
            waiting = self._files[place].waiting
            self._ready.extend(heapq.heappop(waiting) for _ in range(min(AT_ONCE, len(waiting))))

    def leave(self, items: set[Item]) -> None:
        """Forget batches that are not to be done any more."""
        for item in items:
            self._final.discard(item)
            self._place.pop(item, None)
        for file in self._files.values():
            if items.intersection(file.waiting):
                file.waiting = [item for item in file.waiting if item not in items]
                heapq.heapify(file.waiting)
        used = set(self._place.values())
        self._files = {place: file for place, file in self._files.items() if place in used}
