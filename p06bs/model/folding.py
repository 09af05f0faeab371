"""Results of a whole run: a modality's `fold` over what batches contribute, and its snapshots.

Batches contribute *parts*, which workers make. Live snapshots hold every row that came, superseded
ones too, because a part cannot be taken back. If there was a rewind, the last snapshot is made
anew of the rows that count.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from p06bs.model.compute import Array, Setup
from p06bs.model.modality import Output
from p06bs.model.taken import Taken, cut


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The results so far: their values, the rows in them and the highest raw seq_num."""

    values: Mapping[str, Array]
    rows: int
    raw_seq_num: int
    final: bool


@dataclass
class Folding:
    """Fold the parts of one derived run, in acquisition order.

    Attributes
    ----------
    outputs : mapping of str to Output
        The results of the whole run, as the latest settings make them.
    rewound : bool
        Whether rows came that supersede earlier ones, so that the state holds too much.
    problem : str
        Why there are no results; "" as long as there may be some.
    """

    outputs: Mapping[str, Output] = field(default_factory=dict)
    rewound: bool = False
    problem: str = ""
    _state: Any = None
    _rows: int = 0
    _top: int = 0
    _batches: list[tuple[int, Setup, Taken]] = field(default_factory=list)

    def begin(self, outputs: Mapping[str, Output]) -> None:
        """Begin anew, with settings under which the results look different."""
        self.outputs = dict(outputs)
        self.rewound, self.problem = False, ""
        self._state, self._rows = None, 0
        self._batches = []

    def add(self, number: int, setup: Setup, rows: Taken, parts: Sequence[Any]) -> None:
        """Fold what a batch under revision `number` contributed; its rows are the next ones."""
        if len(rows) and (int(rows.seq[0]) <= self._top or bool((np.diff(rows.seq) <= 0).any())):
            self.rewound = True
        self._top = max(self._top, int(rows.seq.max(initial=0)))
        # Where the columns lie is kept, not the columns: they may be needed again.
        self._batches.append((number, setup, replace(rows, uids=[""] * len(rows), times=[])))
        self.fold(setup, parts, len(rows))

    def again(self) -> Iterator[tuple[int, Setup, Taken]]:
        """Yield what has to be computed again: revision, setup and rows that count, in order."""
        count: dict[int, tuple[int, int]] = {}  # raw seq_num -> newest (batch, row)
        for number, (_, _, rows) in enumerate(self._batches):
            count.update((seq, (number, row)) for row, seq in enumerate(rows.seq.tolist()))
        keep = [np.zeros(len(rows), bool) for _, _, rows in self._batches]
        for number, row in count.values():
            keep[number][row] = True
        for (revision, setup, rows), chosen in zip(self._batches, keep, strict=True):
            edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
            for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
                yield revision, setup, cut(rows, start, stop)

    def refold(self, parts: Sequence[tuple[Setup, int, Sequence[Any]]]) -> None:
        """Fold what `again` asked for: setup, number of rows and parts of each batch, in order."""
        self._state, self._rows, self.rewound = None, 0, False
        for setup, rows, made in parts:
            self.fold(setup, made, rows)

    def fold(self, setup: Setup, parts: Sequence[Any], rows: int) -> None:
        """Fold parts that so many rows contribute."""
        if self.problem:
            return
        try:
            for part in parts:
                self._state = setup.modality.fold(setup.prepared, self._state, part)
        except Exception as error:  # an author's code may raise anything; rows are not to blame
            self.problem = f"fold: {type(error).__name__}: {error}"
            return
        self._rows += rows

    def snapshot(self, setup: Setup, *, final: bool) -> Snapshot | None:
        """Return the results so far; None if nothing was folded or they cannot be made."""
        if self._state is None or self.problem:
            return None
        try:
            made = setup.modality.snapshot(setup.prepared, self._state)
            values = {name: _as_declared(name, made, out) for name, out in self.outputs.items()}
        except Exception as error:  # an author's code may raise anything
            self.problem = f"snapshot: {type(error).__name__}: {error}"
            return None
        return Snapshot(values, self._rows, self._top, final)


def _as_declared(name: str, made: Mapping[str, Any], output: Output) -> Array:
    value = np.asarray(made[name])
    if value.shape != output.shape:
        raise ValueError(f"{name} has shape {value.shape}, declared is {output.shape}")
    return value.astype(np.dtype(output.dtype), casting="same_kind")
