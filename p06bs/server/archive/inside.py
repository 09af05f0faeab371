"""Queries on what is in no index, as conditions on the metadata of the nodes.

Tiled's own compare what JSON holds with what a query gives in another way on each of the
two databases: text with numbers, items of lists as a piece of JSON, case or no case.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Boolean, Numeric, Text, and_, case, cast, exists, func, or_, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.expression import false, true, type_coerce
from tiled.catalog import orm
from tiled.queries import (
    AccessTagsFilter,
    Comparison,
    Contains,
    Eq,
    In,
    KeyPresent,
    Like,
    NotEq,
    NotIn,
    Regex,
)

from p06bs.server.archive.index import Condition, has_part, like
from p06bs.server.tree.search import OPERATORS, kind_of

_SQLITE: Mapping[str, tuple[str, ...]] = {
    "text": ("text",),
    "number": ("integer", "real"),
    "boolean": ("true", "false"),
}
_POSTGRES: Mapping[str, tuple[str, Any]] = {
    "text": ("string", Text(collation="C")),
    "number": ("number", Numeric()),
    "boolean": ("boolean", Boolean()),
}


def inside(query: Any, dialect: str) -> Condition | None:
    """Return what must hold of a node; None where it is of something else than metadata."""
    match query:
        case KeyPresent():
            there = _Place(query.key, dialect).kind.is_not(None)
            return there if query.exists else ~there
        case Eq(value=None) | In(value=[]) | AccessTagsFilter():  # runs have no tags
            return false()
        case NotIn(value=[]):
            return true()
        case Like():
            return like(_Place(query.key, dialect).of("text"), query.pattern, dialect)
        case Regex():
            # SQLAlchemy gives SQLite Python's expressions; PostgreSQL's have this option, too.
            pattern = query.pattern if query.case_sensitive else f"(?i){query.pattern}"
            return _Place(query.key, dialect).of("text").regexp_match(pattern)
        case Contains():
            place = _Place(query.key, dialect)
            item = place.has(query.value)
            if not isinstance(query.value, str):
                return item
            return or_(item, has_part(place.of("text"), query.value, dialect))
        case Eq() | NotEq() | Comparison():
            compared = _Place(query.key, dialect).of(str(kind_of(query.value)))
            if isinstance(query, Comparison):
                return OPERATORS[query.operator.value](compared, query.value)
            return compared == query.value if isinstance(query, Eq) else compared != query.value
        case In() | NotIn():
            place = _Place(query.key, dialect)
            kinds = {str(kind_of(value)): place for value in query.value}
            each = [
                (place.of(kind), [value for value in query.value if kind_of(value) == kind])
                for kind in kinds
            ]
            if isinstance(query, In):
                return or_(*(found.in_(values) for found, values in each))
            return or_(*(found.not_in(values) for found, values in each))
    return None


class _Place:
    """What is at a key of the metadata: of which kind, and its value if it is of one kind."""

    def __init__(self, key: str, dialect: str) -> None:
        self._column: Any = orm.Node.metadata_
        self._postgres = dialect == "postgresql"
        parts = key.split(".")
        if self._postgres:
            self._json = self._column
            for part in parts:  # by names only: a number is no index of a list
                self._json = self._json[part]
            self.kind: Any = func.jsonb_typeof(self._json)
        else:
            self._path = "$" + "".join(f'."{part}"' for part in parts)
            self.kind = func.json_type(self._column, self._path)

    def of(self, kind: str) -> Any:
        """Return the value, NULL if it is not of that kind."""
        if self._postgres:
            name, type_ = _POSTGRES[kind]
            return case((self.kind == name, cast(self._json.as_string(), type_)))
        value = func.json_extract(self._column, self._path)
        return case((self.kind.in_(_SQLITE[kind]), value))

    def has(self, value: Any) -> Condition:
        """Return the condition that it is a list with this item."""
        if self._postgres:
            return and_(self.kind == "array", self._json.op("@>")(type_coerce([value], JSONB)))
        items = func.json_each(self._column, self._path).table_valued("type", "value")
        same = and_(items.c.type.in_(_SQLITE[str(kind_of(value))]), items.c.value == value)
        return and_(self.kind == "array", exists(select(items.c.value).where(same)))
