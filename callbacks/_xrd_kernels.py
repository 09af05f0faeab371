"""Sum frames into bins: what is done for every pixel of every frame, compiled by numba.

A bin has the sums S of counts, V of their variance, N of the norms of pixels and C of
pixels. C and N are constants as long as all pixels are valid, so that a frame costs one
addition per pixel; what an invalid pixel would have given is taken away.
"""

from typing import Any

import numba
import numpy as np

from p06bs.callbacks._arrays import Array

RUN = 512
"""Most pixels in a run: these are looked through for invalid ones before they are added."""

LANES = 4
"""Copies of the histogram, used in turn: neighbouring pixels share a bin, and additions to
the same address wait for each other."""

COUNT, NORM, DARK = 0, 1, 2
"""Rows of what each bin has when all its pixels are valid, and of what it has lost."""


def compiled(function: Any) -> Any:
    """Have numba compile a function when it is first called, and keep the code if it may."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither this folder nor the user's can be written
        return numba.njit(nogil=True, error_model="numpy")(function)


@compiled
def _is_valid(value: Any, least: Any, most: Any, dummies: Array) -> bool:
    """Return whether a value is one: NaN is not, because no comparison with it is true."""
    if not (value >= least and value <= most):
        return False
    for dummy in dummies:  # noqa: SIM110 (numba knows no generators here)
        if value == dummy:
            return False
    return True


@compiled
def _all_valid(values: Array, least: Any, most: Any, dummies: Array) -> bool:
    good = True
    for p in range(values.size):  # by index and without a way out, so that it becomes SIMD
        good &= (values[p] >= least) & (values[p] <= most)
    for dummy in dummies:
        for p in range(values.size):
            good &= values[p] != dummy
    return good


@compiled
def _lose(lost: Array, cell: Any, weight: float, norm: float, dark: float) -> None:
    lost[COUNT, cell] += weight
    lost[NORM, cell] += weight * norm
    lost[DARK, cell] += weight * dark


@compiled
def add(
    frame: Array,
    starts: Array,
    stops: Array,
    cells: Array,
    norms: Array,
    darks: Array,
    least: Any,
    most: Any,
    dummies: Array,
    sums: Array,
    lanes: int,
    lost: Array,
) -> tuple[int, int]:
    """Add pixels that lie in one bin each; return how many are invalid, and saturated.

    Parameters
    ----------
    frame, norms, darks : (pixels,)
        Counts of any number type, what they are divided by, and what is subtracted.
    starts, stops : (runs,)
        Runs of used pixels.
    cells : (pixels,)
        The bin of each pixel.
    least, most, dummies
        What a valid value is; of the type of `frame`.
    sums : (lanes * bins,)
        Sums of counts are added to it; its dtype is what they are made in.
    lanes : int
        1, or `LANES`.
    lost : (3, bins)
        What invalid pixels would have given is added to it.
    """
    kind = sums.dtype.type
    size = sums.size // LANES if lanes == LANES else 0
    one, two, three = np.uint32(size), np.uint32(2 * size), np.uint32(3 * size)
    invalid, saturated = 0, 0
    for run in range(starts.size):
        start, stop = starts[run], stops[run]
        values, at = frame[start:stop], cells[start:stop]
        if _all_valid(values, least, most, dummies):
            even = values.size - values.size % LANES
            for p in range(0, even, LANES):
                sums[at[p]] += kind(values[p])
                sums[one + at[p + 1]] += kind(values[p + 1])
                sums[two + at[p + 2]] += kind(values[p + 2])
                sums[three + at[p + 3]] += kind(values[p + 3])
            for p in range(even, values.size):
                sums[at[p]] += kind(values[p])
            continue
        for p in range(values.size):
            if _is_valid(values[p], least, most, dummies):
                sums[np.uint32(p % LANES) * one + at[p]] += kind(values[p])
            else:
                invalid += 1
                saturated += values[p] > most
                _lose(lost, at[p], 1.0, norms[start + p], darks[start + p])
    return invalid, saturated


@compiled
def add_split(
    frame: Array,
    starts: Array,
    stops: Array,
    first: Array,
    cells: Array,
    weights: Array,
    norms: Array,
    darks: Array,
    least: Any,
    most: Any,
    dummies: Array,
    sums: Array,
    variances: Array,
    lost: Array,
) -> tuple[int, int]:
    """Add pixels that are shared out to several bins; return how many are invalid, saturated.

    The bins of pixel p are `cells`, with `weights`, from `first[p]` to `first[p + 1]`.
    """
    invalid, saturated = 0, 0
    for run in range(starts.size):
        for p in range(starts[run], stops[run]):
            valid = _is_valid(frame[p], least, most, dummies)
            if not valid:
                invalid += 1
                saturated += frame[p] > most
            value = float(frame[p])
            for k in range(first[p], first[p + 1]):
                weight = weights[k]
                if valid:
                    sums[cells[k]] += weight * value
                    variances[cells[k]] += weight * weight * value
                else:
                    _lose(lost, cells[k], weight, norms[p], darks[p])
    return invalid, saturated


@compiled
def finish(
    sums: Array,
    variances: Array,
    full: Array,
    lost: Array,
    floor: Array,
    sectors: int,
    scale: float,
    pattern: Array,
    cake: Array,
    own: Array,
) -> float:
    """Put I and sigma of each bin into `pattern` and `cake`; return the counts in all bins.

    Parameters
    ----------
    sums, variances : (bins,)
        S and V.
    full, lost : (3, bins)
        C, N and dark counts of all pixels of a bin, and of those that are not valid.
    floor : (bins,)
        Least variance: that of one count.
    sectors : int
        Bins of the cake that lie in one of the pattern, one after the other.
    scale : float
        What is divided by, such as the incident flux; NaN: an invalid event.
    pattern : (2, radial bins), cake : (2, sectors, radial bins) or empty
        Results: intensity and sigma, NaN without valid pixels.
    own : (3, radial bins)
        Results: S, V and N times `scale`, 0 without valid pixels.
    """
    total = 0.0
    for radial in range(full.shape[1] // sectors):
        s, v, n, c, least = 0.0, 0.0, 0.0, 0.0, 0.0
        for sector in range(sectors):
            cell = radial * sectors + sector
            count = full[COUNT, cell] - lost[COUNT, cell]
            norm = full[NORM, cell] - lost[NORM, cell]
            signal = sums[cell] - (full[DARK, cell] - lost[DARK, cell])
            if count > 1e-6:
                s, v, n, c = s + signal, v + variances[cell], n + norm, c + count
                least = max(least, floor[cell])
            if cake.size:
                there = count > 1e-6
                cake[0, sector, radial] = signal / norm / scale if there else np.nan
                sigma = np.sqrt(max(variances[cell], floor[cell])) / norm / scale
                cake[1, sector, radial] = sigma if there else np.nan
        total += s
        if c > 1e-6:
            pattern[0, radial] = s / n / scale
            pattern[1, radial] = np.sqrt(max(v, least)) / n / scale
            own[:, radial] = s, v, n * scale
        else:
            pattern[0, radial] = np.nan
            pattern[1, radial] = np.nan
            own[:, radial] = 0
    return total


@compiled
def sum_pixels(
    frames: Array,
    pixels: Array,
    darks: Array,
    least: Any,
    most: Any,
    dummies: Array,
    sums: Array,
) -> None:
    """Put the sums of counts, of dark counts and of pixels into `sums`, shape (events, 3)."""
    for event in range(len(frames)):
        s, d, c = 0.0, 0.0, 0.0  # whole numbers stay exact up to 2**53
        for p in pixels:
            value = frames[event, p]
            if _is_valid(value, least, most, dummies):
                s += float(value)
                d += darks[p]
                c += 1.0
        sums[event, 0], sums[event, 1], sums[event, 2] = s, d, c
