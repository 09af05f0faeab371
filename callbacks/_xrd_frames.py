"""What a valid pixel of a frame is."""

from typing import Any

import numpy as np
import numpy.typing as npt

from p06bs.callbacks._xrd_settings import PowderSettings

Array = npt.NDArray[Any]


def limits(settings: PowderSettings, dtype: np.dtype[Any]) -> tuple[Any, Any, Array]:
    """Return the least and the largest value of a valid pixel, and values that are none.

    Whole numbers are counts, so that negative ones are a detector's dummies (-1, -2). The
    largest value of a dtype is a gap or an overflow; of unsigned ones also the one below.
    """
    if dtype.kind == "f":
        top = np.finfo(dtype).max
        least = -top if settings.minimum is None else settings.minimum
        most = top
        if settings.saturation is not None:
            most = np.nextafter(dtype.type(settings.saturation), dtype.type(0))
        return dtype.type(least), dtype.type(most), np.array(settings.dummy, dtype)
    info = np.iinfo(dtype)
    most = int(info.max) - (2 if dtype.kind == "u" else 1)
    if settings.saturation is not None:
        most = min(most, int(np.ceil(settings.saturation)) - 1)
    least = 0 if settings.minimum is None else int(np.ceil(settings.minimum))
    dummies = [int(d) for d in settings.dummy if d.is_integer() and info.min <= d <= info.max]
    return (
        dtype.type(min(max(least, int(info.min)), int(info.max))),
        dtype.type(most),
        np.array(dummies, dtype),
    )


def native(frames: Array) -> Array:
    """Return frames as compiled code takes them: native byte order, in one piece, read-only."""
    dtype: np.dtype[Any]
    dtype = {"?": np.dtype("u1"), "e": np.dtype("f4")}.get(frames.dtype.char, frames.dtype)
    made = np.ascontiguousarray(frames, dtype.newbyteorder("=")).view()
    made.flags.writeable = False
    return made
