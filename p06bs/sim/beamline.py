"""What the simulated instruments would read: a function of point, position, beam and seed.

Every point of a scan has its own random numbers, seeded by (seed, number of the
point, kind), so that a point's data depend neither on timing nor on how many
points are drawn at once; two scans of the same points with one seed are equal.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt

from p06bs.sim.beam import BeamHistory
from p06bs.sim.emission import Emission, Measured, poisson, stretch
from p06bs.sim.metrology import Metrology
from p06bs.sim.phantom import Phantom

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MONITOR_RATE = 20e6
"""Counts/s of the incident flux monitor (I0), nominal."""

TOP_UP_PERIOD = 8.0
TOP_UP_LOSS = 0.02
"""The stored current decays by this fraction between two injections, one a period (s)."""

RING_CURRENT = 100.0
"""Stored current right after an injection, mA."""

DARK_RATE = 1.0
"""Counts/s of the incident flux monitor, and of the diode, without beam."""


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
    input_counts, output_counts : ndarray of int64
        Pulses that arrived in the real time, and those that were recorded, shape
        ``(points, elements)``.
    """

    spectrum: npt.NDArray[np.uint32]
    live_time: Floats
    real_time: Floats
    input_counts: Integers
    output_counts: Integers


@dataclass(frozen=True)
class Beamline:
    """A phantom in the beam, watched by a few instruments.

    Parameters
    ----------
    phantom : Phantom
        The sample.
    seed : int
        Of all random numbers.
    emission : Emission
        How fluorescence looks to the detector: `Measured`, or `Lines` computed from
        the element maps.
    energy : float
        Of the beam, keV.
    angle : float
        Of the sample, degrees.
    metrology : Metrology
        Stage, encoders and interferometers.
    outages : tuple of (int, int)
        First and last (exclusive) points of each scan at which the ring has no beam: losses that
        are the same whenever they are looked at, as those that somebody causes are not.
    beam : BeamHistory
        What ring and shutter did in this scan.
    """

    phantom: Phantom = field(default_factory=Phantom.default)
    seed: int = 0
    emission: Emission = field(default_factory=Measured)
    energy: float = 17.5
    angle: float = 0.0
    metrology: Metrology = field(default_factory=Metrology)
    outages: tuple[tuple[int, int], ...] = ()
    beam: BeamHistory = field(default_factory=BeamHistory)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, not {self.seed}")
        if self.metrology.seed is None:
            object.__setattr__(self, "metrology", replace(self.metrology, seed=self.seed))

    @property
    def elements(self) -> int:
        """Number of detector elements."""
        return len(self.emission.dead_time)

    def current(self, points: npt.ArrayLike, gate_time: float) -> Floats:
        """Return the stored current relative to its maximum, shape ``(points,)``."""
        return self._topped_up(points, gate_time) * self.beam.current(points)

    def ring_current(self, points: npt.ArrayLike, gate_time: float) -> Floats:
        """Return the stored current, mA, shape ``(points,)``."""
        return RING_CURRENT * self.current(points, gate_time)

    def intensity(self, points: npt.ArrayLike, gate_time: float) -> Floats:
        """Return what reaches the sample relative to its maximum, shape ``(points,)``."""
        return self._topped_up(points, gate_time) * self.beam.intensity(points)

    def _topped_up(self, points: npt.ArrayLike, gate_time: float) -> Floats:
        """Return the current of an undisturbed ring: a sawtooth in beam time, 0 in outages."""
        numbers = np.asarray(points, dtype=float)
        current = 1.0 - TOP_UP_LOSS * np.mod(numbers * gate_time, TOP_UP_PERIOD) / TOP_UP_PERIOD
        for first, stop in self.outages:
            current = np.where((numbers >= first) & (numbers < stop), 0.0, current)
        return current

    def counters(
        self,
        points: Iterable[int],
        x: Floats,
        y: Floats,
        gate_time: float,
        angle: npt.ArrayLike | None = None,
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
        angle : array_like, optional
            Of the sample at each point, degrees; `self.angle` by default.
        """
        numbers = np.fromiter(points, dtype=np.int64)
        means = np.stack(self.counter_rates(numbers, x, y, gate_time, angle), axis=1) * gate_time
        generators = self._generators(numbers, Draw.COUNTERS)
        counts = [rng.poisson(mean) for rng, mean in zip(generators, means, strict=True)]
        drawn = np.reshape(np.asarray(counts, dtype=np.int64), (-1, 2))
        return drawn[:, 0], drawn[:, 1]

    def counter_rates(
        self,
        points: npt.ArrayLike,
        x: Floats,
        y: Floats,
        gate_time: float,
        angle: npt.ArrayLike | None = None,
    ) -> tuple[Floats, Floats]:
        """Return the mean rates (1/s) of both, `DARK_RATE` included; parameters of `counters`."""
        flux = MONITOR_RATE * self.intensity(points, gate_time)
        angle = self.angle if angle is None else angle
        passed = np.abs(self.phantom.transmission(x, y, angle, energy=self.energy)) ** 2
        return flux + DARK_RATE, flux * passed + DARK_RATE

    @cached_property
    def _spectra(self) -> Floats:
        return self.emission.spectra(self.phantom, self.energy)

    def expected(
        self,
        points: npt.ArrayLike,
        x: Floats,
        y: Floats,
        gate_time: float,
        angle: npt.ArrayLike | None = None,
    ) -> Floats:
        """Return the mean counts that *arrive* in the gate, before dead time.

        Shape ``(points, elements, CHANNELS)``: I0(t) times the sum of what there is of
        each component times its spectrum. Parameters are those of `expose`.
        """
        amounts = self._amounts(points, x, y, gate_time, angle)
        arriving = np.moveaxis(amounts @ self._spectra, 0, 1)
        drift = np.asarray(self.emission.gain_drift)
        if drift.any():
            time = np.asarray(points, dtype=float) * gate_time
            arriving = stretch(arriving, 1 + time[:, None] * drift)
        return arriving

    def _amounts(
        self,
        points: npt.ArrayLike,
        x: Floats,
        y: Floats,
        gate_time: float,
        angle: npt.ArrayLike | None,
    ) -> Floats:
        """Return how much of each component is lit, times seconds at full intensity."""
        angle = self.angle if angle is None else angle
        lit = gate_time * self.intensity(points, gate_time)
        amounts: Floats = self.emission.amounts(self.phantom, x, y, angle) * lit[:, None]
        return amounts

    def line_counts(
        self,
        points: npt.ArrayLike,
        x: Floats,
        y: Floats,
        gate_time: float,
        angle: npt.ArrayLike | None = None,
    ) -> dict[str, Floats]:
        """Return the mean counts that arrive in the full-energy peaks of each group of lines.

        The truth of a fit's areas, corrected for dead time: name of a group, such as
        ``Fe_K`` -> shape ``(points, elements)``. Escape peaks are not in it. Empty
        where spectra are measured ones. Parameters are those of `expose`.
        """
        amounts = self._amounts(points, x, y, gate_time, angle)
        peaks = self.emission.peaks(self.phantom, self.energy)
        return {group: amounts @ rates.T for group, rates in peaks.items()}

    def expose(
        self,
        points: Iterable[int],
        x: Floats,
        y: Floats,
        gate_time: float,
        angle: npt.ArrayLike | None = None,
    ) -> Exposures:
        """Return what the fluorescence detector records: Poisson draws with dead time.

        An element that gets pulses at rate r is live for ``real / (1 + r tau)``
        (non-paralysable; Knoll, Radiation Detection and Measurement, ch. 4) and
        records Poisson counts with the arriving mean times live/real.

        Parameters
        ----------
        points : iterable of int
            Numbers of the points in the scan, from 0.
        x, y : ndarray
            Where the sample is, µm, shape ``(points,)``.
        gate_time : float
            Seconds.
        angle : array_like, optional
            Of the sample at each point, degrees; `self.angle` by default.
        """
        numbers = np.fromiter(points, dtype=np.int64)
        arriving = self.expected(numbers, x, y, gate_time, angle)
        total = arriving.sum(axis=2)
        live = 1.0 / (1.0 + total / gate_time * np.asarray(self.emission.dead_time))
        spectrum = np.empty(arriving.shape, dtype=np.uint32)
        missed = np.empty(total.shape, dtype=np.int64)
        for row, rng in enumerate(self._generators(numbers, Draw.SPECTRA)):
            spectrum[row] = [poisson(rng, mean) for mean in live[row][:, None] * arriving[row]]
            missed[row] = rng.poisson((1 - live[row]) * total[row])
        recorded = spectrum.sum(axis=2, dtype=np.int64)
        return Exposures(
            spectrum,
            live_time=gate_time * live,
            real_time=np.full(live.shape, gate_time),
            input_counts=recorded + missed,
            output_counts=recorded,
        )

    def _generators(self, points: Iterable[int], kind: Draw) -> Iterator[np.random.Generator]:
        for point in points:
            yield np.random.default_rng([self.seed, int(point), kind])
