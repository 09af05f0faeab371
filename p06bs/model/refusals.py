"""Why settings are refused: what pydantic says, in words of a configuration file."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from p06bs.model.ranges import allowed_at, fields

Place = tuple[int | str, ...]

REWORDED = (
    (r"^Value error, ", ""),
    (r"a valid tuple", "a list"),
    (r"a valid dictionary.*", "a table"),
    (r", unable to parse string as (a number|an integer)", ""),
    (r"^(Tuple|Dictionary) should", "It should"),
    (r" after validation, not", ", not"),
)
TYPES = frozenset({"int", "float", "str", "bool", "none", "nullable"})
"""What pydantic calls alternatives of a field, beside names of classes and functions."""


def refusals(error: ValidationError, given: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return which settings are refused, and what each may be.

    Parameters
    ----------
    schema : mapping
        JSON schema of the settings.
    """
    told: dict[Place, list[tuple[Place, ErrorDetails]]] = {}
    for one in error.errors(include_url=False):
        place, choice = _place(one, given)
        told.setdefault(choice, []).append((place, one))
    said = (
        _in_words(*each, schema, several=len(group) > 1)
        for group in told.values()
        for each in _telling(group)
    )
    return "; ".join(dict.fromkeys(said))


def _place(error: ErrorDetails, given: Any) -> tuple[Place, Place]:
    """Return where an error is, without names of alternatives, and where the first of these was."""
    place: list[int | str] = []
    choice: Place | None = None
    for part in error["loc"]:
        there = isinstance(given, Mapping | list | tuple) and _has(given, part)
        if there:
            given = given[part]
        elif isinstance(part, str) and (part in TYPES or not re.fullmatch(r"[a-z]\w*", part)):
            choice = tuple(place) if choice is None else choice
            continue
        place.append(part)
    return tuple(place), tuple(place) if choice is None else choice


def _has(given: Mapping[Any, Any] | Sequence[Any], part: int | str) -> bool:
    if isinstance(given, Mapping):
        return part in given
    return isinstance(part, int) and part < len(given)


def _telling(
    group: list[tuple[Place, ErrorDetails]],
) -> Iterator[tuple[Place, ErrorDetails]]:
    """Yield what matters of what is wrong with all alternatives of one field."""
    if len(group) > 1:
        deepest = max(len(place) for place, _ in group)
        group = [one for one in group if len(one[0]) == deepest]
        group = [one for one in group if not _is_of_type(one[1])] or group[:1]
    yield from group


def _is_of_type(error: ErrorDetails) -> bool:
    """Return whether an error only says that a value is of another type."""
    return error["type"].endswith(("_type", "_parsing", "literal_error"))


def _in_words(place: Place, error: ErrorDetails, schema: Mapping[str, Any], several: bool) -> str:
    """Return what is wrong at a place, one of `several` alternatives or not."""
    kind, said = error["type"], error["msg"]
    for pattern, text in REWORDED:
        said = re.sub(pattern, text, said)
    parts = [] if several and _is_of_type(error) else [said]
    parts += [] if kind == "missing" else [f"got {_short(error['input'])}"]
    told = f"{'.'.join(map(str, place)) or 'settings'}: {', '.join(parts)}"
    if kind == "extra_forbidden":
        return f"{told}; there are {', '.join(fields(schema, place[:-1])) or 'no settings'}"
    may_be = allowed_at(schema, place) if place and kind != "value_error" else ""
    return f"{told}; allowed: {may_be}" if may_be else told


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
