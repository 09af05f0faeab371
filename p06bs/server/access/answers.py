"""Answers to who may see what, and until when they count: decides without asking anybody."""

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

LISTINGS = 4
"""For so many sets of many folders, the last asked for, the result is kept as a whole."""


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
    # What was found for many folders at once: those visible, and when the oldest was asked.
    listings: dict[frozenset[str], tuple[frozenset[str], float]] = field(default_factory=dict)


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
    many : int
        The result for so many folders is kept as a whole, for the last few such sets.
    """

    def __init__(self, seconds: float, limit: int, many: int = 100) -> None:
        self.seconds = seconds
        self._limit = limit
        self._many = many
        self._users: OrderedDict[str, _User] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Return the number of answers kept."""
        return self._count

    def claim(self, user: str, folders: frozenset[str], now: float) -> Claim:
        """Return what is known; the rest is the caller's to ask, or awaited."""
        if not folders:
            return Claim(folders)
        about = self._users.setdefault(user, _User())
        self._users.move_to_end(user)
        seen, unknown = self._known(about, folders, now)
        awaited = unknown & about.asking
        about.asking |= unknown
        return Claim(seen, unknown - awaited, awaited)

    def known(
        self, user: str, folders: frozenset[str], now: float
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Return the folders that are known to be visible, and those that nothing is known of."""
        about = self._users.get(user)
        return (frozenset(), folders) if about is None else self._known(about, folders, now)

    def _known(
        self, about: _User, folders: frozenset[str], now: float
    ) -> tuple[frozenset[str], frozenset[str]]:
        since = now - self.seconds
        listing = about.listings.get(folders)
        if listing is not None and listing[1] > since:
            return listing[0], frozenset()
        found = {folder: about.answers.get(folder) for folder in folders}
        fresh = {f: answer for f, answer in found.items() if answer and answer[1] > since}
        seen = frozenset(folder for folder, answer in fresh.items() if answer[0])
        unknown = folders.difference(fresh)
        if not unknown and len(folders) >= self._many:
            if len(about.listings) >= LISTINGS:
                del about.listings[next(iter(about.listings))]
            about.listings[folders] = seen, min(asked for _, asked in fresh.values())
        return seen, unknown

    def renew(self, user: str, folders: frozenset[str], now: float) -> frozenset[str]:
        """Return the folders that the caller has to ask for before their answers expire.

        These are the ones past half their time that nobody asks for; `settle` them.
        """
        about = self._users.get(user)
        if about is None or self.oldest(user, folders) > now - self.seconds / 2:
            return frozenset()
        since = now - self.seconds / 2
        aging = {f for f in folders if f in about.answers and about.answers[f][1] <= since}
        aging -= about.asking
        about.asking |= aging
        return frozenset(aging)

    def oldest(self, user: str, folders: frozenset[str]) -> float:
        """Return when the oldest answer to these was asked; minus infinity if one is missing."""
        if not folders:
            return math.inf
        about = self._users.get(user)
        if about is None:
            return -math.inf
        if folders in about.listings:
            return about.listings[folders][1]
        missing = False, -math.inf
        return min(about.answers.get(folder, missing)[1] for folder in folders)

    def settle(
        self, user: str, asked: frozenset[str], visible: Iterable[str] | None, began: float
    ) -> None:
        """Note the answers to what `claim` or `renew` told to ask; None if there were none.

        `began` is the time just before asking.
        """
        about = self._users[user]
        about.asking -= asked
        if visible is None:
            return
        about.listings.clear()
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
            about.listings.clear()
            if not about.asking:
                del self._users[name]
