"""The detectors of the simulated beamline, each on a trigger box and writing HDF5."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from ophyd_async.core import soft_signal_r_and_setter

from p06bs.sim.beamline import Beamline
from p06bs.sim.diffraction import PowderRings
from p06bs.sim.file_detector import FileDetector
from p06bs.sim.rows_file import Dataset
from p06bs.sim.spectra import CHANNELS
from p06bs.sim.trajectory import Trajectory


@dataclass(frozen=True)
class Fluorescence:
    """Spectra and times of a multi-element silicon drift detector with so many elements."""

    elements: int
    group: str = "/entry/instrument/fluorescence"

    @cached_property
    def datasets(self) -> Mapping[str, Dataset]:
        """Key -> what it is."""
        dims, shape = ("detector_element",), (self.elements,)
        return {
            "spectrum": Dataset(
                "fluorescence", "counts", "<u4", (*dims, "channel"), (*shape, CHANNELS)
            ),
            "live_time": Dataset("live_time", "s", "<f8", dims, shape),
            "real_time": Dataset("real_time", "s", "<f8", dims, shape),
            "input_counts": Dataset("input_counts", "counts", "<i8", dims, shape),
            "output_counts": Dataset("output_counts", "counts", "<i8", dims, shape),
        }

    def rows(self, path: Trajectory, triggers: range) -> dict[str, npt.NDArray[Any]]:
        """Return what is recorded at points of a scan, leading axis = points."""
        exposures = path.beamline.expose(**path.seen(triggers))
        return {key: getattr(exposures, key) for key in self.datasets}

    def extra_row(self, path: Trajectory, trigger: int) -> dict[str, npt.NDArray[Any]]:
        """Return an exposure of no time."""
        return {key: np.zeros(d.shape, d.dtype) for key, d in self.datasets.items()}


class FluorescenceDetector(FileDetector):
    """A multi-element silicon drift detector on a trigger box, writing HDF5.

    Streams ``<name>-spectrum`` (counts, ``(elements, channels)`` uint32) and, of each
    element, ``<name>-live_time`` and ``<name>-real_time`` (s), ``<name>-input_counts``
    and ``<name>-output_counts``.

    Parameters
    ----------
    beamline : Beamline
        What there is to see.
    *args, **kwargs
        As of `FileDetector`, behind its instrument.
    """

    def __init__(self, beamline: Beamline, *args: Any, **kwargs: Any) -> None:
        super().__init__(Fluorescence(beamline.elements), *args, **kwargs)


class AreaDetector(FileDetector):
    """A pixel detector behind the sample that sees its powder rings, writing HDF5.

    Streams ``<name>`` (counts, ``(y, x)``, uint16 or uint32). Its geometry is in its
    configuration.

    Parameters
    ----------
    rings : PowderRings
        Geometry, bad pixels and flux.
    *args, **kwargs
        As of `FileDetector`, behind its instrument.
    """

    def __init__(self, rings: PowderRings, *args: Any, **kwargs: Any) -> None:
        for key, (value, unit) in rings.configuration.items():
            signal, _ = soft_signal_r_and_setter(float, value, units=unit)
            setattr(self, key, signal)
            self.add_config_signals(signal)
        super().__init__(rings, *args, **kwargs)
