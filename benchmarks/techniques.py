"""Modalities that benchmarks compute; workers import them, so they live in a module."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from p06bs import Input, Modality, ModalitySettings, Output
from p06bs.model.modality import Bound, Columns

Array = npt.NDArray[Any]

BLOCK = 4  # events: their spectra as floats fit a processor's cache


class Normalise(Modality):
    """Divide a signal by a reference: work so small that only the framework is measured."""

    signal = Input(role="counter")
    reference = Input(role="incident_flux")

    def outputs(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return the one column, a number per event."""
        return {"normalised": Output(unit="1")}

    def process(self, setup: Any, *, signal: Array, reference: Array) -> Columns:
        """Return signal / reference, shape (events,)."""
        return {"normalised": signal / reference}


@dataclass(frozen=True)
class Window:
    """The setup of `Moments`: which pixels count, and their coordinates, pixels."""

    mask: Array
    rows: Array
    columns: Array


class Moments(Modality):
    """Sum a detector frame under a mask and find its centre of mass."""

    frame = Input(role="diffraction", dims=("row", "column"))

    class Settings(ModalitySettings):
        """The beam stop, a masked square in the middle."""

        beam_stop: int = 64

    def outputs(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return the total, counts, and the centre of mass, pixels; numbers per event."""
        return {
            "total": Output(unit="counts"),
            "centre_row": Output(unit="pixel"),
            "centre_column": Output(unit="pixel"),
        }

    def prepare(self, settings: Any, bound: Bound) -> Window:
        """Return mask and coordinates."""
        height, width = bound["frame"].shape
        mask = np.ones((height, width), bound["frame"].dtype)
        half = settings.beam_stop // 2
        mask[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half] = 0
        return Window(mask, np.arange(height, dtype=np.float64), np.arange(width, dtype=np.float64))

    def process(self, setup: Window, *, frame: Array) -> Columns:
        """Return the moments; frame by frame, because one frame fits a processor's cache."""
        made = np.empty((3, len(frame)))
        for place, one in enumerate(frame):
            masked = one * setup.mask
            along_rows = masked.sum(axis=1, dtype=np.uint32)
            along_columns = masked.sum(axis=0, dtype=np.uint32)
            total = float(along_rows.sum())
            made[:, place] = (
                total,
                along_rows @ setup.rows / total,
                along_columns @ setup.columns / total,
            )
        return {"total": made[0], "centre_row": made[1], "centre_column": made[2]}


class MatrixFit(Modality):
    """Fit peaks to spectra with one matrix product: areas and variances, summed over elements."""

    spectrum = Input(role="fluorescence", dims=("detector_element", "channel"))

    class Settings(ModalitySettings):
        """How many Gaussian peaks are fitted, and how wide they are, channels."""

        peaks: int = 16
        sigma: float = 20.0

    def outputs(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return areas and variances of all peaks, shape (peaks,)."""
        column = Output(unit="counts", shape=(settings.peaks,), dims=("peak",))
        return {"area": column, "variance": column}

    def prepare(self, settings: Any, bound: Bound) -> Array:
        """Return the matrix of the linear fit and of its variances, (channels, 2 · peaks)."""
        channels = np.arange(bound["spectrum"].shape[1])[:, None]
        centres = np.linspace(0.1, 0.9, settings.peaks) * len(channels)
        model = np.exp(-(((channels - centres) / settings.sigma) ** 2) / 2)
        inverse = np.linalg.pinv(model / model.sum(axis=0))
        return np.ascontiguousarray(np.concatenate([inverse, inverse**2]).T)

    def process(self, setup: Array, *, spectrum: Array) -> Columns:
        """Return areas and variances, shape (events, peaks)."""
        made = np.empty((len(spectrum), setup.shape[1]))
        for first in range(0, len(spectrum), BLOCK):
            counts = spectrum[first : first + BLOCK].astype(np.float64)
            made[first : first + BLOCK] = (counts @ setup).sum(axis=1)
        area, variance = np.hsplit(made, 2)
        return {"area": area, "variance": variance}
