"""Run one service of a configuration in this process, as whoever starts services wants it."""

import ctypes
import importlib.metadata
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import zmq

from p06bs import config
from p06bs.bus.curve import Keys
from p06bs.bus.membership import Membership
from p06bs.bus.service import Surroundings, host

logger = logging.getLogger(__name__)

REFUSED = 2
"""Status of a service that cannot use what is configured: to start it again does not help.

It has not been ready then; what fails later is something else, whatever its status.
"""
SUPERVISOR = "P06BS_SUPERVISOR"
"""The environment variable that says where our supervisord is asked; there may be others."""
PROCESS = "SUPERVISOR_PROCESS_NAME"
"""The environment variable by which supervisord tells its children who they are."""
ENDS_WITH_PARENT = "P06BS_ENDS_WITH_PARENT"
"""The environment variable by which who starts a service wants it to end, too: its pid."""
LOG_FORM = "P06BS_LOG_FORM"
"""The environment variable that says ``json`` where logs are read by programs."""


def run(file: Path, name: str) -> int:
    """Run the service `name` of a configuration file; return the status of the process."""
    follow_the_starter()
    configure_logging(os.environ.get(LOG_FORM, "text"), name)
    ready = False
    try:
        configuration = config.load(file)
        definition = config.definition(configuration, name)
        kind = config.find_kind(definition.kind)
        keys = configuration.bus.open_keys()
        with Membership(configuration.bus.topology, keys) as peers:
            here = surroundings(configuration, peers, keys, file)
            service = kind(name, definition, here)

            signalled = on_signals(service.stop)

            def say() -> None:
                nonlocal ready
                ready = True
                where = ", ".join(f"{k} {v}" for k, v in service.addresses.items())
                logger.info("%s ready: %s", name, where or "at work")

            host(service, definition.kind, importlib.metadata.version("p06bs"), say)
            if peers.refused:
                return 1  # the lease in its way may be that of its former process
            if not signalled():
                _ask_for_no_other_try()  # it was told to end, or a newer one has its name
            return REFUSED if peers.superseded else 0
    except (ValueError, ModuleNotFoundError) as error:
        if ready:
            raise
        logger.error("%s", error)
        _ask_for_no_other_try()
        return REFUSED
    except (OSError, RuntimeError, zmq.ZMQError) as error:
        logger.error("%s", error, exc_info=ready)
        return 1


def on_signals(action: Callable[[], None]) -> Callable[[], bool]:
    """Have SIGTERM and SIGINT call `action`; return what says whether one came.

    It is called in a thread of its own: what a signal interrupts may hold a lock that `action`
    needs, be it that of an event.
    """
    came: queue.SimpleQueue[int] = queue.SimpleQueue()  # its put may interrupt anything
    numbers: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        numbers.append(number)
        came.put(number)

    def act() -> None:
        while came.get():
            action()

    threading.Thread(target=act, name="signals", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return lambda: bool(numbers)


def surroundings(
    configuration: config.Configuration,
    peers: Membership,
    keys: Keys | None = None,
    file: Path | None = None,
) -> Surroundings:
    """Return what a service finds around it.

    The proxy is where the Topology Manager says; until it has answered, where this very file
    starts one.
    """
    bus = configuration.bus

    def inbound() -> str | None:
        known = peers.address_of("proxy", "inbound")
        return bus.inbound if known is None and configuration.proxy else known

    def outbound() -> str | None:
        known = peers.address_of("proxy", "outbound")
        return bus.outbound if known is None and configuration.proxy else known

    return Surroundings(peers, bus.log, inbound, outbound, keys, bus.listen, file)


def configure_logging(form: str, name: str) -> None:
    """Log to stderr: ``json``, one object a line, or ``text``."""
    output = logging.StreamHandler()
    if form == "json":
        from pythonjsonlogger.json import JsonFormatter

        fields = ["asctime", "levelname", "name", "message"]
        renamed = {"asctime": "time", "levelname": "level", "name": "logger"}
        output.setFormatter(
            JsonFormatter(fields, rename_fields=renamed, static_fields={"service": name})
        )
    else:
        output.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[output])
    for library in ("tiled", "tiled.server.app", "httpx", "alembic", "distributed"):
        logging.getLogger(library).setLevel(logging.WARNING)


def follow_the_starter() -> None:
    """End when the supervisor dies, whatever kills it; take the signals that others blocked."""
    # The Tango Starter's children inherit its blocked signals, and their children would.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if ENDS_WITH_PARENT in os.environ:
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
        if os.getppid() != int(os.environ[ENDS_WITH_PARENT]):
            sys.exit(1)  # it has died already


def _ask_for_no_other_try() -> None:
    """Have supervisord not start this service again; it takes every early end for a bad start."""
    if SUPERVISOR not in os.environ:
        return
    import xmlrpc.client

    from p06bs.services._rpc import call

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it asks back in this way
    with suppress(OSError, xmlrpc.client.Error):  # then it is tried again, and refuses again
        call(os.environ[SUPERVISOR], "stopProcess", os.environ[PROCESS], False)
