"""Documents as both databases take them: plain JSON."""

import datetime
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

LARGE = 1 << 18
"""Bytes of JSON from which on the metadata in the database are abbreviated."""


def searchable(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document as both databases take it: plain JSON.

    What is not finite becomes None, the character NUL becomes U+FFFD, times and paths
    become text, bytes their hexadecimal digits. Of a document of more than `LARGE` bytes
    of JSON the largest fields are replaced by how long they are. The exact document is in
    the run's log.
    """
    plain: dict[str, Any] = _plain(document)
    sizes = {key: len(json.dumps(value)) for key, value in plain.items()}
    for key in sorted(sizes, key=lambda key: -sizes[key]):
        if sum(sizes.values()) <= LARGE:
            break
        plain[key] = f"({sizes[key]} bytes of JSON)"
        sizes[key] = len(plain[key])
    return plain


def searchable_text(value: str) -> str:
    """Return a text as both databases take it, without NUL and lone surrogates."""
    return value.replace("\0", "\ufffd").encode(errors="replace").decode()


def shown(value: Any) -> Any:
    """Return metadata from a database as clients are sent them.

    PostgreSQL gives 1e20 back as an integer, and integers beyond 64 bits are sent in no
    format: they become floats again, and text beyond floats.
    """
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shown(item) for item in value]
    if type(value) is int and not -(2**63) <= value < 2**64:
        try:
            return float(value)
        except OverflowError:
            return str(value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return searchable_text(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if value is None or isinstance(value, bool | int | float):
        return value
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
