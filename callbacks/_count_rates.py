"""Rates of counts: dead time, dark rate and gain of each channel, and why a count has none."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from p06bs.callbacks._arrays import Array, Floats

BLOCK = 4096
"""Events worked on at a time, so that the intermediate arrays stay in the cache."""

LEAST_FREE = 1e-12
"""Share of its gate for which a counter must be free; what is less is a rounding error."""


@dataclass(frozen=True)
class Setup:
    """Constants per used channel, and what becomes of them.

    `photons_per_count` (0: no flux) is that at 1 keV where each event has its own photon energy.
    """

    keys: tuple[str, ...]
    channels: npt.NDArray[np.intp] | None
    dead_time: Floats
    dark: Floats
    gain: Floats
    flag_above: float
    flux_index: int
    photons_per_count: float

    def source(self, channel: int) -> str:
        """Return what the source calls a used channel."""
        if self.keys:
            return self.keys[channel]
        return f"channel {channel if self.channels is None else self.channels[channel]}"


def rates_of(
    setup: Setup, counts: Array, gate: Array, out: tuple[Floats, Floats, Array]
) -> npt.NDArray[np.bool_]:
    """Put rates, their sigmas and flags of a block into `out`, and return which events are bad."""
    rate, sigma, flag = out
    open_for = gate[:, None].astype(np.float64, copy=False)  # as `why_bad` has it
    rate[...] = counts
    np.maximum(rate, 1, out=sigma)
    np.sqrt(sigma, out=sigma)
    fine = np.isfinite(gate) & (gate > 0)
    # The whole block is judged first: rows of few channels take their time.
    if counts.dtype.kind != "u" and not (rate.min() >= 0 and rate.max() < np.inf):
        fine &= ((rate >= 0) & (rate < np.inf)).all(axis=1)
    free = open_for
    if setup.dead_time.any():
        # n/(1 - nτ) with n = N/t is N/(t - Nτ): the time in which the counter was free.
        busy = rate * setup.dead_time
        np.greater(busy, setup.flag_above * open_for, out=flag, casting="unsafe")
        free = np.subtract(open_for, busy, out=busy)
        if not is_free(free.min(), open_for.max()):
            fine &= is_free(free, open_for).all(axis=1)
    if (setup.gain != 1).any():
        free = free * setup.gain
    rate /= free
    sigma /= free
    if setup.dark.any():
        rate -= setup.dark / setup.gain
    return ~fine


def is_free(free: Any, gate: Any) -> Any:
    """Return whether a counter that was free for so long in its gate tells a rate."""
    return free > LEAST_FREE * gate


def why_bad(setup: Setup, counts: Array, gate: float) -> Iterator[str]:
    """Yield why an event is bad."""
    if not 0 < gate < np.inf:
        yield f"gate time is {gate:g} s"
        return
    for i, count in enumerate(counts.tolist()):
        if not 0 <= count < np.inf:
            yield f"{setup.source(i)} counted {count:g}"
        elif not is_free(gate - (busy := count * float(setup.dead_time[i])), gate):
            share = busy / gate
            yield f"{setup.source(i)}: observed rate times dead time is {share:.3g}, not below 1"
