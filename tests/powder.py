"""Frames of powders that pyFAI simulates, and what pyFAI makes of them."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from p06bs.callbacks.xrd import PowderDiffraction
from p06bs.model.modality import INVALID, PART, BoundInput, Columns

PILATUS = {
    "detector": "Pilatus 300k",
    "distance": 0.15,
    "poni1": 0.05,
    "poni2": 0.04,
    "rot1": 0.03,
    "rot2": -0.02,
    "rot3": 0.1,
    "wavelength": 0.7e-10,
}
SQUARE = {"distance": 0.05, "poni1": 9e-3, "poni2": 8e-3, "wavelength": 1e-10, "pixel1": 3e-4}
SIDE = 60


def bind(columns: Mapping[str, Any], units: Mapping[str, str] | None = None) -> dict[str, Any]:
    units = {"frames": "counts", "exposure": "s", **(units or {})}
    return {
        name: BoundInput("primary", name, False, c.shape[1:], c.shape[1:], c.dtype.str, units[name])
        for name, c in columns.items()
    }


def run(
    modality: PowderDiffraction, units: Mapping[str, str] | None = None, **columns: Any
) -> tuple[Columns, Any]:
    """Bind, prepare and process as the framework does; return the columns and the setup."""
    for column in columns.values():
        column.flags.writeable = False
    bound = bind(columns, units)
    setup = modality.prepare(modality.settings, bound)
    made = modality.process(setup, **columns)
    declared = modality.outputs(modality.settings, bound)
    assert made.keys() - {INVALID, PART} == declared.keys()
    for name, output in declared.items():
        assert made[name].dtype == output.dtype
        assert made[name].shape == (len(columns["frames"]), *output.shape)
    return made, setup


def pyfai(poni: Mapping[str, Any], shape: tuple[int, int]) -> Any:
    """Return pyFAI's integrator, made without our code."""
    os.environ["PYFAI_OPENCL"] = "0"
    from pyFAI.detectors import Detector, detector_factory
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

    where = {k: v for k, v in poni.items() if k[:3] in ("pon", "rot", "wav")}
    if "detector" in poni:
        detector = detector_factory(poni["detector"])
    else:
        detector = Detector(poni["pixel1"], poni["pixel1"], max_shape=shape)
    return AzimuthalIntegrator(dist=poni["distance"], detector=detector, **where)


def powder(integrator: Any, name: str, *, peak: float, width: float, under: float) -> np.ndarray:
    """Return the expected counts of a calibrant's rings, `width` (FWHM) in degrees."""
    from pyFAI.calibrant import get_calibrant

    calibrant = get_calibrant(name)
    calibrant.wavelength = integrator.wavelength
    image: np.ndarray = calibrant.fake_calibration_image(
        integrator, shape=integrator.detector.shape, Imax=peak, Imin=under, resolution=width
    )
    return image


def counted(expected: np.ndarray, events: int = 3, dtype: Any = np.int32) -> np.ndarray:
    return np.random.default_rng(1).poisson(expected, (events, *expected.shape)).astype(dtype)
