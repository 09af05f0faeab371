"""Configuration of the pool of workers: where they run and how many there are."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from p06bs.config.base import Section, loopback
from p06bs.config.slurm import Slurm


def _place_or_address(on: str) -> str:
    """Accept a place, or a scheduler on the loopback interface, which its workers must be on."""
    return on if on in ("local", "slurm", "scheduler") else loopback(on)


class Workers(Section):
    """The pool of workers that all pipelines of the process share."""

    on: Annotated[str, AfterValidator(_place_or_address)] = Field(
        "local",
        description='"local", "slurm", "scheduler" (that of the kind so called, wherever it runs), '
        "or the address of a Dask scheduler on this host",
    )
    slurm: Slurm = Field(default_factory=Slurm, description='jobs, if on = "slurm"')
    count: int | None = Field(
        None, ge=1, description="fixed number of worker processes; 2 without min and max"
    )
    min: int | None = Field(
        None, ge=0, description="fewest workers, when there is nothing to do; 1 by default"
    )
    max: int | None = Field(None, ge=1, description="most workers; their number follows the load")
    keys: Path | None = Field(
        None, description="directory of keys on the workers' hosts, if not that of [bus]"
    )
    deadline: float = Field(10.0, gt=0, description="seconds to wait for a file that does not grow")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        """Refuse two statements of the number of workers, and one that is nobody's to make."""
        if self.max is None and self.min is not None:
            raise ValueError("min says how far the pool shrinks: write max, too")
        if self.max is not None and self.count is not None:
            raise ValueError("count is a fixed number: write either count, or min and max")
        if self.max is not None and self.limits[0] > self.limits[1]:
            raise ValueError(f"min is {self.min}, more than max, which is {self.max}")
        if self.max is not None and (self.on == "scheduler" or "://" in self.on):
            raise ValueError(f"who started the workers of {self.on} scales them: leave min and max")
        return self

    @property
    def limits(self) -> tuple[int, int]:
        """Fewest and most workers."""
        if self.max is None:
            return (self.count or 2, self.count or 2)
        return (1 if self.min is None else self.min, self.max)
