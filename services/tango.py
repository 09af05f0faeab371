"""Tango's view of the services of this host: one device each.

``python -m p06bs.services.tango FILE NAME`` runs one service with its device, as Tango's
Starter wants it; see ``p06bs tango script``.
"""

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import AfterValidator, Field

from p06bs import config
from p06bs.bus.membership import Membership
from p06bs.bus.service import Service, Surroundings
from p06bs.services import _host

if TYPE_CHECKING:
    from p06bs.adapters.tango_watch import Processes

logger = logging.getLogger(__name__)

KIND = "tango"
SERVER = "p06bs"
"""Name of the device server; its instance is the name of the service that it is."""
ALPHABET = re.compile(r"[A-Za-z0-9_.\-]+")
"""What may stand in the parts of a device's name."""


def _device_names(pattern: str) -> str:
    parts = pattern.split("/")
    fields = [part.replace("{name}", "name") for part in parts]
    if len(parts) != 3 or "{name}" not in pattern or not all(map(ALPHABET.fullmatch, fields)):
        raise ValueError(f"{pattern!r} is not like p06/bs/{{name}}: DOMAIN/FAMILY/MEMBER")
    return pattern


class TangoDefinition(config.Definition):
    """The table of a device server."""

    database: str = Field("", description="host:port of Tango's database; $TANGO_HOST if empty")
    devices: Annotated[str, AfterValidator(_device_names)] = Field(
        "p06/bs/{name}", description="what the devices are called: {name} is the service"
    )
    address: str = Field(
        "127.0.0.1",
        description="IP address on which they are served. Tango has no keys: whoever reaches it "
        "may change settings and stop services",
    )
    interval: float = Field(1.0, gt=0, description="seconds between two looks at a service")


class TangoService(Service[TangoDefinition]):
    """The devices of all services that the file describes for this host."""

    Definition = TangoDefinition

    def __init__(self, name: str, definition: TangoDefinition, here: Surroundings) -> None:
        super().__init__(name, definition, here)
        require()
        if here.file is None:
            raise config.ConfigurationError("a device server needs a file that describes services")
        self._file = here.file.resolve()
        self._stop = threading.Event()

    @property
    def addresses(self) -> Mapping[str, str]:
        """Its own device, by which Tango knows the server."""
        from p06bs.adapters import tango

        return {"tango": tango.address(f"{SERVER}/{self.name}")}

    def run(self, ready: Callable[[], None]) -> None:
        """Serve the devices until it is told to stop."""
        from p06bs.services._processes import Supervised

        found = config.of_this_host(config.definitions(config.load(self._file)))
        others = {name: one for name, one in found.items() if name != self.name}
        processes = Supervised(self._file)
        # One that only looks hears sooner who has come and gone than one that is registered.
        with Membership(self.here.peers.address, self.here.keys) as peers:
            here = replace(self.here, peers=peers)
            _serve(self.name, self.definition, here, others, processes, self._stop, ready)

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()


def require() -> None:
    """Refuse to go on without Tango's library.

    Raises
    ------
    ConfigurationError
        If it cannot be imported; says how to install it.
    """
    try:
        import tango  # noqa: F401
    except ImportError as error:
        raise config.ConfigurationError(
            f'Tango needs the extra tango: pip install "p06bs[tango]" ({error})'
        ) from error


def run_with_device(file: Path, name: str) -> int:
    """Run a service as a child, and serve its device; return the status of this process.

    The device server ends when Tango tells it to, or SIGTERM comes, and the service before it.
    One of kind ``tango`` is such a server itself, and is run as any other.
    """
    _host.follow_the_starter()
    _host.configure_logging("text", name)
    stop = threading.Event()
    _host.on_signals(stop.set)
    try:
        configuration = config.load(file)
        described = config.definition(configuration, name)
        if described.kind == KIND:
            return _host.run(file, name)
        require()
        from p06bs.services._processes import Child

        keys = configuration.bus.open_keys()
        with (
            Membership(configuration.bus.topology, keys) as peers,
            closing(Child(file, name, described.environment)) as child,
        ):
            here = _host.surroundings(configuration, peers, keys, file)
            definition = _of_the_file(configuration)
            _serve(name, definition, here, {name: described}, child, stop, lambda: None)
        return 0
    except ValueError as error:
        logger.error("%s", error)
        return _host.REFUSED
    except (OSError, RuntimeError) as error:
        logger.error("%s", error)
        return 1


def _serve(
    name: str,
    definition: TangoDefinition,
    here: Surroundings,
    services: Mapping[str, config.Definition],
    processes: "Processes",
    stop: threading.Event,
    ready: Callable[[], None],
) -> None:
    from p06bs.adapters import tango
    from p06bs.adapters.tango_watch import Watch

    if definition.database:
        os.environ["TANGO_HOST"] = definition.database
    watches = {
        one: Watch(one, here.peers, processes, here.keys, definition.interval) for one in services
    }
    devices = {
        definition.devices.format(name=one): {
            "Service": one,
            "Kind": described.kind,
            "File": str(here.file and here.file.resolve()),
        }
        for one, described in services.items()
    }

    def begin() -> None:
        # Tango has put its own in their place.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.getsignal(number))
        ready()

    def stopping() -> bool:
        return stop.wait(tango.STOP_SECONDS)

    tango.serve(f"{SERVER}/{name}", devices, watches, definition.address, stopping, begin)


def _of_the_file(configuration: config.Configuration) -> TangoDefinition:
    """Return the table of a device server in a file; the usual one if there is none."""
    for described in config.definitions(configuration).values():
        if isinstance(described, TangoDefinition):
            return described
    return TangoDefinition(kind=KIND)


def main(
    file: Annotated[Path, typer.Argument(help="configuration (TOML)")],
    name: Annotated[str, typer.Argument(help="name of the service in it")],
) -> None:
    """Run one service of a configuration, with its Tango device, until SIGTERM or SIGINT."""
    sys.exit(run_with_device(file, name))


if __name__ == "__main__":
    typer.run(main)
