"""What a setting may be, in words, from the JSON schema of a modality's settings."""

from collections.abc import Mapping
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
    known = schema.get("properties", {})
    return _words(known[field], schema.get("$defs", {})) if field in known else ""


def _words(part: Mapping[str, Any], defined: Mapping[str, Any]) -> str:
    if "$ref" in part:
        return _words(defined.get(part["$ref"].rpartition("/")[2], {}), defined)
    choices = part.get("anyOf") or part.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(_words(choice, defined) for choice in choices))
    if "enum" in part:
        return "one of " + ", ".join(map(str, part["enum"]))
    if "const" in part:
        return str(part["const"])
    bounds = [text.format(part[key]) for key, text in BOUNDS.items() if key in part]
    return " ".join([_kind(part, defined), ", ".join(bounds)]).strip() or "anything"


def _kind(part: Mapping[str, Any], defined: Mapping[str, Any]) -> str:
    kind = str(part.get("type", ""))
    if "prefixItems" in part:
        return f"[{', '.join(_words(item, defined) for item in part['prefixItems'])}]"
    if kind == "array" and isinstance(part.get("items"), Mapping):
        return f"list of {_words(part['items'], defined)}"
    inner = part.get("additionalProperties")
    if kind == "object" and isinstance(inner, Mapping):
        return f"name -> {_words(inner, defined)}"
    return kind
