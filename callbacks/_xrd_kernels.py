"""Sum frames into bins: what is done for every pixel of every frame, compiled by numba.

A bin has the sums S of counts, V of their variance, N of the norms of pixels and C of
pixels (J. Kieffer et al., J. Appl. Cryst. 53 (2020) 1013). C and N are constants as long
as all pixels are valid, so that a frame costs one addition per pixel; what an invalid
pixel would have given is taken away.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

RUN = 512
"""Most pixels in a run: these are looked through for invalid ones before they are added."""

LANES = 4
"""Copies of the histogram, used in turn: neighbouring pixels share a bin, and additions to
the same address wait for each other."""

COUNT, NORM, DARK = 0, 1, 2
"""Rows of what each bin has when all its pixels are valid, and of what it has lost."""


def compiled(function: Any) -> Any:
    """Have numba compile a function when it is first called, and keep the code if it may."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither this folder nor the user's can be written
        return numba.njit(**options)(function)


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
def _add(
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
    """Add pixels that lie in one bin each; return how many are invalid, and saturated."""
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
def _add_split(
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
    """Add pixels that are shared out to several bins; return how many are invalid, saturated."""
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
def _finish(
    sums: Array,
    variances: Array,
    full: Array,
    lost: Array,
    floor: Array,
    sectors: int,
    scale: float,
    pattern: Array,
    cake: Array,
    totals: Array,
    counted: bool,
) -> float:
    """Put I and sigma of each bin into `pattern` and `cake`, add to `totals`; return the sum."""
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
            if counted:
                totals[0, radial] += s
                totals[1, radial] += v
                totals[2, radial] += n * scale
                totals[3, radial] = max(totals[3, radial], pattern[0, radial])
        else:
            pattern[0, radial] = np.nan
            pattern[1, radial] = np.nan
    return total


@compiled
def integrate(
    frames: Array,
    starts: Array,
    stops: Array,
    first: Array,
    cells: Array,
    weights: Array,
    norms: Array,
    darks: Array,
    full: Array,
    floor: Array,
    sectors: int,
    least: Any,
    most: Any,
    dummies: Array,
    sums: Array,
    scale: Array,
    most_invalid: float,
    patterns: Array,
    cakes: Array,
    total: Array,
    invalid: Array,
    saturated: Array,
    totals: Array,
) -> None:
    """Integrate frames.

    Parameters
    ----------
    frames : (events, pixels)
        Counts, of any number type.
    starts, stops : (runs,)
        Runs of used pixels.
    first : (pixels + 1,) or empty
        Where the bins of a pixel begin in `cells` and `weights`; empty: each pixel has
        one bin, `cells` has it by pixel, and `weights` is empty.
    norms, darks : (pixels,)
        What the counts of a pixel are divided by, and what is subtracted from them.
    full : (3, cells)
        C, N and dark counts of all pixels of a bin.
    floor : (cells,)
        Least variance: that of one count.
    sectors : int
        Cells per radial bin, which lie together.
    least, most, dummies
        What a valid value is.
    sums : (lanes, cells)
        Room for the sums; its dtype is what they are made in.
    scale : (events,)
        What patterns are divided by, such as the incident flux; NaN: an invalid event.
    most_invalid : float
        Number of invalid pixels from which an event is not in `totals`.
    patterns : (events, 2, radial bins), cakes : (events, 2, sectors, radial bins) or empty
        Results: intensity and sigma.
    total, invalid, saturated : (events,)
        Results: counts in all bins, number of invalid and of saturated pixels.
    totals : (4, radial bins)
        Results: sums over events of S, V and N, and the maximum of the intensity.
    """
    lanes, number = sums.shape
    flat = sums.reshape(-1)
    merged = np.zeros(number)
    variances = np.zeros(number if first.size else 0)
    lost = np.zeros((3, number))
    clean = True
    for event in range(len(frames)):
        if not clean:
            lost[:] = 0
        flat[:] = 0
        if first.size:
            variances[:] = 0
            bad, over = _add_split(
                frames[event], starts, stops, first, cells, weights, norms, darks,
                least, most, dummies, flat, variances, lost,
            )  # fmt: skip
        else:
            bad, over = _add(
                frames[event], starts, stops, cells, norms, darks,
                least, most, dummies, flat, lanes, lost,
            )  # fmt: skip
        clean = bad == 0
        merged[:] = sums[0]
        for lane in range(1, lanes):
            merged += sums[lane]
        invalid[event], saturated[event] = bad, over
        total[event] = _finish(
            merged, variances if first.size else merged, full, lost, floor, sectors, scale[event],
            patterns[event], cakes[event], totals,
            scale[event] > 0 and bad < most_invalid,
        ) / scale[event]  # fmt: skip


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
