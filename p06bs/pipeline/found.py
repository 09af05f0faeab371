"""The workers of a Dask scheduler that others have started, which may go and come again."""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from p06bs.pipeline import client
from p06bs.pipeline.needs import ANYTHING, Needs, choose, offer_of

log = logging.getLogger(__name__)

Place = tuple[str, Any]
"""Address of a scheduler, and what Dask is told of its keys."""
Find = Callable[[], Place | None]
"""Returns the place of the scheduler, or None while there is none."""

RETRY_SECONDS = 2.0
"""Interval at which a scheduler that is away is looked for."""


class Task:
    """A Dask future, which can also be let go when its scheduler is gone."""

    def __init__(self, connection: Any, future: Any) -> None:
        self._connection = connection
        self._future = future

    @property
    def status(self) -> str:
        return str(self._future.status)

    def done(self) -> bool:
        return bool(self._future.done())

    def exception(self) -> BaseException | None:
        found: BaseException | None = self._future.exception() if self._connected else None
        return found

    def cancel(self, *, force: bool) -> None:
        if self._connected:
            self._future.cancel(force=force)

    def release(self) -> None:
        if self._connected:
            self._future.release()

    @property
    def _connected(self) -> bool:
        return bool(self._connection.status == "running")


class Found:
    """The workers of the scheduler that is found; a `Cluster`.

    While there is none, there are no workers. One that comes again, here or elsewhere, is found
    again.

    Parameters
    ----------
    find : callable
        See `Find`.
    needs : Needs
        What workers must have; others are left alone.
    among : collection of Needs, optional
        Of all pools on this scheduler: a worker is for the greatest that it meets.
    """

    scales = False
    prompt = False

    def __init__(self, find: Find, needs: Needs = ANYTHING, among: Collection[Needs] = ()) -> None:
        self._find = find
        self._needs = needs
        self._among = among or (needs,)
        self._client: Any = None
        self._look_at = 0.0
        self._missing = False

    def open(self) -> "Found":
        client.configure()
        # That the scheduler went is said here; Dask shows tracebacks of it.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        return self

    def submit(self, *call: Any, **options: Any) -> "Task":
        """Submit a task to the scheduler that is there at present."""
        return Task(self._client, self._client.submit(*call, **options))

    def scale(self, workers: int) -> None:
        """Do nothing: there are as many workers as services of that kind."""

    def tend(self) -> Mapping[str, str]:
        if self._client is None and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + RETRY_SECONDS
            self._client = self._connected()
        if self._client is None:
            return {}
        try:
            if self._client.status != "running":
                raise OSError(f"the connection is {self._client.status}")
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
            return {
                address: address
                for address, worker in workers.items()
                if choose(offer_of(worker), self._among) == self._needs
            }
        except (OSError, TimeoutError) as error:
            log.warning("the Dask scheduler is gone: %s", error)
            self.close()
            return {}

    def due(self) -> Collection[str]:
        return ()

    def retire(self, unit: str) -> None:
        """Do nothing, as `scale`."""

    def restart(self, workers: Collection[str]) -> None:
        if self._client is not None:
            client.restart(self._client, workers)

    def close(self) -> None:
        if self._client is not None:
            self._client.close(timeout=2.0)
            self._client = None

    def _connected(self) -> Any:
        from distributed import Client

        place = self._find()
        if place is None:
            if not self._missing:
                log.warning("no Dask scheduler is registered; batches wait for one")
            self._missing = True
            return None
        address, secured = place
        make: Any = Client
        try:
            client = make(address, security=secured, timeout=5.0, set_as_default=False)
        except (OSError, TimeoutError) as error:
            log.warning("no connection to the Dask scheduler at %s: %s", address, error)
            return None
        self._missing = False
        log.info("workers are those of the Dask scheduler at %s", address)
        return client
