"""Who may see a run: one decision for every route.

`FolderAccess` is the only thing that decides. It answers Tiled's two questions,
which scopes somebody has on a node and by what a listing is filtered, from one
function: `Viewer.may_see` of the run's beamtime folder.

A listing is filtered by a `Visible` query, which trees of runs take in `search`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class Viewer(Protocol):
    """Somebody who looks at runs. Answers are cached for the time that the configuration says."""

    def may_see(self, folder: str | None) -> bool:
        """Return whether runs of this beamtime folder are visible; None is a run without one."""

    def visible(self, folders: Iterable[str]) -> frozenset[str]:
        """Return those of the folders whose runs are visible: `may_see` of many at once."""


class Everybody:
    """The single user of a laptop, or a service: sees all runs."""

    def may_see(self, folder: str | None) -> bool:
        """Return True."""
        return True

    def visible(self, folders: Iterable[str]) -> frozenset[str]:
        """Return all of them."""
        return frozenset(folders)


@dataclass(frozen=True, slots=True)
class Visible:
    """Query: keep the runs that `viewer` may see."""

    viewer: Viewer
