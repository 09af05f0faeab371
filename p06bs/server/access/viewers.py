"""Viewers of runs that are users of the system; their rights are asked for once in a while."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import anyio

from p06bs.server.access.answers import Answers
from p06bs.server.access.rights import Rights

logger = logging.getLogger(__name__)

ASKING = 8
"""So many threads ask for rights at once; Tiled's others stay free to read data."""
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
        self._asking = anyio.CapacityLimiter(ASKING)

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

    def known(self, user: str, folders: frozenset[str]) -> frozenset[str]:
        """Return those of the folders that the user is known to see; asks nobody."""
        with self._settled:
            return self._answers.known(user, folders, self._clock())[0]

    async def ask(self, user: str, folders: frozenset[str]) -> frozenset[str]:
        """Return what `visible` does; what is not known is asked for in a thread."""
        with self._settled:
            now = self._clock()
            seen, unknown = self._answers.known(user, folders, now)
            aging = frozenset() if unknown else self._answers.renew(user, folders, now)
        if aging:
            self._background.submit(self._renew, user, aging, now)
        if not unknown:
            return seen
        return await anyio.to_thread.run_sync(self.visible, user, folders, limiter=self._asking)

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


class UserViewer:
    """A user of the system who looks at runs. Equal to another of the same user.

    What it has asked for it knows from then on, however long the answer took; it is made
    for one request, or asks anew. Of other folders it sees what all know now.
    """

    def __init__(self, viewers: Viewers, user: str) -> None:
        self._viewers = viewers
        self._user = user
        self._asked: frozenset[str] = frozenset()
        self._seen: frozenset[str] = frozenset()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UserViewer) and self._who == other._who

    def __hash__(self) -> int:
        return hash(self._who)

    @property
    def _who(self) -> tuple[Viewers, str]:
        return self._viewers, self._user

    async def ask(self, folders: Iterable[str], anew: bool = False) -> None:
        """Ask whether the user may read and enter these, if it has not asked yet or `anew`."""
        wanted = frozenset(folders)
        if not anew:
            wanted -= self._asked
        if wanted:
            seen = await self._viewers.ask(self._user, wanted)
            self._seen = self._seen - wanted | seen if self._asked else seen
            self._asked |= wanted

    def may_see(self, folder: str | None) -> bool:
        """Return whether runs of this folder are visible; a run without one is to no user."""
        return folder is not None and bool(self.visible((folder,)))

    def visible(self, folders: Iterable[str]) -> frozenset[str]:
        """Return those of the folders that the user may read and enter."""
        wanted = frozenset(folders)
        rest = wanted - self._asked
        seen = wanted & self._seen
        return seen | self._viewers.known(self._user, rest) if rest else seen
