"""The server: raw and derived runs over HTTP while they run (``python -m p06bs.services.server``).

The API key comes from the environment (P06BS_API_KEY), else from a file that is
made with mode 0600 where there is none. It is never printed.
"""

import logging
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from p06bs.bus.follow import Follower
from p06bs.bus.log import DocumentLog
from p06bs.config import parse_bytes
from p06bs.server.allocation import return_freed_memory
from p06bs.server.app import LoopbackServer, build_app, check_key, key_of
from p06bs.server.feed import Feed, Placed
from p06bs.server.sink import Sink
from p06bs.server.warm import warm_up

KEY_VARIABLE = "P06BS_API_KEY"


def run(
    *,
    log: Annotated[Path, typer.Option(help="Directory of the document logs.")],
    address: Annotated[
        str, typer.Option(help="Where the proxy gives documents out.")
    ] = "tcp://127.0.0.1:5568",
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    budget: Annotated[str, typer.Option(help="Memory for runs, like 512MB.")] = "512MB",
    api_key_file: Annotated[
        Path | None, typer.Option(help="Holds the API key; made where there is none.")
    ] = None,
) -> None:
    """Serve the newest runs until SIGTERM or SIGINT comes."""
    return_freed_memory()
    warm_up()
    try:
        nbytes = int(parse_bytes(budget))
        key, origin = _key(api_key_file)
        sink = Sink(nbytes)
        failed = threading.Event()
        server = LoopbackServer(
            build_app(
                sink,
                key,
                healthy=lambda: not failed.is_set(),
                filled=lambda: follower.caught_up.is_set(),
                logs=log,
            ),
            host,
            port,
            ready=lambda url: typer.echo(f"server ready: {url} (API key: {origin})"),
        )
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)

    def stop() -> None:
        failed.set()
        server.stop()

    documents = DocumentLog(log)
    since = refill_since(documents, nbytes)
    follower = Follower(address, documents, since=since, arrays=False)
    feed = Feed(Placed(follower), sink, failed=stop)
    try:
        server.serve_forever()
    finally:
        feed.close()
        documents.close()
    if failed.is_set():
        raise typer.Exit(1)  # the feed has shown why


def refill_since(log: DocumentLog, budget: int) -> float | None:
    """Return the Unix time since which the newest logs have been written that fill the budget.

    A run takes about as much memory as its log has bytes; the one that
    exceeds the budget counts, too. None: all of them fit.
    """
    total = 0
    for run in reversed(log.runs()):
        about = log.path(run).stat()
        total += about.st_size
        if total > budget:
            return about.st_mtime
    return None


def _key(path: Path | None) -> tuple[str, str]:
    """Return the API key and where it comes from."""
    if path is None and (key := os.environ.get(KEY_VARIABLE)):
        return check_key(key), f"${KEY_VARIABLE}"
    if path is None:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        path = Path(state) / "p06bs" / "server.key"
    return key_of(path), str(path)


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process in good order; while requests are served uvicorn takes the signals first."""
    raise SystemExit(0)


def main() -> None:
    """Start from the command line."""
    typer.run(run)


if __name__ == "__main__":
    main()
