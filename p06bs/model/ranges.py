"""What a setting may be, in words, from the JSON schema of a modality's settings."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

BOUNDS = {
    "exclusiveMinimum": "> {}",
    "minimum": ">= {}",
    "exclusiveMaximum": "< {}",
    "maximum": "<= {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "minProperties": "at least {} entries",
    "maxProperties": "at most {} entries",
    "pattern": "matching {}",
    "multipleOf": "a multiple of {}",
}


def allowed(schema: Mapping[str, Any], field: str) -> str:
    """Return what the field of a JSON schema may be, for example ``number > 0, <= 100``.

    "" if the schema has no such field.
    """
    return allowed_at(schema, (field,))


def allowed_at(schema: Mapping[str, Any], place: Sequence[int | str]) -> str:
    """Return what may be at a place within a JSON schema; "" if it has no such place."""
    defined = schema.get("$defs", {})
    found = list(_parts(schema, place, defined)) if place else []
    return " or ".join(dict.fromkeys(_words(part, defined) for part in found))


def fields(schema: Mapping[str, Any], place: Sequence[int | str]) -> list[str]:
    """Return the names of what a table at a place of a JSON schema may have."""
    parts = _parts(schema, place, schema.get("$defs", {}))
    return list(dict.fromkeys(name for part in parts for name in part.get("properties", {})))


def _parts(
    part: Mapping[str, Any], place: Sequence[int | str], defined: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas of a place; there are several where there are alternatives on the way."""
    if "$ref" in part:
        yield from _parts(_defined(part, defined), place, defined)
        return
    if not place:
        yield part
        return
    for choice in part.get("anyOf") or part.get("oneOf") or ():
        yield from _parts(choice, place, defined)
    first, *rest = place
    items = part.get("prefixItems", ())
    inner = part.get("properties", {}).get(first) or part.get("additionalProperties")
    if isinstance(first, int):
        inner = items[first] if first < len(items) else part.get("items")
    if isinstance(inner, Mapping):
        yield from _parts(inner, rest, defined)


def _defined(part: Mapping[str, Any], defined: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = defined.get(part["$ref"].rpartition("/")[2], {})
    return found


def _words(part: Mapping[str, Any], defined: Mapping[str, Any]) -> str:
    if "$ref" in part:
        return _words(_defined(part, defined), defined)
    choices = part.get("anyOf") or part.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(_words(choice, defined) for choice in choices))
    if "enum" in part:
        return "one of " + ", ".join(map(str, part["enum"]))
    if "const" in part:
        return str(part["const"])
    fixed = ("minItems", "maxItems") if "prefixItems" in part else ()
    known = (key for key in BOUNDS if key in part and key not in fixed)
    bounds = [BOUNDS[key].format(part[key]) for key in known]
    return " ".join([_kind(part, defined), ", ".join(bounds)]).strip() or "anything"


def _kind(part: Mapping[str, Any], defined: Mapping[str, Any]) -> str:
    kind = str(part.get("type", ""))
    if "prefixItems" in part:
        return f"[{', '.join(_words(item, defined) for item in part['prefixItems'])}]"
    if kind == "array" and isinstance(part.get("items"), Mapping):
        return f"list of {_words(part['items'], defined)}"
    if kind == "object" and part.get("properties"):
        return f"table ({', '.join(part['properties'])})"
    inner = part.get("additionalProperties")
    if kind == "object" and isinstance(inner, Mapping):
        return f"name -> {_words(inner, defined)}"
    return "none" if kind == "null" else kind
