"""How much of everything: what a service measures of itself, for Prometheus."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that is asked for when metrics are collected.

    Attributes
    ----------
    name : str
        Without prefix, with its unit: ``sink_bytes``.
    help : str
    read : callable
        Returns the number; or numbers by the value of `label`.
    kind : "gauge" or "counter"
        A counter only grows.
    label : str
    """

    name: str
    help: str
    read: Callable[[], float | Mapping[str, float]]
    kind: Literal["gauge", "counter"] = "gauge"
    label: str = ""


class Metrics:
    """Prometheus collector of what a service measures of itself, as ``p06bs_NAME``.

    On the server, Tiled's ``/api/v1/metrics`` shows it beside its own, to keys with the
    scope ``metrics``.

    Parameters
    ----------
    measures : iterable of Measure
    registry : prometheus_client.CollectorRegistry, optional
        Where it is registered until `close`; that of the process by default.
    """

    def __init__(
        self, measures: Iterable[Measure], registry: "CollectorRegistry | None" = None
    ) -> None:
        from prometheus_client import REGISTRY

        self._measures = tuple(measures)
        self._registry = registry or REGISTRY
        self._registry.register(self)

    def collect(self) -> "Iterable[Metric]":
        """Yield the metrics as they are now (prometheus_client's Collector)."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for measure in self._measures:
            family = GaugeMetricFamily if measure.kind == "gauge" else CounterMetricFamily
            labels = [measure.label] if measure.label else []
            metric = family(f"p06bs_{measure.name}", measure.help, labels=labels)
            value = measure.read()
            if isinstance(value, Mapping):
                for label, number in value.items():
                    metric.add_metric([label], number)
            else:
                metric.add_metric([], value)
            yield metric

    def close(self) -> None:
        """Be collected no more."""
        self._registry.unregister(self)

    def exposition(self) -> str:
        """Return all metrics of the registry in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry).decode()
