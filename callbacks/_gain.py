"""Follow the gain of detector elements by the place of strong peaks.

A peak that is shifted by s of its standard deviations loses about s²/4 of its area, so that no
derivative at the nominal gain corrects a drift. The fit is therefore solved at several
gains (nodes); all these solutions are linear in the counts, and what lies between the nodes
is interpolated by a polynomial. At each node one more shape is fitted: the derivative of the
reference peaks by the gain. Its amplitude over the peaks' area is the distance between the
node and the true gain (a centroid that knows about neighbours and continuum), zero at the
true gain.

Both are sums over events, so that the gain follows from sums over the events before, in which
older counts fade.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.polynomial import chebyshev

from p06bs.callbacks._linear_fit import Model
from p06bs.callbacks._product import Floats, Product, product

STEPS = 6
"""Newton steps; each leaves some hundredths of the distance."""
ENOUGH = 0.05
"""Share of the counts averaged over from which a gain is believed."""
PER_WIDTH = 2.0
"""Nodes for a shift by √2 standard deviations of a peak: areas then are right within some 1e-3."""


@dataclass(frozen=True)
class GainFit:
    """The fit of one detector element at several gains.

    Parameters
    ----------
    nodes : ndarray, shape (nodes,)
        Relative changes of the gain.
    reach : float
        The largest one that is followed.
    product : Product
        Maps counts to the solutions at the nodes (areas of all peak groups, then the
        reference's derivative and area).
    solve : ndarray, shape (nodes, nodes)
        Maps values at the nodes to the coefficients of their Chebyshev polynomial.
    seen : float
        What one reference count at the nominal gain seems to be, in the mean over the nodes.
    """

    nodes: Floats
    reach: float
    product: Product
    solve: Floats
    seen: float

    def solutions(self, counts: Floats) -> Floats:
        """Return the solutions at the nodes, (events, nodes, peaks + 2)."""
        made = self.product(counts)
        return made.reshape(len(counts), len(self.nodes), -1)

    def between(self, gain: Floats) -> Floats:
        """Return the weights, (..., nodes), with which nodes make the value at a gain."""
        weights: Floats = chebyshev.chebvander(gain / self.reach, len(self.nodes) - 1) @ self.solve
        return weights

    def gain(self, sums: Floats) -> Floats:
        """Return the gains that the reference's derivative and area tell, NaN beyond reach.

        Parameters
        ----------
        sums : ndarray, shape (..., nodes, 2)
        """
        grid = np.linspace(-self.reach, self.reach, 2 * len(self.nodes) + 1)
        # The reference has most area about where its gain is.
        area = np.einsum("gk,...k->...g", self.between(grid), sums[..., 1])
        gain = grid[area.argmax(axis=-1)]
        most = self.reach / len(self.nodes)
        with np.errstate(all="ignore"):  # no area tells no gain
            for _ in range(STEPS):
                there = np.einsum("...k,...kq->...q", self.between(gain), sums)
                step = np.clip(there[..., 0] / there[..., 1], -most, most)
                gain = np.clip(gain + step, -1.5 * self.reach, 1.5 * self.reach)
        return np.where((np.abs(gain) <= self.reach) & (there[..., 1] > 0), gain, np.nan)


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
    reference: tuple[int, ...],
    nodes: Floats,
    reach: float,
) -> GainFit:
    """Return the fit at several gains.

    Parameters
    ----------
    model : Model
        At the nominal gain.
    drifted : callable
        Returns the models at relative changes of the gain.
    reference : tuple of int
        Places of the peak groups that tell the gain.
    nodes : ndarray
        As `place_nodes` returns them.
    reach : float
        Largest relative change of the gain that is followed.

    Raises
    ------
    ValueError
        If a peak leaves the fitted range.
    """
    number = len(nodes)
    models = drifted(nodes.tolist())
    if any(m.peaks != model.peaks or m.columns.shape != model.columns.shape for m in models):
        raise ValueError(
            "track_gain: a peak leaves the fitted range when the gain drifts; "
            "widen energy_range, or make gain_range smaller"
        )
    vander = chebyshev.chebvander(nodes / reach, number - 1)
    solve: Floats = np.linalg.inv(vander).astype(np.float64)
    derivatives = chebyshev.chebval(nodes / reach, chebyshev.chebder(np.eye(number))).T
    slope = derivatives @ solve / reach
    shapes = np.stack([m.shapes[:, reference] for m in models])  # (nodes, channels, references)
    slopes = np.einsum("kj,jcr->kcr", slope, shapes)
    # A place is known the better the steeper its peak: inverse variances of the gains.
    weight = (slopes[number // 2] ** 2).sum(axis=0) / (shapes[number // 2] ** 2).sum(axis=0)
    weight /= weight.max()
    rows = []
    for at, changes in zip(models, slopes, strict=True):
        areas = at.solve()
        rows.append(areas)
        rows.append(weight @ at.solve(*changes.T)[len(areas) :])
        rows.append(weight @ areas[list(reference)])
    exact = np.vstack(rows)
    seen = exact[len(areas) + 1 :: len(areas) + 2] @ model.shapes[:, reference]
    return GainFit(
        nodes=nodes,
        reach=reach,
        product=product(exact),
        solve=solve,
        seen=float(seen.mean(axis=0) @ weight / (weight @ weight)),
    )


@dataclass(frozen=True)
class Followed:
    """Gains that were followed through events.

    Parameters
    ----------
    sums : ndarray, shape (elements, nodes, 2)
        Faded sums over all events, with which the following ones go on.
    drift : ndarray, shape (events, elements)
        Relative changes of the gain; 0 before there are enough counts, NaN beyond reach.
    areas : ndarray, shape (events, elements, peaks)
        Areas at these gains, 0 beyond reach.
    """

    sums: Floats
    drift: Floats
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
    sums : ndarray, shape (elements, nodes, 2), optional
        Those of the events before.
    solutions : ndarray, shape (events, elements, nodes, peaks + 2)
    usable : ndarray of bool, shape (events, elements)
        The others tell nothing.
    counts : float
        Reference counts that are averaged over: older ones fade by exp(-newer/counts).
    """
    reference = np.where(usable[..., None, None], solutions[..., -2:], 0)
    newer = reference[..., 1].mean(axis=2)
    for elements, fit in groups:
        newer[:, elements] /= fit.seen * counts
    before = np.zeros(reference.shape[1:]) if sums is None else sums
    faded = np.empty_like(reference)
    # Areas of a reference that is not there scatter about zero, and fade nothing on average.
    for place, kept in enumerate(np.exp(-np.maximum(newer, -1.0))[..., None, None]):
        before = faded[place] = before * kept + reference[place]
    drift = np.zeros(usable.shape)
    areas = np.zeros((*usable.shape, solutions.shape[3] - 2))
    for elements, fit in groups:
        there = faded[:, elements]
        gain = fit.gain(there)
        known = np.nan_to_num(gain)
        few = np.einsum("nek,nek->ne", fit.between(known), there[..., 1]) < ENOUGH * counts
        drift[:, elements] = np.where(few, 0, gain)
        at = fit.between(np.where(few, 0, known))
        areas[:, elements] = np.einsum("nek,nekp->nep", at, solutions[:, elements, :, :-2])
    areas[np.isnan(drift)] = 0
    return Followed(faded[-1].copy(), drift, areas)
