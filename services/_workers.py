"""Where the workers of pipelines run, as a configuration says."""

from typing import TYPE_CHECKING

from p06bs.config import Workers

if TYPE_CHECKING:
    from p06bs.pipeline.cluster import Cluster


def cluster(workers: Workers) -> "str | Cluster":
    """Return what `Pipelines` is to run on.

    Raises
    ------
    ConfigurationError
        If that cannot be used here.
    """
    if workers.on != "slurm":
        return workers.on
    from p06bs.adapters.slurm import SlurmCluster

    return SlurmCluster(workers.slurm, workers.limits[0])
