"""Read the rows of a stream resource: HDF5 files, also while they are being written (SWMR)."""

from collections import OrderedDict
from collections.abc import Callable
from itertools import product
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import h5py
import numpy.typing as npt

from p06bs.bus import hdf5
from p06bs.bus.closing import Closing
from p06bs.bus.leads import LeadsCheck
from p06bs.model.documents import Document
from p06bs.model.gather import NotYetError
from p06bs.model.modality import BoundInput

OPEN_FILES = 16

Check = Callable[[h5py.Dataset], None]
"""Raises what the reader of a dataset gets that may not be read."""


class FramesMissingError(TimeoutError):
    """The rows that a stream_datum announced are not in the file, and are given up."""


def dataset_of(resource: Document) -> tuple[Path, str]:
    """Return the HDF5 file and the dataset that a stream resource names.

    Raises
    ------
    ValueError
        If it names none.
    """
    uri, mimetype = resource["uri"], resource.get("mimetype")
    if mimetype not in ("application/x-hdf5", "application/x-hdf5-swmr"):
        raise ValueError(f"cannot read {mimetype}; only HDF5 is supported")
    parsed = urlparse(uri)
    if parsed.scheme not in ("file", ""):
        raise ValueError(f"cannot read {uri!r}: only file: URIs are supported")
    parameters = resource.get("parameters") or {}
    name = parameters.get("dataset") or parameters.get("path")
    if not isinstance(name, str):
        raise ValueError(f"the stream resource of {uri} names no dataset")
    return Path(unquote(parsed.path)), name


class Frames(Closing):
    """Read announced rows that are there, and say how far a file is where they are not.

    Parameters
    ----------
    check : callable, optional
        Is asked of each open dataset before it is read and after that; without one, that all
        it is read from are regular files is made sure of.
    final : bool
        Whether rows that are not there are given up; may be changed.
    """

    def __init__(self, check: Check | None = None, *, final: bool = False) -> None:
        self.final = final
        self._check = check or LeadsCheck()
        self._open: OrderedDict[Path, hdf5.SharedFile] = OrderedDict()

    def __call__(
        self, resource: Document, start: int, count: int, bound: BoundInput
    ) -> npt.NDArray[Any]:
        """Return rows `start` to `start + count - 1`, shape ``(count, *one event's shape)``.

        Raises
        ------
        NotYetError
            If they were not written yet.
        FramesMissingError
            If they were not written, and `final` is set.
        OSError, ValueError
            If the file cannot be read or does not hold what is described.
        """
        path, name = dataset_of(resource)
        try:
            with hdf5.lock:
                dataset = self._dataset(path, name)
                self._check(dataset)
                per_event = rows_per_event(dataset, bound.source_shape)
                first, last = start * per_event, (start + count) * per_event
                progress = _progress(dataset)
                there = _written(dataset, first, last)
                if there >= last:
                    rows: npt.NDArray[Any] = dataset[first:last]
                    self._check(dataset)
                    return rows.reshape((count, per_event, *dataset.shape[1:]))
            problem = f"row {max(there, first)} of {name} in {path} was not written"
            place = f"{path}#{name}"
        except (OSError, KeyError, RuntimeError) as error:
            # Not there yet, or created but not yet opened for SWMR by its writer; or damaged,
            # which cannot be told from half written.
            self._open_anew(path)
            progress = (-1, -1)
            # Where there is no file, all of its datasets are waited for at once.
            place = f"{path}#{name}" if path.exists() else str(path)
            problem = f"{name} in {path} could not be opened: {error}"
        if self.final:
            raise FramesMissingError(problem)
        raise NotYetError(place, progress, problem)

    def _dataset(self, path: Path, name: str) -> h5py.Dataset:
        shared = self._open.get(path)
        if shared is not None and not shared.is_open:
            self._release(path)
            shared = None
        if shared is None:
            shared = self._open[path] = hdf5.acquire(path)
            while len(self._open) > OPEN_FILES:
                self._release(next(iter(self._open)))
        self._open.move_to_end(path)
        return shared.dataset(name)

    def _open_anew(self, path: Path) -> None:
        """Close a file for all readers, because its writer may have opened it again."""
        with hdf5.lock:
            if path in self._open:
                self._open[path].close()
                self._release(path)

    def _release(self, path: Path) -> None:
        hdf5.release(path, self._open.pop(path))

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._release(next(iter(self._open)))


def rows_per_event(dataset: h5py.Dataset, shape: tuple[int, ...]) -> int:
    """Return how many rows of the dataset make one event of `shape`.

    Raises
    ------
    ValueError
        If it has none of that shape; what a damaged file says of itself may fit no memory.
    """
    if dataset.ndim == 0:
        raise ValueError(f"dataset {dataset.name} of {dataset.file.filename} has no rows")
    row = dataset.shape[1:]
    rows = int(shape[0]) if len(shape) == len(row) + 1 and shape[0] else 1
    if 0 not in shape and rows * prod(row) != prod(shape):
        raise ValueError(f"an event has shape {[rows, *row]}, described is {list(shape)}")
    return rows


def _progress(dataset: h5py.Dataset) -> tuple[int, int]:
    """Return what grows while a dataset is written: its length, and how much of it is stored."""
    return int(dataset.shape[0]), int(dataset.id.get_storage_size())


def _written(dataset: h5py.Dataset, first: int, last: int) -> int:
    """Return the end of the rows from `first` on that are written, at most `last`.

    A chunk that is not written yet reads as zeros without an error, so the
    allocation of every chunk is looked at.
    """
    stop = min(last, int(dataset.shape[0]))
    if dataset.chunks is None or stop <= first:
        return stop
    step = dataset.chunks[0]
    columns = [range(0, n, c) for n, c in zip(dataset.shape[1:], dataset.chunks[1:], strict=True)]
    for row in range(first // step * step, stop, step):
        for rest in product(*columns):
            info = dataset.id.get_chunk_info_by_coord((row, *rest))
            if info.byte_offset is None:
                return max(first, row)
    return stop
