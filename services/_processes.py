"""Who starts services for their Tango devices: supervisord, or the device server itself."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from p06bs.adapters.tango_condition import Phase, Process
from p06bs.services._host import ENDS_WITH_PARENT, REFUSED
from p06bs.services._supervisord_conf import START_SECONDS, STOP_SECONDS
from p06bs.services.supervision import Supervision
from p06bs.services.supervisord import GoneError, RefusalError, Status

FRESH_SECONDS = 0.5
"""So old may be what is known of supervisord's services: many are asked for at the same time."""
PHASES = {
    "STOPPED": Phase.STOPPED,
    "EXITED": Phase.STOPPED,  # in good order: of anything else it is started again
    "STARTING": Phase.STARTING,
    "RUNNING": Phase.STARTING,
    "STOPPING": Phase.STOPPING,
}
ANSWER_SECONDS = 2.0
"""Time for supervisord to answer, which it does at once: Tango's clients wait for 3 s."""
FIRST_PAUSE, MOST_PAUSE = 1.0, 30.0
"""Seconds between two starts of what ends again and again."""


class Supervised:
    """The services of a configuration file as its supervisord runs them; none if it is not up.

    Parameters
    ----------
    file : Path
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._supervision = Supervision(file, seconds=ANSWER_SECONDS)
        self._lock = threading.Lock()  # guards what follows; nobody is asked under it
        self._statuses: dict[str, Status] = {}
        self._when = 0.0  # they were asked for
        self._told = 0.0  # when a service was told something: what was known before may be wrong
        self._again: dict[str, float] = {}  # to be started when they have ended; when told to end

    def look(self, name: str) -> Process | None:
        """Return how the process of a service is doing; carry on with what was begun."""
        when, status = self._status(name)
        if status is None:
            return None
        phase = PHASES.get(status.state, Phase.FAILED)
        with self._lock:
            ended = self._again.get(name, when)
        if phase is Phase.STOPPED and ended < when:
            with suppress(RefusalError):  # somebody has started it, or its state will say why not
                self._supervision.begin(name)
            self._forget(name, ended)
            return Process(Phase.STARTING)
        if status.refused:
            phase = Phase.FAILED
        words = status.last_words if phase is Phase.FAILED else ""
        return Process(phase, status.pid, words)

    def start(self, name: str) -> None:
        """Have a service started."""
        self._tell(self._supervision.begin, name)
        self._forget(name)

    def stop(self, name: str) -> None:
        """Have a service ended in good order."""
        self._tell(self._supervision.end, name)
        self._forget(name)

    def restart(self, name: str) -> None:
        """Have a service ended in good order, and started again."""
        self._forget(name)
        process = self.look(name)
        if process is None or process.phase is Phase.STOPPED or not process.pid:
            self._tell(self._supervision.begin, name)
            return
        self._tell(self._supervision.end, name)
        with self._lock:
            self._again[name] = self._told = time.monotonic()

    def _tell(self, action: Callable[[str], None], name: str) -> None:
        try:
            action(name)
        except GoneError:
            raise RuntimeError(
                f"nobody on this host starts {name}: p06bs up {self._file} would"
            ) from None

    def _forget(self, name: str, ended: float | None = None) -> None:
        """Start a service again no more, if it was told to end then, or whenever that was."""
        with self._lock:
            if ended is None or self._again.get(name) == ended:
                self._again.pop(name, None)
            self._told = time.monotonic()

    def _status(self, name: str) -> tuple[float, Status | None]:
        """Return the status of a service, and when it was asked for."""
        now = time.monotonic()
        with self._lock:
            if self._told < self._when >= now - FRESH_SECONDS:
                return self._when, self._statuses.get(name)
        try:
            statuses = self._supervision.statuses()
        except GoneError:  # and its services with it
            statuses = {}
        with self._lock:
            if not statuses:
                self._again.clear()
            if now > self._when:
                self._when, self._statuses = now, statuses
        return now, statuses.get(name)


class Child:
    """One service as a child of this process, started again later and later when it dies.

    Parameters
    ----------
    file : Path
        The configuration.
    name : str
        The service.
    environment : mapping of str to str
        Environment variables beside those of this process.
    """

    def __init__(self, file: Path, name: str, environment: Mapping[str, str]) -> None:
        self._environment = {**environment, ENDS_WITH_PARENT: str(os.getpid())}
        self._command = [sys.executable, "-m", "p06bs.services", str(file), name]
        self._name = name
        self._changed = threading.Condition()  # guards what follows
        self._wanted = True
        self._again = False  # to be started again now; ends before
        self._closing = False
        self._failed = False
        self._words = ""
        self._pid = 0
        # A child that is to end with its parent ends with the thread that started it.
        self._thread = threading.Thread(target=self._run, name="child", daemon=True)
        self._thread.start()

    def look(self, name: str) -> Process | None:
        """Return how the process of the service is doing."""
        if name != self._name:
            return None
        with self._changed:
            if self._pid:
                return Process(Phase.STOPPING if self._told else Phase.STARTING, self._pid)
            if self._failed:
                return Process(Phase.FAILED, 0, self._words)
            return Process(Phase.STARTING if self._wanted else Phase.STOPPED)

    def start(self, name: str) -> None:
        """Have the service started."""
        with self._changed:
            if self._pid and not self._told:
                raise RuntimeError(f"{name} runs already, as process {self._pid}")
            self.restart(name)

    def stop(self, name: str) -> None:
        """Have the service ended in good order."""
        with self._changed:
            if not (self._pid or self._wanted):
                raise RuntimeError(f"{name} does not run")
            self._wanted = self._again = self._failed = False
            self._changed.notify_all()

    def restart(self, name: str) -> None:
        """Have the service ended in good order, and started again."""
        with self._changed:
            self._again = self._wanted = True
            self._changed.notify_all()

    def close(self) -> None:
        """End the service in good order, and wait for it."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def _told(self) -> bool:
        """Whether it was told to end."""
        return self._closing or self._again or not self._wanted

    def _run(self) -> None:
        pause = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._wanted)
                if self._closing:
                    return
                self._again = False
            began = time.monotonic()
            code, words = self._lasts()
            with self._changed:
                self._pid = 0
                self._failed = False
                if self._told:
                    pause = 0.0
                elif code in (0, REFUSED):  # somebody asked it to end, or nothing is won by a try
                    self._wanted = False
                    self._failed = code == REFUSED
                    self._words = "it refuses what is configured; see its log"
                else:
                    short = time.monotonic() - began < START_SECONDS
                    pause = min(MOST_PAUSE, max(FIRST_PAUSE, 2 * pause)) if short else 0.0
                    self._failed = short
                    self._words = words
                    self._changed.wait_for(lambda: self._told, pause)

    def _lasts(self) -> tuple[int, str]:
        """Run it until it ends, or has to; return its status, and that in words."""
        environment = {**os.environ, **self._environment}
        try:
            process = subprocess.Popen(self._command, env=environment, process_group=0)
        except OSError as error:
            return -1, f"it cannot be started: {error}"
        with process:
            with self._changed:
                self._pid = process.pid
            while process.poll() is None:
                with self._changed:
                    if not self._told:
                        self._changed.wait(0.2)
                        continue
                process.terminate()
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            return code, f"it ended with status {code}; see its log"
