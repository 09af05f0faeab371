"""Who may see a run: one decision for every route.

`FolderAccess` is the only thing that decides. It answers Tiled's two questions,
which scopes somebody has on a node and by what a listing is filtered, from one
function: `Viewer.may_see` of the run's beamtime folder.

A listing is filtered by a `Visible` query, which trees of runs take in `search`.
Tiled walks to every node through the listings above it, so what is below a run
that one may not see is not there either. By convention

- a tree that lists runs has an attribute `viewer`: None, or, where a `Visible`
  query has filtered it, who looks; it may have a method `folders`, which returns
  the frozenset of its runs' folders, for their rights to be asked in time;
- a run has an attribute `folder`: its beamtime folder, or None.

What lists runs goes into a `Root`, which filters all of its trees.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tiled.access_control.access_policies import ALL_ACCESS, NO_ACCESS
from tiled.access_control.protocols import AccessPolicy
from tiled.access_control.scopes import NO_SCOPES, PUBLIC_SCOPES, SINGLE_USER_SCOPES
from tiled.adapters.mapping import MapAdapter

from p06bs.server.access.viewers import UserViewer, Viewers

logger = logging.getLogger(__name__)


class Viewer(Protocol):
    """Somebody who looks at runs: asks for rights, then knows which.

    What was not asked for and nobody knows otherwise is not visible.
    """

    async def ask(self, folders: Iterable[str], anew: bool = False) -> None:
        """Ask for the rights to folders, those asked for before only if `anew`.

        Answers are cached for the time that the configuration says.
        """

    def may_see(self, folder: str | None) -> bool:
        """Return whether runs of this beamtime folder are visible; None is a run without one."""

    def visible(self, folders: Iterable[str]) -> frozenset[str]:
        """Return those of the folders whose runs are visible: `may_see` of many at once."""


@dataclass(frozen=True, slots=True)
class Everybody:
    """The single user of a laptop, or a service: sees all runs."""

    async def ask(self, folders: Iterable[str], anew: bool = False) -> None:
        """Do nothing."""

    def may_see(self, folder: str | None) -> bool:
        """Return True."""
        return True

    def visible(self, folders: Iterable[str]) -> frozenset[str]:
        """Return all of them."""
        return frozenset(folders)


@dataclass(frozen=True, slots=True)
class Restricted:
    """A viewer with a key for some folders only: these, and what is below them by name."""

    viewer: Viewer
    folders: frozenset[str]

    async def ask(self, folders: Iterable[str], anew: bool = False) -> None:
        """Ask for the viewer's rights to those of the folders that the key is for."""
        await self.viewer.ask(self._within(folders), anew)

    def may_see(self, folder: str | None) -> bool:
        """Return whether the key is for this folder, and the viewer may see its runs."""
        return folder is not None and bool(self.visible([folder]))

    def visible(self, folders: Iterable[str]) -> frozenset[str]:
        """Return those of the folders that the key is for and whose runs are visible."""
        return self.viewer.visible(self._within(folders))

    def _within(self, folders: Iterable[str]) -> Iterator[str]:
        tops = tuple(f"{top.rstrip('/')}/" for top in self.folders)
        for folder in folders:
            if f"{folder}/".startswith(tops) and "/../" not in f"{folder}/":
                yield folder


@dataclass(frozen=True, slots=True)
class Visible:
    """Query: keep the runs that `viewer` may see."""

    viewer: Viewer


class Root(MapAdapter):
    """The top of the tree: its children list runs, and are filtered as one.

    Stock Tiled counts and deep-searches children without asking the policy again.

    Attributes
    ----------
    viewer : Viewer or None
        Who looks, where a `Visible` query has filtered the trees.
    """

    viewer: Viewer | None = None

    def search(self, query: Any) -> Any:
        """Return the trees, with those of their runs that somebody may see."""
        if not isinstance(query, Visible):
            return super().search(query)
        root = self.new_variation(mapping=_Filtered(self._mapping, query))
        root.viewer = query.viewer
        return root

    def folders(self) -> frozenset[str]:
        """Return the folders of all runs."""
        trees = [tree.folders() for tree in self._mapping.values() if hasattr(tree, "folders")]
        return frozenset().union(*trees)


class _Filtered(Mapping[str, Any]):
    """Trees, each filtered when it is looked at."""

    def __init__(self, trees: Mapping[str, Any], query: Visible) -> None:
        self._trees = trees
        self._query = query

    def __getitem__(self, key: str) -> Any:
        return self._trees[key].search(self._query)

    def __iter__(self) -> Iterator[str]:
        return iter(self._trees)

    def __len__(self) -> int:
        return len(self._trees)


class FolderAccess(AccessPolicy):
    """Decide by the rights on a run's beamtime folder.

    - A user sees the runs of folders that the system's user of that name may read,
      and reads only: runs are written by services.
    - A service, and the single user of a server without users, see all runs, with the
      scopes of their key.
    - Nobody else sees anything.

    The access tags of an API key, where it has any, are folders: it is for these, and
    what is below them, only. Access tags of nodes are not used.

    Parameters
    ----------
    viewers : Viewers
        Of the system's users.
    providers : collection of str
        Names of the authentication providers whose user names are the system's.
    """

    def __init__(self, viewers: Viewers, providers: Collection[str]) -> None:
        self._viewers = viewers
        self._providers = frozenset(providers)

    def describe(self) -> str:
        """Return which rights are in force, for the log."""
        return self._viewers.describe()

    async def init_node(
        self, principal: Any, authn_access_tags: Any, authn_scopes: Any, access_tags: Any = None
    ) -> tuple[bool, frozenset[str]]:
        """Return the tags of a new node as they are."""
        return False, frozenset(access_tags or ())

    async def filters(
        self, node: Any, principal: Any, authn_access_tags: Any, authn_scopes: Any, scopes: Any
    ) -> Any:
        """Return the query by which a listing is filtered, if it is one of runs.

        Who may see a run may walk to it, a service that only writes as well: each route
        asks for the scopes that it needs, of the key and of `allowed_scopes`.
        """
        viewer = self.viewer(principal, authn_access_tags, authn_scopes)
        if viewer is None:
            return NO_ACCESS
        # What has no `viewer` lists no runs: it is a part of one.
        if getattr(node, "viewer", viewer) == viewer:
            return ALL_ACCESS
        if hasattr(node, "folders"):
            await viewer.ask(node.folders())
        return [Visible(viewer)]

    async def allowed_scopes(
        self, node: Any, principal: Any, authn_access_tags: Any, authn_scopes: Any
    ) -> Any:
        """Return the scopes on a node; none where it is a run that is not visible."""
        viewer = self.viewer(principal, authn_access_tags, authn_scopes)
        if viewer is None:
            return NO_SCOPES
        if hasattr(node, "folder"):
            await viewer.ask({node.folder} - {None})
            if not viewer.may_see(node.folder):
                return NO_SCOPES
        if not isinstance(_who(viewer), UserViewer):
            return frozenset(authn_scopes)
        # Reading data of the root would be an export of everything.
        return ({"read:metadata"} if isinstance(node, Root) else PUBLIC_SCOPES) & set(authn_scopes)

    def viewer(self, principal: Any, authn_access_tags: Any, authn_scopes: Any) -> Viewer | None:
        """Return who looks; None for nobody, who sees nothing."""
        viewer: Viewer | None
        if principal is None:
            # Tiled gives these scopes to the single user's key only, anonymous ones get fewer.
            viewer = Everybody() if set(authn_scopes) >= SINGLE_USER_SCOPES else None
        elif getattr(principal.type, "value", principal.type) == "service":
            viewer = Everybody()
        else:
            viewer = self._user(principal)
        if viewer is None or authn_access_tags is None:
            return viewer
        return Restricted(viewer, frozenset(authn_access_tags))

    def _user(self, principal: Any) -> Viewer | None:
        names = {i.id for i in principal.identities if i.provider in self._providers}
        if len(names) != 1:
            logger.warning(
                "principal %s is %s of %s: one name of a system user is needed, it sees nothing",
                principal.uuid,
                " and ".join(sorted(names)) or "no user",
                ", ".join(sorted(self._providers)),
            )
            return None
        return self._viewers.viewer_for(names.pop())


def _who(viewer: Viewer) -> Viewer:
    return viewer.viewer if isinstance(viewer, Restricted) else viewer
