"""What a pipeline needs of a worker, and what workers offer."""

import os
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GPU = "GPU"
"""Name of GPUs among the resources of a Dask worker: ``dask worker --resources GPU=1``."""
ENVIRONMENT = "environment:"
"""Before the name of an environment: ``dask worker --resources environment:ptycho=1``."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker must have, or has.

    Attributes
    ----------
    environment : str
        Path or name of the Python environment; "" is the pipelines' own.
    gpus : int
    memory : int
        Bytes; 0 is any.
    """

    environment: str = ""
    gpus: int = 0
    memory: int = 0

    def __str__(self) -> str:
        said = [
            f"environment {self.environment}" if self.environment else "",
            f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}" if self.gpus else "",
            f"{self.memory / 1e9:g} GB of memory" if self.memory else "",
        ]
        return ", ".join(filter(None, said)) or "nothing special"

    def met_by(self, offer: "Needs") -> bool:
        """Return whether a worker that has `offer` will do."""
        return (
            self.environment == offer.environment
            and self.gpus <= offer.gpus
            and (not offer.memory or self.memory <= offer.memory)
        )


ANYTHING = Needs()
"""What a pipeline needs that does not say so."""


def choose(offer: Needs, needs: Collection[Needs]) -> Needs | None:
    """Return for which of several needs a worker is; None if it meets none.

    That is the greatest: a worker with a GPU is kept for those who need one.
    """
    met = [need for need in needs if need.met_by(offer)]
    return max(met, key=lambda need: (need.gpus, need.memory), default=None)


def offer_of(worker: Mapping[str, Any]) -> Needs:
    """Return what a Dask worker has, by what its scheduler says of it."""
    resources: Mapping[str, float] = worker.get("resources") or {}
    environments = [name for name in resources if name.startswith(ENVIRONMENT)]
    return Needs(
        environments[0].removeprefix(ENVIRONMENT) if environments else "",
        int(resources.get(GPU, 0)),
        int(worker.get("memory_limit") or 0),
    )


def own() -> Needs:
    """Return what this process could give to one local worker."""
    from distributed.system import MEMORY_LIMIT

    return Needs(sys.prefix, len(gpus()), MEMORY_LIMIT)


def gpus() -> list[str]:
    """Return the GPUs that this process may use, by number or name."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name for name in allowed.split(",") if name.strip() not in ("", "-1")]
    found = [re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*")]
    return sorted((match[1] for match in found if match), key=int)


def local_limits(needs: Needs, limits: tuple[int, int]) -> tuple[int, int]:
    """Return how many local workers there can be between limits.

    Raises
    ------
    ValueError
        If there can be none; says what is needed and what is there.
    """
    here = own()
    if needs.environment not in ("", here.environment):
        raise ValueError(
            f"environment {needs.environment} is needed, but local workers have "
            f"{here.environment}: start these pipelines there, or have workers elsewhere"
        )
    most = limits[1]
    for name, wanted, there in (
        ("gpus", needs.gpus, here.gpus),
        ("memory", needs.memory, here.memory),
    ):
        if wanted > there:
            raise ValueError(
                f"{needs} is needed of a local worker, but {name} of this host is {there}: "
                "have workers elsewhere"
            )
        if wanted:
            most = min(most, there // wanted)
    return min(limits[0], most), most
