"""Full text: what people type into a search box, the same in memory and in both databases.

Words that stand together must all be there; ``"a phrase"`` in quotes, ``a OR b`` (or
``a | b``), ``-word`` (or ``NOT word``, ``!word``), ``begin*``. A word is a run of letters
and digits, whatever their case.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tiled.queries import QueryValueError

TOKEN = re.compile(r'(?P<no>[-!]?)(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"|&]+))(?P<more>\*?)|[|&]')
WORD = re.compile(r"[^\W_]+")
LONGEST = 1000
"""Characters of a search."""


@dataclass(frozen=True, slots=True)
class Term:
    """A word or a phrase; `begins` where it is the begin of one."""

    text: str
    absent: bool = False
    begins: bool = False

    def holds(self, texts: Iterable[Sequence[str]]) -> bool:
        """Return whether it is as the term says in texts, each given as its words."""
        wanted = words_of(self.text)
        return self.absent != any(_has(words, wanted, self.begins) for words in texts)


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


def holds(search: Search, metadata: Mapping[str, Any]) -> bool:
    """Return whether metadata match: the texts in them, at any depth."""
    texts = [words_of(text) for text in _texts(metadata)]
    return any(all(term.holds(texts) for term in terms) for terms in search)


def words_of(text: str) -> list[str]:
    """Return the words of a text."""
    return WORD.findall(text.casefold())


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _has(words: Sequence[str], wanted: Sequence[str], begins: bool) -> bool:
    """Return whether words stand together in a text, the last one perhaps as its begin."""
    *first, last = wanted
    for at in range(len(words) - len(first)):
        end = words[at + len(first)]
        if words[at : at + len(first)] == first and (
            end.startswith(last) if begins else end == last
        ):
            return True
    return False
