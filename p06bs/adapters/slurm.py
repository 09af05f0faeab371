"""Workers as jobs of SLURM, through dask-jobqueue.

dask-jobqueue submits jobs and cancels them. It does not notice that a job was cancelled,
has failed or came to its walltime, and goes on counting it. So the queue is looked at while
workers are missing, and jobs that are no longer in it are replaced.
"""

import asyncio
import concurrent.futures
import logging
import random
import shlex
import shutil
import time
from collections.abc import Collection, Mapping
from typing import Any

from p06bs.adapters.slurm_jobs import (
    QUEUE,
    Keys,
    dask_cluster,
    require,
    shared_directory,
)
from p06bs.config.base import ConfigurationError
from p06bs.config.slurm import Slurm
from p06bs.pipeline.started import Started, last_line

log = logging.getLogger(__name__)

COMMANDS = ("sbatch", "scancel", "squeue", "timeout")
ENDED = "COMPLETING"
"""State of a job that has ended and is cleared away; then it is in the queue no longer."""


class SlurmCluster(Started):
    """Workers as jobs of SLURM.

    Parameters
    ----------
    section : Slurm
        What jobs are like.
    workers : int
        How many are wished at first.
    host : str
        IP address of this host that the nodes reach.

    Raises
    ------
    ConfigurationError
        If SLURM's commands or dask-jobqueue are missing, or the directory will not do.
    """

    prompt = False

    def __init__(self, section: Slurm, workers: int, host: str = "127.0.0.1") -> None:
        super().__init__(workers)
        require()
        missing = [name for name in COMMANDS if shutil.which(name) is None]
        if missing:
            raise ConfigurationError(
                f'workers.on = "slurm" needs {", ".join(missing)} in PATH: the pipelines run on a '
                "host that submits to SLURM (Debian: slurm-client)"
            )
        self.section = section
        self.host = host
        self.per_unit = section.processes
        directory = shared_directory(section)
        self.output = f" (their output: {directory / 'jobs'})"
        self._keys: Keys | None = None
        self._ends: dict[str, float] = {}  # unit that is there -> when it is due
        self._told: dict[str, str] = {}  # job -> why it waits
        self._looked = -float("inf")
        self._ended: concurrent.futures.Future[set[str]] | None = None

    def make(self) -> Any:
        directory = shared_directory(self.section)
        directory.mkdir(parents=True, exist_ok=True)
        self._keys = Keys.make(directory)
        return dask_cluster(self.section, self.host, self._keys)

    def unit(self, worker: str) -> str:
        return worker.rpartition("-")[0] if self.per_unit > 1 else worker

    def tend(self) -> Mapping[str, str]:
        there = super().tend()
        units = set(there.values())
        for unit in units - self._ends.keys():
            early = random.uniform(0, self.section.stagger)
            self._ends[unit] = time.monotonic() + self.section.lifetime - early
        # One that is not there for a moment is as old as before when it comes again.
        for unit in self._ends.keys() - units - {str(name) for name in self._cluster.worker_spec}:
            del self._ends[unit]
        return there

    def due(self) -> Collection[str]:
        now = time.monotonic()
        return [unit for unit, end in self._ends.items() if end <= now]

    def lost(self, units: Collection[str], joined: Collection[str]) -> Collection[str]:
        """Return the units without a job in SLURM's queue; while that does not answer, none."""
        jobs = {unit: self._cluster.workers.get(unit) for unit in set(units) - set(joined)}
        lost = {unit for unit, job in jobs.items() if job is None or job.job_id is None}
        if self._ended is not None and self._ended.done():
            answer, self._ended = self._ended, None
            if (error := answer.exception()) is not None:
                log.warning("SLURM does not show its queue: %s", last_line(error))
            else:
                lost |= answer.result() & jobs.keys()
        now = time.monotonic()
        asked = {unit: job.job_id for unit, job in jobs.items() if unit not in lost}
        if asked and self._ended is None and now - self._looked >= self.section.poll:
            self._looked = now
            self._ended = asyncio.run_coroutine_threadsafe(
                self._without_job(asked), self._cluster.loop.asyncio_loop
            )
        return lost

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self._keys is not None:
                self._keys.remove()

    async def _without_job(self, jobs: Mapping[str, str]) -> set[str]:
        """Return the units whose jobs are not in the queue, or are cleared away already."""
        command = [*shlex.split(QUEUE), "--me", "--noheader", "--format=%i|%T|%r"]
        answer = await self._cluster.job_cls._call(command)
        queue = {job: rest for job, *rest in (line.split("|", 2) for line in answer.splitlines())}
        waits: dict[str, str] = {}
        for job in jobs.values():
            state, reason = queue.get(job, (ENDED, ""))
            if state == "PENDING" and reason != "None":
                waits[job] = reason
                if self._told.get(job) != reason:
                    log.info("job %s waits: %s", job, reason)
        self._told = waits
        return {unit for unit, job in jobs.items() if queue.get(job, [ENDED])[0] == ENDED}
