"""Make what people and devices say fit for documents: some of it would end a scan."""

import json
import math
from collections.abc import Mapping
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
from pydantic import BaseModel

DEEPEST = 12
"""Levels of what lies one in the other; what is deeper becomes text, for it may be in itself."""
_NO_DOT = str.maketrans("./", "__")


def key_of(name: object) -> str:
    """Return a name as a key of a document: event-model takes no dot, no slash, no empty one."""
    return str(name).translate(_NO_DOT) or "_"


def plain(value: Any, depth: int = 0, *, finite: bool = True) -> Any:
    """Return a value as JSON has it, at any depth; what JSON does not have becomes text.

    Parameters
    ----------
    value
    depth : int
        At which the value lies in another one.
    finite : bool
        Whether numbers that are not finite become text, too: JSON has none, events have them.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # no halves of surrogate pairs
    if isinstance(value, float):
        return str(value) if finite and not math.isfinite(value) else float(value)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else str(value)
    if depth < DEEPEST:
        inside = partial(plain, depth=depth + 1, finite=finite)
        if isinstance(value, Mapping):
            return {key_of(key): inside(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [inside(inner) for inner in value]
    return str(value)


def as_json(value: Any) -> str:
    """Return a value as JSON."""
    return json.dumps(plain(value))


def reading(value: Any) -> Any:
    """Return a value as an event holds it: text, a number or an array; others become JSON."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value if value.ndim else value.item()
    value = plain(value, finite=False)
    if value is None or isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, list):
        kinds: tuple[type, ...] = (str,) if value and isinstance(value[0], str) else (int, float)
        return value if all(isinstance(x, kinds) for x in value) else json.dumps(value)
    return value


def description(value: Any) -> dict[str, Any]:
    """Describe what `reading` returned, for a device that does not."""
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    if isinstance(value, np.ndarray | list):
        return {"source": "unknown", "dtype": "array", "shape": list(np.shape(value))}
    return {"source": "unknown", "dtype": kinds[type(value)], "shape": []}
