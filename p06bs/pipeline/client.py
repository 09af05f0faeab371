"""What Dask is set to, and what is asked of its client."""

import logging
from collections.abc import Collection, Mapping
from typing import Any

log = logging.getLogger(__name__)

ENVIRON = "distributed.nanny.pre-spawn-environ"
SETTINGS: Mapping[str, Any] = {
    "distributed.worker.profile.enabled": False,
    # Dask also sets MALLOC_TRIM_THRESHOLD_, which makes glibc map and fault every
    # larger numpy temporary anew: a kernel on frames is four times slower with it.
    ENVIRON: {
        "OMP_NUM_THREADS": 1,
        "MKL_NUM_THREADS": 1,
        "OPENBLAS_NUM_THREADS": 1,
    },
    "distributed.scheduler.worker-ttl": "30s",
    "distributed.worker.memory.terminate": False,
    "distributed.comm.timeouts.connect": "10s",
}
"""What Dask has no arguments for."""
ROLES = ("scheduler", "worker", "client")


def configure() -> None:
    """Set what Dask has no arguments for; local workers inherit it."""
    import dask

    dask.config.set(SETTINGS)
    # Dask tells about every connection; what fails is seen here as workers that left.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)


def make_credentials() -> dict[str, str]:
    """Return new keys, in PEM: a certificate that vouches for itself, and its key."""
    from distributed.security import Security

    make: Any = Security  # not annotated
    temporary = make.temporary()
    return {
        "ca": temporary.tls_ca_file,
        "cert": temporary.tls_worker_cert,
        "key": temporary.tls_worker_key,
    }


def security(credentials: Mapping[str, str]) -> Any:
    """Return what Dask is told of keys, in PEM or as paths of files; None if there are none."""
    from distributed.security import Security

    if not credentials:
        return None
    make: Any = Security
    return make(
        require_encryption=True,
        tls_ca_file=credentials["ca"],
        **{f"tls_{role}_{part}": credentials[part] for role in ROLES for part in ("cert", "key")},
    )


def connect(cluster: Any) -> Any:
    """Return a Dask client of a cluster or a scheduler's address.

    It is nobody's default: what else in this process uses Dask computes as it always has.
    """
    import distributed

    client: Any = distributed.Client  # not annotated
    return client(cluster, set_as_default=False)


def names(client: Any) -> dict[str, str]:
    """Return the workers that are there: address -> name."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return {address: str(worker["name"]) for address, worker in workers.items()}


def restart(client: Any, workers: Collection[str]) -> None:
    """Have the nannies of workers replace their processes."""
    try:
        client.restart_workers(list(workers), timeout=30, raise_for_error=False)
    except Exception as error:  # a worker without a nanny, whom Dask cannot replace
        log.error("workers %s cannot be replaced: %s", ", ".join(workers), error)
