"""Where the workers of pipelines run, as a configuration says."""

import logging
import socket
from typing import TYPE_CHECKING

from p06bs.bus.sockets import HERE, is_local
from p06bs.config import ConfigurationError, Workers
from p06bs.config.slurm import Slurm

if TYPE_CHECKING:
    from p06bs.pipeline.cluster import Cluster
    from p06bs.pipeline.found import Find
    from p06bs.pipeline.needs import Needs

log = logging.getLogger(__name__)


def cluster(
    workers: Workers, listen: str = HERE, find: "Find" = lambda: None, needs: "Needs | None" = None
) -> "str | Cluster":
    """Return what `Pipelines` is to run on.

    Parameters
    ----------
    workers : Workers
    listen : str
        Where the services of this host bind; says whether other hosts may reach them.
    find : callable
        See `Found`.
    needs : Needs, optional
        What each worker must have.

    Raises
    ------
    ConfigurationError
        If that cannot be used here.
    """
    if workers.on == "scheduler":
        from p06bs.pipeline.found import Found
        from p06bs.pipeline.needs import ANYTHING

        return Found(find, needs or ANYTHING)
    if workers.on != "slurm":
        return workers.on
    from p06bs.adapters.slurm import SlurmCluster

    section = workers.slurm if needs is None else jobs_with(workers.slurm, needs)
    return SlurmCluster(section, workers.limits[0], scheduler_host(workers, listen))


def jobs_with(section: Slurm, needs: "Needs") -> Slurm:
    """Return what jobs are like whose workers have what is needed."""
    gpus = (f"--gres=gpu:{needs.gpus * section.processes}",) if needs.gpus else ()
    changes = {
        "memory": max(section.memory, needs.memory * section.processes),
        "directives": (*section.directives, *gpus),
        "python": f"{needs.environment}/bin/python" if needs.environment else section.python,
    }
    return Slurm.model_validate({**dict(section), **changes})


def job_script(workers: Workers, listen: str = HERE, needs: "Needs | None" = None) -> str:
    """Return the script of the jobs of SLURM that are workers; arguments as for `cluster`.

    Raises
    ------
    ConfigurationError
        If the workers are no jobs, or it cannot be made here.
    """
    if workers.on != "slurm":
        raise ConfigurationError(f'the workers are on "{workers.on}", not on "slurm"')
    from p06bs.adapters import slurm_jobs

    section = workers.slurm if needs is None else jobs_with(workers.slurm, needs)
    return slurm_jobs.job_script(section, scheduler_host(workers, listen))


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
