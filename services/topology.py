"""The Topology Manager: where services register, and find each other."""

from collections.abc import Callable, Mapping

from pydantic import Field

from p06bs import config
from p06bs.bus.metrics import Measure
from p06bs.bus.service import Service, Surroundings
from p06bs.bus.topology_manager import ADDRESS, TTL, TopologyManager
from p06bs.config.base import Listening


class TopologyDefinition(config.Definition):
    """The table of a Topology Manager."""

    address: Listening = Field(ADDRESS, description="where it listens; as in [bus] topology")
    ttl: float = Field(TTL, gt=0, description="seconds that a lease lasts without a renewal")


class TopologyService(Service[TopologyDefinition]):
    """The Topology Manager, registered at itself."""

    Definition = TopologyDefinition

    def __init__(self, name: str, definition: TopologyDefinition, here: Surroundings) -> None:
        super().__init__(name, definition, here)
        self._manager = TopologyManager(definition.address, ttl=definition.ttl, keys=here.keys)

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where it listens."""
        return {"topology": self._manager.address}

    @property
    def measures(self) -> tuple[Measure, ...]:
        """How many are there, and what it refused."""
        topology = self._manager.topology
        return (
            Measure("services", "Services with a lease", lambda: len(topology)),
            Measure("topology_revision", "Revision of the topology", lambda: topology.revision),
            Measure(
                "questions_refused",
                "Questions that could not be understood",
                lambda: dict(self._manager.refused),
                "counter",
                "kind",
            ),
        )

    def run(self, ready: Callable[[], None]) -> None:
        """Answer until it is told to stop."""
        with self._manager as manager:
            ready()
            manager.serve()

    def stop(self) -> None:
        """End `run`."""
        self._manager.stop()
