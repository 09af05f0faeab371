"""Where the workers of pipelines run, as a configuration says."""

import logging
import socket
from typing import TYPE_CHECKING

from p06bs.bus.sockets import HERE, is_local
from p06bs.config import ConfigurationError, Workers

if TYPE_CHECKING:
    from p06bs.pipeline.cluster import Cluster

log = logging.getLogger(__name__)


def cluster(workers: Workers, listen: str = HERE) -> "str | Cluster":
    """Return what `Pipelines` is to run on.

    Parameters
    ----------
    workers : Workers
    listen : str
        Where the services of this host bind; says whether other hosts may reach them.

    Raises
    ------
    ConfigurationError
        If that cannot be used here.
    """
    if workers.on != "slurm":
        return workers.on
    from p06bs.adapters.slurm import SlurmCluster

    return SlurmCluster(workers.slurm, workers.limits[0], scheduler_host(workers, listen))


def job_script(workers: Workers, listen: str = HERE) -> str:
    """Return the script of the jobs of SLURM that are workers.

    Raises
    ------
    ConfigurationError
        If the workers are no jobs, or it cannot be made here.
    """
    if workers.on != "slurm":
        raise ConfigurationError(f'the workers are on "{workers.on}", not on "slurm"')
    from p06bs.adapters import slurm_jobs

    return slurm_jobs.job_script(workers.slurm, scheduler_host(workers, listen))


def scheduler_host(workers: Workers, listen: str) -> str:
    """Return the IP address at which jobs reach this host; loopback if other hosts may not.

    Raises
    ------
    ConfigurationError
        If this host's name has no address.
    """
    if is_local(listen):
        log.warning(
            "the bus is on this host alone, so only jobs on this host can work; for others, "
            "give [bus] keys and a topology address that they reach"
        )
        return "127.0.0.1"
    name = workers.slurm.host or socket.getfqdn()
    try:
        return socket.gethostbyname(name)
    except OSError as error:
        raise ConfigurationError(f"workers.slurm.host: {name} has no address: {error}") from error
