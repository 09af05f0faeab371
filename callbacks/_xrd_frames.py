"""From frames to patterns: what a valid pixel is, and the loop over frames."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from p06bs.callbacks._arrays import Array, Floats
from p06bs.callbacks._xrd_integrator import Bins, Pixels
from p06bs.callbacks._xrd_settings import PowderSettings

LANES_UP_TO = 8192
"""Bins up to which there are several copies of the histogram: more do not fit the cache."""

MOST = 2**39
"""Largest count of 64 bit, so that sums of all pixels of the largest detectors fit 64 bit."""

FLOAT_DUMMIES = (-1.0, -2.0, 2.0**32 - 1, 2.0**32 - 2)
"""Of a Pilatus, and of an Eiger, in frames that were made floats."""

COMPILED = {"?": "u2", "B": "u2", "b": "i4", "h": "i4", "e": "f4"}
"""Types of frames that are widened, so that code is compiled for fewer of them."""


def limits(settings: PowderSettings, dtype: np.dtype[Any]) -> tuple[Any, Any, Array]:
    """Return the least and the largest value of a valid pixel, and values that are none.

    Whole numbers are counts, so that negative ones are a detector's dummies (-1, -2). The
    largest value of a dtype is a gap or an overflow; of unsigned ones also the one below. Whole
    numbers above `MOST` are none either.
    The results have the type of `native` frames.
    """
    kind = np.dtype(COMPILED.get(dtype.char, dtype)).newbyteorder("=")
    low, above = settings.minimum, settings.saturation
    if dtype.kind == "f":
        top = np.finfo(kind).max
        least = -top if low is None else low
        most = top if above is None else np.nextafter(kind.type(above), kind.type(0))
        usual = FLOAT_DUMMIES if settings.dummy is None else settings.dummy
        return kind.type(least), kind.type(most), np.array(usual, kind)
    info = np.iinfo(np.uint8 if dtype.kind == "b" else dtype)
    largest = int(info.max) - (1 if dtype.kind == "i" else 2)
    largest = min(largest, MOST)
    if above is not None:
        largest = min(largest, int(np.ceil(above)) - 1)
    fewest = 0 if low is None else min(max(int(np.ceil(low)), int(info.min)), int(info.max))
    dummies = [int(d) for d in settings.dummy or () if d.is_integer() and info.min <= d <= info.max]
    return kind.type(fewest), kind.type(largest), np.array(dummies, kind)


def native(frames: Array) -> Array:
    """Return frames as compiled code takes them: of few types, in one piece, read-only."""
    kind = np.dtype(COMPILED.get(frames.dtype.char, frames.dtype)).newbyteorder("=")
    made = np.ascontiguousarray(frames, kind).view()
    made.flags.writeable = False
    return made


@dataclass(frozen=True)
class Patterns:
    """What frames gave.

    `patterns` (events, 2, radial bins) and `cakes` (events, 2, sectors, radial bins, or
    empty) hold intensity and sigma; `total`, `invalid` and `saturated` (events,) the counts
    in all bins and numbers of pixels; `totals` (4, radial bins) the sums of S, V and N, and
    the largest intensity, over events without a reason in `reasons` to be invalid.
    """

    patterns: Floats
    cakes: Floats
    total: Floats
    invalid: Array
    saturated: Array
    totals: Floats
    reasons: dict[int, str]


def integrate(
    frames: Array,
    bins: Bins,
    pixels: Pixels,
    valid: tuple[Any, Any, Array],
    scale: Floats,
    reasons: Mapping[int, str],
    judge: Callable[[int, float], str],
) -> Patterns:
    """Integrate frames.

    Parameters
    ----------
    frames : (events, pixels)
        Counts, as `native` returns them.
    valid
        What a valid value is, as `limits` returns it.
    scale : (events,)
        What patterns are divided by; NaN: an invalid event.
    reasons
        Event -> why it is invalid, of what is known before.
    judge
        Says why a frame with so many invalid pixels and such counts in all bins is invalid; "" if
        it is not.
    """
    from p06bs.callbacks import _xrd_kernels as kernels

    count, radial, number = len(frames), len(bins.radial), bins.full.shape[1]
    split = bins.first.size > 0
    lanes = kernels.LANES if number <= LANES_UP_TO and not split else 1
    exact = frames.dtype.kind in "iu" and not split
    sums = np.zeros((lanes, number), np.int64 if exact else np.float64)
    variances, lost = np.zeros(number if split else 0), np.zeros((3, number))
    made = Patterns(
        patterns=np.empty((count, 2, radial)),
        cakes=np.empty((count, 2, *((bins.sectors, radial) if len(bins.azimuth) else (0, 0)))),
        total=np.empty(count),
        invalid=np.zeros(count, np.int64),
        saturated=np.zeros(count, np.int64),
        totals=np.zeros((4, radial)),
        reasons=dict(reasons),
    )
    made.totals[3] = -np.inf
    own = np.empty((3, radial))
    runs, known = (bins.starts, bins.stops), (pixels.norm, pixels.dark)
    for k in range(count):
        sums[:] = 0
        if k and made.invalid[k - 1]:
            lost[:] = 0
        if split:
            variances[:] = 0
            shares = (bins.first, bins.cells, bins.weights)
            bad = kernels.add_split(
                frames[k], *runs, *shares, *known, *valid, sums[0], variances, lost
            )
            counts = sums[0]
        else:
            bad = kernels.add(
                frames[k], *runs, bins.cells, *known, *valid, sums.reshape(-1), lanes, lost
            )
            counts = sums.sum(axis=0).astype(np.float64)
        made.invalid[k], made.saturated[k] = bad
        total = kernels.finish(
            counts, variances if split else counts, bins.full, lost, bins.floor, bins.sectors,
            scale[k], made.patterns[k], made.cakes[k], own,
        )  # fmt: skip
        made.total[k] = total / scale[k]
        if k not in made.reasons and (reason := judge(bad[0], total)):
            made.reasons[k] = reason
        if k not in made.reasons:
            made.totals[:3] += own
            np.fmax(made.totals[3], made.patterns[k, 0], out=made.totals[3])
    return made
