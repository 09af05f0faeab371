"""HDF5 files that a simulated detector writes while others read them.

Single-writer-multiple-reader mode (SWMR); readers open them with ``swmr=True``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import hdf5plugin
import numpy as np
import numpy.typing as npt

Rows = Mapping[str, npt.NDArray[Any]]
"""Dataset -> one row per exposure, leading axis."""


@dataclass(frozen=True)
class Dataset:
    """One dataset of a detector's file; `shape` and `dims` are those of one row."""

    role: str
    unit: str
    dtype: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def chunk(self) -> tuple[int, ...]:
        """Shape of a chunk: one row's, or 1024 rows of small things."""
        return (1, *self.shape) if len(self.shape) > 1 else (1024, *self.shape)


@dataclass(frozen=True)
class Recording:
    """How a detector writes, and what goes wrong meanwhile.

    Parameters
    ----------
    compression : str
        Of datasets with a chunk per row: ``bslz4`` (bitshuffle and LZ4), ``gzip`` or ``none``.
    rows_per_file : int, optional
        Begin another file after so many rows; without it there is one file.
    join : str
        How several files are announced: ``resources``, a stream resource for each, or
        ``virtual``, one for a file with virtual datasets over all.
    offset : int
        Rows at the file's begin that belong to no trigger.
    missing : frozenset of int
        Triggers whose row stays unwritten: it is there, but its chunk is not, and it
        reads as 0.
    dropped : frozenset of int
        Triggers that the detector misses: later rows move up.
    extra : tuple of int
        Triggers after which there is a row too many.
    lag : float
        Seconds by which rows are written later than they are announced.

    Raises
    ------
    ValueError
        If `rows_per_file`, `offset` or `lag` make no sense.
    """

    compression: Literal["bslz4", "gzip", "none"] = "bslz4"
    rows_per_file: int | None = None
    join: Literal["resources", "virtual"] = "resources"
    offset: int = 0
    missing: frozenset[int] = frozenset()
    dropped: frozenset[int] = frozenset()
    extra: tuple[int, ...] = ()
    lag: float = 0.0

    def __post_init__(self) -> None:
        if self.rows_per_file is not None and self.rows_per_file < 1:
            raise ValueError(f"a file must have 1 row or more, not {self.rows_per_file}")
        if self.offset < 0 or self.lag < 0:
            raise ValueError(f"offset and lag must not be negative: {self.offset}, {self.lag} s")
        if self.compression not in FILTERS or self.join not in ("resources", "virtual"):
            raise ValueError(
                f"compression is {', '.join(FILTERS)}, and join resources or virtual, "
                f"not {self.compression!r} and {self.join!r}"
            )

    def triggers(self, first: int, stop: int) -> list[tuple[int, bool]]:
        """Return (trigger, whether it is one too many) of the rows of ``range(first, stop)``."""
        rows = []
        for trigger in range(first, stop):
            rows += [(trigger, False)] if trigger not in self.dropped else []
            rows += [(trigger, True)] * self.extra.count(trigger)
        return rows


FILTERS: Mapping[str, Mapping[str, Any]] = {
    "bslz4": hdf5plugin.Bitshuffle(cname="lz4"),
    "gzip": {"compression": "gzip", "compression_opts": 1},
    "none": {},
}


class RowsFile:
    """An HDF5 file that grows by rows, open for readers from the first row on.

    Parameters
    ----------
    path : Path
        Must not exist; its folder is created.
    group : str
        Path of the NXdetector that holds the datasets.
    datasets : mapping of str to Dataset
    compression : str
        As in `Recording`.

    Raises
    ------
    OSError
        If the file exists or cannot be created.
    """

    def __init__(
        self,
        path: Path,
        group: str,
        datasets: Mapping[str, Dataset],
        compression: str = "bslz4",
    ) -> None:
        self.rows = 0
        self._file, self._group = _create(path, group)
        for key, described in datasets.items():
            dataset = self._group.create_dataset(
                key,
                shape=(0, *described.shape),
                maxshape=(None, *described.shape),
                chunks=described.chunk,
                dtype=described.dtype,
                **(FILTERS[compression] if described.chunk[0] == 1 else {}),
            )
            dataset.attrs["units"] = described.unit
        self._file.swmr_mode = True

    def append(self, rows: Rows, missing: npt.NDArray[np.bool_]) -> None:
        """Write and flush rows; those that are missing have no chunk, where each has its own."""
        first, stop = self.rows, self.rows + missing.size
        for key, column in rows.items():
            dataset = self._group[key]
            dataset.resize(stop, axis=0)
            if dataset.chunks[0] > 1 or not missing.any():
                dataset[first:stop] = column
            else:
                for row in np.flatnonzero(~missing):
                    dataset[first + row] = column[row]
            dataset.flush()
        self.rows = stop

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass
class Files:
    """The file, or files, of one scan.

    Parameters
    ----------
    path : Path
        Of the file that is announced; further ones have numbers in their names.
    group : str
    datasets : mapping of str to Dataset
    recording : Recording
    expected : int
        Rows that the scan should have, for virtual datasets.
    """

    path: Path
    group: str
    datasets: Mapping[str, Dataset]
    recording: Recording = field(default_factory=Recording)
    expected: int = 0
    rows: int = 0
    _open: RowsFile | None = None

    def __post_init__(self) -> None:
        if self.recording.rows_per_file is None:
            self._next(0)
        elif self.recording.join == "virtual":
            self._write_virtual(self.recording.rows_per_file)

    def number(self, row: int) -> int:
        """Return the number of the file that holds a row (without the offset)."""
        return row // self.recording.rows_per_file if self.recording.rows_per_file else 0

    def part(self, number: int) -> Path:
        """Return the path of a file that rows are written to."""
        if self.recording.rows_per_file is None:
            return self.path
        return self.path.with_stem(f"{self.path.stem}_{number:06d}")

    def append(self, rows: Rows, missing: npt.NDArray[np.bool_]) -> None:
        """Write rows, each to its file."""
        done, count = 0, missing.size
        while done < count:
            most = count - done
            if self.recording.rows_per_file:
                most = min(most, self.recording.rows_per_file - self._within())
                if self._within() == 0:
                    self._next(self.number(self.rows))
            assert self._open is not None
            part = slice(done, done + most)
            self._open.append({key: column[part] for key, column in rows.items()}, missing[part])
            self.rows += most
            done += most

    def close(self) -> None:
        """Close what is open."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _within(self) -> int:
        """Return how many rows the present file has (without the offset)."""
        return self.rows % self.recording.rows_per_file if self.recording.rows_per_file else 0

    def _next(self, number: int) -> None:
        self.close()
        path = self.part(number)
        self._open = RowsFile(path, self.group, self.datasets, self.recording.compression)
        if number == 0 and self.recording.offset:
            count = self.recording.offset
            blank = {k: np.ones((count, *d.shape), d.dtype) for k, d in self.datasets.items()}
            self._open.append(blank, np.zeros(count, bool))

    def _write_virtual(self, rows_per_file: int) -> None:
        """Write the file that joins the others, before these are there, as detectors do."""
        file, group = _create(self.path, self.group)
        offset = self.recording.offset
        for key, described in self.datasets.items():
            layout = h5py.VirtualLayout((offset + self.expected, *described.shape), described.dtype)
            for begin in range(0, self.expected, rows_per_file):
                count = min(rows_per_file, self.expected - begin)
                # The first file begins with the offset.
                first, count = (0, offset + count) if begin == 0 else (offset + begin, count)
                layout[first : first + count] = h5py.VirtualSource(
                    self.part(begin // rows_per_file).name,
                    f"{self.group}/{key}",
                    shape=(count, *described.shape),
                    dtype=described.dtype,
                    maxshape=(None, *described.shape),
                )[:count]
            group.create_virtual_dataset(key, layout)
            group[key].attrs["units"] = described.unit
        file.close()


def _create(path: Path, group: str) -> tuple[h5py.File, h5py.Group]:
    """Create a file with the groups of a NeXus detector."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = h5py.File(path, "x", libver="latest")
    names, made = group.strip("/").split("/"), file["/"]
    for name, kind in zip(names, ("NXentry", "NXinstrument", "NXdetector"), strict=True):
        made = made.create_group(name)
        made.attrs["NX_class"] = kind
    return file, made
