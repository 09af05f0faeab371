"""Settings and metrics of a service as attributes of a Tango device: names, types, values.

Decisions only; nothing here knows Tango's library.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from p06bs.model.ranges import allowed

LONGEST = 1 << 16
"""Elements of a list."""
MOST_METRICS = 300
"""So many of a service are shown: those that Prometheus keeps by path or by user may be many."""
METRICS = ("p06bs_", "process_")
"""What the names of metrics begin with that are shown: what a service measures of itself."""

Kind = Literal["number", "integer", "boolean", "string", "json"]
ELEMENTS: dict[Kind, type[Any]] = {
    "number": float,
    "integer": int,
    "boolean": bool,
    "string": str,
    "json": str,
}


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a device.

    Attributes
    ----------
    name : str
        Valid in Tango, and in Python.
    kind : str
        Of a value, or of the elements of a list; ``json`` is text that holds anything else.
    many : bool
        Whether it is a list.
    description, unit : str
    pipeline, setting : str
        What a write changes; "" for a metric.
    optional : bool
        Whether a number may be absent; Tango shows NaN.
    """

    name: str
    kind: Kind
    many: bool = False
    description: str = ""
    unit: str = ""
    pipeline: str = ""
    setting: str = ""
    optional: bool = False

    def shown(self, value: Any) -> Any:
        """Return a value as Tango shows it."""
        if self.kind == "json":
            return json.dumps(value)
        if value is None:
            return math.nan
        element = ELEMENTS[self.kind]
        convert = legible if element is str else element
        return [convert(one) for one in value] if self.many else convert(value)

    @property
    def nothing(self) -> Any:
        """What stands where there is no value."""
        return [] if self.many else ELEMENTS[self.kind]()

    def meant(self, value: Any) -> Any:
        """Return the setting that somebody means who writes a value through Tango."""
        if self.kind == "json":
            try:
                return json.loads(value)
            except ValueError:
                return value  # text, as on the command line
        if self.optional and math.isnan(value):
            return None
        return np.asarray(value).tolist()


def legible(text: Any) -> str:
    """Return text in Tango's alphabet, Latin-1; other characters as in Python's source."""
    return str(text).encode("latin-1", "backslashreplace").decode("latin-1")


def settings(records: Mapping[str, Mapping[str, Any]]) -> dict[Attribute, Any]:
    """Return the settings of pipelines, and their values, as Tango shows them.

    Parameters
    ----------
    records : mapping
        By pipeline, as the verb ``settings`` answers.
    """
    taken: set[str] = set()
    found: dict[Attribute, Any] = {}
    for pipeline, record in records.items():
        schema = record["schema"]
        for name, value in record["values"].items():
            about = schema.get("properties", {}).get(name, {})
            defined = schema.get("$defs", {})
            optional = _optional_number(about)
            kind: Kind
            kind, many = ("number", False) if optional else _kind(about, defined)
            words = (about.get("description", ""), allowed(schema, name))
            attribute = Attribute(
                _unique(f"{pipeline}_{name}", taken),
                kind,
                many,
                legible("; ".join(word for word in words if word)),
                legible(about.get("unit", "")),
                pipeline,
                name,
                optional,
            )
            found[attribute] = attribute.shown(value)
    return found


def metrics(exposition: str) -> dict[Attribute, float]:
    """Return what a service measures of itself, from Prometheus' text format."""
    taken: set[str] = set()
    found: dict[Attribute, float] = {}
    for name, help, value in _samples(exposition):
        if len(found) == MOST_METRICS:
            break
        found[Attribute(_unique(name, taken), "number", description=legible(help))] = value
    return found


def _samples(exposition: str) -> Iterator[tuple[str, str, float]]:
    for family in text_string_to_metric_families(exposition):
        if family.type not in ("gauge", "counter") or not family.name.startswith(METRICS):
            continue
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                words: Iterable[str] = (sample.name, *sample.labels.values())
                yield "_".join(words), family.documentation, float(sample.value)


def _unique(name: str, taken: set[str]) -> str:
    """Return a name that Tango and Python allow; Tango's have no capitals of their own."""
    valid = re.sub(r"\W", "_", name, flags=re.ASCII)
    number, chosen = 1, valid
    while chosen.lower() in taken:
        number += 1
        chosen = f"{valid}_{number}"
    taken.add(chosen.lower())
    return chosen


def _optional_number(about: Mapping[str, Any]) -> bool:
    kinds = [choice.get("type") for choice in about.get("anyOf", ())]
    return sorted(map(str, kinds)) == ["null", "number"]


def _kind(about: Mapping[str, Any], defined: Mapping[str, Any]) -> tuple[Kind, bool]:
    """Return the kind of a field of a JSON schema, and whether it is a list of such."""
    if "$ref" in about:
        about = defined.get(about["$ref"].rpartition("/")[2], {})
    if about.get("type") == "array" and "prefixItems" not in about:
        kind, many = _kind(about.get("items", {}), defined)
        return ("json", False) if many or kind == "json" else (kind, True)
    match about.get("type"):
        case "number" | "integer" | "boolean" | "string" as kind:
            return kind, False
    return "json", False
