"""Markdown pages as tests see them: blocks of code, command lines, links and headings."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

REPOSITORY = Path(__file__).parents[1]
PAGES = [
    "README.md",
    *sorted(str(p.relative_to(REPOSITORY)) for p in REPOSITORY.glob("docs/**/*.md")),
]


@dataclass(frozen=True)
class Block:
    """A block of code; `line` is that of its first line in the page, from 1."""

    language: str
    line: int
    source: str
    file: str = ""
    """Name of the file that the page says it is ("`name.py`:" right before the block)."""

    @property
    def is_script(self) -> bool:
        return 'if __name__ == "__main__":' in self.source

    def compiled(self, page: str, source: str = ""):  # type: ignore[no-untyped-def]
        """Return code whose tracebacks show the page's own lines."""
        return compile("\n" * (self.line - 1) + (source or self.source), page, "exec")


@dataclass(frozen=True)
class Page:
    """A page of the documentation, by its path in the repository."""

    path: str

    @cached_property
    def tokens(self) -> list[Token]:
        text = (REPOSITORY / self.path).read_text(encoding="utf-8")
        return MarkdownIt("commonmark").enable("table").parse(text)

    def blocks(self, language: str) -> list[Block]:
        """Return the fenced blocks of a language; those without one, and indented ones, have ""."""
        found = []
        before = ""
        for token in self.tokens:
            if token.type in ("fence", "code_block") and token.info == language:
                assert token.map is not None
                named = re.search(r"`(\w+\.py)`:$", before)
                line = token.map[0] + (2 if token.type == "fence" else 1)
                found.append(Block(token.info, line, token.content, named[1] if named else ""))
            elif token.type == "inline":
                before = token.content
        return found

    def languages(self) -> set[str]:
        return {t.info for t in self.tokens if t.type in ("fence", "code_block")}

    def inline(self) -> Iterator[Token]:
        for token in self.tokens:
            yield from token.children or ()

    def commands(self) -> list[tuple[str, list[str]]]:
        """Return the command lines in blocks: text, and words without the marks of a synopsis."""
        found = []
        for block in self.blocks(""):
            for line in block.source.replace("\\\n", " ").splitlines():
                words = plain(line)
                if words:
                    found.append((line.strip(), words))
        return found

    def mentions(self) -> list[tuple[str, list[str]]]:
        """Return the command lines within sentences, as `commands` does."""
        codes = [t.content for t in self.inline() if t.type == "code_inline"]
        return [(c, plain(c)) for c in codes if re.match(r"(p06bs|make|python -m) ", c)]

    def sections(self) -> dict[str, list[Token]]:
        """Return what is under each heading, by the heading's text."""
        found: dict[str, list[Token]] = {}
        heading = ""
        for token, following in zip(self.tokens, [*self.tokens[1:], None], strict=True):
            if token.type == "heading_open" and following is not None:
                heading = following.content
            found.setdefault(heading, []).append(token)
        return found

    def anchors(self) -> set[str]:
        """Return the anchors of the headings, as GitHub makes them."""
        found: set[str] = set()
        for token, following in zip(self.tokens, self.tokens[1:], strict=False):
            if token.type == "heading_open":
                text = "".join(c.content for c in following.children or ())
                slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
                times = sum(
                    a == slug or re.fullmatch(re.escape(slug) + r"-\d+", a) is not None
                    for a in found
                )
                found.add(f"{slug}-{times}" if times else slug)
        return found

    def links(self) -> list[str]:
        """Return where links and images point to."""
        targets = (
            t.attrGet({"link_open": "href", "image": "src"}.get(t.type, "")) for t in self.inline()
        )
        return [str(t) for t in targets if t]


def plain(line: str) -> list[str]:
    """Return the words of a command line; what a synopsis calls optional is there."""
    words = shlex.split(line, comments=True)
    words = [w.removeprefix("[") for w in words]
    return [w[:-1] if w.endswith("]") and "[" not in w else w for w in words if w != "...]"]
