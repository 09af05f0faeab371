"""What a job of SLURM is like whose processes are workers: its script, its keys.

Whoever reaches a Dask scheduler may run any code as its user. Therefore scheduler and
workers speak TLS, both ways, with keys that are made at each start and that nobody else
can read.
"""

import ipaddress
import itertools
import logging
import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from p06bs.bus.processes import runs
from p06bs.config.base import ConfigurationError
from p06bs.config.slurm import Slurm
from p06bs.pipeline.client import ENVIRON, SETTINGS, make_credentials, security

PATIENCE = 15
"""Seconds for a command of SLURM. They retry for minutes while slurmctld is away."""

SUBMIT, CANCEL, QUEUE = (f"timeout {PATIENCE} {name}" for name in ("sbatch", "scancel", "squeue"))


class Keys:
    """Keys of one scheduler and its jobs.

    Parameters
    ----------
    directory : Path
        Where they are; the jobs see it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def make(cls, parent: Path) -> "Keys":
        """Make keys in a new directory; remove those of processes of this host that are gone."""
        prefix = f"keys-{socket.gethostname()}-"
        ours = re.compile(re.escape(prefix) + r"(\d+)-[^-]+")  # not those of a host HERE-1
        for other in parent.glob("keys-*"):
            if (found := ours.fullmatch(other.name)) and not runs(int(found[1])):
                shutil.rmtree(other, ignore_errors=True)
        made = cls(Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent)))
        for name, text in make_credentials().items():
            made._write(name, text)
        return made

    def security(self) -> Any:
        """Return what Dask is told of them."""
        return security({name: self._path(name) for name in ("ca", "cert", "key")})

    def remove(self) -> None:
        """Remove them; jobs that start later end at once."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _path(self, name: str) -> str:
        return str(self.directory / f"{name}.pem")

    def _write(self, name: str, text: str) -> None:
        opened = os.open(self._path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(opened, "w", encoding="ascii") as file:
            file.write(text)


def require() -> Any:
    """Return dask-jobqueue.

    Raises
    ------
    ConfigurationError
        If it is not installed.
    """
    try:
        import dask_jobqueue.slurm
    except ImportError as error:
        raise ConfigurationError(
            f'workers.on = "slurm" needs the extra slurm: pip install "p06bs[slurm]" ({error})'
        ) from error
    return dask_jobqueue


def shared_directory(section: Slurm) -> Path:
    """Return the directory that is shared with the jobs.

    Raises
    ------
    ConfigurationError
        If a job script cannot name it.
    """
    directory = section.directory.absolute()
    if not re.fullmatch(r"[\w./+,:@=-]+", str(directory)):
        raise ConfigurationError(
            f"workers.slurm.directory: {str(directory)!r} has characters that mean something in "
            "a job script of SLURM; choose a path without blanks, quotes and %"
        )
    return directory


def job_script(section: Slurm, host: str = "127.0.0.1") -> str:
    """Return the script of a job; port, keys and number are known when it is submitted.

    Raises
    ------
    ConfigurationError
        If dask-jobqueue is missing, or the directory cannot stand in a job script.
    """
    keys = Keys(shared_directory(section) / "keys-HOST-PROCESS")
    job = require().slurm.SLURMJob(
        f"tls://{host}:PORT",
        name=f"{section.name}-NUMBER",
        **_options(section, host),
        protocol="tls://",
        security=keys.security(),
    )
    script: str = job.job_script()
    return script


def dask_cluster(section: Slurm, host: str, keys: Keys) -> Any:
    """Return the SLURMCluster, with a scheduler in this process; no job is submitted yet."""
    from distributed.core import Status

    jobqueue: Any = require()
    counter = itertools.count(1)

    class Job(jobqueue.slurm.SLURMJob):  # type: ignore[misc]
        """Says what became of it, which a cluster that is closed asserts."""

        submit_command = SUBMIT
        cancel_command = CANCEL

        async def start(self) -> None:
            try:
                await super().start()
            except BaseException:
                self.status = Status.failed
                raise

        async def close(self) -> None:
            await super().close()
            self.status = Status.closed

    class Cluster(jobqueue.SLURMCluster):  # type: ignore[misc]
        """No name is given twice: a job that was given up may yet join."""

        job_cls = Job

        def _new_worker_name(self, worker_number: int) -> str:
            return f"{section.name}-{next(counter)}"

    return Cluster(
        **_options(section, host),
        security=keys.security(),
        # The scheduler's web pages have no TLS.
        scheduler_options={"host": host, "dashboard": False, "dashboard_address": "127.0.0.1:0"},
        silence_logs=logging.CRITICAL,
    )


def _options(section: Slurm, host: str) -> dict[str, Any]:
    """Return what dask-jobqueue is told of a job."""
    if section.interface is not None:
        where = ["--interface", section.interface]
    else:
        where = ["--host", host] if ipaddress.ip_address(host).is_loopback else []
    # The scheduler ends workers after this, should nobody have drained them.
    lifetime = section.lifetime + section.margin / 2
    return {
        "queue": section.partition,
        "account": section.account,
        "walltime": section.walltime,
        "cores": section.cores,
        "processes": section.processes,
        "memory": section.memory,
        "job_name": section.name,
        "python": section.python or shlex.quote(sys.executable),
        "death_timeout": section.death_timeout,
        "local_directory": section.scratch,
        "log_directory": str(shared_directory(section) / "jobs"),
        # A job that is lost is replaced by another: it must not come back beside that.
        "job_extra_directives": ["--no-requeue", *section.directives],
        "job_script_prologue": [
            *_exports(section.cores // section.processes),
            *section.prologue,
        ],
        "worker_extra_args": [
            *where, "--dashboard-address", "127.0.0.1:0", "--no-dashboard",
            "--lifetime", f"{lifetime:g}s",
        ],
    }  # fmt: skip


def _exports(threads: int) -> list[str]:
    """Return shell commands that set in a job what `configure` sets in this process."""
    libraries: dict[str, Any] = dict.fromkeys(SETTINGS[ENVIRON], threads)
    # None unsets what Dask sets by itself.
    settings = {**SETTINGS, ENVIRON: {**libraries, "MALLOC_TRIM_THRESHOLD_": None}}
    lines = []
    for key, value in settings.items():
        if not key.startswith("distributed.scheduler"):  # that is in this process
            name = key.upper().replace(".", "__").replace("-", "_")
            text = value if isinstance(value, str) else repr(value).replace("'", '"')
            lines.append(f"export DASK_{name}={shlex.quote(text)}")
    return lines
