"""What is asked of the children of a node: which match, and which values their metadata have.

Tiled 0.2.20 searches in memory in another way than in a database, and counts values by
their hash, which mappings and lists have not.
"""

import json
from collections.abc import Hashable, Iterable
from typing import Any

from tiled.adapters.mapping import MapAdapter

from p06bs.metadata import value_at
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

        Mappings and lists are the same where their JSON is, in any order of the keys.
        """
        found: dict[str, Any] = super().get_distinct((), structure_families, specs, counts)
        keys = list(metadata or ())
        if keys:
            documents = [child.metadata() for _, child in self.summaries()]
            found["metadata"] = {
                key: _distinct([value_at(one, key) for one in documents], counts) for key in keys
            }
        return found


def _distinct(values: Iterable[Any], counts: bool) -> list[dict[str, Any]]:
    found: dict[Hashable, dict[str, Any]] = {}
    for value in values:
        if value is not None:
            one = found.setdefault(_identity(value), {"value": value, "count": 0})
            one["count"] += 1
    return list(found.values()) if counts else [{"value": one["value"]} for one in found.values()]


def _identity(value: Any) -> Hashable:
    """Return what is equal where values are: themselves, or their JSON."""
    try:
        hash(value)
    except TypeError:
        return "JSON", json.dumps(value, sort_keys=True, default=repr)
    plain: Hashable = value
    return plain
