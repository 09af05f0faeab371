"""Viewers of runs that are users of the system; their rights are asked for once in a while."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from p06bs.server.access.answers import Answers
from p06bs.server.access.rights import Rights

logger = logging.getLogger(__name__)

BACKGROUND = 4
"""So many users' answers are renewed at once."""
PATIENCE = 30.0
"""For so many seconds somebody waits for the answers that another one asks for."""
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
    patience : float
        See `PATIENCE`.
    """

    def __init__(
        self,
        rights: Rights,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        limit: int = LIMIT,
        patience: float = PATIENCE,
    ) -> None:
        self._rights = rights
        self._seconds = seconds
        self._clock = clock
        self._patience = patience
        self._answers = Answers(seconds, limit)
        self._settled = threading.Condition()
        self._background = ThreadPoolExecutor(BACKGROUND)

    def describe(self) -> str:
        """Return which rights are in force and for how long an answer counts, for the log."""
        return f"{self._rights.describe()}; an answer counts for {self._seconds:g} s"

    def viewer_for(self, user: str) -> "UserViewer":
        """Return the viewer who is the system's user of that name; unknown ones see nothing."""
        return UserViewer(self, user)

    def visible(self, user: str, folders: Iterable[str]) -> frozenset[str]:
        """Return those of the folders that the user may see; asks where no answer counts.

        Where answers have passed half their time, they are asked for anew in the
        background: whoever comes at least that often never waits. What another thread asks
        for and does not get to know in time, on a file system that hangs, is denied.
        """
        left = frozenset(folders)
        until = time.monotonic() + self._patience
        seen: list[frozenset[str]] = []
        while True:
            with self._settled:
                now = self._clock()
                claim = self._answers.claim(user, left, now)
                if claim.awaited and not claim.ask:
                    if self._settled.wait(until - time.monotonic()):
                        continue
                    logger.warning("rights of %s: no answer in %g s", user, self._patience)
                    return frozenset().union(*seen, claim.visible)
                aging = self._answers.renew(user, left, now)
            if aging:
                self._background.submit(self._renew, user, aging, now)
            seen.append(claim.visible)
            if claim.ask:
                seen.append(self._ask(user, claim.ask, now))
            if not claim.awaited:
                return frozenset().union(*seen) if len(seen) > 1 else seen[0]
            left = claim.awaited

    def is_ready(self, user: str, folders: frozenset[str]) -> bool:
        """Return whether `visible` will answer at once, now and for a tenth of the time yet."""
        with self._settled:
            return self._answers.oldest(user, folders) > self._clock() - 0.9 * self._seconds

    def _renew(self, user: str, folders: frozenset[str], began: float) -> None:
        try:
            self._ask(user, folders, began)
        except Exception:
            # Whoever wants to know next asks again, and gets the error.
            logger.exception("rights of %s on %d folders could not be asked", user, len(folders))

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
