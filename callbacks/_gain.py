"""Follow gain and zero point of detector elements by the places of strong peaks.

A peak that is shifted by s of its standard deviations loses about s²/4 of its area, so that no
derivative at the nominal gain corrects a drift. The fit is therefore solved at several
gains (nodes); all these solutions are linear in the counts, and what lies between the nodes
is interpolated by a polynomial. At each node one more shape is fitted for each reference peak
group: its derivative by the gain. Its amplitude over the group's area is the distance between the
node and the true gain (a centroid that knows about neighbours and continuum), zero at the
true gain.

A zero point that moves by z moves a peak at the energy E as a gain of z/E would. Peaks at two
energies tell both, and the area of each group is taken at its own gain g + z/E.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev

from p06bs.callbacks._arrays import Floats
from p06bs.callbacks._linear_fit import Model
from p06bs.callbacks._product import Product, product

STEPS = 6
"""Newton steps; each leaves some hundredths of the distance."""
RIDGE = 1e-3
"""Strength of what keeps the number of reference counts from being noisy."""
PER_WIDTH = 2.0
"""Nodes for a shift by √2 standard deviations of a peak: areas then are right within some 1e-3."""


@dataclass(frozen=True)
class Range:
    """The largest drift that is followed: of the gain, relative, and of the zero point, keV."""

    gain: float
    zero: float = 0.0

    def reach(self, lowest: float) -> float:
        """Return the largest gain that a peak may need, the lowest being at `lowest` (keV)."""
        return self.gain + self.zero / lowest


@dataclass(frozen=True)
class GainFit:
    """The fit of one detector element at several gains.

    Parameters
    ----------
    nodes : ndarray, shape (nodes,)
        Relative changes of the gain.
    reach : float
        The largest one between the nodes.
    limits : Range
        What is followed.
    energies : ndarray, shape (peaks,)
        Of the peak groups, keV.
    references : tuple of int
        Places of the peak groups that tell the gain.
    product : Product
        Maps counts to the solutions at the nodes (areas of all peak groups, then the
        references' derivatives, then their areas).
    solve : ndarray, shape (nodes, nodes)
        Maps values at the nodes to the coefficients of their Chebyshev polynomial.
    weight : ndarray, shape (references,)
        Inverse variance of a relative gain that one count of a reference tells.
    counts : ndarray, shape (nodes, references)
        Maps the references' areas at the nodes to how many counts they have, whatever the
        gain is, the best telling reference being counted whole.
    """

    nodes: Floats
    reach: float
    limits: Range
    energies: Floats
    references: tuple[int, ...]
    product: Product
    solve: Floats
    weight: Floats
    counts: Floats

    @property
    def width(self) -> int:
        """Number of solutions at each node."""
        return len(self.energies) + 2 * len(self.references)

    def solutions(self, counts: Floats) -> Floats:
        """Return the solutions at the nodes, (events, nodes, width)."""
        made = self.product(counts)
        return made.reshape(len(counts), len(self.nodes), -1)

    def between(self, gain: Floats) -> Floats:
        """Return the weights, (..., nodes), with which nodes make the value at a gain."""
        weights: Floats = chebyshev.chebvander(gain / self.reach, len(self.nodes) - 1) @ self.solve
        return weights

    def brightness(self, sums: Floats) -> Floats:
        """Return counts of the references at the nodes, (..., nodes), the best telling whole."""
        areas = sums[..., len(self.references) :]
        bright: Floats = areas @ (self.weight / self.weight.max())
        return bright

    def drift(self, sums: Floats) -> tuple[Floats, Floats]:
        """Return gains and zero points (keV) that the references tell, NaN beyond their limits.

        Parameters
        ----------
        sums : ndarray, shape (..., nodes, 2 * references)
            Sums of their derivatives and areas.
        """
        number, limits = len(self.references), self.limits
        at = 1 / self.energies[list(self.references)]
        # The references have most area about where their gain is.
        grid = np.linspace(-limits.gain, limits.gain, 2 * len(self.nodes) + 1)
        area = np.einsum("gk,...k->...g", self.between(grid), self.brightness(sums))
        gain = grid[area.argmax(axis=-1)]
        zero = np.zeros(gain.shape)
        most = self.reach / len(self.nodes)
        # The zero point is expected where it was, with half its limit as standard deviation.
        prior = (2 / limits.zero) ** 2 if limits.zero else np.inf
        for _ in range(STEPS):
            weights = self.between(gain[..., None] + zero[..., None] * at)
            there = np.einsum("...rk,...kr->...r", weights, sums[..., :number])
            counts = np.einsum("...rk,...kr->...r", weights, sums[..., number:])
            known = np.maximum(counts, 0) * self.weight
            with np.errstate(all="ignore"):  # no area tells no gain
                off = np.where(known > 0, np.clip(there / counts, -most, most), 0)
                step, turn = _solve(known, off, at, zero, prior)
            gain = np.clip(gain + np.nan_to_num(step), -1.5 * limits.gain, 1.5 * limits.gain)
            zero = np.clip(zero + np.nan_to_num(turn), -1.5 * limits.zero, 1.5 * limits.zero)
        fine = (np.abs(gain) <= limits.gain) & (np.abs(zero) <= limits.zero)
        fine &= known.any(axis=-1)
        return np.where(fine, gain, np.nan), np.where(fine, zero, np.nan)

    def areas(self, solutions: Floats, gain: Floats, zero: Floats) -> Floats:
        """Return the areas, (..., peaks), at gains and zero points of solutions' leading shape."""
        areas = solutions[..., : len(self.energies)]
        if self.limits.zero:
            gain = gain[..., None] + zero[..., None] / self.energies
        else:
            gain = gain[..., None]  # the same for all peaks
        made: Floats = np.einsum("...pk,...kp->...p", self.between(gain), areas)
        return made


def _solve(
    known: Floats, off: Floats, at: Floats, zero: Floats, prior: float
) -> tuple[Floats, Floats]:
    """Return by how much gain and zero point are to be changed (least squares).

    Parameters
    ----------
    known, off : ndarray, shape (..., references)
        Inverse variances and distances of the references' own gains.
    at : ndarray, shape (references,)
        1/keV.
    zero : ndarray, shape (...)
        Zero point so far, keV.
    prior : float
        Its inverse variance before anything was seen.
    """
    one, pull = known.sum(axis=-1), (known * off).sum(axis=-1)
    if prior == np.inf:
        return pull / one, np.zeros(zero.shape)
    cross, turn = (known * at).sum(axis=-1), (known * off * at).sum(axis=-1) - prior * zero
    two = (known * at**2).sum(axis=-1) + prior
    both = one * two - cross**2
    return (two * pull - cross * turn) / both, (one * turn - cross * pull) / both


def place_nodes(reach: float, top: float, noise: float, fano: float) -> Floats:
    """Return the relative gains at which the fit is solved.

    Parameters
    ----------
    reach : float
        Largest relative change of the gain.
    top : float
        Highest fitted energy, keV, where peaks move most.
    noise, fano : float
        Electronic noise (FWHM, keV) and Fano factor, which make the width of peaks.
    """
    width = math.sqrt((noise / 2.3548) ** 2 + fano * 3.85e-3 * top)
    number = 2 * math.ceil(PER_WIDTH * reach * top / (math.sqrt(2) * width)) + 1
    nodes: Floats = chebyshev.chebpts1(max(number, 5)) * reach
    return nodes


def gain_fit(
    model: Model,
    drifted: Callable[[list[float]], tuple[Model, ...]],
    references: tuple[int, ...],
    nodes: Floats,
    reach: float,
    limits: Range,
) -> GainFit:
    """Return the fit at several gains.

    Parameters
    ----------
    model : Model
        At the nominal gain.
    drifted : callable
        Returns the models at relative changes of the gain.
    references : tuple of int
        Places of the peak groups that tell the gain.
    nodes : ndarray
        As `place_nodes` returns them.
    reach : float
        Largest relative gain that a peak may need.
    limits : Range
        The largest drift that is followed.

    Raises
    ------
    ValueError
        If a peak leaves the fitted range.
    """
    number = len(nodes)
    models = drifted(nodes.tolist())
    if any(m.peaks != model.peaks or m.shapes.shape != model.shapes.shape for m in models):
        raise ValueError(
            "track_gain: a peak leaves the fitted range when the gain drifts; "
            "widen energy_range, or make gain_range smaller"
        )
    vander = chebyshev.chebvander(nodes / reach, number - 1)
    solve: Floats = np.linalg.inv(vander).astype(np.float64)
    derivatives = chebyshev.chebval(nodes / reach, chebyshev.chebder(np.eye(number))).T
    slope = derivatives @ solve / reach
    shapes = np.stack([m.shapes[:, references] for m in models])  # (nodes, channels, references)
    slopes = np.einsum("kj,jcr->kcr", slope, shapes)
    # A place is known the better the steeper its peak: twice what holds for a normal distribution.
    middle = number // 2
    weight = 2 * (slopes[middle] ** 2).sum(axis=0) / (shapes[middle] ** 2).sum(axis=0)
    rows = []
    for at, changes in zip(models, slopes, strict=True):
        areas = at.solve()[at.terms :]
        rows += [areas, at.solve(*changes.T)[-len(references) :], areas[list(references)]]
    exact = np.vstack(rows)
    width = len(exact) // number
    areas = exact.reshape(number, width, -1)[:, -len(references) :]
    return GainFit(
        nodes=nodes,
        reach=reach,
        limits=limits,
        energies=model.energies,
        references=references,
        product=product(exact),
        solve=solve,
        weight=weight,
        counts=_counts(areas, shapes, weight / weight.max()),
    )


def _counts(areas: Floats, shapes: Floats, share: Floats) -> Floats:
    """Return what `GainFit.counts` is.

    At a node far from the true gain an area may be anything, also negative, so that no mean
    over the nodes tells counts.

    Parameters
    ----------
    areas : ndarray, shape (nodes, references, channels)
        Rows of the solutions.
    shapes : ndarray, shape (nodes, channels, references)
        Of one count at the nodes' gains.
    share : ndarray, shape (references,)
        How much a count of each reference counts.
    """
    # Seen at node k as a reference r, of a reference q at the gain of node j.
    seen = np.einsum("krc,jcq->jqkr", areas, shapes).reshape(areas.shape[0] * len(share), -1)
    wanted = np.tile(share, len(areas))
    # A ridge, as counts need not be exact, and must not be noisy.
    square = seen.T @ seen + RIDGE * np.trace(seen.T @ seen) / len(seen) * np.eye(len(seen))
    found: Floats = np.linalg.solve(square, seen.T @ wanted)
    return found.reshape(areas.shape[:2])
