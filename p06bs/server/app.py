"""The Tiled application: the sink and the archive behind one gate."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tiled.config import MetricsConfig
from tiled.server import app as tiled_app

from p06bs.bus.envelope import is_run_uid
from p06bs.bus.log import DocumentLog
from p06bs.server.access.policy import FolderAccess, Root
from p06bs.server.archive.adapter import ArchiveAdapter
from p06bs.server.archive.archived import Archive
from p06bs.server.gate import errors
from p06bs.server.gate.gate import Gate, Guard
from p06bs.server.gate.handshake import Handshake
from p06bs.server.gate.in_flight import InFlight
from p06bs.server.gate.keys import Keys
from p06bs.server.gate.routes import Routes
from p06bs.server.health import Check, health_routes
from p06bs.server.login import browser
from p06bs.server.login.authentication import Door, single_user
from p06bs.server.services import ROUTES as SERVICES_ROUTES
from p06bs.server.services import Peers, services_router
from p06bs.server.sink.sink import Change, Sink
from p06bs.server.sink_routes import ROUTES as SINK_ROUTES
from p06bs.server.sink_routes import sink_router
from p06bs.server.storing import ROUTES as STORING_ROUTES
from p06bs.server.storing import storing_router
from p06bs.server.tree import expected, exports, serializers
from p06bs.server.tree.arrays import RESPONSE_LIMIT, Sizes
from p06bs.server.tree.compression import compression_registry
from p06bs.server.tree.costs import limit_costs
from p06bs.server.tree.distinct import DistinctMap
from p06bs.server.tree.documents import serialization_registry
from p06bs.server.tree.live import Live
from p06bs.server.tree.maps import Maps
from p06bs.server.tree.runs import runs_adapter
from p06bs.server.tree.serializers import LinesForPages
from p06bs.server.tree.streamed import stream_arrays


@dataclass(frozen=True, slots=True)
class Operation:
    """What those who operate the server see of it, and what it sees of its surroundings.

    Attributes
    ----------
    alive : mapping of str to callable
        By name what must hold as long as the process is of use (``/health``).
    ready : mapping of str to callable
        What must hold to serve well (``/ready``).
    filled : callable
        Says whether the sink has been filled from the logs; WebSockets wait for it.
    metrics : bool
        Prometheus metrics at ``/api/v1/metrics``.
    response : int
        Bytes that one request may read, of any tree and in any format.
    peers : Peers, optional
        The services that it shows.
    """

    alive: Mapping[str, Check] = field(default_factory=dict)
    ready: Mapping[str, Check] = field(default_factory=dict)
    filled: Callable[[], bool] = lambda: True
    metrics: bool = True
    response: int = RESPONSE_LIMIT
    peers: Peers | None = None


GUARD = Guard()
OPERATION = Operation()


class Trees(Root, DistinctMap):
    """The top of the tree, searched as what is in it."""


def build_app(
    sink: Sink,
    login: Door | str,
    *,
    policy: FolderAccess | None = None,
    archive: Archive | None = None,
    log: DocumentLog | None = None,
    guard: Guard = GUARD,
    operation: Operation = OPERATION,
) -> Gate:
    """Return the application that serves the sink as ``/live`` and the offline DB as ``/archive``.

    Everything but the UI, its documentation and the health routes needs a key:
    ``Authorization: Apikey KEY``, or ``?api_key=KEY``.

    Parameters
    ----------
    sink : Sink
        Fed by somebody else, in this process.
    login : Door or str
        Who may come in, and by what; the API key of a single user.
    policy : FolderAccess, optional
        Who may see which run; without it whoever is in sees all, which is for a single user.
    archive : Archive, optional
    log : DocumentLog, optional
        Where the runs of the sink have their documents, and derived runs are stored.
    guard : Guard
        Limits of requests.
    operation : Operation

    Raises
    ------
    ValueError
        If an API key is empty or has other characters than letters and digits.
    """
    door = single_user(login) if isinstance(login, str) else login
    maps = Maps(sink.view, limit=sink.shares.maps)

    def forget(change: Change) -> None:
        if change.kind == "gone":
            maps.forget(change.run)

    sink.subscribe(forget)
    whole = min(sink.shares.whole, operation.response)
    sizes = Sizes(limit=operation.response, whole=whole)
    live = runs_adapter(sink, maps, Live(sink), partial(_is_logged, log), sizes)
    # Below "/", because Tiled runs the background tasks of a tree at "/" twice.
    trees: dict[str, Any] = {"live": live}
    tasks: dict[str, Any] = {}
    if archive is not None:
        archive.sizes = sizes
        trees["archive"] = ArchiveAdapter(archive)
        tasks = {"startup": [archive.startup], "shutdown": [archive.shutdown]}
    registry = serialization_registry(None if log is None else log.directory)
    serializers.register(registry)
    exports.mend(registry)
    limit_costs(registry, min(sink.shares.response, 2 * operation.response))
    exports.limit_exports(registry, whole)
    app = tiled_app.build_app(
        Trees(trees),
        authentication=door.authentication,
        server_settings={
            "expose_raw_assets": False,
            "allow_origins": list(guard.origins),
            "response_bytesize_limit": operation.response,
            "metrics": MetricsConfig(prometheus=operation.metrics),
            **door.server_settings,
        },
        serialization_registry=registry,
        compression_registry=compression_registry(),
        tasks=tasks,
        access_policy=policy,
    )
    keys = Keys(app) if door.server_settings else None
    ready = dict(operation.ready)
    if keys is not None:
        ready["tokens"] = keys.answers
    app.include_router(health_routes(operation.alive, ready))
    app.include_router(sink_router(sink))
    app.include_router(services_router(operation.peers, metrics=operation.metrics))
    routes = [*SINK_ROUTES, *SERVICES_ROUTES]
    if log is not None:
        app.include_router(storing_router(log))
        routes += STORING_ROUTES
    browser.install(app, door)
    stream_arrays(app, operation.response)
    errors.install(app)
    expected.install(app)
    return Gate(
        LinesForPages(Handshake(InFlight(app, keys), operation.filled)),
        guard,
        Routes(routes),
        keys,
    )


def _is_logged(log: DocumentLog | None, uid: str) -> bool:
    """Return whether there is a run of that uid, which nobody may write."""
    return log is not None and is_run_uid(uid) and log.path(uid).exists()
