"""An example of a service: it counts seconds. See "Write a service" in the documentation."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field

from p06bs import config
from p06bs.bus.metrics import Measure
from p06bs.bus.service import Service, Surroundings


class ExampleDefinition(config.Definition):
    """What may stand in its table."""

    interval: float = Field(1.0, gt=0, description="seconds between two counts")


class ExampleService(Service[ExampleDefinition]):
    """A counter that can be asked for its count, and set."""

    Definition = ExampleDefinition

    def __init__(self, name: str, definition: ExampleDefinition, here: Surroundings) -> None:
        super().__init__(name, definition, here)
        self._count = 0
        self._stop = threading.Event()

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What Prometheus is told."""
        return (Measure("example_count", "Intervals counted", lambda: self._count, "counter"),)

    @property
    def verbs(self) -> Mapping[str, Callable[..., Any]]:
        """What others may ask for."""
        return {"count": lambda: self._count, "set": self._set}

    def run(self, ready: Callable[[], None]) -> None:
        """Count until it is told to stop."""
        ready()
        while not self._stop.wait(self.definition.interval):
            self._count += 1

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    def _set(self, count: int) -> None:
        if count < 0:
            raise ValueError(f"count is {count}, it must not be negative")
        self._count = count
