"""Configuration of the pool of workers: where they run and how many there are."""

from typing import Annotated

from pydantic import AfterValidator, Field

from p06bs.config.base import Section, loopback


def _local_or_address(on: str) -> str:
    """Accept "local" or a scheduler on the loopback interface, which its workers must be on too."""
    return on if on == "local" else loopback(on)


class Workers(Section):
    """The pool of workers that all pipelines of the process share."""

    on: Annotated[str, AfterValidator(_local_or_address)] = Field(
        "local", description='"local", or the address of a Dask scheduler on this host'
    )
    count: int = Field(2, ge=1, description="worker processes")
    deadline: float = Field(10.0, gt=0, description="seconds to wait for a file that does not grow")
