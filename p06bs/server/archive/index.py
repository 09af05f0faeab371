"""Queries on indexed fields, as conditions on the index of runs.

What the index does not know, a field that is not in the list or a value of another type
than the field's, is searched in the metadata: see `p06bs.server.archive.inside`. What a
query means is in `p06bs.server.tree.search`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, Float, Integer, Table, any_, bindparam, func, literal, select
from sqlalchemy.dialects.postgresql import REGCONFIG
from sqlalchemy.sql.expression import cast, column, false
from tiled.catalog import orm
from tiled.queries import (
    Comparison,
    Contains,
    Eq,
    FullText,
    In,
    KeyPresent,
    KeysFilter,
    Like,
    NotEq,
    NotIn,
)

from p06bs.metadata import Indexed
from p06bs.server.archive.schema import COLUMNS, ITEMS, LONGEST, RUNS, WORDS
from p06bs.server.archive.words import to_fts5, to_tsquery
from p06bs.server.tree.search import OPERATORS, check
from p06bs.server.tree.words import parse

FIELDS: Mapping[str, Indexed] = {field.key: field for field in COLUMNS}

Condition = Any
"""SQLAlchemy's ``ColumnElement[bool]``; its operators are not annotated so."""


def condition(query: Any, dialect: str) -> Condition | None:
    """Return what must hold of a row of `RUNS`; None where the index cannot tell.

    Parameters
    ----------
    query : Tiled's query
    dialect : str
        ``sqlite`` or ``postgresql``.

    Raises
    ------
    QueryValueError
        If the query cannot be asked of any database.
    """
    check(query)
    if isinstance(query, FullText):
        found: Any = select(column("rowid")).select_from(orm.metadata_fts5)
        matches = orm.metadata_fts5.c.metadata.match(to_fts5(parse(query.text)))
        return RUNS.c.node_id.in_(found.where(matches))
    if isinstance(query, KeysFilter):
        return RUNS.c.uid.in_(query.keys)
    key = getattr(query, "key", None)
    if isinstance(query, KeyPresent) and key in ITEMS:
        items = ITEMS[key]
        there = RUNS.c.node_id.in_(select(items.c.node_id))
        return there if query.exists else ~there
    field = FIELDS.get(key or "")
    return None if field is None else _on_field(query, field, RUNS.c[field.column], dialect)


def source(query: Any, dialect: str) -> Any | None:
    """Return what is read in place of `RUNS` where a query is better answered from there.

    It has `node_id`, `time` and `folder_id` of each run that matches. None: from `RUNS`.

    Raises
    ------
    QueryValueError
        As `condition`.
    """
    if isinstance(query, Contains) and query.key in ITEMS and isinstance(query.value, str):
        check(query)
        table, matches = ITEMS[query.key], ITEMS[query.key].c.value == query.value
        return _of(table).where(matches).subquery()
    if isinstance(query, FullText) and dialect == "postgresql":
        check(query)
        asked = func.to_tsquery(cast("simple", REGCONFIG), to_tsquery(parse(query.text)))
        # OFFSET keeps PostgreSQL from going through all runs by time: it takes what a word
        # has to be looked up in for cheap.
        return _of(WORDS).where(WORDS.c.words.op("@@")(asked)).offset(0).subquery()
    return None


def _of(table: Table) -> Any:
    return select(table.c.node_id, table.c.time, table.c.folder_id)


def among(folder: Any, ids: Sequence[int], dialect: str) -> Condition:
    """Return the condition that a folder is one of different `ids`, however many they are."""
    if not ids:
        return false()
    lowest, highest = min(ids), max(ids)
    if highest - lowest + 1 == len(ids):  # as for who sees all that there is
        # SQLite takes a range for rare, would look up its folders first, then sort by time
        # whatever they have: a sum has no index, so that it goes by time and stops early.
        many = dialect == "sqlite" and lowest < highest
        return (folder + 0 if many else folder).between(lowest, highest)
    if dialect == "postgresql":
        given = bindparam("folders", list(ids), ARRAY(Integer), unique=True)
        return folder == any_(given)
    given = bindparam("folders", json.dumps(list(ids)), unique=True)
    values = func.json_each(given).table_valued("value")
    return folder.in_(select(values.c.value))


def _on_field(query: Any, field: Indexed, place: Any, dialect: str) -> Condition | None:
    match query:
        case Eq(value=None):
            return false()  # an indexed field is text or a number
        case Eq() if _fits(field, query.value):
            return place == _value(field, query.value)
        case NotEq() if _fits(field, query.value):
            return place != _value(field, query.value)
        case Comparison() if _fits(field, query.value):
            return OPERATORS[query.operator.value](place, _value(field, query.value))
        case In() if all(_fits(field, value) for value in query.value):
            return place.in_([_value(field, value) for value in query.value])
        case NotIn() if all(_fits(field, value) for value in query.value):
            return place.not_in([_value(field, value) for value in query.value])
        case Contains() if field.kind == "text" and isinstance(query.value, str):
            return has_part(place, query.value, dialect)
        case Like() if field.kind == "text":
            return like(place, query.pattern, dialect)
        case KeyPresent():
            return place.is_not(None) if query.exists else place.is_(None)
    return None


def _fits(field: Indexed, value: Any) -> bool:
    """Return whether a value is of the field's type and could be in the index."""
    if field.kind == "text":
        return isinstance(value, str) and len(value) <= LONGEST
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(field: Indexed, value: Any) -> Any:
    """Return a value that fits as the database takes it: it compares strictly typed."""
    if field.kind == "integer" and isinstance(value, float):
        return int(value) if value.is_integer() else literal(value, Float())
    return float(value) if field.kind == "number" else value


def has_part(place: Any, text: str, dialect: str) -> Condition:
    """Return the condition that a text has a part."""
    position = func.strpos if dialect == "postgresql" else func.instr
    return position(place, text) > 0


def like(place: Any, pattern: str, dialect: str) -> Condition:
    """Return SQL's LIKE, with % and _ and no escape, for which a prefix uses the index."""
    if dialect == "postgresql":
        return place.like(pattern.replace("\\", "\\\\"))
    wild = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    return place.op("GLOB")("".join(wild.get(c, c) for c in pattern))
