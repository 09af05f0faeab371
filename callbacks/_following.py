"""Follow gains and zero points of detector elements through events.

What tells them (`GainFit`) are sums over events: here over the events before, in which older
counts fade.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p06bs.callbacks._arrays import Floats
from p06bs.callbacks._gain import GainFit

ENOUGH = 0.05
"""Share of the counts averaged over from which a gain is believed."""


@dataclass(frozen=True)
class Followed:
    """Gains that were followed through events.

    Parameters
    ----------
    sums : ndarray, shape (elements, nodes, 2 * references)
        Faded sums over all events, with which the following ones go on.
    gain, zero : ndarray, shape (events, elements)
        Relative changes of the gain, and changes of the zero point, keV; 0 before there are
        enough counts, NaN beyond their limits.
    areas : ndarray, shape (events, elements, peaks)
        Areas at these gains, 0 beyond the limits.
    """

    sums: Floats
    gain: Floats
    zero: Floats
    areas: Floats


def follow(
    groups: Sequence[tuple[slice | npt.NDArray[np.intp], GainFit]],
    sums: Floats | None,
    solutions: Floats,
    usable: npt.NDArray[np.bool_],
    counts: float,
) -> Followed:
    """Return gains and areas of events, in the order of which older counts fade.

    Parameters
    ----------
    groups : sequence of (elements, GainFit)
    sums : ndarray, shape (elements, nodes, 2 * references), optional
        Those of the events before.
    solutions : ndarray, shape (events, elements, nodes, width)
    usable : ndarray of bool, shape (events, elements)
        The others tell nothing.
    counts : float
        Reference counts that are averaged over: older ones fade by exp(-newer/counts).
    """
    peaks = len(groups[0][1].energies)
    reference = np.where(usable[..., None, None], solutions[..., peaks:], 0)
    newer = np.zeros(usable.shape)
    for elements, fit in groups:
        seen = reference[:, elements, :, len(fit.references) :]
        newer[:, elements] = np.einsum("nekr,kr->ne", seen, fit.counts) / counts
    before = np.zeros(reference.shape[1:]) if sums is None else sums
    faded = np.empty_like(reference)
    # Areas of a reference that is not there scatter about zero, and fade nothing on average.
    for place, kept in enumerate(np.exp(-np.maximum(newer, -1.0))[..., None, None]):
        before = faded[place] = before * kept + reference[place]
    gains, zeros = np.zeros(usable.shape), np.zeros(usable.shape)
    areas = np.zeros((*usable.shape, peaks))
    for elements, fit in groups:
        there = faded[:, elements]
        gain, zero = fit.drift(there)
        known = np.nan_to_num(gain)
        # Out of reach the references are seen at the outermost node, if anywhere.
        bright = fit.brightness(there).max(axis=2)
        few = bright < ENOUGH * counts
        gains[:, elements], zeros[:, elements] = np.where(few, 0, gain), np.where(few, 0, zero)
        areas[:, elements] = fit.areas(
            solutions[:, elements], np.where(few, 0, known), np.where(few, 0, np.nan_to_num(zero))
        )
    areas[np.isnan(gains)] = 0
    return Followed(faded[-1].copy(), gains, zeros, areas)
