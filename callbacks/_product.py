"""Products of many spectra with a few rows of numbers, in a fraction of the multiplications."""

from dataclasses import dataclass

import numpy as np

from p06bs.callbacks._arrays import Floats

LENGTH = 256
"""Channels of a section; shorter ones have fewer terms each, longer ones suit BLAS better."""
EXACT, ROUGH = 1e-11, 5e-2
"""What terms with so small singular values contribute is left out."""
NOTHING = 1e-5
"""Elements so small, beside the largest of their row, need not be right in themselves."""


@dataclass(frozen=True)
class Product:
    """Rows that are to be multiplied with spectra, as a sum of few terms in each section.

    Within some hundred channels the rows of a fit are combinations of the few peaks
    that lie there, so that a section of channels needs a few terms only, however
    many rows there are.

    Parameters
    ----------
    sections : tuple of (start, stop, ndarray of shape (stop - start, terms))
        Channels, and the terms in them.
    mixture : ndarray, shape (terms of all sections, rows)
        How rows are composed of terms.
    """

    sections: tuple[tuple[int, int, Floats], ...]
    mixture: Floats

    def __call__(self, counts: Floats) -> Floats:
        """Return the product of spectra, shape (number, channels), with all rows."""
        made = np.empty((len(counts), len(self.mixture)))
        first = 0
        for start, stop, terms in self.sections:
            last = first + terms.shape[1]
            np.matmul(counts[:, start:stop], terms, out=made[:, first:last])
            first = last
        mixed: Floats = made @ self.mixture
        return mixed


def product(exact: Floats, rough: Floats | None = None) -> Product:
    """Return the product with the rows of both, `rough` below `exact`.

    Parameters
    ----------
    exact : ndarray, shape (rows, channels)
        Areas: elements are right within 1e-11 of the largest one of their row.
    rough : ndarray, shape (rows, channels), optional
        Variances: elements are right within some 1e-2 of the largest one of their row
        *in their section*, so that few counts beside a strong peak have their due; sums
        over a peak are right within some 1e-3.
    """
    largest = np.abs(exact).max(axis=1, keepdims=True)
    sections, mixtures = [], []
    for start in range(0, exact.shape[1], LENGTH):
        at = slice(start, min(start + LENGTH, exact.shape[1]))
        terms, mixture = _few(exact[:, at], largest, EXACT)
        if rough is not None:
            near = np.abs(rough[:, at]).max(axis=1, keepdims=True)
            near = np.maximum(near, NOTHING * np.abs(rough).max(axis=1, keepdims=True))
            more, others = _few(rough[:, at], near, ROUGH)
            terms = np.hstack([terms, more])
            mixture = np.block(
                [
                    [mixture, np.zeros((len(mixture), len(rough)))],
                    [np.zeros((len(others), len(exact))), others],
                ]
            )
        sections.append((at.start, at.stop, np.asfortranarray(terms)))
        mixtures.append(mixture)
    return Product(tuple(sections), np.vstack(mixtures))


def _few(rows: Floats, scale: Floats, tolerance: float) -> tuple[Floats, Floats]:
    """Return terms (channels, number) and how rows are composed of them, (number, rows)."""
    scale = np.where(scale > 0, scale, 1)
    u, s, vt = np.linalg.svd(rows / scale, full_matrices=False)
    keep = int(np.count_nonzero(s > tolerance))
    return vt[:keep].T, (u[:, :keep] * s[:keep] * scale).T
