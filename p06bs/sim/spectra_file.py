"""The HDF5 file that a simulated fluorescence detector writes while others read it.

Single-writer-multiple-reader mode (SWMR); readers open it with ``swmr=True``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin

from p06bs.sim.beamline import Exposures

GROUP = "/entry/instrument/fluorescence"
"""The NXdetector that holds the datasets."""


@dataclass(frozen=True)
class Dataset:
    """One dataset of the detector's file; the shape is one point's."""

    role: str
    unit: str
    dtype: str
    dims: tuple[str, ...]


DATASETS: Mapping[str, Dataset] = {
    "spectrum": Dataset("fluorescence", "counts", "<u4", ("detector_element", "channel")),
    "live_time": Dataset("live_time", "s", "<f8", ("detector_element",)),
    "real_time": Dataset("real_time", "s", "<f8", ("detector_element",)),
    "input_counts": Dataset("input_counts", "counts", "<i8", ("detector_element",)),
    "output_counts": Dataset("output_counts", "counts", "<i8", ("detector_element",)),
}


def chunk_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the chunk of a dataset: one point's spectra, or 1024 points of small things."""
    return (1, *shape) if len(shape) > 1 else (1024, *shape)


class SpectraFile:
    """An HDF5 file that grows by rows, open for readers from the first row on.

    Parameters
    ----------
    path : Path
        Must not exist; its folder is created.
    shapes : dict
        Key in `DATASETS` -> shape of one point.

    Raises
    ------
    OSError
        If the file exists or cannot be created.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.path = path
        self.rows = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = h5py.File(path, "x", libver="latest")
        entry = self._file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        instrument = entry.create_group("instrument")
        instrument.attrs["NX_class"] = "NXinstrument"
        group = self._file.create_group(GROUP)
        group.attrs["NX_class"] = "NXdetector"
        for key, shape in shapes.items():
            dataset = group.create_dataset(
                key,
                shape=(0, *shape),
                maxshape=(None, *shape),
                chunks=chunk_shape(shape),
                dtype=DATASETS[key].dtype,
                **(hdf5plugin.Bitshuffle(cname="lz4") if key == "spectrum" else {}),
            )
            dataset.attrs["units"] = DATASETS[key].unit
        self._file.swmr_mode = True

    def append(self, exposures: Exposures) -> int:
        """Write and flush rows; return how many the file has."""
        stop = self.rows + len(exposures.spectrum)
        for key in DATASETS:
            dataset = self._file[GROUP][key]
            dataset.resize(stop, axis=0)
            dataset[self.rows : stop] = getattr(exposures, key)
            dataset.flush()
        self.rows = stop
        return stop

    def close(self) -> None:
        """Close the file."""
        self._file.close()
