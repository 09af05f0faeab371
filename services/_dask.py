"""A Dask scheduler that is a service, and those who find it through the Topology Manager.

Where the bus has keys everything speaks TLS. The scheduler makes the keys at each start, and
gives them to who asks its control, which only authorised peers of the bus can.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from p06bs.bus.control import ask
from p06bs.bus.curve import Keys
from p06bs.bus.membership import Membership
from p06bs.bus.sockets import is_local
from p06bs.pipeline import client
from p06bs.pipeline.needs import Needs, offer_of

log = logging.getLogger(__name__)

Place = tuple[str, Any]
"""Address of a scheduler, and what Dask is told of its keys."""
Find = Callable[[], Place | None]
"""Returns the place of the scheduler, or None while there is none."""

KIND, ADDRESS, CREDENTIALS = "scheduler", "dask", "credentials"
"""Kind of the service, under which address it is found, and the verb that gives the keys."""
HTTP = "127.0.0.1:0"
"""Where Dask's web pages are, which have no TLS; it takes all interfaces where nobody says."""
ROLES = ("scheduler", "worker", "client")
RETRY_SECONDS = 2.0
"""Interval at which a scheduler that is away is looked for."""


def make_credentials() -> dict[str, str]:
    """Return new keys, in PEM: a certificate that vouches for itself, and its key."""
    from distributed.security import Security

    make: Any = Security
    temporary = make.temporary()
    return {
        "ca": temporary.tls_ca_file,
        "cert": temporary.tls_worker_cert,
        "key": temporary.tls_worker_key,
    }


def security(credentials: Mapping[str, str]) -> Any:
    """Return what Dask is told of keys; None if there are none."""
    from distributed.security import Security

    if not credentials:
        return None
    make: Any = Security
    return make(
        require_encryption=True,
        tls_ca_file=credentials["ca"],
        **{f"tls_{role}_{part}": credentials[part] for role in ROLES for part in ("cert", "key")},
    )


def found(peers: Membership, keys: Keys | None) -> Place | None:
    """Return the place of the scheduler that is registered; None while none answers.

    Who runs a scheduler can run any code at its clients: without keys it must be on this host,
    and with them it must have them.
    """
    for service in peers.services:
        address = service.addresses.get(ADDRESS, "") if service.kind == KIND else ""
        if keys is None and is_local(address):
            return address, None
        if keys is not None and address.startswith("tls://"):
            try:
                control = service.addresses["control"]
                return address, security(ask(control, CREDENTIALS, seconds=2.0, keys=keys))
            except (TimeoutError, ValueError, KeyError) as error:
                log.warning("%s does not give its keys: %s", service.name, error)
    return None


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
    needs : Needs, optional
        What workers must have; others are left alone.
    """

    scales = False
    prompt = False

    def __init__(self, find: Find, needs: Needs | None = None) -> None:
        self._find = find
        self._needs = needs or Needs()
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
            return {a: a for a, worker in workers.items() if self._needs.met_by(offer_of(worker))}
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
