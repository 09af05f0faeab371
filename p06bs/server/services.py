"""Who is there: the services that are registered, how they are, and what they measure."""

import asyncio
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Depends, HTTPException, Security
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from tiled.server.authentication import check_scopes, move_api_key

from p06bs.bus.curve import Keys
from p06bs.bus.membership import Membership
from p06bs.bus.questions import ask_all
from p06bs.http_api import SERVICES
from p06bs.server.gate.routes import route
from p06bs.server.services_metrics import merged
from p06bs.server.services_page import services_page

PAGE = "/services"
ROUTES = (route("GET", PAGE), route("GET", rf"{SERVICES}(/metrics)?"))
"""What the gate has to let pass."""

HEALTH_SECONDS = 1.5
"""How long all services together are waited for, when they are asked how they are."""
METRICS_SECONDS = 4.0
"""The same for metrics: Prometheus waits for 10 s."""
SCOPES = ["metrics"]
ALONE = (
    "This server knows no Topology Manager: it was started by hand. "
    "Services are known to a server that p06bs up starts."
)


@dataclass(frozen=True, slots=True)
class Peers:
    """Who else is there, and with which keys they are asked."""

    membership: Membership
    keys: Keys | None = None


class Survey:
    """Ask all services the same; who asks while that goes on gets the same answers.

    Parameters
    ----------
    peers : Peers
    verb : str
    seconds : float
        How long they are waited for.
    """

    def __init__(self, peers: Peers, verb: str, seconds: float) -> None:
        self._peers = peers
        self._verb = verb
        self._seconds = seconds
        self._going: asyncio.Task[list[tuple[dict[str, Any], Any]]] | None = None

    async def take(self) -> list[tuple[dict[str, Any], Any]]:
        """Return each service with its answer, which may be an exception."""
        if self._going is None or self._going.done():
            self._going = asyncio.create_task(self._ask())
        return await asyncio.shield(self._going)

    async def _ask(self) -> list[tuple[dict[str, Any], Any]]:
        services = self._peers.membership.services
        where = {one.name: one.addresses.get("control", "") for one in services}
        ask = partial(ask_all, where, self._verb, seconds=self._seconds, keys=self._peers.keys)
        answers = await to_thread.run_sync(ask)
        return [(asdict(one), answers[one.name]) for one in services]


def services_router(peers: Peers | None, *, metrics: bool = True) -> APIRouter:
    """Return the routes of the services: a list with their health, their metrics, and a page.

    Parameters
    ----------
    peers : Peers or None
        None where nobody is known: then the routes answer 404 and say so.
    metrics : bool
        Whether metrics are served.
    """
    router = APIRouter(tags=["services"])
    key_to_cookie = [Depends(move_api_key)]
    router.add_api_route(PAGE, services_page, dependencies=key_to_cookie, include_in_schema=False)
    if peers is None:
        _alone(router)
        return router
    health = Survey(peers, "health", HEALTH_SECONDS)
    exposition = Survey(peers, "metrics", METRICS_SECONDS)

    @router.get(SERVICES, dependencies=[Security(check_scopes, scopes=SCOPES)])
    async def services() -> dict[str, Any]:
        """Return the registered services, each with its health."""
        return {
            "topology": peers.membership.address,
            "listed": peers.membership.listed,
            "services": [{**one, "health": _health(said)} for one, said in await health.take()],
        }

    if metrics:

        @router.get(f"{SERVICES}/metrics", dependencies=[Security(check_scopes, scopes=SCOPES)])
        async def all_metrics() -> Response:
            """Return the metrics of all services, each with its name as label ``service``."""
            said = await exposition.take()
            content = await to_thread.run_sync(partial(_merged, said))
            return Response(content, media_type=CONTENT_TYPE_LATEST)

    return router


def _alone(router: APIRouter) -> None:
    @router.get(SERVICES, dependencies=[Security(check_scopes, scopes=SCOPES)])
    @router.get(f"{SERVICES}/metrics", dependencies=[Security(check_scopes, scopes=SCOPES)])
    async def alone() -> None:
        """Say that nobody is known."""
        raise HTTPException(404, ALONE)


def _health(said: Any) -> dict[str, Any]:
    match said:
        case {"healthy": bool() as healthy, "failed": list() as failed}:
            return {"healthy": healthy, "failed": [str(one) for one in failed]}
        case Exception():
            return {"healthy": False, "failed": [str(said)]}
    return {"healthy": False, "failed": ["its answer is none"]}


def _merged(said: Iterable[tuple[dict[str, Any], Any]]) -> bytes:
    return merged({one["name"]: text if isinstance(text, str) else None for one, text in said})
