"""The server: raw and derived runs over HTTP (``python -m p06bs.services.server``).

With a configuration file it is as that says. Without one it is a laptop's: one
user, whose API key comes from the environment (P06BS_API_KEY), else from a file
that is made with mode 0600 where there is none. Keys are never printed.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from p06bs import config
from p06bs.bus.service import Service, Surroundings
from p06bs.config import Bus, Server
from p06bs.http_api import KEY_VARIABLE
from p06bs.services._host import REFUSED


class ServerDefinition(config.Definition, Server):
    """The table of a server."""


class ServerService(Service[ServerDefinition]):
    """The server: found as ``http``."""

    Definition = ServerDefinition

    def __init__(self, name: str, definition: ServerDefinition, here: Surroundings) -> None:
        super().__init__(name, definition, here)
        self._url = ""

    @classmethod
    def check(cls, definition: ServerDefinition) -> None:
        """Refuse an address that others could reach."""
        from p06bs.server.loopback import loopback_of

        loopback_of(definition.host)

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where it is reached, once it is ready."""
        return {"http": self._url}

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until the signal comes."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, leave)
        try:
            self._serve(ready)
        except SystemExit as end:  # by the signal: whoever hosts it goes on to its own end
            if end.code:
                raise

    def stop(self) -> None:
        """End by the signal that everything in a server is ready for."""
        os.kill(os.getpid(), signal.SIGTERM)

    def _serve(self, ready: Callable[[], None]) -> None:
        from p06bs.server.gate import redact
        from p06bs.server.sink.allocation import return_freed_memory
        from p06bs.services._serving import serve

        return_freed_memory()
        redact.install()

        def serving(url: str) -> None:
            self._url = url
            ready()

        here = self.here
        serve(
            here.outbound,
            here.log,
            self.definition,
            ready=serving,
            keys=here.keys,
            peers=here.peers,
        )


def leave(number: int, frame: FrameType | None) -> None:
    """End the process in good order; while requests are served uvicorn takes the signals first."""
    raise SystemExit(0)


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
    from p06bs.server.archive.database import UnavailableError
    from p06bs.server.gate import redact
    from p06bs.server.login.authentication import PAM_LIBRARY
    from p06bs.server.login.principals import DatabaseError
    from p06bs.server.sink.allocation import return_freed_memory
    from p06bs.services._serving import serve

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
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
        key, origin = _key() if laptop else ("", str(section.api_key_file))
        if section.authentication is not None:
            origin = "tokens"

        def say(url: str) -> None:
            print(f"server ready: {url} (API key: {origin})", flush=True)

        serve(
            bus.outbound,
            bus.log,
            section,
            key,
            ready=say,
            verbose=verbose,
            keys=bus.open_keys(),
        )
    except (DatabaseError, UnavailableError, OSError) as error:
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


def _key() -> tuple[str, str]:
    """Return the API key of a laptop and where it comes from."""
    if key := os.environ.get(KEY_VARIABLE):
        return key, f"${KEY_VARIABLE}"
    from p06bs.server.login.private import make_secret

    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "p06bs" / "server.key"
    return make_secret(path, "the API key"), str(path)


def main() -> None:
    """Start from the command line."""
    typer.run(run)


if __name__ == "__main__":
    main()
