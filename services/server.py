"""The server: raw and derived runs over HTTP (``python -m p06bs.services.server``).

With a configuration file it is as that says. Without one it is a laptop's: one
user, whose API key comes from the environment (P06BS_API_KEY), else from a file
that is made with mode 0600 where there is none. Keys are never printed.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from p06bs import config
from p06bs.bus.follow import Follower
from p06bs.bus.log import DocumentLog
from p06bs.bus.metrics import Metrics
from p06bs.config import Bus, Server
from p06bs.http_api import KEY_VARIABLE
from p06bs.server.app import Operation, build_app
from p06bs.server.archive.database import UnavailableError
from p06bs.server.archive.status import IngestionFigures
from p06bs.server.files.incoming import sweep_incoming
from p06bs.server.files.roots import roots_of
from p06bs.server.gate import redact
from p06bs.server.health import Check
from p06bs.server.login import principals
from p06bs.server.login.authentication import PAM_LIBRARY
from p06bs.server.login.private import make_secret
from p06bs.server.loopback import LoopbackServer
from p06bs.server.sink.allocation import return_freed_memory
from p06bs.server.sink.feed import Feed, Placed
from p06bs.server.sink.sink import Sink
from p06bs.server.sink.warm import warm_up
from p06bs.services._parts import archive_answers, archive_of, guard_of, login, measures_of, memory
from p06bs.services.up import REFUSED

log = logging.getLogger(__name__)

SHARE = 8
"""The sink may take this part of the machine's memory where nobody says how much."""

READY_RUNS = 5_000
"""With so many of the newest runs, or all that memory holds, the server is ready after a restart.

They take some seconds; older ones come while it serves. WebSockets wait for these, too: who
subscribes to the runs would be told of each as of a new one.
"""


def run(
    file: Annotated[
        Path | None, typer.Argument(help="Configuration (TOML) with [server]; the options win.")
    ] = None,
    *,
    log: Annotated[Path | None, typer.Option(help="Directory of the document logs.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Where the proxy gives documents out.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Loopback address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    budget: Annotated[str | None, typer.Option(help="Memory for runs, like 512MB.")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Holds the API key; made where there is none.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", envvar="P06BS_VERBOSE", help="Log every step and request.")
    ] = False,
) -> None:
    """Serve runs until SIGTERM or SIGINT comes."""
    return_freed_memory()
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    redact.install()
    if not verbose:
        for library in ("tiled", "tiled.server.app", "httpx", "alembic"):
            logging.getLogger(library).setLevel(logging.WARNING)
    given = {"host": host, "port": port, "budget": budget, "api_key_file": api_key_file}
    try:
        bus, section = configured(file, {"log": log, "outbound": address}, given)
        laptop = file is None and api_key_file is None
        key = _key() if laptop else ("", str(section.api_key_file))
        serve(bus, section, *key, verbose=verbose)
    except (principals.DatabaseError, UnavailableError, OSError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    except (ValueError, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name != PAM_LIBRARY:
            raise
        print(error, file=sys.stderr)
        raise typer.Exit(REFUSED) from None


def configured(
    file: Path | None, bus: Mapping[str, Any], server: Mapping[str, Any]
) -> tuple[Bus, Server]:
    """Return the sections of a file, or their defaults, with the given options over them.

    Raises
    ------
    ConfigurationError
        If the file cannot be used or has no [server], or an option is refused.
    """
    found = config.Configuration() if file is None else config.load(file)
    if file is not None and found.server is None:
        raise config.ConfigurationError(f"{file} has no [server]")
    return config.changed(found.bus, bus), config.changed(found.server or Server(), server)


def serve(
    bus: Bus, server: Server, key: str = "", origin: str = "", *, verbose: bool = False
) -> None:
    """Serve until SIGTERM or SIGINT comes.

    Parameters
    ----------
    bus, server : Bus, Server
    key : str
        API key of the single user; from the configured file if empty.
    origin : str
        Where the key comes from, for who starts the server.
    verbose : bool
        Log requests, too.

    Raises
    ------
    DatabaseError, OSError, ValueError
        If what is configured cannot be used; says what.
    """
    door, policy = login(server, key)
    if policy is not None:
        log.info("%s", policy.describe())
        origin = "tokens"
    sink = Sink(server.budget or memory() // SHARE, roots=roots_of(server))
    archive = archive_of(server)
    failed = threading.Event()
    with ExitStack() as stack:
        documents = stack.enter_context(DocumentLog(bus.log))
        sweep_incoming(bus.log)

        def more() -> bool:
            return not sink.filled

        follower = stack.enter_context(Follower(bus.outbound, documents, more=more, arrays=False))

        filled = follower.caught_up.is_set

        def ready_to_read() -> bool:
            return filled() or len(sink) >= READY_RUNS

        ready: dict[str, Check] = {"sink": ready_to_read}
        if archive is not None:
            ready["archive"] = partial(archive_answers, archive)
        gate = build_app(
            sink,
            door,
            policy=policy,
            archive=archive,
            log=documents,
            guard=guard_of(server),
            operation=Operation(
                alive={"feed": lambda: not failed.is_set()},
                ready=ready,
                filled=filled,
                metrics=server.metrics,
                response=server.limits.response,
            ),
        )
        http = LoopbackServer(
            gate,
            server.host,
            server.port,
            ready=lambda url: print(f"server ready: {url} (API key: {origin})", flush=True),
            log_level="debug" if verbose else "warning",
            access_log=verbose,
        )
        signal.signal(signal.SIGTERM, _leave)
        signal.signal(signal.SIGINT, _leave)

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
        raise typer.Exit(1)  # the feed has shown why


def _key() -> tuple[str, str]:
    """Return the API key of a laptop and where it comes from."""
    if key := os.environ.get(KEY_VARIABLE):
        return key, f"${KEY_VARIABLE}"
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "p06bs" / "server.key"
    return make_secret(path, "the API key"), str(path)


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process in good order; while requests are served uvicorn takes the signals first."""
    raise SystemExit(0)


def main() -> None:
    """Start from the command line."""
    typer.run(run)


if __name__ == "__main__":
    main()
