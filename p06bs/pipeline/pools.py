"""The pools of one process: one for each of the pipelines' needs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from p06bs.bus.log import DocumentLog
from p06bs.model.reference import reference_to
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.elastic import ElasticPool
from p06bs.pipeline.needs import Needs


class Pools:
    """Make the pools that pipelines need, and have all of them work.

    Parameters
    ----------
    pipelines : sequence of Pipeline
    context : zmq.Context
    documents : DocumentLog
    places : mapping
        Of each need: where its workers are, and the fewest and the most of them; see `placed`.
    **options
        Of each pool; see `ElasticPool`.

    Attributes
    ----------
    of : dict of str to ElasticPool
        By the name of each pipeline.
    """

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        context: Any,
        documents: DocumentLog,
        *,
        places: Mapping[Needs, tuple[Any, tuple[int, int]]],
        **options: Any,
    ) -> None:
        self._pools = {
            needs: ElasticPool(
                context,
                documents,
                needs=needs,
                among=list(places),
                pipelines=[p.name for p in pipelines if p.needs == needs],
                workers=limits,
                on=place,
                modalities=[reference_to(p.modality) for p in pipelines if p.needs == needs],
                **options,
            )
            for needs, (place, limits) in places.items()
        }
        self.of = {p.name: self._pools[p.needs] for p in pipelines}

    def __iter__(self) -> Iterator[ElasticPool]:
        return iter(self._pools.values())

    def start(self) -> None:
        """Begin to start workers."""
        for each in self:
            each.engine.start()

    @property
    def backlog(self) -> int:
        """Number of events whose names wait."""
        return sum(each.pool.load.backlog for each in self)

    @property
    def ready(self) -> bool:
        """Whether a worker has joined, or none is wanted yet."""
        return any(each.ready for each in self)

    def receive(self) -> int:
        """Take what workers have sent; return how many messages there were."""
        return sum(each.pool.receive() for each in self)

    def lease(self) -> None:
        """Give batches to idle workers."""
        for each in self:
            each.pool.lease()

    def tick(self, now: float, wall: float) -> None:
        """Do what is due, at a time of the monotonic clock and of the wall's."""
        for each in self:
            each.tick(now, wall)
