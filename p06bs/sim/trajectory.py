"""A fly scan's path over the sample, and what the trigger box captures on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from p06bs.sim.beam import Beam
from p06bs.sim.beamline import Beamline
from p06bs.sim.metrology import AXES, TRANSLATIONS

Floats = npt.NDArray[np.float64]


MOVED = (*TRANSLATIONS, "rotation")
"""Axes that a flight may go along."""


class FlyPoints(Protocol):
    """What a plan prepares the box with.

    Nominal `positions` by axis of `MOVED` (µm or degrees, each of shape ``(points,)``, in the
    order of acquisition), `rate` (points/s) and `gate_time` (s). An axis without positions
    stands still.
    """

    @property
    def positions(self) -> Mapping[str, Floats]: ...
    @property
    def rate(self) -> float: ...
    @property
    def gate_time(self) -> float: ...


@dataclass(frozen=True)
class Capture:
    """One thing that the box captures at every point."""

    role: str
    unit: str
    dtype: str


def _of_axis(axis: str) -> dict[str, Capture]:
    encoder, interferometer = f"encoder_{axis}", f"interferometer_{axis}"
    return {
        encoder: Capture(encoder, "counts", "<f8"),
        f"{encoder}_sum": Capture(f"{encoder}_sum", "counts", "<i8"),
        f"{encoder}_min": Capture(f"{encoder}_min", "counts", "<i4"),
        f"{encoder}_max": Capture(f"{encoder}_max", "counts", "<i4"),
        interferometer: Capture(interferometer, "counts", "<f8"),
        f"{interferometer}_valid": Capture(f"{interferometer}_valid", "1", "|b1"),
    }


CAPTURES: Mapping[str, Capture] = {
    "x": Capture("position_x", "um", "<f8"),
    "y": Capture("position_y", "um", "<f8"),
    "z": Capture("position_z", "um", "<f8"),
    "rotation": Capture("rotation", "deg", "<f8"),
    "i0": Capture("incident_flux", "counts", "<i8"),
    "diode": Capture("counter", "counts", "<i8"),
    "gate_time": Capture("gate_time", "s", "<f8"),
    "gate_samples": Capture("gate_samples", "counts", "<i8"),
    "ring_current": Capture("ring_current", "mA", "<f8"),
    **_of_axis("x"),
    **_of_axis("y"),
}


@dataclass(frozen=True)
class Trajectory:
    """Points of a scan on a beamline: where the sample is at each, and what is captured.

    Parameters
    ----------
    beamline : Beamline
    points : FlyPoints
        Nominal positions, rate and gate time.
    standing : mapping of str to float
        Where translations without positions are, µm; 0 by default.

    Raises
    ------
    ValueError
        If positions are not 1-D and of one length, an axis is unknown, or rate or gate time make
        no sense.
    """

    beamline: Beamline
    points: FlyPoints
    standing: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = {axis: place.shape for axis, place in self.points.positions.items()}
        if not shapes or not shapes.keys() <= {*MOVED}:
            raise ValueError(f"a flight goes along some of {', '.join(MOVED)}, not {[*shapes]}")
        if len({*shapes.values()}) > 1 or any(len(shape) != 1 for shape in shapes.values()):
            raise ValueError(f"positions must be 1-D and of one length, not {shapes}")
        rate = self.points.rate
        # At an infinite rate the gate is only what the counts are drawn for.
        longest = 1 / rate if np.isfinite(rate) else np.inf
        if not 0 < self.gate_time <= longest * (1 + 1e-9):
            raise ValueError(f"a gate of {self.gate_time:g} s does not fit into {rate:g} points/s")

    def __len__(self) -> int:
        """Return the number of points."""
        return int(next(iter(self.points.positions.values())).size)

    @property
    def gate_time(self) -> float:
        """Seconds per point."""
        return self.points.gate_time

    @cached_property
    def nominal(self) -> dict[str, Floats]:
        """Where each axis is sent: axis -> µm or degrees, shape ``(points,)``."""
        rest = {**dict.fromkeys(TRANSLATIONS, 0.0), "rotation": self.beamline.angle}
        still = {axis: np.full(len(self), at) for axis, at in {**rest, **self.standing}.items()}
        return {**still, **self.points.positions}

    @cached_property
    def speeds(self) -> dict[str, Floats]:
        """How fast each axis moves at each point, µm/s or degrees/s."""
        rate = self.points.rate
        interval = 1 / rate if np.isfinite(rate) else self.gate_time
        return {axis: speed(place, interval) for axis, place in self.nominal.items()}

    def readback(self, first: int = 0, stop: int | None = None) -> dict[str, Floats]:
        """Return what the stage believes at the points in ``range(first, stop)``, by axis."""
        points = self._range(first, stop)
        cut = slice(points.start, points.stop)
        nominal = {axis: place[cut] for axis, place in self.nominal.items()}
        return self.beamline.metrology.readback(points, nominal)

    def sample(self, first: int = 0, stop: int | None = None) -> dict[str, Floats]:
        """Return where the sample really is when positions are captured, by axis."""
        points = self._range(first, stop)
        metrology = self.beamline.metrology
        return {
            axis: metrology.sample(axis, points, readback, self.gate_time)
            for axis, readback in self.readback(first, stop).items()
        }

    def exposed(self, first: int = 0, stop: int | None = None) -> dict[str, Floats]:
        """Return where the sample really is when detectors look at it, by axis."""
        points = self._range(first, stop)
        lag = self.beamline.metrology.lag
        return {
            axis: place + self.speeds[axis][points.start : points.stop] * lag
            for axis, place in self.sample(first, stop).items()
        }

    def seen(self, triggers: range) -> dict[str, Any]:
        """Return what `Beamline.counters`, `Beamline.expose` and others take of points."""
        at = self.exposed(triggers.start, triggers.stop)
        turns = "rotation" in self.points.positions
        return {
            "points": triggers,
            "x": at["x"],
            "y": at["y"],
            "gate_time": self.gate_time,
            "angle": at["rotation"] if turns else self.beamline.angle,
        }

    def counted(self, first: int = 0, stop: int | None = None) -> dict[str, npt.NDArray[Any]]:
        """Return the columns that also a scaler counts: those that know no positions."""
        points = self._range(first, stop)
        i0, diode = self.beamline.counters(**self.seen(points))
        return {
            "i0": i0,
            "diode": diode,
            "gate_time": np.full(len(points), self.gate_time),
            "ring_current": self.beamline.ring_current(points, self.gate_time),
        }

    def capture(self, first: int = 0, stop: int | None = None) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of `CAPTURES` for the points in ``range(first, stop)``.

        Raises
        ------
        ValueError
            If the gate is too long, as of `Metrology.samples`.
        """
        points = self._range(first, stop)
        metrology, gate_time = self.beamline.metrology, self.gate_time
        readback = self.readback(first, stop)
        columns: dict[str, npt.NDArray[Any]] = {
            **readback,
            **self.counted(first, stop),
            "gate_samples": metrology.samples(points, gate_time),
        }
        for axis in AXES:
            sweep = self.speeds[axis][points.start : points.stop] * gate_time
            encoder = metrology.encoder(axis, points, readback[axis], sweep, gate_time)
            columns[f"encoder_{axis}"] = encoder.pop("mean")
            columns |= {f"encoder_{axis}_{key}": column for key, column in encoder.items()}
            counts, valid = metrology.interferometer(axis, points, readback[axis], gate_time)
            columns |= {f"interferometer_{axis}": counts, f"interferometer_{axis}_valid": valid}
        return columns

    def _range(self, first: int, stop: int | None) -> range:
        return range(len(self))[first:stop]


class Axis(Protocol):
    """A motor, such as `p06bs.sim.simple.Motor`."""

    @property
    def position(self) -> float: ...


@dataclass(frozen=True)
class Still:
    """Points of a step scan up to the present one, as if all were where it is."""

    positions: Mapping[str, Floats]
    gate_time: float
    rate: float = np.inf


@dataclass(frozen=True)
class Stage:
    """The motors of a scan, and the beam that there is.

    Parameters
    ----------
    x, y, z : Axis
        µm; z is along the beam.
    rotation : Axis
        Degrees.
    energy : Axis
        Of the photons, keV.
    beam : Beam
        What ring and shutter give.
    """

    x: Axis
    y: Axis
    z: Axis
    rotation: Axis
    energy: Axis
    beam: Beam = field(default_factory=Beam)

    def set_up(self, beamline: Beamline) -> Beamline:
        """Return the beamline for a scan with sample, energy and beam as they are now."""
        angle, energy = float(self.rotation.position), float(self.energy.position)
        return replace(beamline, angle=angle, energy=energy, beam=self.beam.history())

    @property
    def places(self) -> dict[str, float]:
        """Where translations are now, µm."""
        return {axis: float(getattr(self, axis).position) for axis in TRANSLATIONS}

    def standing(self, beamline: Beamline, point: int, gate_time: float) -> Trajectory:
        """Return a path on which only the point with number `point`, here and now, has a meaning.

        Parameters
        ----------
        point : int
            Number of the point in its scan, from 0.
        gate_time : float
            Seconds.
        """
        places = {axis: np.full(point + 1, place) for axis, place in self.places.items()}
        return Trajectory(self.set_up(beamline), Still(places, gate_time))


def speed(position: npt.ArrayLike, interval: float) -> Floats:
    """Return how fast an axis moves at each point of a trajectory, µm/s.

    At the end of a line the stage still moves as along the line, whatever comes next.

    Parameters
    ----------
    position : array_like
        Nominal positions in the order of acquisition, µm, shape ``(points,)``.
    interval : float
        Seconds from one point to the next.
    """
    steps = np.diff(np.asarray(position, dtype=float))
    if steps.size == 0:
        return np.zeros(np.size(position))
    ahead, behind = np.append(steps, steps[-1]), np.insert(steps, 0, steps[0])
    after = np.append(ahead[1:], ahead[-1])
    steady = np.isclose(ahead, after, rtol=1e-6, atol=1e-9)
    steady[-1] = False  # nothing follows: what led here counts
    steady[0] = True  # and nothing led to the first point
    return np.where(steady, ahead, behind) / interval
