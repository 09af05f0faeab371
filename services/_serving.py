"""Serve: the sink fed from the bus, the offline DB, and the gate before both."""

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from p06bs.bus.curve import Keys
from p06bs.bus.follow import Follower
from p06bs.bus.log import DocumentLog
from p06bs.bus.membership import Membership
from p06bs.bus.metrics import Metrics
from p06bs.bus.sockets import Address
from p06bs.config import Server
from p06bs.server.app import Operation, build_app
from p06bs.server.archive.status import IngestionFigures
from p06bs.server.files.incoming import sweep_incoming
from p06bs.server.files.roots import roots_of
from p06bs.server.health import Check
from p06bs.server.loopback import LoopbackServer
from p06bs.server.services import Peers
from p06bs.server.sink.feed import Feed, Placed
from p06bs.server.sink.sink import Sink
from p06bs.server.sink.warm import warm_up
from p06bs.services._parts import archive_answers, archive_of, guard_of, login, measures_of, memory

logger = logging.getLogger(__name__)

SHARE = 8
"""The sink may take this part of the machine's memory where nobody says how much."""

READY_RUNS = 5_000
"""With so many of the newest runs, or all that memory holds, the server is ready after a restart.

They take some seconds; older ones come while it serves. WebSockets wait for these, too: who
subscribes to the runs would be told of each as of a new one.
"""


def serve(
    outbound: Address,
    documents: Path,
    server: Server,
    key: str = "",
    *,
    ready: Callable[[str], None],
    verbose: bool = False,
    keys: Keys | None = None,
    peers: Membership | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT comes; before it serves, they are its caller's.

    Parameters
    ----------
    outbound : str or callable
        Where the proxy gives documents.
    documents : Path
        Directory of the document logs.
    server : Server
    key : str
        API key of the single user; from the configured file if empty.
    ready : callable
        Takes the URL once it serves.
    verbose : bool
        Log requests, too.
    keys : Keys, optional
        With which to connect to the proxy, and to other services.
    peers : Membership, optional
        The services that it shows.

    Raises
    ------
    DatabaseError, OSError, ValueError
        If what is configured cannot be used; says what.
    """
    door, policy = login(server, key)
    if policy is not None:
        logger.info("%s", policy.describe())
    sink = Sink(server.budget or memory() // SHARE, roots=roots_of(server))
    archive = archive_of(server)
    failed = threading.Event()
    with ExitStack() as stack:
        log = stack.enter_context(DocumentLog(documents))
        sweep_incoming(documents)

        def more() -> bool:
            return not sink.filled

        follower = stack.enter_context(Follower(outbound, log, more=more, arrays=False, keys=keys))

        filled = follower.caught_up.is_set

        def ready_to_read() -> bool:
            return filled() or len(sink) >= READY_RUNS

        checks: dict[str, Check] = {"sink": ready_to_read}
        if archive is not None:
            checks["archive"] = partial(archive_answers, archive)
        gate = build_app(
            sink,
            door,
            policy=policy,
            archive=archive,
            log=log,
            guard=guard_of(server),
            operation=Operation(
                alive={"feed": lambda: not failed.is_set()},
                ready=checks,
                filled=filled,
                metrics=server.metrics,
                response=server.limits.response,
                peers=None if peers is None else Peers(peers, keys),
            ),
        )
        http = LoopbackServer(
            gate,
            server.host,
            server.port,
            ready=ready,
            log_level="debug" if verbose else "warning",
            access_log=verbose,
        )

        def stop() -> None:
            failed.set()
            http.stop()

        warm_up()
        feed = Feed(Placed(follower), sink, failed=stop)
        stack.callback(feed.close)
        measures = measures_of(sink, feed, gate)
        if server.archive is not None:
            measures += IngestionFigures(server.archive.storage).measures()
        stack.callback(Metrics(measures).close)
        http.serve_forever()
    if failed.is_set():
        raise SystemExit(1)  # the feed has shown why
