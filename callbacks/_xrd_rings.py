"""Sums of counts over rings, above what lies beside them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from p06bs.callbacks._arrays import Array, Floats
from p06bs.callbacks._xrd_integrator import Pixels
from p06bs.callbacks._xrd_settings import Ring


@dataclass(frozen=True)
class RingPixels:
    """The pixels of a ring, and those beside it."""

    inside: Array
    beside: Array


def ring_pixels(name: str, ring: Ring, unit: str, pixels: Pixels) -> RingPixels:
    """Return the pixels of a ring and of its background.

    Raises
    ------
    ValueError
        If one of the two has no pixel.
    """
    there = np.sort(pixels.position[~pixels.masked])[[0, -1]]

    def within(low: float, high: float) -> Array:
        inside = (pixels.position >= low) & (pixels.position <= high) & ~pixels.masked
        if not inside.any():
            raise ValueError(
                f"rings.{name}: no used pixel has its centre within ({low:g}, {high:g}) {unit}; "
                f"they go from {there[0]:.4g} to {there[1]:.4g}"
            )
        return inside

    beside = [within(*span) for span in ring.background]
    return RingPixels(
        inside=np.flatnonzero(within(ring.low, ring.high)),
        beside=np.flatnonzero(np.any(beside, axis=0)) if beside else np.zeros(0, np.intp),
    )


def ring_sums(
    ring: RingPixels, frames: Array, dark: Floats, valid: tuple[Any, Any, Array]
) -> tuple[Floats, Floats]:
    """Return the counts in a ring above its background and their sigma, shape (events,).

    Both are NaN where no pixel of the ring, or of its background, is valid.
    """
    from p06bs.callbacks._xrd_kernels import sum_pixels

    inside, beside = np.empty((len(frames), 3)), np.empty((len(frames), 3))
    sum_pixels(frames, ring.inside, dark, *valid, inside)
    counts, darks, pixels = inside.T
    signal, variance = counts - darks, np.maximum(counts, 1)
    signal[pixels == 0] = np.nan
    if ring.beside.size:
        sum_pixels(frames, ring.beside, dark, *valid, beside)
        counts, darks, others = beside.T
        with np.errstate(all="ignore"):  # no background is NaN
            ratio = np.where(others > 0, pixels / others, np.nan)
        signal -= ratio * (counts - darks)
        variance = variance + ratio**2 * counts
    return signal, np.sqrt(np.where(np.isnan(signal), np.nan, variance))
