"""Configuration of workers that are jobs of SLURM: ``[workers.slurm]``."""

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from p06bs.config.base import Bytes, Section

_WALLTIME = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")


def walltime_seconds(text: str) -> int:
    """Return the seconds of ``HH:MM:SS`` or ``D-HH:MM:SS``.

    Raises
    ------
    ValueError
        If it is something else: SLURM reads ``30`` as minutes, others as seconds.
    """
    found = _WALLTIME.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no time; write HH:MM:SS or D-HH:MM:SS")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _walltime(text: str) -> str:
    walltime_seconds(text)
    return text


def _one_line(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError(f"{text!r} must be one line of text")
    return text


Word = Annotated[str, Field(pattern=r"^[^\s'\"\\$`;&|<>]+$")]
Line = Annotated[str, AfterValidator(_one_line)]


class Slurm(Section):
    """Jobs of SLURM whose processes are workers; submitted on the pipelines' host."""

    partition: Word | None = Field(None, description="partition; SLURM's default if absent")
    account: Word | None = Field(None, description="account that the jobs are charged to")
    walltime: Annotated[str, AfterValidator(_walltime)] = Field(
        "08:00:00", description="limit of a job, HH:MM:SS or D-HH:MM:SS"
    )
    margin: float = Field(
        300.0, gt=0, description="seconds before the walltime at which a job's workers are drained"
    )
    stagger: float = Field(
        600.0, ge=0, description="up to so many seconds earlier, at random: not all end together"
    )
    processes: int = Field(1, ge=1, description="workers of a job")
    cores: int = Field(1, ge=1, description="cores of a job, for all of its workers")
    memory: Bytes = Field(4 * 1024**3, description="of a job, for all workers")
    name: Word = Field("p06bs", description="name of the jobs")
    directives: tuple[Line, ...] = Field(
        (), description='more of #SBATCH, for example "--constraint=EPYC"'
    )
    prologue: tuple[Line, ...] = Field(
        (), description='shell commands before the workers start, like "module load maxwell"'
    )
    python: Word | None = Field(
        None, description="interpreter on the nodes; the one of this process if absent"
    )
    host: Word | None = Field(
        None, description="address of the pipelines' host for the nodes; that of its name if absent"
    )
    interface: Word | None = Field(
        None, description="network interface of the nodes that workers listen on, like ib0"
    )
    directory: Path = Field(
        Path("var/slurm"), description="shared with the nodes: keys of the jobs, and their output"
    )
    scratch: Word = Field("/tmp", description="on the nodes: of Dask's own files")
    death_timeout: float = Field(
        60.0, gt=0, description="seconds after which a job ends that does not reach the scheduler"
    )
    poll: float = Field(
        10.0, gt=0, description="seconds between two looks at the queue while workers are missing"
    )

    @model_validator(mode="after")
    def _room(self) -> Self:
        """Refuse jobs without time or cores for their workers."""
        if self.lifetime <= self.stagger:
            raise ValueError(
                f"nothing is left of the walltime {self.walltime} ({self.seconds} s) after margin "
                f"({self.margin:g} s) and stagger ({self.stagger:g} s)"
            )
        if self.cores < self.processes:
            raise ValueError(f"{self.processes} processes need as many cores, not {self.cores}")
        return self

    @property
    def seconds(self) -> int:
        """The walltime, s."""
        return walltime_seconds(self.walltime)

    @property
    def lifetime(self) -> float:
        """Seconds after which a job's workers are drained at the latest."""
        return self.seconds - self.margin
