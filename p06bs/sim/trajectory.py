"""A fly scan's path over the sample, and what the trigger box captures on it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from p06bs.sim.beamline import Beamline
from p06bs.sim.metrology import AXES

Floats = npt.NDArray[np.float64]


class FlyPoints(Protocol):
    """What a plan prepares the box with.

    Nominal `x` and `y` (µm, shape ``(points,)``, in the order of acquisition),
    `rate` (points/s) and `gate_time` (s).
    """

    @property
    def x(self) -> Floats: ...
    @property
    def y(self) -> Floats: ...
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

    Raises
    ------
    ValueError
        If x and y are not 1-D and of one length, or rate or gate time make no sense.
    """

    beamline: Beamline
    points: FlyPoints

    def __post_init__(self) -> None:
        x, y, rate = self.points.x, self.points.y, self.points.rate
        if x.ndim != 1 or x.shape != y.shape:
            raise ValueError(f"x and y must be 1-D and of one length, not {x.shape} and {y.shape}")
        # At an infinite rate the gate is only what the counts are drawn for.
        longest = 1 / rate if np.isfinite(rate) else np.inf
        if not 0 < self.gate_time <= longest * (1 + 1e-9):
            raise ValueError(f"a gate of {self.gate_time:g} s does not fit into {rate:g} points/s")

    def __len__(self) -> int:
        """Return the number of points."""
        return int(self.points.x.size)

    @property
    def gate_time(self) -> float:
        """Seconds per point."""
        return self.points.gate_time

    @cached_property
    def speeds(self) -> dict[str, Floats]:
        """How fast each axis moves at each point, µm/s."""
        rate = self.points.rate
        interval = 1 / rate if np.isfinite(rate) else self.gate_time
        return {axis: speed(getattr(self.points, axis), interval) for axis in AXES}

    def readback(self, first: int = 0, stop: int | None = None) -> dict[str, Floats]:
        """Return what the stage believes: axis -> µm, for the points in ``range(first, stop)``."""
        points = self._range(first, stop)
        x, y = (getattr(self.points, axis)[points.start : points.stop] for axis in AXES)
        return dict(zip(AXES, self.beamline.positions(points, x, y), strict=True))

    def sample(self, first: int = 0, stop: int | None = None) -> dict[str, Floats]:
        """Return where the sample really is when positions are captured: axis -> µm."""
        points = self._range(first, stop)
        metrology = self.beamline.metrology
        return {
            axis: metrology.sample(axis, points, readback, self.gate_time)
            for axis, readback in self.readback(first, stop).items()
        }

    def exposed(self, first: int = 0, stop: int | None = None) -> dict[str, Floats]:
        """Return where the sample really is when detectors look at it: axis -> µm."""
        points = self._range(first, stop)
        lag = self.beamline.metrology.lag
        return {
            axis: place + self.speeds[axis][points.start : points.stop] * lag
            for axis, place in self.sample(first, stop).items()
        }

    def capture(self, first: int = 0, stop: int | None = None) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of `CAPTURES` for the points in ``range(first, stop)``."""
        points = self._range(first, stop)
        beamline, gate_time = self.beamline, self.gate_time
        metrology = beamline.metrology
        readback = self.readback(first, stop)
        exposed = self.exposed(first, stop)
        i0, diode = beamline.counters(points, exposed["x"], exposed["y"], gate_time)
        columns: dict[str, npt.NDArray[Any]] = {
            **readback,
            "rotation": np.full(len(points), beamline.angle),
            "i0": i0,
            "diode": diode,
            "gate_time": np.full(len(points), gate_time),
            "gate_samples": metrology.samples(points, gate_time),
            "ring_current": beamline.ring_current(points, gate_time),
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

    x: Floats
    y: Floats
    gate_time: float
    rate: float = np.inf


@dataclass(frozen=True)
class Stage:
    """The motors of a scan: `x` and `y` (µm), `rotation` (degrees) and photon `energy` (keV)."""

    x: Axis
    y: Axis
    rotation: Axis
    energy: Axis

    def set_up(self, beamline: Beamline) -> Beamline:
        """Return the beamline with the sample turned and the beam tuned as the motors are now."""
        angle, energy = float(self.rotation.position), float(self.energy.position)
        if (angle, energy) == (beamline.angle, beamline.energy):
            return beamline
        return replace(beamline, angle=angle, energy=energy)

    def standing(self, beamline: Beamline, point: int, gate_time: float) -> Trajectory:
        """Return a path on which only the point with number `point`, here and now, has a meaning.

        Parameters
        ----------
        point : int
            Number of the point in its scan, from 0.
        gate_time : float
            Seconds.
        """
        x, y = (np.full(point + 1, float(axis.position)) for axis in (self.x, self.y))
        return Trajectory(self.set_up(beamline), Still(x, y, gate_time))


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
