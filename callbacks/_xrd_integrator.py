"""What pyFAI knows of a geometry, as arrays: positions, norms of pixels, and who shares bins.

pyFAI (J. Kieffer, D. Karkoulis, J. Phys. Conf. Ser. 425 (2013) 202012) is used when a run
begins, and not for frames.
"""

import importlib
import importlib.util
import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from p06bs.callbacks._arrays import Array, Floats
from p06bs.callbacks._xrd_geometry import Geometry
from p06bs.callbacks._xrd_pixels import Picture
from p06bs.callbacks._xrd_settings import PowderSettings


@dataclass(frozen=True)
class Bins:
    """Which pixels go where; arrays as `p06bs.callbacks._xrd_kernels.integrate` takes them."""

    starts: Array
    stops: Array
    first: Array
    cells: Array
    weights: Array
    full: Floats
    floor: Floats
    sectors: int
    radial: Floats
    azimuth: Floats

    @property
    def pixels(self) -> int:
        """Number of pixels that are used."""
        return int((self.stops - self.starts).sum())


@dataclass(frozen=True)
class Pixels:
    """What is known of each pixel, shape (pixels,): position, mask, norm and dark counts."""

    position: Floats
    masked: npt.NDArray[np.bool_]
    norm: Floats
    dark: Floats


def require_pyfai() -> None:
    """Make sure that pyFAI and numba are there.

    Raises
    ------
    ImportError
        If one of them is not installed, with the command that installs it.
    """
    for package in ("pyFAI", "numba"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"Powder diffraction needs {package}, which is not installed: "
                'pip install "p06bs[xrd]"'
            )


def import_pyfai() -> None:
    """Import what `integrator` needs, without looking for graphics cards."""
    os.environ.setdefault("PYFAI_OPENCL", "0")
    # It tells of sensors that nobody describes, and warns of ranges without pixels, as we do.
    logging.getLogger("pyFAI").setLevel(logging.WARNING)
    logging.getLogger("pyFAI.ext.sparse_builder").setLevel(logging.ERROR)
    for module in ("integrator.azimuthal", "io.ponifile", "detectors"):
        importlib.import_module(f"pyFAI.{module}")


def integrator(geometry: Geometry, shape: tuple[int, ...]) -> Any:
    """Return pyFAI's integrator for frames of a shape.

    Raises
    ------
    ValueError
        If pyFAI does not know the detector, or the detector has another shape, or a file
        by which it is described has changed.
    """
    import_pyfai()
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator
    from pyFAI.io.ponifile import PoniFile

    described = geometry.as_poni()
    if geometry.detector is not None and geometry.detector not in geometry.sha256:
        _detector_class(geometry.detector)
    try:
        poni = PoniFile(described)
        made = AzimuthalIntegrator()
        made._init_from_poni(poni)
    except Exception as error:  # pyFAI raises what it likes
        raise ValueError(f"poni: pyFAI refuses it: {error}") from None
    detector = made.detector
    if detector.pixel1 is None or detector.pixel2 is None:
        raise ValueError("poni: says nothing of the size of pixels; give pixel1 and pixel2 (m)")
    if detector.shape is None:
        detector.shape = detector.max_shape = shape
    if not _fits(detector, shape):
        raise ValueError(
            f"frames have shape {tuple(shape)}, but poni's detector, {detector.name}, has "
            f"{tuple(detector.shape)}; for a part of it, or binned pixels, give "
            "detector_config with max_shape and the size of pixels"
        )
    return made


def _fits(detector: Any, shape: tuple[int, ...]) -> bool:
    """Return whether a detector makes frames of a shape, if need be by binning, as CCDs do."""
    if tuple(detector.shape) != tuple(shape):
        detector.guess_binning(np.empty(shape, np.uint8))
    return tuple(detector.shape) == tuple(shape)


def _detector_class(name: str) -> Any:
    from pyFAI import detectors

    known: dict[str, Any] = detectors.Detector.registry
    made = getattr(detectors, name, None) or known.get(name.lower())
    made = made or known.get(name.lower().replace(" ", "_"))
    if not (isinstance(made, type) and issubclass(made, detectors.Detector)):
        near = sorted(n for n in known if n[:3] == name.lower()[:3])
        raise ValueError(
            f"pyFAI has no detector {name!r}; there are {', '.join(near[:20] or sorted(known))}"
        )
    return made


def pixels_of(settings: PowderSettings, made: Any, shape: tuple[int, ...]) -> Pixels:
    """Return what is known of each pixel.

    Raises
    ------
    ValueError
        If a mask or a picture has another shape than the frames, or leaves no pixel.
    """
    position = made.array_from_unit(shape, "center", settings.unit, scale=True)
    masked = np.zeros(shape, bool)
    if made.detector.mask is not None:
        masked |= _fitting("the detector's mask", np.asarray(made.detector.mask), shape) != 0
    if isinstance(settings.mask, str):
        detector = _detector_class(settings.mask)()
        if detector.shape is not None:
            _fits(detector, shape)
        named = detector.mask
        if named is None:
            raise ValueError(f"mask: pyFAI has none of the detector {settings.mask!r}")
        masked |= _fitting(f"mask {settings.mask!r}", np.asarray(named), shape) != 0
    elif settings.mask is not None:
        masked |= _fitting("mask", settings.mask.pixels(), shape)
    low, high = settings.azimuth_range
    if high - low < 360:
        chi = np.rad2deg(made.array_from_unit(shape, "center", "chi_rad", scale=False))
        masked |= np.mod(chi - low, 360) > high - low
    norm = np.ones(shape)
    if settings.solid_angle:
        norm *= made.solidAngleArray(shape)
    if settings.polarization_factor is not None:
        norm *= made.polarization(shape, settings.polarization_factor)
    if settings.flat is not None:
        norm *= _fitting("flat", settings.flat.pixels(), shape)
    dark = np.zeros(shape)
    if isinstance(settings.dark, Picture):
        dark += _fitting("dark", settings.dark.pixels(), shape)
    elif settings.dark is not None:
        dark += settings.dark
    masked |= ~((norm > 0) & (norm < np.inf) & np.isfinite(dark))
    if masked.all():
        raise ValueError("mask, flat, dark and azimuth_range leave no pixel")
    norm[masked], dark[masked] = 1, 0
    return Pixels(position.ravel(), masked.ravel(), norm.ravel(), dark.ravel())


def _fitting(what: str, picture: Array, shape: tuple[int, ...]) -> Array:
    if picture.shape != tuple(shape):
        raise ValueError(f"{what} has shape {picture.shape}, frames have {tuple(shape)}")
    return picture


def bins_of(
    settings: PowderSettings, made: Any, pixels: Pixels, shape: tuple[int, ...], run: int
) -> Bins:
    """Return which bins the pixels go to, as pyFAI shares them out; `run` is a run's length.

    Raises
    ------
    ValueError
        If no pixel lies in the range, or pyFAI cannot split pixels of that form.
    """
    from pyFAI import units
    from scipy.sparse import csr_matrix

    low, high = settings.azimuth_range
    if high > 180:
        made.setChiDiscAtZero()
    sectors = settings.azimuthal_bins
    try:
        built = made.setup_sparse_integrator(
            shape,
            (settings.bins, sectors) if sectors else settings.bins,
            mask=pixels.masked.reshape(shape).astype(np.int8),
            pos0_range=settings.range,
            pos1_range=(low, high) if sectors else None,
            unit=(settings.unit, "chi_deg") if sectors else settings.unit,
            split=settings.splitting,
            algo="CSR",
        )
    except Exception as error:  # of pixels with six corners, for example
        raise ValueError(
            f"pyFAI cannot share out the pixels of {made.detector.name}, "
            f"splitting {settings.splitting!r}: {error}"
        ) from error
    sectors = max(sectors, 1)
    number, size = settings.bins * sectors, len(pixels.masked)
    matrix = csr_matrix((built.data, built.indices, built.indptr), shape=(number, size)).tocsc()
    matrix.data = matrix.data.astype(np.float64)
    shares = np.diff(matrix.indptr)
    used = shares > 0
    if not used.any():
        raise ValueError(f"range: no used pixel lies within {settings.range} {settings.unit}")
    full = np.stack([matrix @ np.ones(size), matrix @ pixels.norm, matrix @ pixels.dark])
    floor = np.ones(number)
    cells = matrix.indices.astype(np.uint32)
    first, weights = matrix.indptr.astype(np.int64), matrix.data
    if settings.splitting == "no":
        by_pixel = np.zeros(size, np.uint32)
        by_pixel[used] = cells
        cells, first, weights = by_pixel, first[:0], weights[:0]
    else:
        squares = matrix.copy()
        squares.data = squares.data**2
        np.divide(squares @ np.ones(size), full[0], out=floor, where=full[0] > 0)
    starts, stops = _runs(used, run)
    radial, azimuth = built.bin_centers, np.zeros(0)
    if settings.azimuthal_bins:
        radial = built.bin_centers0
        azimuth = np.asarray(built.bin_centers1, np.float64) * units.CHI_DEG.scale
    radial = np.asarray(radial, np.float64) * units.to_unit(settings.unit).scale
    return Bins(starts, stops, first, cells, weights, full, floor, sectors, radial, azimuth)


def _runs(used: npt.NDArray[np.bool_], most: int) -> tuple[Array, Array]:
    """Return where runs of used pixels of at most so many start and stop."""
    edges = np.flatnonzero(np.diff(used, prepend=False, append=False))
    starts, stops = edges[::2], edges[1::2]
    pieces = -(-(stops - starts) // most)
    offset = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begin = np.repeat(starts, pieces) + offset * most
    return begin, np.minimum(begin + most, np.repeat(stops, pieces))
