"""Keep start documents small: what does not fit goes elsewhere (docs/decisions/0016)."""

from collections.abc import Mapping
from typing import Any

from p06bs.metadata.indexed import FOLDER, INDEXED
from p06bs.metadata.plain import as_json
from p06bs.metadata.wishes import ANALYSIS

LARGEST = 10_000
"""Bytes of a start document as JSON."""
RESERVED = 120
"""Bytes of what the RunEngine adds: uid and time."""
LONG, LONGEST = 1000, 200
"""Bytes that an indexed field keeps: where something must go, and where nothing else helps."""

Path = tuple[str, ...]
"""Keys, one in the other."""
INDEXED_PATHS: tuple[Path, ...] = tuple(
    tuple(field.key.split(".")[1:]) for field in INDEXED if field.key.startswith("start.")
)
SOUGHT = {path[0] for path in INDEXED_PATHS}
READ = {
    *("aligned_streams", "beam", "data_session", "derived_from", "detectors", "devices"),
    *("extents", "hints", "metadata_warnings", "motors", "num_points", "plan_type", "shape"),
    *("snaking", FOLDER, ANALYSIS),
}
"""What consumers of documents look for; the last to go."""


def size(document: Any) -> int:
    """Return how many bytes a document has as JSON."""
    return len(as_json(document))


def fitted(start: Mapping[str, Any], largest: int = LARGEST) -> tuple[dict[str, Any], list[str]]:
    """Return a start document that is not too large, and the fields that it lost.

    Indexed fields of more than a kilobyte are cut. Then the largest go first: of those that
    nobody looks for, then of the others.

    Returns
    -------
    dict
        The document.
    list of str
        What is left out or cut, such as ``plan_args`` or ``sample.history``.
    """
    kept = {key: dict(v) if isinstance(v, Mapping) else v for key, v in start.items()}
    if size(kept) <= largest - RESERVED:
        return kept, []
    lost = _cut_to(LONG, kept)
    for paths in (_others(kept), [(key,) for key in kept if key in READ]):
        for path in sorted(paths, key=lambda path: size(_at(kept, path)), reverse=True):
            if size(kept) <= largest - RESERVED:
                return kept, lost
            del _owner(kept, path)[path[-1]]
            lost.append(".".join(path))
    if size(kept) > largest - RESERVED:
        lost += _cut_to(LONGEST, kept)
    return kept, list(dict.fromkeys(lost))


def _cut_to(longest: int, kept: dict[str, Any]) -> list[str]:
    """Cut indexed fields that are longer, and return which."""
    cut = [path for path in INDEXED_PATHS if size(_at(kept, path)) > longest]
    for path in cut:
        _owner(kept, path)[path[-1]] = _beginning(_at(kept, path), longest)
    return [".".join(path) for path in cut]


def _others(document: Mapping[str, Any]) -> list[Path]:
    """Return where fields are that are neither indexed nor read."""
    paths: list[Path] = []
    for key, value in document.items():
        if key in SOUGHT and isinstance(value, Mapping):
            paths += [(key, inner) for inner in value if (key, inner) not in INDEXED_PATHS]
        elif key not in SOUGHT and key not in READ:
            paths.append((key,))
    return paths


def _beginning(value: Any, longest: int) -> Any:
    """Return the beginning of text or of a list of text; nothing of what is no such thing."""
    if isinstance(value, str):
        return value[: longest * len(value) // size(value)] + "…"
    if isinstance(value, list | tuple):
        return [item for item in value if isinstance(item, str) and len(item) < 10][: longest // 10]
    return None


def _owner(document: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in path[:-1]:
        document = document[key]
    return document


def _at(document: Any, path: Path) -> Any:
    for key in path:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document
