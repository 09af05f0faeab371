"""supervisord, which starts services again when they die: how to start, ask and end it.

It is found by its socket, in a directory of the user who started it.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p06bs.bus import processes
from p06bs.services._host import ENDS_WITH_PARENT, LOG_FORM, REFUSED, SUPERVISOR
from p06bs.services._lines import last_words
from p06bs.services._rpc import call
from p06bs.services._runtime import runtime_directory
from p06bs.services._supervisord_conf import STOP_SECONDS, Program, configuration

WATCHER_SECONDS = 5.0
"""Time for who watches supervisord to end after it; it may be stopped."""
BEGIN_SECONDS = 30.0
"""Time for supervisord to answer."""
END_SECONDS = STOP_SECONDS + 10.0
"""Time for what is killed if it does not end; only the kernel can keep it longer."""


class SupervisionError(RuntimeError):
    """Services cannot be started, or did not come up; says which and why."""


class RefusalError(SupervisionError):
    """supervisord does not do what it is asked to; says why."""


class GoneError(SupervisionError, ConnectionError):
    """supervisord does not answer: it has ended, or was killed."""


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
        Exit status of its last process; -1 if a signal ended it.
    log : Path
    """

    name: str
    state: str
    pid: int
    code: int
    log: Path

    @property
    def ended(self) -> bool:
        """Whether it runs no more, and is not started again."""
        return self.state in ("STOPPED", "FATAL") or (self.state == "EXITED" and self.code == 0)

    @property
    def refused(self) -> bool:
        """Whether it has ended because it cannot use what is configured."""
        return self.state == "STOPPED" and self.code == REFUSED

    @property
    def last_words(self) -> str:
        """What it logged last, in one line."""
        return last_words(self.log)


class Supervisord:
    """One supervisord, here or started by somebody else; see `_runtime.alone`.

    Parameters
    ----------
    name : str
        Of its directory among those of the user.
    logs : Path
        Directory of the services' logs.
    seconds : float, optional
        How long an answer is waited for; as long as the stop of services takes by default.
    """

    def __init__(self, name: str, logs: Path, seconds: float | None = None) -> None:
        self.directory = runtime_directory(name)
        self.logs = logs
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None  # where this object started it

    def wait(self) -> int | None:
        """Wait for the one that this object started to end, which answers no more.

        Returns
        -------
        int or None
            Its exit status; None if this object has started none.

        Raises
        ------
        SupervisionError
            If it does not end.
        """
        if self._process is None:
            return None
        _expect_end(self._process.pid)
        return self._process.wait()

    def is_up(self) -> bool:
        """Return whether it answers."""
        try:
            self.ask("getState")
        except GoneError:
            return False
        return True

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call one of its methods.

        Raises
        ------
        GoneError
            If it is not there.
        SupervisionError
            If it is, and does not answer; `RefusalError` if it refuses.
        """
        try:
            return call(self._url, method, *arguments, seconds=self._seconds)
        except xmlrpc.client.Fault as fault:
            raise RefusalError(fault.faultString) from None
        except TimeoutError as error:
            raise SupervisionError(
                f"supervisord does not answer: is it stopped? {self.directory / 'pid'} says "
                "which process it is"
            ) from error
        except OSError as error:
            raise GoneError("supervisord has ended: somebody stopped it, or killed it") from error

    def statuses(self) -> dict[str, Status]:
        """Return what it knows of each service."""
        return {
            one["name"]: Status(
                one["name"],
                one["statename"],
                one["pid"],
                one["exitstatus"],
                Path(one["stdout_logfile"]),
            )
            for one in self.ask("getAllProcessInfo")
        }

    def begin(self, names: Iterable[str]) -> None:
        """Start services that do not run."""
        for name in names:
            with suppress(RefusalError):  # it runs, or cannot be started now: it is tried
                self.ask("startProcess", name, False)

    def end(self, names: Collection[str]) -> set[str]:
        """Stop services at the same time, and wait for them; return those that were killed.

        Raises
        ------
        SupervisionError
            If some do not end; says which.
        """
        began = time.monotonic()
        tell, waiting, killed = set(names), set(names), set[str]()
        while waiting:
            for name in tell:
                with suppress(RefusalError):  # it does not run
                    self.ask("stopProcess", name, False)
            statuses = self.statuses()
            waited = time.monotonic() - began
            if waited >= STOP_SECONDS:
                killed |= waiting
            waiting = {n for n in waiting if n in statuses and not statuses[n].ended}
            if waiting and waited >= END_SECONDS:
                left = ", ".join(f"{n} (process {statuses[n].pid})" for n in sorted(waiting))
                raise SupervisionError(f"{left}: still there after {waited:.0f} s, though killed")
            # It may have been started again meanwhile, by itself or somebody else.
            tell = {name for name in waiting if statuses[name].state != "STOPPING"}
            if waiting:
                time.sleep(0.05)
        return killed

    def start(self, file: Path, programs: Iterable[Program]) -> None:
        """Start it, and with it the programs; return when it answers.

        Raises
        ------
        SupervisionError
            If it does not start; says why.
        """
        until = time.monotonic() + BEGIN_SECONDS
        self.forget()  # one that was killed
        self.logs.mkdir(parents=True, exist_ok=True)
        self.directory.mkdir(mode=0o700)
        self.write(programs)
        said = self.directory / "said"
        with said.open("wb") as output:
            self._process = subprocess.Popen(
                # The shell becomes supervisord: its services shall know its pid.
                [
                    *("/bin/sh", "-c", f'export {ENDS_WITH_PARENT}=$$; exec "$0" "$@"'),
                    *(sys.executable, "-m", "supervisor.supervisord", "-n", "-c", self._file),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for who started it, who stops it in order
                env={
                    **os.environ,
                    LOG_FORM: "json",
                    SUPERVISOR: self._url,
                    "PYTHONUNBUFFERED": "1",
                    "P06BS_PYTHON": shlex.quote(sys.executable),
                    "P06BS_FILE": shlex.quote(str(file)),
                    "P06BS_LOGS": str(self.logs),
                },
            )
        while not self.is_up():
            if self._process.poll() is not None:
                words = said.read_text(errors="replace").strip()
                self.forget()
                raise SupervisionError(f"supervisord ends: {words}")
            if time.monotonic() > until:
                self._process.kill()
                self.forget()
                raise SupervisionError(f"supervisord did not answer in {BEGIN_SECONDS:.0f} s")
            time.sleep(0.05)

    def write(self, programs: Iterable[Program]) -> None:
        """Write its configuration."""
        text = configuration(programs)
        Path(self._file).write_text(text, encoding="utf-8")

    def watch(self) -> None:
        """Say that this process ends when it has ended."""
        part = self._watcher.with_suffix(".part")
        part.write_text(str(os.getpid()))
        part.replace(self._watcher)

    def watcher(self) -> int:
        """Return the process that has said so; 0 if none has."""
        return int(self._watcher.read_text()) if self._watcher.exists() else 0

    def shut_down(self) -> None:
        """End it, and wait until it has ended.

        Raises
        ------
        SupervisionError
            If it does not end.
        """
        pid = self.ask("getPID")
        self.ask("shutdown")
        _expect_end(pid)
        self.forget()

    def await_orphans(self) -> None:
        """Wait until the services have ended of one that was killed, as they do by themselves.

        Raises
        ------
        SupervisionError
            If they do not end.
        """
        until = time.monotonic() + END_SECONDS
        for pid in processes.having(SUPERVISOR, self._url):
            if not processes.wait_ended(pid, until - time.monotonic()):
                raise SupervisionError(f"process {pid} of a killed supervisord does not end")

    def forget(self) -> None:
        """Remove what one leaves that has ended, or was killed.

        Raises
        ------
        SupervisionError
            If it does not end.
        """
        self.wait()
        self._process = None
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _watcher(self) -> Path:
        return self.directory / "watcher"

    @property
    def _url(self) -> str:
        return f"unix://{self.directory / 'socket'}"

    @property
    def _file(self) -> str:
        return str(self.directory / "supervisord.conf")


def wait_ended(watcher: int) -> None:
    """Wait for who watched one to end, if that is another process than this."""
    if watcher not in (0, os.getpid()):
        processes.wait_ended(watcher, WATCHER_SECONDS)


def _expect_end(pid: int) -> None:
    if not processes.wait_ended(pid, END_SECONDS):
        raise SupervisionError(f"supervisord, process {pid}, does not end")
