"""What is known of a run's streams, and which of them go along its scan."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p06bs.model.candidates import ASIDE, aligned_streams
from p06bs.model.documents import Document, is_derived, is_snapshots

REVISION = re.compile(r"(.*)_r(\d+)")
"""Name of the stream in which a derived run goes on when settings changed its outputs."""


@dataclass(frozen=True, slots=True)
class Described:
    """What is known of a stream.

    Attributes
    ----------
    descriptor : mapping
        With data_keys, and as far as there are any object_keys, configuration and hints.
    numbers : mapping
        Columns that hold one number a row -> what the descriptor says of them; nothing if
        they are no data. ``data_key`` is there where a column is called otherwise.
    """

    descriptor: Document
    numbers: Mapping[str, Mapping[str, Any]]

    def unit(self, column: str) -> str | None:
        """Return the unit of a column."""
        unit = self.numbers[column].get("units")
        return str(unit) if unit else None

    def column(self, data_key: str | None) -> str | None:
        """Return the column of numbers that has a data key, if there is one."""
        names = (
            n for n, said in self.numbers.items() if said and said.get("data_key", n) == data_key
        )
        return next(names, None)


@dataclass(frozen=True, slots=True)
class Run:
    """A run as far as its maps are concerned: its start document and its streams."""

    start: Document
    streams: Mapping[str, Described]


def number_column(run: Run, stream: str) -> str | None:
    """Return the column of the numbers by which rows of a run are known; None: they are counted."""
    columns = run.streams[stream].numbers
    names = ("raw_seq_num", "seq_num") if is_derived(run.start) else ("seq_num",)
    return next((name for name in names if name in columns), None)


def families(run: Run) -> list[tuple[str, ...]]:
    """Return the streams that go along the scan; streams of one tuple continue each other."""
    names = [name for name in run.streams if not ASIDE.fullmatch(name)]
    if not is_derived(run.start):
        home = "primary" if "primary" in names else next(iter(names), None)
        aligned = aligned_streams(run.start)
        group = [n for n in names if n == home or (home in aligned and n in aligned)]
        return [(name,) for name in sorted(group, key=lambda name: name != home)]
    families: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if "raw_seq_num" in run.streams[name].numbers and not is_snapshots({"name": name}):
            found = REVISION.fullmatch(name)
            base, revision = (found[1], int(found[2])) if found else (name, -1)
            families.setdefault(base, []).append((revision, name))
    return [
        tuple(name for _, name in sorted(families[base]))
        for base in sorted(families, key=lambda base: (base != "primary", base))
    ]
