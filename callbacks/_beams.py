"""Beams of interferometers: from counts to how far a stage is, or that a beam is lost."""

from dataclasses import dataclass

import numpy as np

from p06bs.callbacks._arrays import Array, Booleans, Floats
from p06bs.model.modality import Columns

LOST = 1
"""Bit of the flag: the beam is lost, or reads no number."""
SECOND_LOST = 2
"""Bit of the flag: the same of the second beam."""


@dataclass(frozen=True)
class Beam:
    """One beam: the inputs `name` and `name`_valid."""

    name: str
    valid_bit: int | None

    def measure(self, columns: Columns, scale: float | Floats) -> tuple[Floats, Booleans | None]:
        """Return counts · scale, NaN where the beam is lost, and where that is; None: nowhere."""
        counts, valid = columns[self.name], columns[f"{self.name}_valid"]
        place = counts.astype(np.float64)  # faster than a product that converts
        place *= scale
        known: Booleans | None = None
        if valid is not None:
            known = valid if valid.dtype == bool else self._is_there(valid)
        if counts.dtype.kind == "f":
            finite = np.isfinite(counts)
            known = finite if known is None else known & finite
        if known is None or np.count_nonzero(known) == len(known):
            return place, None
        lost = ~known
        place[lost] = np.nan
        return place, lost

    def _is_there(self, valid: Array) -> Booleans:
        if self.valid_bit is None:
            return np.greater(valid, 0)
        made: Booleans = valid.astype(np.int64) & (1 << self.valid_bit) != 0
        return made


@dataclass(frozen=True)
class Axis:
    """An axis made ready for a run: one beam, or two of which it knows its rotation."""

    beams: tuple[Beam, ...]
    scale: float  # nm per count in vacuum along the motion, with the sign of the direction
    dead_path: float  # nm, likewise
    zero: float | None  # None: that of the first event with a beam
    lever: float  # arm / separation of the second beam

    def measure(self, columns: Columns, index: float | Floats) -> tuple[Floats, Array]:
        """Return positions before zeroing and dead path, and flags.

        `index` is the refractive index of the air.
        """
        scale = self.scale / index
        place, lost = self.beams[0].measure(columns, scale)
        # What is true as a number is `LOST`.
        flag = np.zeros(len(place), np.uint8) if lost is None else lost.view(np.uint8)
        for second in self.beams[1:]:
            other, lost = second.measure(columns, scale)
            other -= place
            other *= self.lever
            place += other
            if lost is not None:
                flag |= lost * np.uint8(SECOND_LOST)
        return place, flag
