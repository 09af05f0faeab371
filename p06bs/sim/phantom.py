"""The simulated sample: what the beam meets at every position and angle."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from p06bs.sim import projection
from p06bs.sim.layers import LAYERS, Layer
from p06bs.sim.projection import Map
from p06bs.sim.spectra import SPECTRA
from p06bs.sim.tables import AVOGADRO, ELECTRON_RADIUS, HC, scattering

Complex = npt.NDArray[np.complex128]

DEFAULT_RANGE = (-20.0, 20.0)
"""Centres of the first and the last pixel of a phantom along x and along y, µm."""


class PhantomError(ValueError):
    """A phantom that cannot be used; says which map is wrong and what is allowed."""


@dataclass(frozen=True)
class Phantom:
    """A sample of layers, each with a map of weights in 0..1; turned about the y axis.

    At `angle` (degrees) the beam, which runs along z, meets the sample's x axis
    turned by as much: a point x', z' of the sample lies at ``x = x' cos - z' sin``.
    All that the sample does to the beam is the integral of what each layer is made
    of along the ray, without diffraction and without absorption on the way.

    Parameters
    ----------
    maps : mapping of str to ndarray
        Name of a layer -> weights of shape ``(ny, nx)``, all of one shape; row ``iy``
        lies at the ``iy``-th y.
    x_range, y_range : tuple of float
        Centres of the first and last column and of the first and last row, µm.
        A scan with as many points between the same ends hits every pixel's centre.
    layers : mapping of str to Layer
        What each map is made of.

    Raises
    ------
    PhantomError
        If a map has no layer, shapes differ, or weights leave 0..1.
    """

    maps: Mapping[str, Map]
    x_range: tuple[float, float] = DEFAULT_RANGE
    y_range: tuple[float, float] = DEFAULT_RANGE
    layers: Mapping[str, Layer] = field(default_factory=lambda: LAYERS)

    def __post_init__(self) -> None:
        if not self.maps:
            raise PhantomError("a phantom needs at least one map of weights")
        for name, weights in self.maps.items():
            if name not in self.layers:
                there = ", ".join(self.layers)
                raise PhantomError(f"no layer is called {name!r}; there are {there}")
            _check(name, weights)
        if len({weights.shape for weights in self.maps.values()}) > 1:
            shapes = ", ".join(f"{name} {w.shape}" for name, w in self.maps.items())
            raise PhantomError(f"all maps of a phantom must have one shape, not {shapes}")
        for axis, (first, last) in (("x_range", self.x_range), ("y_range", self.y_range)):
            if not (np.isfinite([first, last]).all() and first < last):
                raise PhantomError(f"{axis} must be finite and rise, not {first}..{last} µm")

    @classmethod
    def load(cls, path: str | Path) -> Phantom:
        """Read a phantom from an ``.npz`` file of named 2-D maps.

        Maps named like a spectrum (``XRFSpectrum``, ``Steel``) mix that spectrum;
        maps with other names take the remaining spectra in the order of the file.

        Raises
        ------
        PhantomError
            If the file cannot be read, there are more maps than spectra, or a map is
            not 2-D, not numbers, not finite or outside 0..1.
        """
        arrays = _read(Path(path))
        for name, weights in arrays.items():
            _check(name, weights)
        return cls({k: np.asarray(v, dtype=float) for k, v in assign(arrays).items()})

    @classmethod
    def default(cls, shape: tuple[int, int] = (41, 41)) -> Phantom:
        """Return the phantom of the demo: a droplet pattern and a steel letter F.

        Neither map equals its transpose, mirror image or snake-unravelled self,
        so that such errors cannot hide.
        """
        ny, nx = shape
        v, u = np.meshgrid(np.linspace(0, 1, ny), np.linspace(0, 1, nx), indexing="ij")
        droplets = 0.08 + 0.25 * u * v
        for x, y, width, height in (
            (0.25, 0.70, 0.10, 0.75),
            (0.70, 0.82, 0.06, 0.60),
            (0.80, 0.25, 0.16, 0.65),
            (0.42, 0.20, 0.05, 0.80),
        ):
            droplets += height * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * width**2))
        stem = (u > 0.15) & (u < 0.30) & (v > 0.10) & (v < 0.90)
        arms = (u > 0.15) & (((u < 0.75) & (v > 0.76) & (v < 0.90)) | ((u < 0.55) & _near(v, 0.5)))
        steel = np.where(stem | arms, 0.85, 0.05) * (1 - 0.35 * v)
        return cls({"XRFSpectrum": np.clip(droplets, 0, 1), "Steel": np.clip(steel, 0, 1)})

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns of the maps."""
        ny, nx = next(iter(self.maps.values())).shape
        return ny, nx

    def weights(
        self, x: npt.ArrayLike, y: npt.ArrayLike, angle: npt.ArrayLike = 0.0
    ) -> dict[str, Map]:
        """Return the weight of each layer that rays meet, bilinear between pixel centres.

        At angles other than 0 it is the integral of the weight along the ray through
        the layer, divided by the layer's thickness.

        Parameters
        ----------
        x, y : array_like
            Positions, µm. Beyond the outer edges of the outermost pixels there is no
            sample: the weight is 0.
        angle : array_like
            Of the sample, degrees. All three are broadcast against each other.
        """
        turn = np.deg2rad(np.asarray(angle, dtype=float))
        x, y, sine, cosine = np.broadcast_arrays(x, y, np.sin(turn), np.cos(turn))
        # cos(90°) is 6e-17 in floats: the ray leaves the map at both ends, as it should.
        shift = x / cosine
        return {name: self._traversed(name, shift, y, sine, cosine) for name in self.maps}

    def areal_density(
        self, x: npt.ArrayLike, y: npt.ArrayLike, angle: npt.ArrayLike = 0.0
    ) -> dict[str, Map]:
        """Return the mass of each element along the ray per area, ng/mm²; see `weights`."""
        weights = self.weights(x, y, angle)
        return {
            element: np.sum(
                [w * self.layers[name].elements.get(element, 0.0) for name, w in weights.items()],
                axis=0,
            )
            for element in self.elements
        }

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols of what is in the sample, in the order of the layers."""
        return tuple(dict.fromkeys(e for name in self.maps for e in self.layers[name].elements))

    def thickness(self, x: npt.ArrayLike, y: npt.ArrayLike, angle: npt.ArrayLike = 0.0) -> Map:
        """Return the length of the ray within the sample's matter, µm; see `weights`."""
        return self._total(self.weights(x, y, angle), lambda layer: layer.thickness)

    def transmission(
        self, x: npt.ArrayLike, y: npt.ArrayLike, angle: npt.ArrayLike = 0.0, *, energy: float
    ) -> Complex:
        """Return the complex amplitude behind the sample; 1 where there is none.

        The refractive index of an element with N atoms/cm³ is
        ``1 - r_e λ² N (f1 + i f2) / 2 π``: the amplitude behind n = N t atoms/cm² is
        ``exp(r_e λ n (i f1 - f2))`` for a wave exp(i(ω t - k z)), so that its phase
        is ahead (positive) and ``abs(amplitude)**2`` the transmitted fraction.
        Scattering factors are Chantler's.

        Parameters
        ----------
        energy : float
            Of the photons, keV.

        Raises
        ------
        RuntimeError
            If xraydb is not installed.
        """
        wavelength = HC / (energy * 1e3) * 1e-8  # cm
        exponent: Complex = np.zeros(np.broadcast(x, y, angle).shape, dtype=complex)
        for element, density in self.areal_density(x, y, angle).items():
            f1, f2, molar_mass = scattering(element, energy)
            atoms = density * 1e-7 / molar_mass * AVOGADRO  # per cm²
            exponent = exponent + ELECTRON_RADIUS * wavelength * atoms * (1j * f1 - f2)
        return np.exp(exponent)

    def luminescence(self, x: npt.ArrayLike, y: npt.ArrayLike, angle: npt.ArrayLike = 0.0) -> Map:
        """Return the visible photons emitted per incident X-ray photon; see `weights`."""
        return self._total(self.weights(x, y, angle), lambda layer: layer.luminescence)

    def collection_efficiency(
        self, x: npt.ArrayLike, y: npt.ArrayLike, angle: npt.ArrayLike = 0.0
    ) -> Map:
        """Return the collected fraction of the generated charge: the layers' mean, by weight.

        0 where there is no sample; see `weights`.
        """
        weights = self.weights(x, y, angle)
        collected = self._total(weights, lambda layer: layer.collection)
        total = self._total(weights, lambda _: 1.0)
        return np.divide(collected, total, out=np.zeros_like(total), where=total > 0)

    def _traversed(self, name: str, shift: Map, y: Map, sine: Map, cosine: Map) -> Map:
        """Return a layer's weight along rays that cross depth 0 at `shift`, µm."""
        weights, layer = self.maps[name], self.layers[name]
        ny, nx = self.shape
        v = projection.pixel(y, self.y_range, ny)
        straight = np.abs(sine) < projection.NEARLY_STRAIGHT
        met = projection.sample(weights, projection.pixel(shift, self.x_range, nx), v)
        if straight.all():
            return met / np.abs(cosine)
        near, far = (
            projection.integral(
                weights, projection.pixel(shift + z * sine / cosine, self.x_range, nx), v
            )
            for z in layer.depth
        )
        along = np.where(straight, 1.0, sine) * np.sign(cosine) * layer.thickness
        slanted = (far - near) * projection.pitch(self.x_range, nx) / along
        return np.where(straight, met / np.abs(cosine), slanted)

    def _total(self, weights: Mapping[str, Map], value: Callable[[Layer], float]) -> Map:
        """Return the sum of a layer's value over the layers, each by its weight."""
        total: Map = np.sum([w * value(self.layers[n]) for n, w in weights.items()], axis=0)
        return total


def expected_maps(
    phantom: Phantom,
    nx: int,
    ny: int,
    *,
    x_range: tuple[float, float] = DEFAULT_RANGE,
    y_range: tuple[float, float] = DEFAULT_RANGE,
) -> dict[str, Map]:
    """Return the weights that a map of ``ny`` by ``nx`` points should show.

    Row ``iy``, column ``ix`` is the point at the ``iy``-th y and ``ix``-th x,
    whatever the order in which a snake visits them.
    """
    return phantom.weights(np.linspace(*x_range, nx)[None, :], np.linspace(*y_range, ny)[:, None])


def assign(arrays: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
    """Return the maps under the names of the spectra that they mix, in the order of `SPECTRA`."""
    if len(arrays) > len(SPECTRA):
        raise PhantomError(
            f"{len(arrays)} maps ({', '.join(arrays)}), but there are only the spectra {known()}"
        )
    free = iter([name for name in SPECTRA if name not in arrays])
    named = {name if name in SPECTRA else next(free): a for name, a in arrays.items()}
    return {name: named[name] for name in SPECTRA if name in named}


def known() -> str:
    """Return the names of the spectra, for messages."""
    return ", ".join(SPECTRA)


def _read(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, NpzFile):
                return {name: content[name] for name in content.files}
    except OSError as problem:
        raise PhantomError(f"cannot read {path}: {problem.strerror or problem}") from problem
    except (ValueError, EOFError, BadZipFile, zlib.error) as problem:
        raise PhantomError(f"{path} is no readable .npz file of maps") from problem
    raise PhantomError(f"{path} holds an array without a name; save maps with np.savez")


def _check(name: str, weights: npt.NDArray[np.generic]) -> None:
    if weights.ndim != 2 or 0 in weights.shape:
        raise PhantomError(f"map {name!r} must be 2-D and not empty, not of shape {weights.shape}")
    if weights.dtype.kind not in "buif":
        raise PhantomError(f"map {name!r} must hold real numbers, not {weights.dtype}")
    values = weights.astype(float)
    if not np.isfinite(values).all():
        raise PhantomError(f"map {name!r} must be finite, but has NaN or infinity in it")
    if not ((values >= 0) & (values <= 1)).all():
        raise PhantomError(
            f"map {name!r} must hold weights in 0..1, not {values.min():g}..{values.max():g}"
        )


def _near(v: Map, centre: float) -> npt.NDArray[np.bool_]:
    return np.abs(v - centre) < 0.06
