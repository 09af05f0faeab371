"""Start the services of a configuration file, restart those that die, stop them together."""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from p06bs.config import Configuration

log = logging.getLogger(__name__)

READY = re.compile(r"\bready:")
"""What a service prints in a line when it can be used."""
REFUSED = 2
"""Status of a service that cannot use what is configured: to start it again does not help.

It has not been ready then; what fails later is something else, whatever its status.
"""
PATIENCE = 10.0
LONGEST_BACK_OFF = 30.0


class StoppedError(Exception):
    """Somebody wanted things to end before they were done."""


def commands(configuration: Configuration, file: Path) -> dict[str, list[str]]:
    """Return the command line of each service that a configuration describes."""
    python = [sys.executable, "-m"]
    bus = configuration.bus
    found: dict[str, list[str]] = {}
    if configuration.proxy:
        found["proxy"] = [
            *python,
            "p06bs.services.proxy",
            "--in",
            bus.inbound,
            "--out",
            bus.outbound,
        ]
    server = configuration.server
    if server is not None:
        found["server"] = [*python, "p06bs.services.server", str(file)]
    if server is not None and server.archive is not None:
        found["archive"] = [*python, "p06bs.services.archive", str(file)]
    if configuration.pipelines:
        found["pipelines"] = [*python, "p06bs.services.pipelines", str(file)]
    return found


@dataclass
class Service:
    """One process, and when to start it again."""

    name: str
    command: list[str]
    process: subprocess.Popen[str] | None = None
    ready: threading.Event = field(default_factory=threading.Event)
    reader: threading.Thread | None = None
    said: str = ""
    started: float = 0.0
    failures: int = 0
    refused: bool = False
    restart_at: float = 0.0


class Services:
    """The processes of one configuration.

    Parameters
    ----------
    commands : mapping of str to list of str
        Command line by name, in the order in which they start.
    say : callable
        Takes ``(service, line)`` of what the services print.
    """

    def __init__(self, commands: Mapping[str, list[str]], say: Callable[[str, str], None]) -> None:
        self._services = [Service(name, command) for name, command in commands.items()]
        self._say = say

    def start(self) -> None:
        """Start all services; returns before they are ready."""
        for service in self._services:
            self._start(service)

    def wait_ready(self, seconds: float, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Wait until every service is ready; return False if `stopping` became true before.

        Raises
        ------
        TimeoutError
            Naming the service that is not.
        RuntimeError
            If a service ends instead; with the last line that it printed.
        """
        until = time.monotonic() + seconds
        for service in self._services:
            while not service.ready.wait(0.05):
                code = service.process.poll() if service.process else None
                if stopping():
                    return False
                if code is not None:
                    raise RuntimeError(self._obituary(service, code))
                if time.monotonic() > until:
                    raise TimeoutError(f"service {service.name} was not ready in {seconds:g} s")
        return True

    @property
    def pids(self) -> dict[str, int]:
        """Process id by name, of those that run."""
        return {
            s.name: s.process.pid
            for s in self._services
            if s.process is not None and s.process.poll() is None
        }

    def look(self) -> None:
        """Restart services that have died, those that die often later and later.

        One that refuses what is configured stays down; `stop` returns its status.
        """
        now = time.monotonic()
        for service in self._services:
            process = service.process
            if service.refused:
                continue
            if process is not None and process.poll() is not None:
                if process.returncode == REFUSED and not service.ready.is_set():
                    service.refused = True
                    self._say(service.name, "refuses what is configured; it is not started again")
                    continue
                service.process = None
                lasted = now - service.started
                service.failures = service.failures + 1 if lasted < PATIENCE else 0
                wait = min(2.0 ** (service.failures - 1), LONGEST_BACK_OFF)
                service.restart_at = now + (wait if service.failures > 1 else 0.0)
                self._say(service.name, f"ended with status {process.returncode}; restarting")
            if service.process is None and now >= service.restart_at:
                self._start(service)

    def stop(self) -> dict[str, int]:
        """Stop all services, the last started first; return their exit statuses."""
        codes: dict[str, int] = {}
        running = [s for s in reversed(self._services) if s.process is not None]
        for service in running:
            process = service.process
            assert process is not None
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(PATIENCE)
                # One that was just started may not have its handler for the signal yet.
                codes[service.name] = 0 if code == -signal.SIGTERM else code
            except subprocess.TimeoutExpired:
                log.error("service %s did not stop in %g s; killed", service.name, PATIENCE)
                process.kill()
                codes[service.name] = process.wait()
            if service.reader is not None:
                service.reader.join()
            service.process = None
        return codes

    def _start(self, service: Service) -> None:
        service.ready.clear()
        service.started = time.monotonic()
        process = subprocess.Popen(
            service.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the supervisor, which stops them in order
            env={
                **os.environ,
                "PYTHONUNBUFFERED": "1",
                # What goes wrong shall be said in lines, and not in boxes.
                "_TYPER_STANDARD_TRACEBACK": "1",
                "TYPER_USE_RICH": "0",
            },
        )
        assert process.stdout is not None
        service.process = process
        service.reader = threading.Thread(
            target=self._listen, args=(service, process.stdout), name=f"output of {service.name}"
        )
        service.reader.start()

    def _obituary(self, service: Service, code: int) -> str:
        if service.reader is not None:
            service.reader.join(PATIENCE)  # its last words
        said = f": {service.said}" if service.said else ""
        return f"service {service.name} ended with status {code}{said}"

    def _listen(self, service: Service, output: IO[str]) -> None:
        with output:
            for line in output:
                text = line.rstrip()
                if READY.search(text):
                    service.ready.set()
                service.said = text or service.said
                self._say(service.name, text)
