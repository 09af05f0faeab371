"""Metrics of many services in one text for Prometheus."""

from collections.abc import Iterator, Mapping

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

LABEL = "service"


def merged(texts: Mapping[str, str | None]) -> bytes:
    """Return the metrics of services as one text; each sample has its service as a label.

    ``p06bs_up`` says who gave any. A label ``service`` that a sample has already becomes
    ``exported_service``, as Prometheus itself does.

    Parameters
    ----------
    texts : mapping of str to str or None
        What each service gave, by its name; None if nothing.
    """
    return generate_latest(_Merged(texts))


class _Merged(Collector):
    def __init__(self, texts: Mapping[str, str | None]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("p06bs_up", "Whether a service gives its metrics", labels=[LABEL])
        families: dict[str, Metric] = {}
        for service, text in self._texts.items():
            found = _families(text)
            up.add_metric([service], float(found is not None))
            for family in found or ():
                # A name has one type: services of two versions may differ, and the first counts.
                shown = family.name + ("_total" if family.type == "counter" else "")
                kept = families.setdefault(
                    shown, Metric(family.name, family.documentation, family.type)
                )
                if kept.type == family.type:
                    kept.samples += [_labelled(sample, service) for sample in family.samples]
        yield up
        yield from families.values()


def _families(text: str | None) -> list[Metric] | None:
    """Return the metrics in a text; None if it is none."""
    try:
        return None if text is None else list(text_string_to_metric_families(text))
    except ValueError:
        return None


def _labelled(sample: Sample, service: str) -> Sample:
    labels = dict(sample.labels)
    if LABEL in labels:
        labels[f"exported_{LABEL}"] = labels.pop(LABEL)
    return sample._replace(labels={LABEL: service, **labels})
