"""Viewers of runs that are users of the system; their rights are asked for once in a while."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from p06bs.server.answers import Answers
from p06bs.server.rights import Rights

LIMIT = 500_000
"""So many answers (of a user about a folder) are kept: about 100 MB."""


class Viewers:
    """Ask for the rights of users, and keep the answers for a short time.

    Thread-safe; while one thread asks, others that want to know the same wait for it.

    Parameters
    ----------
    rights : Rights
    seconds : float
        For so long an answer counts, from the moment when it was asked.
    clock : callable
        Returns seconds, monotonically.
    limit : int
        So many answers are kept.
    """

    def __init__(
        self,
        rights: Rights,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        limit: int = LIMIT,
    ) -> None:
        self._rights = rights
        self._seconds = seconds
        self._clock = clock
        self._answers = Answers(seconds, limit)
        self._settled = threading.Condition()

    def describe(self) -> str:
        """Return which rights are in force and for how long an answer counts, for the log."""
        return f"{self._rights.describe()}; an answer counts for {self._seconds:g} s"

    def viewer_for(self, user: str) -> "UserViewer":
        """Return the viewer who is the system's user of that name; unknown ones see nothing."""
        return UserViewer(self, user)

    def visible(self, user: str, folders: Iterable[str]) -> frozenset[str]:
        """Return those of the folders that the user may see; asks where no answer counts."""
        return self._visible(user, frozenset(folders), self._seconds)

    def is_fresh(self, user: str, folders: frozenset[str]) -> bool:
        """Return whether `visible` will answer at once for half the time of an answer yet."""
        with self._settled:
            return self._answers.knows(user, folders, self._clock(), self._seconds / 2)

    def refresh(self, user: str, folders: frozenset[str]) -> None:
        """Ask where answers have reached half their age, so that `visible` need not soon.

        Blocks; call it in a thread before code that may not block calls `visible`.
        """
        self._visible(user, folders, self._seconds / 2)

    def _visible(self, user: str, folders: frozenset[str], age: float) -> frozenset[str]:
        seen: list[frozenset[str]] = []
        while True:
            with self._settled:
                began = self._clock()
                claim = self._answers.claim(user, folders, began, age)
                if claim.awaited and not claim.ask:
                    self._settled.wait()
                    continue
            seen.append(claim.visible)
            if claim.ask:
                seen.append(self._ask(user, claim.ask, began))
            if not claim.awaited:
                return frozenset().union(*seen) if len(seen) > 1 else seen[0]
            folders = claim.awaited

    def _ask(self, user: str, folders: frozenset[str], began: float) -> frozenset[str]:
        visible = None
        try:
            visible = self._rights.visible(user, folders)
            return visible
        finally:
            with self._settled:
                self._answers.settle(user, folders, visible, began)
                self._settled.notify_all()


@dataclass(frozen=True, slots=True)
class UserViewer:
    """A user of the system who looks at runs. Equal to another of the same user."""

    viewers: Viewers
    user: str

    def may_see(self, folder: str | None) -> bool:
        """Return whether runs of this folder are visible; a run without one is to no user."""
        return folder is not None and bool(self.viewers.visible(self.user, (folder,)))

    def visible(self, folders: Iterable[str]) -> frozenset[str]:
        """Return those of the folders that the user may read and enter."""
        return self.viewers.visible(self.user, folders)
