"""The linear least-squares fit of spectra, solved once and applied as a matrix product."""

from dataclasses import dataclass

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
            for start, stop in zip(edges, edges[1:], strict=False):
                row[start:stop] = SpecfitFuns.snip1d(smooth[start:stop], self.width, 0)
        return made


@dataclass(frozen=True)
class Fit:
    """The linear fit of one detector element.

    `solve` maps the counts of the channels `start` to `stop` to parameters:
    background terms first, then one area (in counts) per peak group.
    `squared` is `solve`² and `spread` maps parameters to the variances that
    Poisson noise gives to parameters.
    """

    peaks: tuple[str, ...]
    start: int
    stop: int
    solve: Floats
    squared: Floats
    spread: Floats
    snip: Snip | None

    def areas(self, spectra: Floats) -> tuple[Floats, Floats]:
        """Return areas and their variances, both of shape (events, peaks).

        `spectra` has the shape (events, channels) and holds the fitted channels only.
        The variance of a parameter is Σ solve²·(expected counts), and the expected
        counts are those of the fitted model.
        """
        background = None if self.snip is None else self.snip.background(spectra)
        net = spectra if background is None else spectra - background
        parameters = net @ self.solve.T
        first = self.solve.shape[0] - len(self.peaks)
        areas = parameters[:, first:]
        variance = np.maximum(areas, 0) @ self.spread[first:, first:].T
        if first:  # terms of a polynomial may well be negative, their sum may not
            variance += np.maximum(parameters[:, :first] @ self.spread[first:, :first].T, 0)
        if background is not None:
            variance += np.maximum(background, 0) @ self.squared[first:].T
        return areas, variance


def pseudo_inverse(model: Floats, *, weighted: bool) -> Floats:
    """Invert with the singular values that PyMca's lstsq cuts off."""
    u, s, vt = np.linalg.svd(model, full_matrices=False)
    cutoff = (model.shape[1] if weighted else max(model.shape)) * np.finfo(np.float64).eps
    inverse: Floats = (vt.T * np.where(s < cutoff, 0.0, 1 / np.maximum(s, cutoff))) @ u.T
    return inverse
