"""A Dask worker process, which joins the scheduler that the Topology Manager knows."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

from pydantic import Field

from p06bs import config
from p06bs.bus.service import Service, Surroundings
from p06bs.bus.sockets import is_local
from p06bs.config.base import Bytes

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""Interval at which a scheduler is looked for, and the worker is looked after."""
LOOPS = 32
"""So many processes of pipelines have a loop on it, which is a Dask task that does not end."""


class WorkerDefinition(config.Definition):
    """The table of Dask workers: write ``replicas`` for several."""

    gpus: int = Field(0, ge=0, description="GPUs that it has, for pipelines that need some")
    memory: Bytes | None = Field(
        None, description="bytes of memory after which it is started anew; unbounded if absent"
    )


class WorkerService(Service[WorkerDefinition]):
    """A worker process, and the nanny that replaces its process when it dies.

    It is of use, and registered, also while there is no scheduler: it joins the next one.
    """

    Definition = WorkerDefinition

    def __init__(self, name: str, definition: WorkerDefinition, here: Surroundings) -> None:
        super().__init__(name, definition, here)
        self._stop = threading.Event()
        self._joined = False

    @property
    def checks(self) -> dict[str, Callable[[], bool]]:
        """Whether it has joined a scheduler."""
        return {"scheduler": lambda: self._joined}

    def run(self, ready: Callable[[], None]) -> None:
        """Work until it is told to stop."""
        from p06bs.pipeline import client

        client.configure()
        ready()
        asyncio.run(self._work())

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    async def _work(self) -> None:
        from p06bs.services import _dask

        while not await self._stopped():
            place = await asyncio.to_thread(_dask.found, self.here.peers, self.here.keys)
            if place is not None:
                try:
                    await self._join(*place)
                except (OSError, TimeoutError, RuntimeError) as error:
                    log.warning("no worker for the scheduler at %s: %s", place[0], error)

    async def _join(self, address: str, secured: Any) -> None:
        """Have a worker at a scheduler until that goes, or this service is to stop."""
        from distributed import Nanny, Status

        from p06bs.pipeline.needs import GPU
        from p06bs.services import _dask

        make: Any = Nanny
        async with make(
            address,
            name=self.name,
            nthreads=LOOPS,
            host="127.0.0.1" if is_local(self.here.listen) else None,
            security=secured,
            resources={GPU: self.definition.gpus} if self.definition.gpus else None,
            memory_limit=self.definition.memory or 0,
            death_timeout=30,
            dashboard_address=_dask.HTTP,
        ) as nanny:
            log.info("joined the scheduler at %s", address)
            self._joined = True
            try:
                while nanny.status == Status.running and not await self._stopped():
                    pass
            finally:
                self._joined = False

    async def _stopped(self) -> bool:
        return await asyncio.to_thread(self._stop.wait, LOOK_SECONDS)
