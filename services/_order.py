"""Which services are meant by a name, and in which order services start and stop."""

import re
from collections.abc import Iterable, Mapping

from p06bs.config import Definition
from p06bs.services.supervisord import SupervisionError

FIRST = ("topology", "proxy")
"""Kinds that start before the others, and stop after them."""
LAST = len(FIRST)


def turn(kind: str) -> int:
    """Return when services of a kind start: those with a smaller number before, up to `LAST`."""
    return FIRST.index(kind) if kind in FIRST else LAST


def turn_of(name: str, definitions: Mapping[str, Definition]) -> int:
    """Return when a service starts; it may be one of an older file, which is not defined."""
    return turn(definitions[name].kind) if name in definitions else LAST


def choose(
    names: Iterable[str], known: Iterable[str], definitions: Mapping[str, Definition]
) -> list[str]:
    """Return those of the known services that are named, those that others need first.

    Parameters
    ----------
    names : iterable of str
        That of one with replicas means all of them. Without names all services are chosen.
    known : iterable of str
    definitions : mapping of str to Definition

    Raises
    ------
    SupervisionError
        If there is none of a name.
    """
    there = list(known)
    found = {one for name in names for one in _matching(name, there)} or set(there)
    return sorted((one for one in there if one in found), key=lambda n: turn_of(n, definitions))


def _matching(name: str, names: list[str]) -> list[str]:
    found = [one for one in names if one == name or re.fullmatch(rf"{re.escape(name)}-\d+", one)]
    if not found:
        raise SupervisionError(f"there is no service {name!r}; there are {', '.join(names)}")
    return found
