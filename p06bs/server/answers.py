"""Answers to who may see what, and until when they count: decides without asking anybody."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Claim:
    """What is known of some folders, and what is to be done about the rest.

    Attributes
    ----------
    visible : frozenset of str
        Folders that are known to be visible.
    ask : frozenset of str
        Folders that the caller has to ask for, and `Answers.settle` then.
    awaited : frozenset of str
        Folders that somebody else is asking for.
    """

    visible: frozenset[str]
    ask: frozenset[str] = frozenset()
    awaited: frozenset[str] = frozenset()


@dataclass(slots=True)
class _User:
    """Answers for one user: (visible, time when it was asked) by folder."""

    answers: dict[str, tuple[bool, float]] = field(default_factory=dict)
    asking: set[str] = field(default_factory=set)
    # Of many folders at once: the folders, those visible, and the oldest answer's time.
    latest: tuple[frozenset[str], frozenset[str], float] | None = None


class Answers:
    """Keep answers for some users and folders, for some time.

    An answer counts from the moment when it was *asked*: rights that were revoked
    later than that are denied at most `seconds` after they were revoked.

    Parameters
    ----------
    seconds : float
        For so long an answer counts.
    limit : int
        So many answers are kept; beyond, those of the users leave who came longest ago.
    """

    def __init__(self, seconds: float, limit: int) -> None:
        self.seconds = seconds
        self._limit = limit
        self._users: OrderedDict[str, _User] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Return the number of answers kept."""
        return self._count

    def claim(
        self, user: str, folders: frozenset[str], now: float, age: float | None = None
    ) -> Claim:
        """Return what is known; the rest is the caller's to ask, or awaited.

        `age`, at most `seconds`, is how old answers may be (seconds if absent).
        """
        if not folders:
            return Claim(folders)
        about = self._users.setdefault(user, _User())
        self._users.move_to_end(user)
        since = now - (self.seconds if age is None else min(age, self.seconds))
        if about.latest is not None:
            known, visible, oldest = about.latest
            if oldest > since and (known is folders or known == folders):
                return Claim(visible)
        found = {folder: about.answers.get(folder) for folder in folders}
        fresh = {f: answer for f, answer in found.items() if answer and answer[1] > since}
        seen = frozenset(folder for folder, answer in fresh.items() if answer[0])
        unknown = folders - fresh.keys()
        if not unknown:
            about.latest = folders, seen, min(asked for _, asked in fresh.values())
        awaited = unknown & about.asking
        about.asking |= unknown
        return Claim(seen, unknown - awaited, awaited)

    def knows(self, user: str, folders: frozenset[str], now: float, age: float) -> bool:
        """Return whether there are answers for all of the folders, younger than `age`."""
        about = self._users.get(user)
        if about is None or not folders:
            return not folders
        if about.latest is not None and (about.latest[0] is folders or about.latest[0] == folders):
            return about.latest[2] > now - age
        found = map(about.answers.get, folders)
        return all(answer is not None and answer[1] > now - age for answer in found)

    def settle(
        self, user: str, asked: frozenset[str], visible: Iterable[str] | None, began: float
    ) -> None:
        """Note the answers to what `claim` told to ask; None where there was no answer.

        `began` is the time just before asking.
        """
        about = self._users[user]
        about.asking -= asked
        if visible is None:
            return
        about.latest = None
        yes, no = (True, began), (False, began)
        seen = frozenset(visible)
        before = len(about.answers)
        about.answers.update((folder, yes if folder in seen else no) for folder in asked)
        self._count += len(about.answers) - before
        self._forget()

    def _forget(self) -> None:
        """Drop answers until no more are kept than the limit allows."""
        for name, about in list(self._users.items()):
            if self._count <= self._limit:
                return
            self._count -= len(about.answers)
            about.answers.clear()
            about.latest = None
            if not about.asking:
                del self._users[name]
