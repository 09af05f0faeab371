"""What is asked of the children of a node: which match, and which values their metadata have.

Tiled 0.2.20 searches in memory in another way than in a database, and counts values by
their hash, which mappings and lists have not.
"""

import json
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from tiled.adapters.mapping import MapAdapter

from p06bs.metadata import BY_KEY, LISTS, found_at
from p06bs.server.tree.search import condition


class DistinctMap(MapAdapter):
    """Tiled's adapter of a mapping, for children with any metadata."""

    def search(self, query: Any) -> Any:
        """Return the node with the children that match.

        Raises
        ------
        QueryValueError
            If the query cannot be asked.
        """
        holds = condition(query)
        found = [key for key, child in self.summaries() if holds(key, child)]
        return self.new_variation(mapping={key: self._mapping[key] for key in found})

    def summaries(self) -> Iterable[tuple[str, Any]]:
        """Return the children, or what has their metadata, specs and family, by their keys."""
        children: Iterable[tuple[str, Any]] = self.items()
        return children

    def get_distinct(
        self,
        metadata: Iterable[str] | None,
        structure_families: bool,
        specs: bool,
        counts: bool,
    ) -> dict[str, Any]:
        """Return the values that the children's metadata have at each key, and how often.

        Of fields by which the archive finds runs they are what its index holds: values of
        the field's kind, and the items of a list, each once of a child. Mappings and lists
        are the same where their JSON is, in any order of the keys.
        """
        found: dict[str, Any] = super().get_distinct((), structure_families, specs, counts)
        keys = list(metadata or ())
        if keys:
            documents = [child.metadata() for _, child in self.summaries()]
            found["metadata"] = {
                key: _distinct((v for one in documents for v in _values(one, key)), counts)
                for key in keys
            }
        return found


def _values(metadata: Mapping[str, Any], key: str) -> Iterable[Any]:
    """Return what is counted of one child."""
    value = found_at(metadata, key)
    return set(value or ()) if BY_KEY.get(key) in LISTS else (value,)


def _distinct(values: Iterable[Any], counts: bool) -> list[dict[str, Any]]:
    found: dict[Hashable, dict[str, Any]] = {}
    for value in values:
        if value is not None:
            one = found.setdefault(_identity(value), {"value": value, "count": 0})
            one["count"] += 1
    ordered = sorted(found.values(), key=lambda one: _rank(one["value"]))
    return ordered if counts else [{"value": one["value"]} for one in ordered]


def _rank(value: Any) -> tuple[int, Any]:
    """Order text before numbers before the rest, as a database does."""
    if isinstance(value, str):
        return 0, value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 1, value
    return 2, json.dumps(value, sort_keys=True, default=repr)


def _identity(value: Any) -> Hashable:
    """Return what is equal where values are: themselves, or their JSON. True is not 1."""
    try:
        hash(value)
    except TypeError:
        return "JSON", json.dumps(value, sort_keys=True, default=repr)
    return isinstance(value, bool), value
