"""Words of counters that wrap: whole counts and the rest of a mean, unwrapped in integers."""

import numpy as np

from p06bs.callbacks._arrays import Array, Booleans, Floats, Integers


def split(values: Array, bits: int | None) -> tuple[Array, Floats | None, Booleans | None]:
    """Return values as whole numbers and rests in [0, 1), and which of them fit so many bits.

    Integers have no rests (None). The last one is None if all fit. Floats of which nobody says
    that they wrap stay as they are, without rests.
    """
    if values.dtype.kind in "iub":
        limits = np.iinfo(values.dtype if values.dtype.kind != "b" else np.uint8)
        fit = bits is None or (limits.min >= -(1 << (bits - 1)) and limits.max < 1 << bits)
        return values.astype(np.int64), None, None if fit else _fits(values, bits)
    fits = _fits(values, bits)
    if bits is None:
        return values, None, fits
    lower = np.floor(values, dtype=np.float64)
    whole = (lower if fits is None else np.where(fits, lower, 0)).astype(np.int64)
    return whole, np.subtract(values, lower, out=lower), fits


def _fits(values: Array, bits: int | None) -> Booleans | None:
    """Return which values are finite and fit so many bits; None if all do."""
    if bits is None:
        fits: Booleans = np.isfinite(values)
    else:
        fits = values >= -(1 << (bits - 1))
        fits &= values < 1 << bits
    return None if np.count_nonzero(fits) == len(fits) else fits


def divided(
    total: Array, samples: Array, bits: int | None
) -> tuple[Array, Floats | None, Booleans | None]:
    """Return sum / samples as `split` does; exact as long as both are integers."""
    if bits is None or total.dtype.kind not in "iu" or samples.dtype.kind not in "iu":
        return split(total / samples, bits)
    # Beside a signed sum unsigned samples would make numpy resort to floats.
    wide = np.uint64 if total.dtype.kind == "u" else np.int64
    samples = samples.astype(wide)
    whole, rest = np.divmod(total.astype(wide), samples)
    return whole.astype(np.int64), rest / samples, _fits(whole, bits)


def fold(word: int, bits: int, signed: bool) -> int:
    """Return a word as the signed or unsigned number that its bits mean."""
    lowest = -(1 << (bits - 1)) if signed else 0
    return (word - lowest) % (1 << bits) + lowest


def unwrapped(words: Integers, bits: int, before: int) -> tuple[Integers, Integers]:
    """Return how far a counter has gone that was at `before`, and the steps of which that is.

    A step is the shorter one of both ways round: from -2^(bits-1) up to 2^(bits-1) - 1.
    """
    step = np.empty_like(words)
    step[0] = (int(words[0]) - before) % (1 << bits)
    np.subtract(words[1:], words[:-1], out=step[1:])
    spare = 64 - bits
    step <<= spare  # to and fro, which is modulo 2^bits
    step >>= spare
    counts: Integers = np.add.accumulate(step)
    counts += before
    return counts, step
