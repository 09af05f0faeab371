"""One axis of encoders: from what is captured to words, from words to a position."""

from collections.abc import MutableMapping
from dataclasses import dataclass

import numpy as np

from p06bs.callbacks._arrays import Array, Floats, Integers
from p06bs.callbacks._faults import Fault
from p06bs.callbacks._gates import NO_RANGE, OUTSIDE, WRAPPED, Gates
from p06bs.callbacks._words import divided, fold, split, unwrapped
from p06bs.model.modality import Columns

LEAP = 4
"""Bit of the flag: the step from the event before is more than a quarter of the range."""
UNREADABLE = 8
"""Bit of the flag: the reading is no number, or none that the bits of a word hold."""

FLAGS = {
    WRAPPED: "wrapped inside the gate",
    OUTSIDE: "mean outside minimum and maximum",
    LEAP: "leap of more than a quarter of the range",
    UNREADABLE: "reading is no such word",
    NO_RANGE: "minimum and maximum are none",
}
"""What the bits of a flag say."""

UNKNOWN = np.iinfo(np.int64).min
"""Stands for a word that is not known, from `read` to `follow`."""


@dataclass(frozen=True)
class Axis:
    """An axis made ready for a run."""

    name: str
    scale: float  # with the sign of the direction
    offset: float
    origin: int | None
    bits: int | None
    signed: bool
    reading: str

    def read(self, columns: Columns, empty: Fault | None) -> tuple[dict[str, Array], list[Fault]]:
        """Return words, their rests, flags and half widths by column, and what the axis lacks.

        Of an axis that does not wrap the words are positions.
        """
        name, samples = self.name, columns["gate_samples"]
        shown: tuple[Array, ...]
        if self.reading == "sum":
            total = columns[f"{name}_sum"]
            shown, text = (total, samples), f"{name} sums up to {{}} in {{}} samples"
            divisor = samples if empty is None else np.where(empty.where, 1, samples)
            word, rest, fits = divided(total, divisor, self.bits)
        else:
            shown, text = (columns[name],), f"{name} reads {{}}"
            word, rest, fits = split(columns[name], self.bits)
        gated = self.reading != "value"
        if self.bits is None:
            word = self._position(word, None)
        else:
            text += f", which {self.bits} bits do not hold"
            if rest is None and gated:
                rest = np.zeros(len(word))
        made: dict[str, Array] = {}
        flag = np.zeros(len(word), np.uint8)
        faults = [] if fits is None else [Fault(~fits, text, shown, UNREADABLE)]
        lowest, highest = columns[f"{name}_min"], columns[f"{name}_max"]
        if lowest is not None and highest is not None:
            gates = Gates(lowest, highest, samples, self.bits)
            faults += gates.faults(name, gated=gated)
            made[f"{name}_half_width"] = gates.half_width(self.scale)
            if rest is not None and gated:
                flag = gates.examine(word, rest)
            if gates.wrapped is not None:
                flag[gates.wrapped] |= WRAPPED
        for fault in faults:
            word[fault.where] = np.nan if self.bits is None else UNKNOWN
            flag[fault.where] |= fault.flag
            if fault.flag == NO_RANGE:
                made[f"{name}_half_width"][fault.where] = np.nan
        if rest is not None:
            made[f"{name}_rest"] = rest
        return {name: word, f"{name}_flag": flag, **made}, faults

    def follow(self, columns: Columns, counted: MutableMapping[str, int]) -> dict[str, Array]:
        """Return positions, flags and half widths by column.

        `counted` says how far each axis has counted without wrapping; it is brought up to date.
        """
        name = self.name
        word, flag, rest = columns[name], columns[f"{name}_flag"], columns.get(f"{name}_rest")
        made = {key: columns[key] for key in (f"{name}_half_width",) if key in columns}
        if self.bits is None:
            return {name: word, f"{name}_flag": flag, **made}
        # What is not known is flagged.
        known = word != UNKNOWN if np.count_nonzero(flag) else None
        if known is None or known.all():
            place, leaps = self._unwrap(word, rest, counted)
        else:
            place, leaps = np.full(len(word), np.nan), np.zeros(len(word), bool)
            if known.any():
                rest = None if rest is None else rest[known]
                place[known], leaps[known] = self._unwrap(word[known], rest, counted)
        if np.count_nonzero(leaps):
            flag = np.where(leaps, flag | LEAP, flag)
        return {name: place, f"{name}_flag": flag, **made}

    def _unwrap(
        self, word: Integers, rest: Floats | None, counted: MutableMapping[str, int]
    ) -> tuple[Floats, Array]:
        """Return positions, and which of the steps to them are leaps."""
        assert self.bits is not None
        first = self.name not in counted
        before = counted.get(self.name, self.origin)
        if before is None:
            before = fold(int(word[0]), self.bits, self.signed)
        counts, step = unwrapped(word, self.bits, before)
        counted[self.name] = int(counts[-1])
        leaps = np.abs(step, out=step) > 1 << (self.bits - 2)
        if first:
            leaps[0] = False
        return self._position(counts, rest), leaps

    def _position(self, counts: Array, rest: Floats | None) -> Floats:
        """Return offset + scale · (counts + rest - origin)."""
        if self.origin:
            counts = counts - self.origin
        made = counts.astype(np.float64)
        if rest is not None:
            made += rest
        made *= self.scale
        if self.offset:
            made += self.offset
        return made
