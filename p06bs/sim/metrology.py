"""Where the sample is, and what encoders and interferometers say about it.

For one axis, at the point number i of a scan (beam time ``t = i gate_time``)::

    readback       nominal + jitter                    what the stage believes
    encoder        readback, in counts                 the ruler under the stage
    sample         readback + drift(t)                 what the interferometer follows
    exposed        sample + speed lag                  what detectors see

Everything is a function of (seed, point, nominal position): nothing depends on
timing or on how many points are asked for at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from p06bs.sim.air import refractivity

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

AXES = ("x", "y")
"""Axes that have an encoder and an interferometer."""

TRANSLATIONS = (*AXES, "z")
"""Axes whose position has jitter; rotations are exact."""

WORD = 2**32
"""How many values an encoder's word has; it is signed, as a PandA's positions are."""

SAMPLE_CLOCK = 125e6
"""Samples per second that the box takes within a gate, Hz."""

LONGEST_GATE = 2**63 / (WORD // 2) / SAMPLE_CLOCK
"""Seconds of a gate from which on the sum of an encoder's words may not fit into 64 bits."""

BLOCK = 400
"""In each block of so many points each interferometer loses its beam once."""


class Sensor(IntEnum):
    """Kinds of random numbers of a point or a block; beside those of the beamline's."""

    STAGE = 0
    ENCODER = 10
    INTERFEROMETER = 11
    GAP = 12
    OFFSET = 13


@dataclass(frozen=True)
class Air:
    """The air in the hutch: temperature (°C), pressure (hPa) and relative humidity (%)."""

    temperature: float = 22.4
    pressure: float = 1009.3
    humidity: float = 41.0


@dataclass(frozen=True)
class Metrology:
    """A stage with encoders, and interferometers that look at the sample.

    Parameters
    ----------
    seed : int, optional
        Of all random numbers; that of the beamline by default.
    jitter, jitter_limit : float
        Standard deviation and largest value of the stage's position noise, µm.
    drift : float
        Rms of the slow thermal drift between encoder and sample, µm; 0 at point 0.
    drift_period : float
        Of the drift in x, seconds of beam time; in y it is 1.3 times as long.
    lag : float
        Seconds by which detectors are triggered later than positions are captured.
        In a snake it moves odd and even lines against each other.
    encoder_resolution : float
        µm per count; negative where counts fall as the position rises.
    encoder_noise : float
        Standard deviation of a gate's mean, counts.
    encoder_offset : tuple of float, optional
        Count of position 0 in x and y. By default near 2**31, other for each seed, so
        that words wrap within 5 µm of position 0.
    empty_gates : frozenset of int
        Points at which the box took no sample; all that it captures of encoders is 0.
    count : float
        Interferometer resolution, µm in vacuum per count.
    interferometer_noise : float
        Standard deviation, µm.
    wavelength : float
        Of the interferometers in vacuum, nm.
    air : Air
        What they measure through.
    gap : tuple of int
        Fewest and most points of a gap in which an interferometer has lost its
        beam; ``(0, 0)`` for none. There is one gap per axis in each 400 points.
    lost : float
        What a lost interferometer reads: 0 or NaN, in counts.
    """

    seed: int | None = None
    jitter: float = 0.010
    jitter_limit: float = 0.030
    drift: float = 0.052
    drift_period: float = 17.0
    lag: float = 0.0
    encoder_resolution: float = 0.001
    encoder_noise: float = 1.0
    encoder_offset: tuple[float, float] | None = None
    empty_gates: frozenset[int] = frozenset()
    count: float = 1e-4
    interferometer_noise: float = 0.0005
    wavelength: float = 1550.0
    air: Air = field(default_factory=Air)
    gap: tuple[int, int] = (12, 30)
    lost: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.gap[0] <= self.gap[1] <= BLOCK // 2:
            raise ValueError(f"gaps must have 0 to {BLOCK // 2} points, rising, not {self.gap}")
        if self.encoder_resolution == 0 or not self.count > 0 or not self.drift_period > 0:
            raise ValueError("encoder_resolution must not be 0, count and drift_period not <= 0")
        if not (self.lost == 0 or np.isnan(self.lost)):
            raise ValueError(f"a lost interferometer reads 0 or NaN, not {self.lost}")

    def readback(self, points: Iterable[int], nominal: Mapping[str, Floats]) -> dict[str, Floats]:
        """Return where the stage believes its axes to be: axis -> µm or degrees, ``(points,)``.

        Parameters
        ----------
        points : iterable of int
            Numbers of the points in the scan, from 0.
        nominal : mapping of str to ndarray
            Where each axis was sent, shape ``(points,)``.
        """
        noise = self._normal(points, Sensor.STAGE) * self.jitter
        limited = np.clip(noise, -self.jitter_limit, self.jitter_limit)
        jitter = dict(zip(TRANSLATIONS, limited.T, strict=True))
        return {axis: place + jitter.get(axis, 0.0) for axis, place in nominal.items()}

    def drifted(self, axis: str, points: npt.ArrayLike, gate_time: float) -> Floats:
        """Return how far the sample has drifted away from the encoder, µm."""
        period = self.drift_period * (1.3 if axis == "y" else 1.0)
        time = np.asarray(points, dtype=float) * gate_time
        amplitude = np.sqrt(2.0) * self.drift
        moved: Floats = amplitude * np.sin(2 * np.pi * time / period)
        return moved

    def sample(
        self, axis: str, points: npt.ArrayLike, readback: Floats, gate_time: float
    ) -> Floats:
        """Return where the sample is when positions are captured, shape ``(points,)``."""
        return readback + self.drifted(axis, points, gate_time) if axis in AXES else readback

    def encoder(
        self, axis: str, points: Iterable[int], readback: Floats, sweep: Floats, gate_time: float
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Return what the box captures of an encoder within each gate.

        Words are signed and 32 bits wide: they wrap from 2**31 - 1 to -2**31. Where
        that happens within a gate, `sum`, `mean`, `min` and `max` are those of the
        wrapped words, as a PandA's are.

        Parameters
        ----------
        readback : ndarray
            At the middle of the gate, µm, shape ``(points,)``.
        sweep : ndarray
            How far the stage moves within the gate, µm, shape ``(points,)``.

        Returns
        -------
        dict
            ``mean`` (counts, float64), ``sum`` (counts, int64), ``min`` and ``max``
            (words, int32), each of shape ``(points,)``.
        """
        numbers = np.fromiter(points, dtype=np.int64)
        noise = self._normal(numbers, Sensor.ENCODER)[:, AXES.index(axis)] * self.encoder_noise
        middle = self.origin(axis) + readback / self.encoder_resolution + noise
        half = np.abs(sweep / self.encoder_resolution) / 2
        first, last = np.rint(middle - half), np.rint(middle + half)
        low, high = (np.floor((end + WORD // 2) / WORD) for end in (first, last))
        wraps = low < high
        # The part of the gate that lies behind the wrap reads a whole range less.
        beyond = np.where(wraps, (last - (high * WORD - WORD // 2)) / np.maximum(2 * half, 1), 0.0)
        mean = middle - low * WORD - np.clip(beyond, 0, 1) * WORD
        smallest = np.where(wraps, -WORD // 2, first - low * WORD)
        largest = np.where(wraps, WORD // 2 - 1, last - low * WORD)
        samples = self.samples(numbers, gate_time)
        taken = samples > 0
        total = np.where(taken, np.rint(mean * samples), 0).astype(np.int64)
        return {
            "mean": np.divide(total, samples, out=np.zeros(taken.shape), where=taken),
            "sum": total,
            "min": np.where(taken, smallest, 0).astype(np.int32),
            "max": np.where(taken, largest, 0).astype(np.int32),
        }

    def samples(self, points: npt.ArrayLike, gate_time: float) -> Integers:
        """Return how many samples the box takes in each gate, shape ``(points,)``.

        Raises
        ------
        ValueError
            If the sum of so many words may not fit into 64 bits.
        """
        if not gate_time < LONGEST_GATE:
            raise ValueError(
                f"a gate must be shorter than {LONGEST_GATE:.3g} s, or the sum of its encoder "
                f"words overflows, not {gate_time:g} s"
            )
        numbers = np.asarray(points, dtype=np.int64)
        whole = max(1, round(gate_time * SAMPLE_CLOCK))
        return np.where(np.isin(numbers, list(self.empty_gates)), 0, whole).astype(np.int64)

    def interferometer(
        self, axis: str, points: Iterable[int], readback: Floats, gate_time: float
    ) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Return counts and whether the beam is there, each of shape ``(points,)``.

        A count is `count` µm of optical path: the sample's displacement from position 0
        times the refractive index of air. Counts are whole numbers, but floats, since
        a lost beam may read NaN.
        """
        numbers = np.fromiter(points, dtype=np.int64)
        noise = self._normal(numbers, Sensor.INTERFEROMETER)[:, AXES.index(axis)]
        place = self.sample(axis, numbers, readback, gate_time) + noise * self.interferometer_noise
        counts = np.rint(place * self.refractive_index / self.count)
        valid = ~self.blocked(axis, numbers)
        return np.where(valid, counts, self.lost), valid

    @property
    def refractive_index(self) -> float:
        """Refractive index of the air at the interferometers' wavelength."""
        air = self.air
        return 1 + refractivity(self.wavelength, air.temperature, air.pressure, air.humidity)

    def blocked(self, axis: str, points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return at which points an interferometer has lost its beam, shape ``(points,)``."""
        numbers = np.asarray(points, dtype=np.int64)
        within = numbers % BLOCK
        blocks, which = np.unique(numbers // BLOCK, return_inverse=True)
        ends = np.array([self._gap(axis, int(block)) for block in blocks]).reshape(-1, 2)[which]
        return (within >= ends[:, 0]) & (within < ends[:, 1])

    def origin(self, axis: str) -> float:
        """Return the unwrapped encoder count of position 0."""
        if self.encoder_offset is not None:
            return self.encoder_offset[AXES.index(axis)]
        rng = np.random.default_rng([self.seed or 0, AXES.index(axis), Sensor.OFFSET])
        near = rng.uniform(-5.0, 5.0) / abs(self.encoder_resolution)
        return float(np.rint(WORD // 2 + near))

    def configuration(self) -> Mapping[str, tuple[float, str]]:
        """Return what a user of the readings must know: name -> (value, unit)."""
        return {
            "encoder_resolution": (self.encoder_resolution, "um"),
            "encoder_bits": (32, ""),
            **{f"encoder_offset_{axis}": (self.origin(axis), "counts") for axis in AXES},
            "interferometer_resolution": (self.count * 1e3, "nm"),
            "interferometer_wavelength": (self.wavelength, "nm"),
        }

    def _gap(self, axis: str, block: int) -> tuple[int, int]:
        rng = np.random.default_rng([self.seed or 0, block, AXES.index(axis), Sensor.GAP])
        length = int(rng.integers(self.gap[0], self.gap[1] + 1))
        # Not at a block's ends: there is always a reading before and after a gap.
        begin = int(rng.integers(BLOCK // 4, BLOCK - length))
        return begin, begin + length

    def _normal(self, points: Iterable[int], kind: Sensor) -> Floats:
        """Return a normal number per point and axis of `TRANSLATIONS`, shape ``(points, 3)``."""
        count = len(TRANSLATIONS)
        drawn = [
            np.random.default_rng([self.seed or 0, int(p), kind]).normal(size=count) for p in points
        ]
        return np.reshape(np.asarray(drawn, dtype=float), (-1, count))
