"""What the simulated instruments would read: a pure function of point, position and seed.

Every point of a scan has its own random numbers, seeded by (seed, number of the
point, kind), so that a point's data depend neither on timing nor on how many
points are drawn at once; two scans of the same points with one seed are equal.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from p06bs.sim.metrology import Metrology
from p06bs.sim.phantom import Phantom
from p06bs.sim.spectra import CHANNELS, measured

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

COUNT_RATE = 16e6
"""Counts/s that one detector element of efficiency 1 gets where one weight is 1."""

MONITOR_RATE = 20e6
"""Counts/s of the incident flux monitor (I0), nominal."""

TOP_UP_PERIOD = 8.0
TOP_UP_LOSS = 0.02
"""The stored current decays by this fraction between two injections, one a period (s)."""

RING_CURRENT = 100.0
"""Stored current right after an injection, mA."""


class Draw(IntEnum):
    """Kinds of random numbers of a point; others are those of `metrology.Sensor`."""

    COUNTERS = 1
    SPECTRA = 2


@dataclass(frozen=True)
class Exposures:
    """What a multi-element fluorescence detector recorded; leading axis = points.

    Parameters
    ----------
    spectrum : ndarray of uint32
        Counts, shape ``(points, elements, channels)``.
    live_time, real_time : ndarray of float64
        Seconds, shape ``(points, elements)``.
    """

    spectrum: npt.NDArray[np.uint32]
    live_time: Floats
    real_time: Floats


@dataclass(frozen=True)
class Beamline:
    """A phantom in the beam, watched by a few instruments.

    Parameters
    ----------
    phantom : Phantom
        The sample.
    seed : int
        Of all random numbers.
    efficiency : tuple of float
        Relative efficiency of each detector element.
    dead_time : tuple of float
        Dead time of each detector element per pulse, s. With `COUNT_RATE` they give
        a live fraction of about 0.9 where one weight is 1. Real pulse processors are
        ten times slower and see ten times less; the product is what matters, and this
        way points of 5 ms have enough counts to be compared with the phantom.
    energy : float
        Of the beam, keV.
    metrology : Metrology
        Stage, encoders and interferometers.
    """

    phantom: Phantom = field(default_factory=Phantom.default)
    seed: int = 0
    efficiency: tuple[float, ...] = (1.0, 0.85, 1.1, 0.95)
    dead_time: tuple[float, ...] = (7e-9, 6e-9, 8e-9, 5e-9)
    energy: float = 17.5
    metrology: Metrology = field(default_factory=Metrology)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, not {self.seed}")
        if self.metrology.seed is None:
            object.__setattr__(self, "metrology", replace(self.metrology, seed=self.seed))
        if len(self.efficiency) != len(self.dead_time) or not self.efficiency:
            raise ValueError(
                f"{len(self.efficiency)} efficiencies and {len(self.dead_time)} dead times; "
                "there must be one of each per detector element"
            )

    @property
    def elements(self) -> int:
        """Number of detector elements."""
        return len(self.efficiency)

    def current(self, points: npt.ArrayLike, gate_time: float) -> Floats:
        """Return the stored current relative to its maximum, a sawtooth in beam time."""
        beam_time = np.asarray(points, dtype=float) * gate_time
        return 1.0 - TOP_UP_LOSS * np.mod(beam_time, TOP_UP_PERIOD) / TOP_UP_PERIOD

    def ring_current(self, points: npt.ArrayLike, gate_time: float) -> Floats:
        """Return the stored current, mA, shape ``(points,)``."""
        return RING_CURRENT * self.current(points, gate_time)

    def positions(self, points: Iterable[int], x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return the stage's own readback, µm, when asked to be at nominal `x` and `y`.

        Where the sample really is, is up to `Trajectory.exposed`.

        Parameters
        ----------
        points : iterable of int
            Numbers of the points in the scan, from 0.
        x, y : ndarray
            Nominal positions, µm, shape ``(points,)``.
        """
        return self.metrology.readback(points, x, y)

    def counters(
        self,
        points: Iterable[int],
        x: Floats,
        y: Floats,
        gate_time: float,
        *,
        angle: float = 0.0,
    ) -> tuple[Integers, Integers]:
        """Return counts of the incident flux monitor and of the diode behind the sample.

        Parameters
        ----------
        points : iterable of int
            Numbers of the points in the scan, from 0.
        x, y : ndarray
            Where the sample is, µm, shape ``(points,)``.
        gate_time : float
            Seconds.
        angle : float
            Of the sample, degrees.
        """
        numbers = np.fromiter(points, dtype=np.int64)
        flux = MONITOR_RATE * gate_time * self.current(numbers, gate_time)
        passed = np.abs(self.phantom.transmission(x, y, angle, energy=self.energy)) ** 2
        means = np.stack([flux, flux * passed], axis=1)
        generators = self._generators(numbers, Draw.COUNTERS)
        counts = [rng.poisson(mean) for rng, mean in zip(generators, means, strict=True)]
        drawn = np.reshape(np.asarray(counts, dtype=np.int64), (-1, 2))
        return drawn[:, 0], drawn[:, 1]

    def expected(self, points: npt.ArrayLike, x: Floats, y: Floats, gate_time: float) -> Floats:
        """Return the counts that *arrive* per point and channel at efficiency 1.

        The mean of all pulses during the gate, before dead time: I0(t) times the
        sum of weight times measured spectrum. Shape ``(points, CHANNELS)``.
        """
        weights = self.phantom.weights(x, y)
        mixing = np.stack([weights[name] for name in weights], axis=-1)
        spectra = np.stack([measured(name) for name in weights])
        scale = COUNT_RATE * gate_time * self.current(points, gate_time)
        return scale[:, None] * (mixing @ spectra)

    def expose(self, points: Iterable[int], x: Floats, y: Floats, gate_time: float) -> Exposures:
        """Return what the fluorescence detector records: Poisson draws with dead time.

        An element that gets pulses at rate r is live for ``real / (1 + r tau)``
        (non-paralysable; Knoll, Radiation Detection and Measurement, ch. 4) and
        records Poisson counts with the arriving mean times live/real.

        Parameters
        ----------
        points : iterable of int
            Numbers of the points in the scan, from 0.
        x, y : ndarray
            Actual positions, µm, shape ``(points,)``.
        gate_time : float
            Seconds.
        """
        numbers = np.fromiter(points, dtype=np.int64)
        arriving = self.expected(numbers, x, y, gate_time)
        efficiency = np.asarray(self.efficiency)
        rate = arriving.sum(axis=1)[:, None] * efficiency / gate_time
        live_fraction = 1.0 / (1.0 + rate * np.asarray(self.dead_time))
        spectrum = np.empty((numbers.size, self.elements, CHANNELS), dtype=np.uint32)
        factor = efficiency * live_fraction
        for row, rng in enumerate(self._generators(numbers, Draw.SPECTRA)):
            spectrum[row] = rng.poisson(factor[row][:, None] * arriving[row])
        return Exposures(
            spectrum, gate_time * live_fraction, np.full(live_fraction.shape, gate_time)
        )

    def _generators(self, points: Iterable[int], kind: Draw) -> Iterator[np.random.Generator]:
        for point in points:
            yield np.random.default_rng([self.seed, int(point), kind])
