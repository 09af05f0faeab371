"""Do to processes, a disk and ports what the schedule says, and undo it in time."""

import heapq
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import psutil

from p06bs.services.supervision import Supervision
from tests.chaos.schedule import Step

POOLS = ("pipelines", "frames-1", "frames-2")
"""Services that have workers; the last two host the same pipelines."""


class MissedError(Exception):
    """What was to be hit is not there just now."""


class Faults:
    """Hit services of a configuration, their workers and the disk of the logs.

    Parameters
    ----------
    services : Supervision
    disk : Path
        A directory on a small file system.
    ports : dict
        Service -> a port that it listens on.
    """

    def __init__(self, services: Supervision, disk: Path, ports: dict[str, int]) -> None:
        self._services = services
        self._filler = disk / "filler"
        self._ports = ports
        self._undo: list[tuple[float, int, Callable[[], None]]] = []
        self._tie = count()

    def do(self, step: Step) -> str:
        """Do what a step says; return what was hit.

        Raises
        ------
        MissedError
            If that is not there just now.
        """
        match step.kind:
            case "kill":
                process = self.victim(step)
                process.kill()
                return f"process {process.pid}"
            case "freeze":
                process = self.victim(step)
                process.send_signal(signal.SIGSTOP)
                self._later(step.seconds, lambda: _thaw(process))
                return f"process {process.pid}"
            case "fill":
                _fill(self._filler)
                self._later(step.seconds, lambda: self._filler.unlink(missing_ok=True))
                return str(self._filler.parent)
            case "take port":
                return self._take_port(step)
        raise ValueError(f"no fault {step.kind!r}")

    def victim(self, step: Step) -> psutil.Process:
        """Return the process that a step means.

        Raises
        ------
        MissedError
            If there is none now.
        """
        if step.target == "worker":
            workers = [worker for pool in POOLS for worker in self.workers(pool)]
            if not workers:
                raise MissedError("there is no worker")
            return workers[int(step.pick * len(workers))]
        return self._process(self._name(step))

    def pool(self, step: Step) -> str:
        """Return which of `POOLS` a step hits; "" if none."""
        victim = self.victim(step)
        return next(
            (p for p in POOLS if victim == self._running(p) or victim in self.workers(p)), ""
        )

    def workers(self, pool: str) -> list[psutil.Process]:
        """Return the worker processes of a service, oldest first."""
        process = self._running(pool)
        with suppress(psutil.Error):
            children = [] if process is None else process.children()
            return sorted((c for c in children if _is_worker(c)), key=lambda c: c.pid)
        return []

    def undo(self, now: float = float("inf")) -> None:
        """Undo what has lasted long enough."""
        while self._undo and self._undo[0][0] <= now:
            heapq.heappop(self._undo)[2]()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._undo, (time.monotonic() + seconds, next(self._tie), action))

    def _name(self, step: Step) -> str:
        """Return which service a step means, where there are several alike."""
        names = sorted(self._services.definitions)
        alike = [n for n in names if n == step.target or n.rpartition("-")[0] == step.target]
        return alike[int(step.pick * len(alike))]

    def _process(self, name: str) -> psutil.Process:
        process = self._running(name)
        if process is None:
            raise MissedError(f"{name} does not run")
        return process

    def _running(self, name: str) -> psutil.Process | None:
        pid = self._services.statuses()[name].pid
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(pid) if pid else None
        return None

    def _take_port(self, step: Step) -> str:
        """Kill a service, and listen on its port before it is back; answer nobody."""
        process = self._process(step.target)
        port = self._ports[step.target]
        process.kill()
        psutil.wait_procs([process], 5)
        try:
            stranger = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            raise MissedError(f"port {port} cannot be taken: {error}") from error
        self._later(step.seconds, stranger.close)
        return f"port {port}"


def _thaw(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGCONT)
    except psutil.NoSuchProcess:  # killed in its sleep
        return


def _is_worker(process: psutil.Process) -> bool:
    return "spawn_main" in " ".join(process.cmdline())


def _fill(path: Path) -> None:
    """Leave no room on the file system of a file that is made."""
    with path.open("ab") as filler:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    here = filler.seek(0, os.SEEK_END)
                    os.posix_fallocate(filler.fileno(), here, size)
            except OSError:  # no room for so much more
                continue


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[str]:
    """Mount a small file system over a directory; yield why that is not possible, or ""."""
    options = ["-o", f"size={mebibytes}m,mode=0755"]
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        yield str(error)
        return
    if done.returncode:
        yield done.stderr.strip() or f"mount ends with {done.returncode}"
        return
    try:
        yield ""
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
