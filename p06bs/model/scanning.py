"""Results that carry state from event to event: a modality's `scan`, also after a rewind.

State follows the newest rows. When a seq_num comes again the state is once more what it was
before the row that is superseded, so the rows that count are those of a scan that was
never interrupted.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from p06bs.model.compute import Array, Result, Setup, check_outputs, flagged, invalid, join
from p06bs.model.modality import INVALID

MEMORY = 1 << 26
"""Bytes of columns and states that are kept, so that a rewind can go back to events in them."""
SMALL = 1024
"""Bytes of a state that is kept in any case: a rewind can go back to it however far it is."""


@dataclass(slots=True)
class _Step:
    """Rows that were scanned in one go, the state before them, and columns of the good ones."""

    seq: npt.NDArray[np.int64]
    good: npt.NDArray[np.bool_]
    before: Any
    broken: str
    setup: Setup
    columns: Mapping[str, Array] | None
    nbytes: int


class Scanning:
    """Carry the state of one derived run through its rows, which come in acquisition order.

    Parameters
    ----------
    memory : int
        Bytes of columns and states to keep. A rewind to an event before them, and not
        to the first one of a batch, makes the events that follow invalid.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory = memory
        self._steps: list[_Step] = []
        self._kept = 0  # bytes
        self._forgotten = 0  # steps without columns
        self._state: Any = None
        self._last = 0
        self._broken = ""  # why no state is known

    def scan(self, setup: Setup, seq: npt.NDArray[np.int64], result: Result) -> Result:
        """Return the result of rows after `scan`; rows at which it fails are invalid.

        Parameters
        ----------
        setup : Setup
        seq : ndarray of int64, shape (rows,)
            Their raw seq_nums.
        result : Result
            What `process` made of them.
        """
        valid = result.valid
        place = np.concatenate([[0], np.cumsum(valid)])  # row -> its place in the columns
        edges = np.flatnonzero(np.diff(seq, prepend=self._last) <= 0).tolist()
        parts: list[Result] = []
        for start, stop in zip([0, *edges], [*edges, len(seq)], strict=True):
            if start == stop:
                continue
            if start in edges:
                self._go_back(int(seq[start]))
            self._last = max(self._last, int(seq[stop - 1]))
            cut = slice(int(place[start]), int(place[stop]))
            columns = {name: column[cut] for name, column in result.columns.items()}
            part = Result(result.reasons[start:stop], columns)
            parts.append(self._advance(setup, seq[start:stop], part))
        return replace(join(parts), parts=result.parts)

    def _advance(self, setup: Setup, seq: npt.NDArray[np.int64], rows: Result) -> Result:
        """Scan the valid ones of some rows from the present state on, and remember them."""
        before, good = self._state, rows.valid
        count = int(good.sum())
        if not count:
            scanned = Result([], {})
        elif self._broken:
            scanned = invalid(count, self._broken)
        else:
            scanned = self._try(setup, rows.columns, count)
        reasons = list(rows.reasons)
        for row, reason in zip(np.flatnonzero(good).tolist(), scanned.reasons, strict=True):
            reasons[row] = reason
        # Invalid rows may tell the state something, too.
        kept = {name: column.copy() for name, column in rows.columns.items()}
        nbytes = sum(column.nbytes for column in kept.values()) + size_of(before)
        self._steps.append(_Step(seq, good, before, self._broken, setup, kept, nbytes))
        self._kept += nbytes
        while self._kept > self._memory and self._forgotten < len(self._steps) - 1:
            step = self._steps[self._forgotten]
            self._kept -= step.nbytes
            step.columns = None
            if size_of(step.before) > SMALL:
                step.before, step.broken = None, "its state is not in memory any more"
            self._forgotten += 1
        return Result(reasons, scanned.columns)

    def _try(self, setup: Setup, columns: Mapping[str, Array], count: int) -> Result:
        """Scan rows; where that fails, halve them until one is left, which is invalid.

        A row that fails leaves the state as it was; one that `scan` flags does not.
        """
        try:
            state, made = setup.modality.scan(setup.prepared, self._state, columns)
            made = dict(made)
            flags = made.pop(INVALID, None)
            result = flagged(setup, check_outputs(setup, made, count), flags, count)
        except Exception as error:  # an author's code may raise anything; the event is to blame
            if count == 1:
                return invalid(1, f"scan: {type(error).__name__}: {error}")
        else:
            self._state = state
            return result
        half = count // 2
        return join(
            [
                self._try(setup, {k: c[:half] for k, c in columns.items()}, half),
                self._try(setup, {k: c[half:] for k, c in columns.items()}, count - half),
            ]
        )

    def _go_back(self, seq: int) -> None:
        """Return to the state before the rows from `seq` on, if there was a row `seq`."""
        if not any((step.seq == seq).any() for step in reversed(self._steps)):
            return  # it comes late and supersedes nothing
        first = next(i for i, step in enumerate(self._steps) if (step.seq >= seq).any())
        left = self._steps[first:]
        del self._steps[first:]
        self._kept -= sum(step.nbytes for step in left if step.columns is not None)
        self._forgotten = min(self._forgotten, first)
        self._last = seq - 1
        self._state, self._broken = left[0].before, left[0].broken
        for step in left:
            keep = step.seq < seq
            if not keep.any():
                continue
            if step.columns is None and not self._broken:
                kept = replace(step, seq=step.seq[keep], good=step.good[keep], nbytes=0)
                self._steps.append(kept)
                self._broken = (
                    f"the scan went back to event {seq}, and what came before it is not in "
                    "memory any more"
                )
            if step.columns is None:
                return
            chosen = keep[step.good]
            columns = {name: column[chosen] for name, column in step.columns.items()}
            reasons = ["" if good else "invalid" for good in step.good[keep].tolist()]
            self._advance(step.setup, step.seq[keep], Result(reasons, columns))


def size_of(state: Any) -> int:
    """Return about how many bytes a state takes."""
    if isinstance(state, np.ndarray):
        return int(state.nbytes)
    if isinstance(state, Mapping):
        return sum(size_of(item) for item in state.values())
    if isinstance(state, list | tuple):
        return sum(size_of(item) for item in state)
    return sys.getsizeof(state)
