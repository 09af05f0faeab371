"""The Dask scheduler that workers of any host join, and on which pipelines place their loops."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field

from p06bs import config
from p06bs.bus.metrics import Measure
from p06bs.bus.service import Service, Surroundings
from p06bs.bus.sockets import is_local


class SchedulerDefinition(config.Definition):
    """The table of a Dask scheduler."""

    port: int = Field(0, ge=0, le=65535, description="0 takes a free one: it is found anyway")


class SchedulerService(Service[SchedulerDefinition]):
    """A Dask scheduler: found as ``dask``."""

    Definition = SchedulerDefinition

    def __init__(self, name: str, definition: SchedulerDefinition, here: Surroundings) -> None:
        from p06bs.pipeline.client import make_credentials

        super().__init__(name, definition, here)
        self._local = is_local(here.listen)
        self._credentials = {} if here.keys is None else make_credentials()
        self._address = ""
        self._workers = 0
        self._stop = threading.Event()

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where workers and clients connect to, once it is ready."""
        return {"dask": self._address}

    @property
    def measures(self) -> tuple[Measure, ...]:
        """How many workers it has."""
        return (Measure("dask_workers", "Workers of the Dask scheduler", lambda: self._workers),)

    @property
    def verbs(self) -> Mapping[str, Callable[..., Any]]:
        """Give the keys to who may connect."""
        return {"credentials": lambda: self._credentials}

    def run(self, ready: Callable[[], None]) -> None:
        """Schedule until it is told to stop."""
        asyncio.run(self._schedule(ready))

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    async def _schedule(self, ready: Callable[[], None]) -> None:
        from distributed import Scheduler

        from p06bs.pipeline import client
        from p06bs.services import _dask

        client.configure()
        make: Any = Scheduler
        async with make(
            host="127.0.0.1" if self._local else None,
            port=self.definition.port,
            protocol="tls://" if self._credentials else "tcp://",
            security=client.security(self._credentials),
            dashboard=False,
            dashboard_address=_dask.HTTP,
        ) as scheduler:
            self._address = scheduler.address
            ready()
            while not self._stop.is_set():
                self._workers = len(scheduler.workers)
                await asyncio.to_thread(self._stop.wait, 1.0)
