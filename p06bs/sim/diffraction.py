"""Powder rings on a pixel detector behind the sample.

Where the beam hits is what diffracts: each layer of the phantom with a `crystal`
contributes its rings, in proportion to its weight. Rings are normal distributions
in 2θ, with the Lorentz factor of powders, the polarisation of a horizontal beam, and
the solid angle of each pixel; there is a smooth background of air scatter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from p06bs.sim.crystals import CRYSTALS
from p06bs.sim.phantom import Phantom
from p06bs.sim.rows_file import Dataset
from p06bs.sim.tables import HC
from p06bs.sim.trajectory import Trajectory

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

OVERSAMPLING = 3
"""Points per pixel and axis at which rings are evaluated."""


class Draw(IntEnum):
    """Kinds of random numbers; beside those of the beamline's and of `metrology.Sensor`."""

    FRAME = 20
    EXTRA = 21
    DEAD = 22


@dataclass(frozen=True)
class Geometry:
    """Where the detector stands, in pyFAI's terms.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.
    pixel : tuple of float
        Size of a pixel along y and x, m.
    distance, poni1, poni2 : float
        Of the point of normal incidence: distance from the sample, and its place on the
        detector along y and x from the outer corner of pixel (0, 0), m.
    rot1, rot2, rot3 : float
        Rotations of the detector, rad.
    """

    shape: tuple[int, int] = (128, 128)
    pixel: tuple[float, float] = (225e-6, 225e-6)
    distance: float = 0.05
    poni1: float = 4.2e-3
    poni2: float = 6.1e-3
    rot1: float = 0.0
    rot2: float = 0.0
    rot3: float = 0.0

    def angles(self, oversampling: int = 1) -> tuple[Floats, Floats, Floats]:
        """Return 2θ, azimuth (rad), and distance from the sample (m) at points of the pixels.

        Shape ``(rows · oversampling, columns · oversampling)``.
        """
        ny, nx = self.shape
        y, x = (
            (np.arange(n * oversampling) + 0.5) / oversampling * size
            for n, size in zip((ny, nx), self.pixel, strict=True)
        )
        p1, p2 = np.meshgrid(y - self.poni1, x - self.poni2, indexing="ij")
        (s1, s2, s3), (c1, c2, c3) = (
            [f(r) for r in (self.rot1, self.rot2, self.rot3)] for f in (np.sin, np.cos)
        )
        t1 = p1 * c2 * c3 + p2 * (c3 * s1 * s2 - c1 * s3) - self.distance * (c1 * c3 * s2 + s1 * s3)
        t2 = p1 * c2 * s3 + p2 * (c1 * c3 + s1 * s2 * s3) + self.distance * (c3 * s1 - c1 * s2 * s3)
        t3 = p1 * s2 - p2 * c2 * s1 + self.distance * c1 * c2
        return np.arctan2(np.hypot(t1, t2), t3), np.arctan2(t1, t2), np.sqrt(t1**2 + t2**2 + t3**2)


@dataclass(frozen=True)
class PowderRings:
    """What a pixel detector sees of a powder.

    Parameters
    ----------
    phantom : Phantom
        The sample; its layers say which crystals there are.
    energy : float
        Of the beam, keV, for which geometry and rings are told; a scan at another
        energy has its rings elsewhere.
    seed : int
        Of the noise and of the dead pixels.
    geometry : Geometry
    photons : float
        Photons/s in the rings of a layer of weight 1, all over the detector, at full
        ring current.
    background : float
        Photons/s of air scatter, all over the detector.
    width : float
        FWHM of the rings in 2θ, degrees.
    polarization : float
        Horizontal degree of polarisation, -1..1.
    bits : int
        16 or 32: frames are uint16 or uint32; the largest value marks bad pixels.
    dead : float
        Fraction of the pixels that are dead.
    gap : tuple of int
        First and last (exclusive) row of the gap between two modules; no gap if equal.
    """

    phantom: Phantom
    energy: float = 17.5
    seed: int = 0
    geometry: Geometry = field(default_factory=Geometry)
    photons: float = 4e7
    background: float = 4e6
    width: float = 0.25
    polarization: float = 0.99
    bits: Literal[16, 32] = 32
    dead: float = 0.002
    gap: tuple[int, int] = (100, 104)

    group = "/entry/instrument/diffraction"

    def __post_init__(self) -> None:
        if self.bits not in (16, 32):
            raise ValueError(f"frames have 16 or 32 bits, not {self.bits}")
        if not 0 <= self.dead < 1:
            raise ValueError(f"the fraction of dead pixels must be within 0..1, not {self.dead}")

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """The frames, under the detector's own name."""
        dtype = f"<u{self.bits // 8}"
        return {"data": Dataset("diffraction", "counts", dtype, ("y", "x"), self.geometry.shape)}

    @property
    def wavelength(self) -> float:
        """Of the beam, Å."""
        return HC / (self.energy * 1e3)

    @property
    def dummy(self) -> int:
        """What bad pixels read, as those of hybrid pixel detectors: the largest value."""
        return int(2**self.bits - 1)

    @cached_property
    def mask(self) -> Mask:
        """Pixels that cannot be used: dead ones and the gap; shape ``(y, x)``."""
        rng = np.random.default_rng([self.seed, Draw.DEAD])
        bad: Mask = rng.random(self.geometry.shape) < self.dead
        bad[slice(*self.gap)] = True
        return bad

    @property
    def configuration(self) -> dict[str, tuple[float, str]]:
        """Geometry and wavelength: name -> (value, unit)."""
        there = self.geometry
        return {
            "distance": (there.distance, "m"),
            "poni1": (there.poni1, "m"),
            "poni2": (there.poni2, "m"),
            "rot1": (there.rot1, "rad"),
            "rot2": (there.rot2, "rad"),
            "rot3": (there.rot3, "rad"),
            "pixel1": (there.pixel[0], "m"),
            "pixel2": (there.pixel[1], "m"),
            "wavelength": (self.wavelength * 1e-10, "m"),
            "polarization": (self.polarization, "1"),
            "dummy": (float(self.dummy), "counts"),
        }

    def poni(self) -> str:
        """Return the geometry as the text of a .poni file."""
        there = self.geometry
        config = (
            f'{{"pixel1": {there.pixel[0]!r}, "pixel2": {there.pixel[1]!r}, '
            f'"max_shape": {list(there.shape)}, "orientation": 3}}'
        )
        return "\n".join(
            (
                "poni_version: 2.1",
                "Detector: Detector",
                f"Detector_config: {config}",
                f"Distance: {there.distance!r}",
                f"Poni1: {there.poni1!r}",
                f"Poni2: {there.poni2!r}",
                f"Rot1: {there.rot1!r}",
                f"Rot2: {there.rot2!r}",
                f"Rot3: {there.rot3!r}",
                f"Wavelength: {self.wavelength * 1e-10!r}",
                "",
            )
        )

    def ring_angles(self, crystal: str) -> Floats:
        """Return 2θ of a crystal's rings by Bragg's law, rad, rising."""
        sines = [self.wavelength / (2 * r.spacing) for r in CRYSTALS[crystal].reflections]
        angles: Floats = 2 * np.arcsin([sine for sine in sines if sine < 1])
        return angles

    def profile(self, crystal: str, two_theta: npt.ArrayLike) -> Floats:
        """Return the intensity per solid angle of a crystal's rings at 2θ (rad), any scale."""
        at = np.asarray(two_theta, dtype=float)
        sigma = np.deg2rad(self.width) / 2.354820045
        total = np.zeros(at.shape)
        centres = self.ring_angles(crystal)
        for centre, ring in zip(centres, CRYSTALS[crystal].reflections, strict=False):
            # Powder: a ring's photons are 1/sin θ of its strength, spread over 2π sin 2θ.
            weight = ring.strength / (np.sin(centre / 2) * np.sin(centre))
            total += weight * np.exp(-(((at - centre) / sigma) ** 2) / 2)
        return total

    @cached_property
    def patterns(self) -> dict[str, Floats]:
        """Name of a layer with a crystal -> photons/s per pixel at weight 1, ``(y, x)``."""
        two_theta, azimuth, distance = self.geometry.angles(OVERSAMPLING)
        seen = self._seen(two_theta, azimuth, distance)
        found = {}
        for name in self.phantom.maps:
            crystal = self.phantom.layers[name].crystal
            if crystal is not None:
                pattern = _binned(self.profile(crystal, two_theta) * seen)
                found[name] = self.photons * pattern / (pattern.sum() or 1.0)  # no ring is seen
        return found

    @cached_property
    def air(self) -> Floats:
        """Photons/s of the background per pixel, ``(y, x)``."""
        two_theta, azimuth, distance = self.geometry.angles(OVERSAMPLING)
        pattern = _binned(np.exp(-two_theta / 0.25) * self._seen(two_theta, azimuth, distance))
        air: Floats = self.background * pattern / pattern.sum()
        return air

    def expected(self, path: Trajectory, triggers: range) -> Floats:
        """Return the mean photons per pixel at points of a scan, shape ``(points, y, x)``."""
        if path.beamline.energy != self.energy:
            return replace(self, energy=path.beamline.energy).expected(path, triggers)
        at = path.seen(triggers)
        weights = self.phantom.weights(at["x"], at["y"], at["angle"])
        amounts = np.stack(
            [*(weights[name] for name in self.patterns), np.ones(len(triggers))], axis=-1
        )
        scale = path.gate_time * path.beamline.intensity(triggers, path.gate_time)
        flat = np.stack([*self.patterns.values(), self.air]).reshape(amounts.shape[1], -1)
        mean: Floats = (amounts * scale[:, None]) @ flat
        return mean.reshape(len(triggers), *self.geometry.shape)

    def rows(self, path: Trajectory, triggers: range) -> dict[str, npt.NDArray[Any]]:
        """Return the frames at points of a scan, leading axis = points."""
        return {"data": self._draw(self.expected(path, triggers), triggers, Draw.FRAME)}

    def extra_row(self, path: Trajectory, trigger: int) -> dict[str, npt.NDArray[Any]]:
        """Return a frame of the background alone."""
        alone = range(trigger, trigger + 1)
        lit = path.gate_time * path.beamline.beam.intensity(alone)
        return {"data": self._draw(self.air * lit[:, None, None], alone, Draw.EXTRA)[0]}

    def _draw(self, mean: Floats, triggers: range, kind: Draw) -> npt.NDArray[Any]:
        frames = np.empty(mean.shape, f"<u{self.bits // 8}")
        for row, trigger in enumerate(triggers):
            rng = np.random.default_rng([self.seed, trigger, kind])
            frames[row] = np.minimum(rng.poisson(mean[row]), self.dummy - 1)
        frames[:, self.mask] = self.dummy
        return frames

    def _seen(self, two_theta: Floats, azimuth: Floats, distance: Floats) -> Floats:
        """Return the solid angle of each point times the polarisation factor."""
        normal = self.geometry.distance / distance  # cosine of the incidence
        cosine2 = np.cos(two_theta) ** 2
        # pyFAI's: azimuth 0 is along x, where a horizontal beam is dimmed.
        dimming = self.polarization * np.cos(2 * azimuth) * (1 - cosine2)
        seen: Floats = normal / distance**2 * 0.5 * (1 + cosine2 - dimming)
        return seen


def _binned(points: Floats) -> Floats:
    """Return the mean over the points of each pixel."""
    ny, nx = (n // OVERSAMPLING for n in points.shape)
    means: Floats = points.reshape(ny, OVERSAMPLING, nx, OVERSAMPLING).mean(axis=(1, 3))
    return means
