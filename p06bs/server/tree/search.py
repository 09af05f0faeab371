"""Searches in memory, which find what they find in the archive.

A query is about a value of one kind, as the value that it compares with: a text, a
number, or true and false. Where metadata have none of that kind at its key, it does not
hold, ``!=`` neither. Text is compared by code point and case.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tiled.queries import (
    AccessTagsFilter,
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
    QueryValueError,
    Regex,
    SpecsQuery,
    StructureFamilyQuery,
)

from p06bs.metadata import BY_KEY
from p06bs.server.tree.words import holds, parse

MOST_VALUES = 1000
"""Values of one query at most."""

LONGEST_KEY = 512
"""Characters of a key."""

BIGGEST = 2**63 - 1
"""Integers beyond are compared with nothing, and in no index: databases do not take them."""

OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}

_NOTHING = object()

Test = Callable[[str, Any], bool]
"""Says of a child of a node, by its key and itself, whether it matches."""


def condition(query: Any) -> Test:
    """Return what a query asks of a child.

    Raises
    ------
    QueryValueError
        If the query cannot be asked.
    """
    check(query)
    match query:
        case FullText():
            search = parse(query.text)
            return lambda key, child: holds(search, child.metadata())
        case KeysFilter():
            return lambda key, child: key in query.keys
        case AccessTagsFilter():  # runs have none
            return lambda key, child: False
        case StructureFamilyQuery():
            return lambda key, child: bool(child.structure_family == query.value)
        case SpecsQuery():
            return lambda key, child: _has_specs(child, query.include, query.exclude)
        case KeyPresent():
            return lambda key, child: _is_there(child.metadata(), query.key) == query.exists
        case Regex():
            pattern = _compiled(query)
            return lambda key, child: _matches(pattern, _at(child.metadata(), query.key))
        case Like(key="start.uid"):  # what was written has its key only
            return lambda key, child: is_like(key, query.pattern)
    found = of_value(query)
    parts = query.key.split(".")
    return lambda key, child: found(_value_at(child.metadata(), parts))


def of_value(query: Any) -> Callable[[Any], bool]:
    """Return what a query asks of the value at its key.

    Raises
    ------
    QueryValueError
        If it is not asked here.
    """
    match query:
        case Eq(value=None):
            return lambda value: False
        case Eq():
            return lambda value: _alike(value, query.value) and value == query.value
        case NotEq():
            return lambda value: _alike(value, query.value) and value != query.value
        case Comparison():
            compare = OPERATORS[query.operator.value]
            return lambda value: _alike(value, query.value) and compare(value, query.value)
        case In():
            return lambda value: any(_alike(value, one) and value == one for one in query.value)
        case NotIn(value=[]):
            return lambda value: True
        case NotIn():
            return lambda value: (
                any(_alike(value, one) for one in query.value)
                and not any(_alike(value, one) and value == one for one in query.value)
            )
        case Contains():
            return lambda value: _contains(value, query.value)
        case Like():
            return lambda value: isinstance(value, str) and is_like(value, query.pattern)
    raise QueryValueError(f"{type(query).__name__} is not supported here")


def kind_of(value: Any) -> str | None:
    """Return ``text``, ``number`` or ``boolean``; None of a value that is not compared."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "text"
    return "number" if isinstance(value, int | float) and math.isfinite(value) else None


def check(query: Any) -> None:
    """Refuse what databases fail at.

    Raises
    ------
    QueryValueError
        If a text is not valid Unicode or holds NUL, an integer has more than 64 bits, a
        key could not be a path in metadata, a value is none to compare with, or there are
        too many values.
    """
    key = getattr(query, "key", "x")
    if not isinstance(key, str) or not key or len(key) > LONGEST_KEY or '"' in key or "\\" in key:
        raise QueryValueError(f"{key!r} is no key of metadata")
    if isinstance(query, In | NotIn | KeysFilter):
        values = query.keys if isinstance(query, KeysFilter) else query.value
        if not isinstance(values, list) or len(values) > MOST_VALUES:
            raise QueryValueError(f"give a list of at most {MOST_VALUES} values")
        if isinstance(query, KeysFilter) and not all(isinstance(one, str) for one in values):
            raise QueryValueError("keys are text")
    if isinstance(query, In | NotIn):
        compared = query.value
    elif isinstance(query, NotEq | Comparison | Contains) or (
        isinstance(query, Eq) and query.value is not None
    ):
        compared = [query.value]
    else:
        compared = []
    for name in ("key", "pattern", "text", "keys"):
        _check_value(getattr(query, name, None))
    for value in compared:
        _check_value(value)
        if kind_of(value) is None:
            raise QueryValueError(
                f"{str(value)[:80]!r} is nothing to compare with: give a text, a number, true "
                "or false"
            )


def is_like(text: str, pattern: str) -> bool:
    """Return whether a text is as SQL's LIKE says: ``%`` is any text, ``_`` any character.

    Takes at most the product of the lengths; a regular expression takes much longer.
    """
    at = t = 0
    star, resume = -1, 0
    while t < len(text):
        if at < len(pattern) and pattern[at] == "%":
            star, resume = at, t
            at += 1
        elif at < len(pattern) and pattern[at] in ("_", text[t]):
            at, t = at + 1, t + 1
        elif star >= 0:
            at, resume = star + 1, resume + 1
            t = resume
        else:
            return False
    return not pattern[at:].strip("%")


def _compiled(query: Regex) -> re.Pattern[str]:
    try:
        return re.compile(query.pattern, 0 if query.case_sensitive else re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise QueryValueError(f"{query.pattern!r} is no regular expression: {error}") from None


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.search(value) is not None


def _at(metadata: Mapping[str, Any], key: str) -> Any:
    """Return what is at a key like ``start.sample.name``, `_NOTHING` where nothing is."""
    return _value_at(metadata, key.split("."))


def _value_at(metadata: Mapping[str, Any], parts: Iterable[str]) -> Any:
    value: Any = metadata
    for part in parts:
        value = value.get(part, _NOTHING) if isinstance(value, Mapping) else _NOTHING
    return value


def _is_there(metadata: Mapping[str, Any], key: str) -> bool:
    """Return whether a key is there; of an indexed field with a value of the field's kind."""
    field = BY_KEY.get(key)
    return _at(metadata, key) is not _NOTHING if field is None else field.of(metadata) is not None


def _alike(value: Any, other: Any) -> bool:
    """Return whether two values are of one kind."""
    kind = kind_of(value)
    return kind is not None and kind == kind_of(other)


def _contains(value: Any, part: Any) -> bool:
    """Return whether a text has a part, or a list an item."""
    if isinstance(value, str):
        return isinstance(part, str) and part in value
    return isinstance(value, list | tuple) and any(
        _alike(item, part) and item == part for item in value
    )


def _has_specs(child: Any, include: list[str], exclude: list[str]) -> bool:
    names = {spec.name for spec in child.specs}
    return names.issuperset(include) and names.isdisjoint(exclude)


def _check_value(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise QueryValueError("text in a query has no NUL")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise QueryValueError("text in a query is valid Unicode") from None
    elif isinstance(value, int) and abs(value) > BIGGEST:
        raise QueryValueError("integers in a query have at most 64 bits")
    elif isinstance(value, float) and not math.isfinite(value):
        raise QueryValueError("numbers in a query are finite")
    elif isinstance(value, list):
        for item in value:
            _check_value(item)
