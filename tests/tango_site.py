"""A Tango of its own for tests: database, Starter, clients, all on loopback."""

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

STARTER = Path("/usr/lib/tango/Starter")
SECONDS = 60.0
LOOPBACK = ("-ORBendPoint", "giop:tcp:127.0.0.1:0")


@contextmanager
def database() -> Iterator[str]:
    """Run a database in a process of its own, in memory; give its host:port."""
    from databaseds.fixtures import run_pytango_db

    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with mock.patch.dict(os.environ, {"PATH": programs}):
        running = run_pytango_db()
        host = next(running)
        try:
            yield host
        finally:
            next(running, None)


def known(host: str) -> Any:
    """Return a client of a database. What $TANGO_HOST says counts once in a process."""
    import tango

    return tango.Database(*host.split(":"))


def device(host: str, name: str) -> Any:
    """Return a client of a device, once it answers."""
    import tango

    def answers() -> Any:
        try:
            client = tango.DeviceProxy(f"tango://{host}/{name}")
            client.ping()
        except tango.DevFailed:
            return None
        return client

    return wait(answers)


def wait(condition: Callable[[], Any]) -> Any:
    """Return what a condition gives once it holds."""
    until = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < until
        threading.Event().wait(0.1)
    return found


class Events:
    """What a device tells of an attribute when it changes."""

    def __init__(self, client: Any, name: str, kind: str = "CHANGE_EVENT") -> None:
        import tango

        self._client = client
        self._seen: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._id = client.subscribe_event(name, getattr(tango.EventType, kind), 1000)

    def wait(self, value: Any) -> list[Any]:
        """Return the values up to one that is waited for."""
        seen: list[Any] = []

        def came() -> bool:
            seen.extend(
                event.attr_value.value
                for event in self._client.get_events(self._id)
                if not event.err
            )
            return value in seen

        wait(came)
        return seen

    def close(self) -> None:
        self._client.unsubscribe_event(self._id)


@contextmanager
def starter(host: str, directory: Path, logs: Path) -> Iterator[Any]:
    """Run Debian's Starter; give a client of its device."""
    import tango

    here = socket.gethostname().partition(".")[0]
    about = tango.DbDevInfo()
    about.name, about._class, about.server = f"tango/admin/{here}", "Starter", f"Starter/{here}"
    known(host).add_device(about)
    logs.mkdir()
    properties = {"StartDsPath": [str(directory)], "LogFileHome": [str(logs)]}
    known(host).put_device_property(about.name, properties)
    with (logs / "starter").open("wb") as said:
        process = subprocess.Popen([STARTER, here, *LOOPBACK], stdout=said, stderr=said)
    try:
        wait(lambda: b"Ready to accept" in (logs / "starter").read_bytes())
        client = device(host, about.name)
        client.set_timeout_millis(int(SECONDS * 1000))
        yield client
    finally:
        process.kill()
        process.wait()


def listening(pid: int) -> set[str]:
    """Return the IP addresses on which a process listens."""
    found = psutil.Process(pid).net_connections("inet")
    return {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN}
