"""Documents as both databases take them: plain JSON."""

import datetime
import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from p06bs.metadata import FOLDER, INDEXED

LARGE = 1 << 18
"""Bytes of JSON from which on the metadata in the database are abbreviated."""

KEPT = {tuple(field.key.split(".")[1:]) for field in INDEXED} | {(FOLDER,)}
"""Fields that are not: runs are found by them, and the folder says who may see the run."""
LONGEST_KEPT = LARGE // 16
"""Bytes of JSON of one of them: what is longer is in no index, and no folder."""

_PARENTS = {path[0] for path in KEPT if len(path) > 1}


def searchable(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a start or stop document as both databases take it: plain JSON.

    What is not finite becomes None, the character NUL becomes U+FFFD, times and paths
    become text, bytes their hexadecimal digits. Of a document of more than `LARGE` bytes
    of JSON the largest fields are replaced by how long they are, but for those in `KEPT`;
    if that is not enough, fields are left out. The exact document is in the run's log.
    """
    plain: dict[str, Any] = _plain(document)
    excess = len(json.dumps(plain)) - LARGE
    if excess > 0:
        _abbreviate(plain, excess)
    return plain


def _abbreviate(document: dict[str, Any], excess: int) -> None:
    """Make a document shorter by so many bytes of JSON, the largest fields first."""
    places = [
        (size, path[-1], fields)
        for path, fields in _fields(document)
        if (size := len(json.dumps(fields[path[-1]]))) > LONGEST_KEPT or path not in KEPT
    ]
    for size, key, fields in sorted(places, key=lambda place: -place[0]):
        if excess <= 0:
            return
        notice = f"({size} bytes of JSON)"
        saved = size - len(json.dumps(notice))
        if saved > 0:
            fields[key] = notice
        else:
            del fields[key]
            saved = size + len(json.dumps(key))
        excess -= saved


def _fields(document: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield the path of each field, and the mapping that it is in."""
    for key, value in document.items():
        if key in _PARENTS and isinstance(value, dict):
            yield from (((key, name), value) for name in value)
        else:
            yield (key,), document


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
