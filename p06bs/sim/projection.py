"""Line integrals through maps of weights, exact at every position and angle."""

import numpy as np
import numpy.typing as npt

Map = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

NEARLY_STRAIGHT = 1e-6
"""Sine of the angle below which a ray meets one position of a map only."""


def pixel(position: npt.ArrayLike, ends: tuple[float, float], n: int) -> Map:
    """Return positions in pixels, 0 at the centre of the first one."""
    first, _ = ends
    origin = first if n > 1 else sum(ends) / 2
    return (np.asarray(position, dtype=float) - origin) / pitch(ends, n)


def pitch(ends: tuple[float, float], n: int) -> float:
    """Return the distance of two pixels, in the unit of `ends`."""
    first, last = ends
    return (last - first) / (n - 1) if n > 1 else last - first


def sample(weights: Map, u: Map, v: Map) -> Map:
    """Return a map at pixels (u, v), bilinear between centres, 0 beyond the outer edges.

    Parameters
    ----------
    weights : ndarray
        Shape ``(ny, nx)``.
    u, v : ndarray
        Columns and rows, of one shape.
    """
    ny, nx = weights.shape
    inside = (u >= -0.5) & (u <= nx - 0.5) & (v >= -0.5) & (v <= ny - 0.5)
    (ix, jx, fx), (iy, jy, fy) = _between(u, nx), _between(v, ny)
    upper = weights[iy, ix] * (1 - fx) + weights[iy, jx] * fx
    lower = weights[jy, ix] * (1 - fx) + weights[jy, jx] * fx
    return np.where(inside, upper * (1 - fy) + lower * fy, 0.0)


def integral(weights: Map, u: Map, v: Map) -> Map:
    """Return the integral of what `sample` gives, along u from the left edge up to `u`, pixels.

    Exact: between centres the weight is linear in u, so its integral is quadratic.
    """
    ny, nx = weights.shape
    u = np.clip(u, -0.5, nx - 0.5)
    (ix, jx, fx), (iy, jy, fy) = _between(u, nx), _between(v, ny)
    beyond = u - np.clip(u, 0, nx - 1)  # the outer half of an outermost pixel is constant

    def row(iy: Index) -> Map:
        whole = np.cumsum(weights, axis=1) - 0.5 * weights
        start, end = weights[iy, ix], weights[iy, jx]
        return whole[iy, ix] + start * fx + (end - start) * fx**2 / 2 + start * beyond

    inside = (v >= -0.5) & (v <= ny - 0.5)
    return np.where(inside, row(iy) * (1 - fy) + row(jy) * fy, 0.0)


def _between(pixels: Map, n: int) -> tuple[Index, Index, Map]:
    """Return the pixels on both sides of a position, and its distance from the first."""
    # A scan of the phantom's own shape meets pixel centres exactly, but for rounding.
    clipped = np.clip(np.round(pixels, 9), 0, n - 1)
    low = np.floor(clipped).astype(np.int64)
    return low, np.minimum(low + 1, n - 1), clipped - low
