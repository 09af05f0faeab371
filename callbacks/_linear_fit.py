"""The linear least-squares fit of spectra, solved once and applied as a matrix product."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from p06bs.callbacks._arrays import Floats
from p06bs.callbacks._product import Product, product


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
class Model:
    """What the spectra of one detector element are composed of.

    Parameters
    ----------
    peaks : tuple of str
        Names of the peak groups.
    start, stop : int
        The fitted channels.
    offset, gain : float
        keV and keV/channel.
    noise : float
        Electronic noise, keV (FWHM).
    columns : ndarray, shape (stop - start, terms of the continuum + peaks)
        The continuum's terms, then the peak groups, each with an area of one count.
    weights : ndarray, shape (stop - start,), optional
        One over the standard deviations that the channels are taken to have.
    snip : Snip, optional
        The background to subtract before.
    """

    peaks: tuple[str, ...]
    start: int
    stop: int
    offset: float
    gain: float
    noise: float
    columns: Floats
    weights: Floats | None
    snip: Snip | None

    @property
    def terms(self) -> int:
        """Number of the continuum's terms."""
        return int(self.columns.shape[1]) - len(self.peaks)

    @property
    def shapes(self) -> Floats:
        """Return the shape of each peak group, (channels, peaks)."""
        return self.columns[:, self.terms :]

    @property
    def energies(self) -> Floats:
        """Return the mean energy of each peak group, keV, (peaks,)."""
        channels = self.start + np.arange(len(self.columns))
        mean: Floats = channels @ self.shapes / self.shapes.sum(axis=0)
        return self.offset + self.gain * mean

    def solve(self, *more: Floats) -> Floats:
        """Return rows that map counts to the amplitudes of the columns and of `more` shapes."""
        columns = np.column_stack([self.columns, *more])
        if self.weights is None:
            return pseudo_inverse(columns, weighted=False)
        solved: Floats = (
            pseudo_inverse(columns * self.weights[:, None], weighted=True) * self.weights
        )
        return solved


@dataclass(frozen=True)
class Fit:
    """The linear fit of one detector element: areas of peak groups, and their variances.

    Parameters
    ----------
    model : Model
    product : Product
        Maps counts to areas, by the rows P of `solution`, and to their variances,
        by P²: a Poisson variable has the variance of its mean, and the count is the
        best estimate of that.
    solution : ndarray, shape (terms of the continuum + peaks, channels)
        Maps counts to the amplitudes of all columns of the model.
    floor : ndarray, shape (peaks,)
        Variance of one count in the channel that matters most, so that an empty
        spectrum does not claim to be certain.
    own : ndarray, shape (peaks,)
        Variance of an area that one count of the area itself brings.
    """

    model: Model
    product: Product
    solution: Floats
    floor: Floats
    own: Floats

    @classmethod
    def of(cls, model: Model) -> "Fit":
        """Return the fit of a model."""
        solution = model.solve()
        solved = solution[model.terms :]
        return cls(
            model=model,
            product=product(solved, solved**2),
            solution=solution,
            floor=(solved**2).max(axis=1),
            own=np.einsum("pc,cp->p", solved**2, model.shapes),
        )

    def areas(self, counts: Floats) -> tuple[Floats, Floats]:
        """Return areas and variances, both (events, peaks), of the fitted channels' counts."""
        number = len(self.model.peaks)
        both = self.product(counts)
        areas, variance = both[:, :number], both[:, number:]
        if self.model.snip is not None:
            areas = areas - self.product(self.model.snip.background(counts))[:, :number]
        return areas, np.maximum(variance, self.floor)

    def described(self, counts: Floats) -> Floats:
        """Return what the fit takes the fitted channels' counts for, (events, channels)."""
        snip = self.model.snip
        below = 0.0 if snip is None else snip.background(counts)
        made: Floats = (counts - below) @ self.solution.T @ self.model.columns.T + below
        return made

    def blank(self, areas: Floats, variance: Floats) -> Floats:
        """Return the variances that areas have where nothing of their element is there."""
        own = np.maximum(areas, 0) * self.own
        return np.maximum(variance - own, self.floor)


def pseudo_inverse(model: Floats, *, weighted: bool) -> Floats:
    """Invert with the singular values that PyMca's lstsq cuts off."""
    u, s, vt = np.linalg.svd(model, full_matrices=False)
    cutoff = (model.shape[1] if weighted else max(model.shape)) * np.finfo(np.float64).eps
    inverse: Floats = (vt.T * np.where(s < cutoff, 0.0, 1 / np.maximum(s, cutoff))) @ u.T
    return inverse
