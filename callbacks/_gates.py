"""Gates: what a box saw of a word within each, which tells whether its mean can be trusted."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from p06bs.callbacks._arrays import Array, Booleans, Floats, Integers
from p06bs.callbacks._faults import Fault

WRAPPED = 1
"""Bit of the flag: the word wrapped inside the gate."""
OUTSIDE = 2
"""Bit of the flag: the mean lies outside of minimum and maximum by more than a count."""
NO_RANGE = 16
"""Bit of the flag: minimum or maximum is no number, or the minimum is above the maximum."""


@dataclass(frozen=True)
class Gates:
    """What a box saw of an axis within each gate; all have the shape (events,).

    A word that wraps inside a gate has visited both ends of its range, so minimum and maximum
    say no more than that. Two samples are the exception: they are minimum and maximum.
    """

    lowest: Array
    highest: Array
    samples: Array | None
    bits: int | None

    @cached_property
    def width(self) -> Array:
        """Maximum - minimum, counts; in integers where both are."""
        exact = self.lowest.dtype.kind in "iu" and self.highest.dtype.kind in "iu"
        dtype = np.int64 if exact else np.float64
        made: Array = np.subtract(self.highest, self.lowest, dtype=dtype)
        return made

    @cached_property
    def wrapped(self) -> Booleans | None:
        """In which gates the word wrapped; None if in none."""
        if self.bits is None or self.width.max() <= (half := 1 << (self.bits - 1)):
            return None
        made: Booleans = (self.width > half) & (self.width < np.inf)
        return made

    @property
    def _pairs(self) -> Booleans:
        none = np.zeros(len(self.width), bool)
        return none if self.samples is None else self.samples == 2

    def faults(self, name: str, *, gated: bool) -> Iterator[Fault]:
        """Yield what costs the axis `name` its position; `gated`: that is the mean in the gate."""
        shown, text = (self.lowest, self.highest), f"{name} has minimum {{}} and maximum {{}}"
        if not (self.width.min() >= 0 and self.width.max() < np.inf):
            yield Fault(~((self.width >= 0) & (self.width < np.inf)), text, shown, NO_RANGE)
        if gated and self.wrapped is not None and (lost := self.wrapped & ~self._pairs).any():
            yield Fault(lost, f"{text}: the mean is lost", shown, WRAPPED)

    def examine(self, whole: Integers, rest: Floats) -> Array:
        """Return flags of means; put those right that are of two samples.

        The mean of others in which a word wrapped is lost, as `faults` says.
        """
        outside = whole + 1 < self.lowest
        outside |= whole - 1 > self.highest
        if self.wrapped is not None:
            assert self.bits is not None
            outside &= ~self.wrapped
            two = self.wrapped & self._pairs
            both = self.lowest[two].astype(np.int64) + self.highest[two].astype(np.int64)
            both += 1 << self.bits
            whole[two], rest[two] = both // 2, both % 2 / 2
        return outside * np.uint8(OUTSIDE)

    def half_width(self, scale: float) -> Floats:
        """Return half the way within each gate in the unit of `scale`; NaN if not known."""
        made = self.width.astype(np.float64)
        made *= abs(scale) / 2
        if self.wrapped is not None:
            assert self.bits is not None
            made[self.wrapped] = np.nan
            two = self.wrapped & self._pairs
            made[two] = ((1 << self.bits) - self.width[two]) * (abs(scale) / 2)
        return made
