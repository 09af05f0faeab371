"""The linear least-squares fit of spectra, solved once and applied as a matrix product."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Snip:
    """The background that is stripped from each spectrum before the fit.

    SNIP: C. G. Ryan et al., Nucl. Instrum. Methods B 34 (1988) 396, as in PyMca.
    """

    width: int
    smoothing: int
    anchors: tuple[int, ...]

    def background(self, spectra: Floats) -> Floats:
        """Return the background of spectra of shape (events, channels), in counts."""
        from PyMca5.PyMcaMath.fitting import SpecfitFuns

        made = np.empty_like(spectra)
        edges = sorted({0, *(a for a in self.anchors if a < spectra.shape[1]), spectra.shape[1]})
        for spectrum, row in zip(spectra, made, strict=True):
            smooth = SpecfitFuns.SavitskyGolay(spectrum, self.smoothing)
            for start, stop in pairwise(edges):
                row[start:stop] = SpecfitFuns.snip1d(smooth[start:stop], self.width, 0)
        return made


@dataclass(frozen=True)
class Fit:
    """The linear fit of one detector element: areas of peak groups, and their variances.

    Parameters
    ----------
    peaks : tuple of str
        Names of the peak groups.
    start, stop : int
        The fitted channels.
    matrix : ndarray, shape (2 · peaks, stop - start)
        Rows that map counts to areas, then the squares of these rows, which map
        counts to the variances of the areas: a Poisson variable has the variance
        of its mean, and the count is the best estimate of that.
    floor : ndarray, shape (peaks,)
        Variance of one count in the channel that matters most, so that an empty
        spectrum does not claim to be certain.
    snip : Snip, optional
        The background to subtract; taken as free of noise.
    """

    peaks: tuple[str, ...]
    start: int
    stop: int
    matrix: Floats
    floor: Floats
    snip: Snip | None

    def areas(self, counts: Floats) -> tuple[Floats, Floats]:
        """Return areas and variances, both (events, peaks), of the fitted channels' counts."""
        number = len(self.peaks)
        if self.snip is None:
            both = counts @ self.matrix.T
            areas, variance = both[:, :number], both[:, number:]
        else:
            areas = (counts - self.snip.background(counts)) @ self.matrix[:number].T
            variance = counts @ self.matrix[number:].T
        return areas, np.maximum(variance, self.floor)


def sum_elements(values: Floats, weight: Floats) -> Floats:
    """Sum values of shape (events · elements, peaks) over elements; weights (events, elements)."""
    summed: Floats = (values.reshape(*weight.shape, -1) * weight[:, :, None]).sum(axis=1)
    return summed


def pseudo_inverse(model: Floats, *, weighted: bool) -> Floats:
    """Invert with the singular values that PyMca's lstsq cuts off."""
    u, s, vt = np.linalg.svd(model, full_matrices=False)
    cutoff = (model.shape[1] if weighted else max(model.shape)) * np.finfo(np.float64).eps
    inverse: Floats = (vt.T * np.where(s < cutoff, 0.0, 1 / np.maximum(s, cutoff))) @ u.T
    return inverse
