"""Full text: what people type into a search box, for both databases alike.

Words that stand together must all be there; ``"a phrase"`` in quotes, ``a OR b`` (or
``a | b``), ``-word`` (or ``NOT word``, ``!word``), ``begin*``.
"""

import re
from dataclasses import dataclass

from tiled.queries import QueryValueError

TOKEN = re.compile(r'(?P<no>[-!]?)(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"|&]+))(?P<more>\*?)|[|&]')
LONGEST = 1000
"""Characters of a search."""


@dataclass(frozen=True, slots=True)
class Term:
    """A word or a phrase; `begins` where it is the begin of one."""

    text: str
    absent: bool = False
    begins: bool = False


Search = tuple[tuple[Term, ...], ...]
"""Alternatives, of each of which all terms must hold."""


def parse(text: str) -> Search:
    """Return what is searched for.

    Raises
    ------
    QueryValueError
        If no word is left, an alternative only says what must not be there, or the text
        is too long.
    """
    if len(text) > LONGEST:
        raise QueryValueError(f"a search has at most {LONGEST} characters")
    alternatives: list[list[Term]] = [[]]
    negate = False
    for found in TOKEN.finditer(text):
        word = found["word"]
        if found[0] == "|" or word == "OR":
            alternatives.append([])
        elif word in ("NOT", "-", "!"):
            negate = True
        elif found[0] != "&" and word != "AND":
            term = (found["phrase"] if word is None else word).rstrip("*")
            begins = found[0].endswith("*")
            if any(c.isalnum() for c in term):
                alternatives[-1].append(Term(term, negate or bool(found["no"]), begins))
            negate = False
    search = tuple(tuple(terms) for terms in alternatives if terms)
    if not search:
        raise QueryValueError(f"{text!r} has no word to search for")
    if any(all(term.absent for term in terms) for terms in search):
        raise QueryValueError(f"{text!r} says only what must not be there: add a word that must")
    return search


def to_tsquery(search: Search) -> str:
    """Return the search as PostgreSQL's ``to_tsquery`` takes it."""

    def one(term: Term) -> str:
        quoted = term.text.replace("\\", "\\\\").replace("'", "''")
        return f"{'!' if term.absent else ''}'{quoted}'{':*' if term.begins else ''}"

    return " | ".join(f"({' & '.join(map(one, terms))})" for terms in search)


def to_fts5(search: Search) -> str:
    """Return the search as SQLite's FTS5 takes it."""

    def one(term: Term) -> str:
        quoted = term.text.replace('"', '""')
        return f'"{quoted}"{"*" if term.begins else ""}'

    alternatives = []
    for terms in search:
        there = " AND ".join(one(term) for term in terms if not term.absent)
        absent = "".join(f" NOT {one(term)}" for term in terms if term.absent)
        alternatives.append(f"(({there}){absent})")
    return " OR ".join(alternatives)
