"""Who asks: nodes as a caller of one of our own routes sees them, as in Tiled's routes."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from tiled.server.authentication import (
    get_current_access_tags,
    get_current_principal,
    get_current_scopes,
    get_session_state,
)
from tiled.server.dependencies import get_entry, get_root_tree

from p06bs.server.access.policy import Viewer


@dataclass(frozen=True, slots=True)
class _Caller:
    principal: Any
    access_tags: Any
    scopes: Any
    root: Any
    session: Any


def _caller(
    principal: Annotated[Any, Depends(get_current_principal)],
    access_tags: Annotated[Any, Depends(get_current_access_tags)],
    scopes: Annotated[Any, Depends(get_current_scopes)],
    root: Annotated[Any, Depends(get_root_tree)],
    session: Annotated[Any, Depends(get_session_state)],
) -> _Caller:
    return _Caller(principal, access_tags, scopes, root, session)


Caller = Annotated[_Caller, Depends(_caller)]


async def node_for(
    request: Request, path: str, scope: str, caller: _Caller, families: set[Any] | None = None
) -> Any:
    """Return a node as the caller sees it, if that is of one of the structure families.

    Raises
    ------
    HTTPException
        404 if there is none or it is hidden, 403 if the caller lacks the scope for it.
    """
    return await get_entry(
        path,
        [scope],
        caller.principal,
        caller.access_tags,
        caller.scopes,
        caller.root,
        caller.session,
        request.state.metrics,
        families,
        getattr(request.app.state, "access_policy", None),
    )


def viewer_of(request: Request, caller: _Caller) -> Viewer | None:
    """Return who looks; None where the application has no policy: then all may see all."""
    policy = getattr(request.app.state, "access_policy", None)
    if policy is None:
        return None
    viewer: Viewer | None = policy.viewer(caller.principal, caller.access_tags, caller.scopes)
    return viewer
