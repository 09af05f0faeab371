"""The simulated sample: maps of weights that mix measured spectra, known at every position."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from p06bs.sim.spectra import SPECTRA

Map = npt.NDArray[np.float64]

DEFAULT_RANGE = (-20.0, 20.0)
"""Centres of the first and the last pixel of a phantom along x and along y, µm."""


class PhantomError(ValueError):
    """A phantom that cannot be used; says which map is wrong and what is allowed."""


@dataclass(frozen=True)
class Phantom:
    """A flat sample: one map of weights in 0..1 per measured spectrum.

    Parameters
    ----------
    maps : mapping of str to ndarray
        Name of a spectrum in `p06bs.sim.spectra.SPECTRA` -> weights of shape
        ``(ny, nx)``, all of one shape; row ``iy`` lies at the ``iy``-th y.
    x_range, y_range : tuple of float
        Centres of the first and last column and of the first and last row, µm.
        A scan with as many points between the same ends hits every pixel's centre.

    Raises
    ------
    PhantomError
        If a name is not a spectrum's, shapes differ, or weights leave 0..1.
    """

    maps: Mapping[str, Map]
    x_range: tuple[float, float] = DEFAULT_RANGE
    y_range: tuple[float, float] = DEFAULT_RANGE

    def __post_init__(self) -> None:
        if not self.maps:
            raise PhantomError("a phantom needs at least one map of weights")
        for name, weights in self.maps.items():
            if name not in SPECTRA:
                raise PhantomError(f"no spectrum is called {name!r}; there are {known()}")
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

    def weights(self, x: npt.ArrayLike, y: npt.ArrayLike) -> dict[str, Map]:
        """Return the weight of each spectrum at positions, bilinear between pixel centres.

        Parameters
        ----------
        x, y : array_like
            Positions, µm; broadcast against each other. Beyond the outer edges of
            the outermost pixels there is no sample: the weight is 0.
        """
        ny, nx = self.shape
        u, v = np.broadcast_arrays(_pixel(x, self.x_range, nx), _pixel(y, self.y_range, ny))
        inside = (u >= -0.5) & (u <= nx - 0.5) & (v >= -0.5) & (v <= ny - 0.5)
        (ix, jx, fx), (iy, jy, fy) = _between(u, nx), _between(v, ny)
        return {
            name: np.where(
                inside,
                (w[iy, ix] * (1 - fx) + w[iy, jx] * fx) * (1 - fy)
                + (w[jy, ix] * (1 - fx) + w[jy, jx] * fx) * fy,
                0.0,
            )
            for name, w in self.maps.items()
        }


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


def _pixel(position: npt.ArrayLike, ends: tuple[float, float], n: int) -> Map:
    """Return positions in pixels, 0 at the centre of the first one."""
    first, last = ends
    pitch = (last - first) / (n - 1) if n > 1 else last - first
    origin = first if n > 1 else (first + last) / 2
    return (np.asarray(position, dtype=float) - origin) / pitch


def _between(pixel: Map, n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Map]:
    """Return the pixels on both sides of a position, and its distance from the first."""
    # A scan of the phantom's own shape meets pixel centres exactly, but for rounding.
    clipped = np.clip(np.round(pixel, 9), 0, n - 1)
    low = np.floor(clipped).astype(np.int64)
    return low, np.minimum(low + 1, n - 1), clipped - low


def _near(v: Map, centre: float) -> npt.NDArray[np.bool_]:
    return np.abs(v - centre) < 0.06
