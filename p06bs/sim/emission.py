"""What a fluorescence detector gets from the sample: a mixture of component spectra.

At each point the sample has an amount of each component, and each detector element
sees each component as a spectrum of its own: pulses are one matrix product.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from p06bs.sim.phantom import Phantom
from p06bs.sim.spectra import measured

Floats = npt.NDArray[np.float64]

COUNT_RATE = 16e6
"""Counts/s that one detector element of efficiency 1 gets where one weight is 1."""


class Emission(Protocol):
    """How a phantom's fluorescence looks to each element of a detector.

    `dead_time` is that of each detector element per pulse, s; `gain_drift` the
    relative change of its gain per second of beam time (one number: of all).
    """

    @property
    def dead_time(self) -> tuple[float, ...]: ...
    @property
    def gain_drift(self) -> float | tuple[float, ...]: ...

    def amounts(
        self, phantom: Phantom, x: npt.ArrayLike, y: npt.ArrayLike, angle: npt.ArrayLike
    ) -> Floats:
        """Return how much of each component is in the beam, shape ``(points, components)``."""
        ...

    def spectra(self, phantom: Phantom, energy: float) -> Floats:
        """Return pulses/s of one of each component at full ring current.

        Shape ``(detector_elements, components, CHANNELS)``; `energy` of the beam in keV.
        """
        ...

    def peaks(self, phantom: Phantom, energy: float) -> Mapping[str, Floats]:
        """Return pulses/s in the full-energy peaks of one of each component.

        Name of a peak group, such as ``Fe_K`` -> shape ``(detector_elements, components)``.
        """
        ...


@dataclass(frozen=True)
class Measured:
    """Two measured spectra, mixed channel by channel by the weights of their layers.

    Parameters
    ----------
    efficiency : tuple of float
        Relative efficiency of each detector element.
    dead_time : tuple of float
        Dead time of each detector element per pulse, s. With `COUNT_RATE` they give
        a live fraction of about 0.9 where one weight is 1. Real pulse processors are
        ten times slower and see ten times less; the product is what matters, and this
        way points of 5 ms have enough counts to be compared with the phantom.
    gain_drift : float or tuple of float
        Relative change of the gain per second of beam time, of all or each element.
    """

    efficiency: tuple[float, ...] = (1.0, 0.85, 1.1, 0.95)
    dead_time: tuple[float, ...] = (7e-9, 6e-9, 8e-9, 5e-9)
    gain_drift: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        if len(self.efficiency) != len(self.dead_time) or not self.efficiency:
            raise ValueError(
                f"{len(self.efficiency)} efficiencies and {len(self.dead_time)} dead times; "
                "there must be one of each per detector element"
            )

    def amounts(
        self, phantom: Phantom, x: npt.ArrayLike, y: npt.ArrayLike, angle: npt.ArrayLike
    ) -> Floats:
        """Return the weights, shape ``(points, components)``."""
        return np.stack(list(phantom.weights(x, y, angle).values()), axis=-1)

    def spectra(self, phantom: Phantom, energy: float) -> Floats:
        """Return the measured spectra of the phantom's layers; see `Emission.spectra`.

        Raises
        ------
        KeyError
            If a layer of the phantom has no measured spectrum.
        """
        mixed = np.stack([measured(name) for name in phantom.maps])
        return COUNT_RATE * np.asarray(self.efficiency)[:, None, None] * mixed

    def peaks(self, phantom: Phantom, energy: float) -> Mapping[str, Floats]:
        """Return nothing: how many counts of a measured spectrum are whose, nobody knows."""
        return {}


def stretch(spectra: Floats, factor: npt.ArrayLike) -> Floats:
    """Move what is in channel c to channel ``factor * c``; the counts stay.

    Parameters
    ----------
    spectra : ndarray
        Shape ``(..., channels)``.
    factor : array_like
        Shape ``(...)``.
    """
    channels = spectra.shape[-1]
    edges = np.arange(channels + 1) - 0.5
    flat = spectra.reshape(-1, channels)
    factors = np.broadcast_to(factor, spectra.shape[:-1]).ravel()
    below = np.pad(np.cumsum(flat, axis=1), ((0, 0), (1, 0)))
    moved = [np.interp(edges / f, edges, b) for f, b in zip(factors, below, strict=True)]
    return np.diff(moved, axis=1).reshape(spectra.shape)


def poisson(rng: np.random.Generator, mean: Floats) -> npt.NDArray[np.int64]:
    """Return Poisson counts per channel, shape of `mean`, ``(channels,)``.

    Where channels are nearly empty it draws the total first and then each count's
    channel, which is the same distribution at a fraction of the time.
    """
    below = np.cumsum(mean)
    if below[-1] > mean.size:
        return rng.poisson(mean)
    where = np.searchsorted(below, below[-1] * rng.random(rng.poisson(below[-1])), side="right")
    return np.bincount(where, minlength=mean.size)
