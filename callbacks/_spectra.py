"""What spectra of several detector elements have in common: faults, regions, times."""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from p06bs.callbacks._arrays import Array
from p06bs.model.modality import Bound

Faults = npt.NDArray[np.uint8]


class ElementFault(IntEnum):
    """What is wrong with a detector element in an event."""

    NONE = 0
    MASKED = 1
    REAL = 2
    LIVE = 3
    ABOVE = 4
    SATURATED = 5
    COUNTS = 6


TEXT = {
    ElementFault.MASKED: "masked",
    ElementFault.REAL: "real time, or input counts, not positive or not finite",
    ElementFault.LIVE: "live time, or output counts, not positive or not finite",
    ElementFault.ABOVE: "live time above real time, or output counts above input counts",
    ElementFault.SATURATED: "saturated",
    ElementFault.COUNTS: "counts negative, not finite or not whole",
}


def whole_counts(bound: Bound) -> bool:
    """Return whether the source says that its counts are whole numbers."""
    spectrum = bound["spectrum"]
    return np.dtype(spectrum.dtype or "f8").kind in "iu" and spectrum.scale == 1.0


def judge(spectra: Array, *, saturation: float | None, whole: bool = False) -> Faults:
    """Return the fault of each detector element in each event, shape (events, elements).

    Parameters
    ----------
    spectra : ndarray
        Counts, shape (events, elements, channels); only the channels that matter.
    saturation : float, optional
        Counts from which a channel is saturated.
    whole : bool
        Whether counts must be whole numbers.
    """
    faults = np.zeros(spectra.shape[:2], np.uint8)
    kind = spectra.dtype.kind
    if saturation is not None:
        faults[spectra.max(axis=2) >= saturation] = ElementFault.SATURATED
    if kind == "i":
        faults[spectra.min(axis=2) < 0] = ElementFault.COUNTS
    elif kind == "f":
        # NaN goes through min and max, so that these two see everything.
        fine = (spectra.min(axis=2) >= 0) & (spectra.max(axis=2) < np.inf)
        if whole:
            fine &= (spectra == np.rint(spectra)).all(axis=2)
        faults[~fine] = ElementFault.COUNTS
    return faults


def judge_times(faults: Faults, times: Array, fault: ElementFault) -> None:
    """Mark elements without other fault whose time is not positive and finite."""
    faults[(faults == ElementFault.NONE) & ~((times > 0) & (times < np.inf))] = fault


def dead_time_factor(faults: Faults, real: Array, live: Array, *, rates: bool) -> Array:
    """Return real over live time, or input over output counts, at least 1, and mark faults.

    Clocks and fast channels are not exact: live times up to 1 % above real time and output
    counts up to 10 % above input counts give 1. No input and no output counts need no
    correction; no live time is no measurement.
    """
    with np.errstate(all="ignore"):  # what it would warn of is marked
        factor = real / live
    least = 1 / 1.1 if rates else 1 / 1.01
    fine = (real > 0) & (live > 0) & (factor >= least) & (factor < np.inf)
    if not fine.all():
        nothing = (real == 0) & (live == 0) & rates
        for one, fault in ((real, ElementFault.REAL), (live, ElementFault.LIVE)):
            judge_times(faults, np.where(fine | nothing, 1, one), fault)
        faults[(faults == ElementFault.NONE) & ~(fine | nothing)] = ElementFault.ABOVE
    return np.where(fine, np.maximum(factor, 1), 1)


def describe(faults: Faults) -> str:
    """Return one event's faults in words: ``detector element 0, 2: saturated``."""
    return "; ".join(
        f"detector element {', '.join(map(str, np.flatnonzero(faults == fault)))}: {text}"
        for fault, text in TEXT.items()
        if (faults == fault).any()
    )


def channels_between(
    name: str, region: tuple[float, float], calibration: tuple[float, float] | None, channels: int
) -> tuple[int, int]:
    """Return the channels (start, stop) of a region: stop is the first one behind it.

    With a calibration (offset keV, gain keV/channel) the region is in keV and has
    the channels whose centre is offset + gain·i in it; without, it is in channel
    numbers, both inclusive.

    Raises
    ------
    ValueError
        If the region holds no channel or goes beyond the spectrum.
    """
    low, high = region
    if calibration is None:
        if low < 0 or high > channels - 1:
            raise ValueError(
                f"region {name!r} ({low:g}, {high:g}) is not in the spectrum, "
                f"which has channels 0 to {channels - 1}"
            )
        return int(low), int(high) + 1
    offset, gain = calibration
    centres = offset + gain * np.arange(channels)
    first, last = centres[0] - gain / 2, centres[-1] + gain / 2
    if low < first or high > last:
        raise ValueError(
            f"region {name!r} ({low:g}, {high:g}) keV is not in the spectrum, "
            f"which goes from {first:g} to {last:g} keV"
        )
    start = int(np.searchsorted(centres, low, side="left"))
    stop = int(np.searchsorted(centres, high, side="right"))
    if start == stop:
        raise ValueError(
            f"region {name!r} ({low:g}, {high:g}) keV holds no channel; "
            f"channels are {gain:g} keV wide, and their centres count"
        )
    return start, stop


def ceiling(spectra: Array, saturation: float | None) -> float | None:
    """Return the counts per channel from which spectra are saturated: their dtype's largest."""
    if saturation is not None or spectra.dtype.kind == "f":
        return saturation
    return float(np.iinfo(spectra.dtype).max)


def require_alike(bound: Bound, *names: str) -> None:
    """Make sure that inputs have one value for all detector elements, or one for each.

    Raises
    ------
    ValueError
        If one has another number of values.
    """
    elements = bound["spectrum"].shape[0]
    for name in names:
        if (values := bound[name].shape[0]) not in (1, elements):
            raise ValueError(
                f"{name}: {bound[name].data_key} has {values} values, "
                f"but {bound['spectrum'].data_key} has {elements} detector elements"
            )


def example_spectra() -> dict[str, Array]:
    """Return 12 events of iron on a continuum: 4 detector elements, 1200 channels of 10 eV."""
    channels = np.arange(1200)
    expected = 2 + 50 * np.exp(-0.5 * ((channels - 640) / 7) ** 2)
    rng = np.random.default_rng(0)
    return {
        "spectrum": rng.poisson(expected, (12, 4, len(channels))).astype(np.uint32),
        "live_time": np.full((12, 4), 0.9),
    }
