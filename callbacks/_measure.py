"""Fit the spectra of events block by block, and add them up to sum spectra."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from p06bs.callbacks._arrays import Array, Booleans, Floats
from p06bs.callbacks._fits import Group
from p06bs.callbacks._spectra import ElementFault, Faults, ceiling, judge
from p06bs.callbacks._totals import Areas

BLOCK = 2**17
"""Values that are converted to floats at a time, so that they stay in a processor's cache."""


@dataclass(frozen=True)
class Measured:
    """What spectra give.

    Parameters
    ----------
    fitted : Areas
    solutions : ndarray, shape (events, elements, nodes, width)
        As of `GainFit`; no nodes where the gain is fixed.
    counts, corrected : ndarray, shape (elements, channels)
        Sum spectra, as measured and with the weights.
    """

    fitted: Areas
    solutions: Floats
    counts: Floats
    corrected: Floats


def judge_all(groups: Sequence[Group], spectrum: Array, saturation: float | None) -> Faults:
    """Return what is wrong with each detector element in each event."""
    faults = np.full(spectrum.shape[:2], ElementFault.MASKED, np.uint8)
    for group in groups:
        model = group.fit.model
        cut = spectrum[:, group.elements, model.start : model.stop]
        faults[:, group.elements] = judge(cut, saturation=ceiling(cut, saturation))
    return faults


def measure(
    groups: Sequence[Group], spectrum: Array, usable: Booleans, weights: Floats
) -> Measured:
    """Return what spectra give.

    Parameters
    ----------
    spectrum : ndarray, shape (events, elements, channels)
    usable : ndarray of bool, shape (events, elements)
        The others have no counts.
    weights : ndarray, shape (events, elements)
        Dead-time factors of what the sum spectra are made of, 0 for the rest.
    """
    events, elements, channels = spectrum.shape
    peaks = len(groups[0].fit.model.peaks)
    fitted = Areas.zeros(events, elements, peaks)
    sums = np.zeros((elements, 2, channels))
    first = groups[0].gain
    nodes = (0, 0) if first is None else (len(first.nodes), first.width)
    solutions = np.zeros((events, elements, *nodes))
    both = np.stack([weights > 0, weights], axis=1)  # (events, 2, elements)
    for group in groups:
        model, own = group.fit.model, group.elements
        number = usable[:1, own].size
        step = max(1, min(events, BLOCK // max(1, number * channels)))
        block = np.empty((step, number, channels))
        for at in (slice(k, k + step) for k in range(0, events, step)):
            cut = spectrum[at, own]
            counts = block[: len(cut)]
            np.copyto(counts, cut)
            if spectrum.dtype.kind == "f":
                np.nan_to_num(counts, copy=False, posinf=0, neginf=0)  # what is not fitted
            if not usable[at, own].all():
                counts[~usable[at, own]] = 0
            flat = counts.reshape(-1, channels)[:, model.start : model.stop]
            areas, variance = group.fit.areas(flat)
            blank = group.fit.blank(areas, variance)
            shape = (*counts.shape[:2], -1)
            for name, values in (("areas", areas), ("variance", variance), ("blank", blank)):
                getattr(fitted, name)[at, own] = values.reshape(shape)
            if group.gain is not None:
                found = group.gain.solutions(flat)
                solutions[at, own] = found.reshape(*shape[:2], *found.shape[1:])
            sums[own] += both[at, :, own].transpose(2, 1, 0) @ counts.transpose(1, 0, 2)
    return Measured(fitted, solutions, sums[:, 0], sums[:, 1])
