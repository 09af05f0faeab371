"""Start the services of a configuration file under supervisord, watch them, and stop them.

supervisord restarts what dies, later and later, and keeps a log of each service. It goes on
when whoever started it ends; `Supervision` finds it again by the file's path.
"""

import hashlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from p06bs import config
from p06bs.bus.membership import Membership
from p06bs.services._host import LOG_FORM, REFUSED
from p06bs.services._lines import Lines, readable

START_SECONDS = 10
"""What ends sooner is started again later and later; what ends after it, at once."""
STOP_SECONDS = 20
"""What has not ended so long after SIGTERM is killed."""
FIRST = ("topology", "proxy")
"""Kinds that start before the others, and stop after them."""
LOG_BYTES = 10_000_000
LOG_FILES = 3


HEAD = f"""\
[unix_http_server]
file=%(here)s/socket
chmod=0700

[supervisord]
logfile=%(ENV_P06BS_LOGS)s/supervisord.log
logfile_maxbytes={LOG_BYTES}
logfile_backups={LOG_FILES}
pidfile=%(here)s/pid
childlogdir=%(ENV_P06BS_LOGS)s
silent=true

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
# What may hold any character comes by the environment: this format has no way to quote it.
PROGRAM = f"""
[program:{{name}}]
command=%(ENV_P06BS_PYTHON)s -m p06bs.services %(ENV_P06BS_FILE)s {{name}}
priority={{priority}}
environment={{environment}}
autorestart=unexpected
exitcodes=0
startsecs={START_SECONDS}
startretries=1000000
stopwaitsecs={STOP_SECONDS}
killasgroup=true
redirect_stderr=true
stdout_logfile=%(ENV_P06BS_LOGS)s/{{name}}.log
stdout_logfile_maxbytes={LOG_BYTES}
stdout_logfile_backups={LOG_FILES}
"""


class StoppedError(Exception):
    """Somebody wanted things to end before they were done."""


class SupervisionError(RuntimeError):
    """Services cannot be started, or did not come up; says which and why."""


@dataclass(frozen=True, slots=True)
class Status:
    """What supervisord knows of a service.

    Attributes
    ----------
    name : str
    state : str
        supervisord's: STARTING, RUNNING, BACKOFF, STOPPING, STOPPED, EXITED or FATAL.
    pid : int
        0 if it does not run.
    code : int
        Exit status of its last process.
    log : Path
    """

    name: str
    state: str
    pid: int
    code: int
    log: Path

    @property
    def refused(self) -> bool:
        """Whether it has ended because it cannot use what is configured."""
        return self.state == "STOPPED" and self.code == REFUSED

    @property
    def last_words(self) -> str:
        """The last line that it logged."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return readable(next((line for line in reversed(lines) if line.strip()), ""))


class Supervision:
    """The supervisord of one configuration file.

    Parameters
    ----------
    file : Path
    logs : Path, optional
        Directory of the services' logs; ``services`` beside that of the document logs by
        default.

    Raises
    ------
    ConfigurationError
        If the file cannot be used; names each field.
    """

    def __init__(self, file: Path, logs: Path | None = None) -> None:
        self.file = file.resolve()
        self.configuration = config.load(file)
        self.definitions = config.of_this_host(config.definitions(self.configuration))
        self.logs = (logs or self.configuration.bus.log.parent / "services").absolute()
        digest = hashlib.sha256(os.fsencode(self.file)).hexdigest()[:16]
        self.directory = _runtime() / digest
        self._process: subprocess.Popen[bytes] | None = None  # where this object started it

    def is_up(self) -> bool:
        """Return whether a supervisord has the file's services."""
        try:
            self._call("getState")
        except OSError:
            return False
        return True

    def start(self) -> None:
        """Start supervisord, and with it the services; returns when it answers.

        Raises
        ------
        SupervisionError
            If the services are up already, or supervisord does not start; says why.
        """
        if self.is_up():
            raise SupervisionError(f"the services of {self.file} are up already; see p06bs ls")
        if not self.definitions:
            raise SupervisionError(f"{self.file} describes no service for this host")
        self._forget()  # a supervisord that was killed
        self.directory.mkdir(mode=0o700, parents=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        self._write()
        said = self.directory / "said"
        with said.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", self._file],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for who started it, who stops it in order
                env={
                    **os.environ,
                    LOG_FORM: "json",
                    "PYTHONUNBUFFERED": "1",
                    "P06BS_PYTHON": shlex.quote(sys.executable),
                    "P06BS_FILE": shlex.quote(str(self.file)),
                    "P06BS_LOGS": str(self.logs),
                },
            )
        while not self.is_up():
            if self._process.poll() is not None:
                words = said.read_text(errors="replace").strip()
                self._forget()
                raise SupervisionError(f"supervisord ends: {words}")
            time.sleep(0.05)

    def reload(self) -> tuple[list[str], list[str]]:
        """Start what the file describes anew or otherwise, and stop what it does not any more.

        What did not change goes on. Returns the names of what was started, and stopped.
        """
        self._write()
        added, changed, removed = self._call("reloadConfig")[0]
        for name in [*removed, *changed]:
            self._call("stopProcessGroup", name)
            self._call("removeProcessGroup", name)
        for name in [*added, *changed]:
            self._call("addProcessGroup", name)
        return [*added, *changed], [*removed, *changed]

    def statuses(self) -> dict[str, Status]:
        """Return what supervisord knows of each service."""
        return {
            one["name"]: Status(
                one["name"],
                one["statename"],
                one["pid"],
                one["exitstatus"],
                Path(one["stdout_logfile"]),
            )
            for one in self._call("getAllProcessInfo")
        }

    def wait_ready(
        self,
        stopping: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda ready, all: None,
    ) -> bool:
        """Wait until every service is registered; return False if `stopping` became true before.

        Parameters
        ----------
        stopping : callable
        progress : callable
            Told how many are ready, of how many.

        Raises
        ------
        SupervisionError
            If one ends for good, or is not ready in time; says what it said last.
        """
        seconds = 60.0 + 2.0 * len(self.definitions)
        until = time.monotonic() + seconds
        host = socket.gethostname()
        bus = self.configuration.bus
        with Membership(bus.topology, bus.open_keys()) as peers:
            while not stopping():
                there = {(one.name, one.pid) for one in peers.services if one.host == host}
                statuses = self.statuses()
                late = [s for s in statuses.values() if (s.name, s.pid) not in there]
                progress(len(statuses) - len(late), len(statuses))
                if not late:
                    return True
                for status in late:
                    if status.refused:
                        raise SupervisionError(
                            f"service {status.name} ended with status {status.code}: "
                            f"{status.last_words}"
                        )
                if time.monotonic() > until:
                    names = ", ".join(f"{s.name} ({s.last_words})" for s in late)
                    raise SupervisionError(f"not ready in {seconds:g} s: {names}")
                time.sleep(0.1)
        return False

    def restart(self, names: Iterable[str]) -> None:
        """Stop services in good order and start them again; all replicas of one that has some.

        Raises
        ------
        SupervisionError
            If there is none of a name.
        """
        chosen = list(dict.fromkeys(one for name in names for one in self._matching(name)))
        self._stop(chosen)
        for name in chosen:
            self._call("startProcess", name, False)

    def begin(self, name: str) -> None:
        """Have one service started; returns at once.

        Raises
        ------
        SupervisionError
            If it runs, or is none of these.
        """
        self._tell("startProcess", name)

    def end(self, name: str) -> None:
        """Have one service ended in good order; returns at once.

        Raises
        ------
        SupervisionError
            If it does not run, or is none of these.
        """
        self._tell("stopProcess", name)

    def stop(self) -> dict[str, int]:
        """Stop all services and supervisord; return exit statuses of services, 0 for good order.

        Those that others need end last.
        """
        kinds = {name: definition.kind for name, definition in self.definitions.items()}
        names = list(self.statuses())
        last = [name for name in names if kinds.get(name) in FIRST]
        killed = self._stop([name for name in names if name not in last])
        for name in reversed(last):
            killed += self._stop([name])
        statuses = self.statuses()
        pid = self._call("getPID")
        self._call("shutdown")
        while self._process is None and _runs(pid):
            time.sleep(0.02)
        self._forget()
        # Killed by SIGTERM itself: it was just started and had no handler for it yet.
        return {
            name: 0 if status.code == -1 and name not in killed else status.code
            for name, status in statuses.items()
        }

    def lines(self) -> Lines:
        """Return what the services log from now on."""
        return Lines({name: self.logs / f"{name}.log" for name in self.definitions})

    def _tell(self, method: str, name: str) -> None:
        try:
            self._call(method, name, False)
        except xmlrpc.client.Fault as fault:
            raise SupervisionError(fault.faultString) from None
        except OSError as error:
            raise SupervisionError(f"no services of {self.file} are up: {error}") from error

    def _matching(self, name: str) -> list[str]:
        names = list(self.statuses())
        found = [
            one for one in names if one == name or re.fullmatch(rf"{re.escape(name)}-\d+", one)
        ]
        if not found:
            raise SupervisionError(f"there is no service {name!r}; there are {', '.join(names)}")
        return found

    def _stop(self, names: list[str]) -> list[str]:
        """Stop services at the same time; return those that had to be killed."""
        began = time.monotonic()
        for name in names:
            try:
                self._call("stopProcess", name, False)
            except xmlrpc.client.Fault:  # it does not run
                continue
        waiting = set(names)
        while waiting:
            statuses = self.statuses()
            ended = {n for n in waiting if statuses[n].state in ("STOPPED", "EXITED", "FATAL")}
            waiting -= ended
            if time.monotonic() - began >= STOP_SECONDS:
                return sorted(waiting | ended)
            if waiting:
                time.sleep(0.05)
        return []

    @property
    def _file(self) -> str:
        return str(self.directory / "supervisord.conf")

    @property
    def _socket(self) -> str:
        return str(self.directory / "socket")

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        try:
            proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
            return getattr(proxy.supervisor, method)(*arguments)
        finally:
            transport.close()

    def _write(self) -> None:
        ordered = sorted(
            self.definitions.items(),
            key=lambda item: FIRST.index(item[1].kind) if item[1].kind in FIRST else len(FIRST),
        )
        text = HEAD + "".join(
            PROGRAM.format(
                name=name,
                priority=number,
                environment=",".join(
                    f"{key}={_quoted(value)}"
                    for key, value in {
                        **definition.environment,
                        # A service whose table changed is another one.
                        "P06BS_DEFINITION": _digest(definition),
                    }.items()
                ),
            )
            for number, (name, definition) in enumerate(ordered)
        )
        Path(self._file).write_text(text, encoding="utf-8")

    def _forget(self) -> None:
        """Remove what a supervisord leaves that ends, or was killed."""
        if self._process is not None:
            self._process.wait()
            self._process = None
        shutil.rmtree(self.directory, ignore_errors=True)
        with suppress(OSError):  # others' services
            self.directory.parent.rmdir()


def _quoted(value: str) -> str:
    """Return a value as supervisord's configuration wants it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _digest(definition: config.Definition) -> str:
    return hashlib.sha256(definition.model_dump_json().encode()).hexdigest()[:16]


def _runtime() -> Path:
    """Return the directory of this user's sockets."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "p06bs" if base else Path(tempfile.gettempdir()) / f"p06bs-{os.getuid()}"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
