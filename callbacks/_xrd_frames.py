"""What a valid pixel of a frame is."""

from typing import Any

import numpy as np
import numpy.typing as npt

from p06bs.callbacks._xrd_settings import PowderSettings

Array = npt.NDArray[Any]


COMPILED = {"?": "u2", "B": "u2", "b": "i4", "h": "i4", "e": "f4"}
"""Types of frames that are widened, so that code is compiled for fewer of them."""


def limits(settings: PowderSettings, dtype: np.dtype[Any]) -> tuple[Any, Any, Array]:
    """Return the least and the largest value of a valid pixel, and values that are none.

    Whole numbers are counts, so that negative ones are a detector's dummies (-1, -2). The
    largest value of a dtype is a gap or an overflow; of unsigned ones also the one below.
    The results have the type of `native` frames.
    """
    kind = np.dtype(COMPILED.get(dtype.char, dtype)).newbyteorder("=")
    low, above = settings.minimum, settings.saturation
    if dtype.kind == "f":
        top = np.finfo(kind).max
        least = -top if low is None else low
        most = top if above is None else np.nextafter(kind.type(above), kind.type(0))
        return kind.type(least), kind.type(most), np.array(settings.dummy, kind)
    info = np.iinfo(np.uint8 if dtype.kind == "b" else dtype)
    largest = int(info.max) - (1 if dtype.kind == "i" else 2)
    if above is not None:
        largest = min(largest, int(np.ceil(above)) - 1)
    fewest = 0 if low is None else min(max(int(np.ceil(low)), int(info.min)), int(info.max))
    dummies = [int(d) for d in settings.dummy if d.is_integer() and info.min <= d <= info.max]
    return kind.type(fewest), kind.type(largest), np.array(dummies, kind)


def native(frames: Array) -> Array:
    """Return frames as compiled code takes them: of few types, in one piece, read-only."""
    kind = np.dtype(COMPILED.get(frames.dtype.char, frames.dtype)).newbyteorder("=")
    made = np.ascontiguousarray(frames, kind).view()
    made.flags.writeable = False
    return made
