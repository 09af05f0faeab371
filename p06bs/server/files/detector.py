"""Rows of detectors: read from HDF5 and Zarr files under configured roots only.

A file can lead elsewhere: by a symbolic link, an HDF5 external link, a virtual dataset,
raw data kept in another file, a chunk of a Zarr array that is a link. All that a dataset is
read from must lie under the roots.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlparse

import h5py
import numpy as np
import numpy.typing as npt
from fastapi import HTTPException
from tiled.server.schemas import Asset, DataSource, Management
from tiled.structures.core import StructureFamily

from p06bs.bus import hdf5
from p06bs.bus.frames import FrameReader, FramesMissingError, dataset_of
from p06bs.model.documents import Document
from p06bs.model.modality import BoundInput

Array = npt.NDArray[Any]

HDF5 = ("application/x-hdf5", "application/x-hdf5-swmr")
ZARR = "application/x-zarr"
CHUNK_BYTES = 4 << 20
FLOAT = np.dtype(np.float64)
MOST_CHUNKS = 1 << 20
"""Of a data key; clients are told of each."""
LAST_INDEX = 1 << 48
MOST_AXES, MOST_VALUES = 32, 1 << 36
"""Of one row."""
DEPTH = 8
"""Virtual datasets of virtual datasets that are followed."""


class OutsideError(PermissionError):
    """A file lies outside the roots, or leads there."""


class FileRoots:
    """Directories under which detector files are read.

    Parameters
    ----------
    paths : iterable of Path, optional
        None is everywhere, which is for a single user.
    beamtimes : iterable of Path
        Below these a run's own beamtime folder counts, too.
    folder : str, optional
        That folder.

    The file system is asked in `real` only: it may be slow.
    """

    def __init__(
        self,
        paths: Iterable[Path] | None = None,
        beamtimes: Iterable[Path] = (),
        folder: str | None = None,
    ) -> None:
        self.paths = None if paths is None else tuple(paths)
        self._beamtimes = tuple(beamtimes)
        self._folder = folder

    def of(self, folder: str | None) -> "FileRoots":
        """Return the directories for a run with this beamtime folder.

        A run never gives away the files of another beamtime: who may see the run
        may read its own folder, and no more is known.
        """
        return FileRoots(self.paths, self._beamtimes, folder)

    def real(self, path: Path) -> Path:
        """Return the path without symbolic links.

        Raises
        ------
        OutsideError
            If it does not lie under a root.
        """
        try:
            real = path.resolve()
        except RuntimeError as error:  # symbolic links that lead to themselves
            raise OutsideError(f"{path} leads nowhere: {error}") from None
        if self.paths is not None and not any(map(real.is_relative_to, self._directories())):
            raise OutsideError(f"{path} is outside the directories that this server may read")
        return real

    def _directories(self) -> Iterator[Path]:
        yield from (root.resolve() for root in self.paths or ())
        if self._folder is not None:
            own = Path(self._folder).resolve()
            below = (root.resolve() for root in self._beamtimes)
            if any(own.is_relative_to(root) and own != root for root in below):
                yield own


@dataclass(frozen=True, slots=True)
class DetectorView:
    """Rows in files; which segment of which file, in their order.

    Attributes
    ----------
    growing : bool
        Whether a file that is not there may come yet.
    """

    data_key: str
    segments: tuple[tuple[Document, int, int], ...]
    roots: FileRoots
    rows: int
    rows_per_chunk: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    growing: bool = False

    def read(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop - 1`.

        Raises
        ------
        FramesMissingError
            If they are announced and not in the file yet.
        HTTPException
            403 if the file lies outside the roots, 404 if it cannot be opened, or is not
            there and will not come, 415 if it
            is of a kind that is not read or does not hold what the descriptor says.
        """
        parts = []
        first = 0
        for resource, low, high in self.segments:
            begin, end = max(start, first), min(stop, first + high - low)
            if begin < end:
                parts.append(self._read(resource, low + begin - first, low + end - first))
            first += high - low
        if not parts:
            return np.empty((0, *self.shape), self.dtype)
        return np.concatenate(parts)

    def _read(self, resource: Document, start: int, stop: int) -> Array:
        try:
            path = self.roots.real(path_of(resource))
            if resource.get("mimetype") == ZARR:
                from p06bs.server.files.zarrfile import read_rows

                rows = read_rows(path, _inner(resource), start, stop, self.shape, self.roots)
                return rows.astype(self.dtype, copy=False)
            if resource.get("mimetype") in HDF5 and path.exists():
                check_dataset(path, dataset_of(resource)[1], self.roots)
            there = {**resource, "uri": f"file://localhost{quote(str(path))}"}
            bound = BoundInput("", self.data_key, True, self.shape, self.shape, self.dtype.str)
            with FrameReader(deadline=0.0) as reader:
                rows = reader(there, start, stop - start, bound)
            return rows.reshape((stop - start, *self.shape)).astype(self.dtype, copy=False)
        except FramesMissingError:
            if self.growing or path.exists():
                raise
            raise HTTPException(404, f"{path} is not there (any more)") from None
        except OutsideError as outside:
            raise HTTPException(403, str(outside)) from None
        except (OSError, KeyError) as error:
            raise HTTPException(404, f"{self.data_key} cannot be read: {error}") from None
        except (ValueError, TypeError) as error:
            raise HTTPException(415, f"{self.data_key} cannot be read: {error}") from None

    def data_sources(self, structure: Any) -> list[Any]:
        """Return where the rows are, as bluesky's TiledWriter says it; files under roots only."""
        resources = {id(resource): resource for resource, _, _ in self.segments}.values()
        by_kind: dict[str, list[Document]] = {}
        for resource in resources:
            try:
                self.roots.real(path_of(resource))
            except (ValueError, OutsideError):
                continue
            by_kind.setdefault(str(resource.get("mimetype")), []).append(resource)
        return [
            DataSource(
                structure_family=StructureFamily.array,
                structure=structure,
                mimetype=mimetype,
                parameters=dict(same[0].get("parameters") or {}),
                management=Management.external,
                assets=[
                    Asset(
                        data_uri=one["uri"],
                        is_directory=mimetype == ZARR,
                        parameter="data_uris",
                        num=number,
                    )
                    for number, one in enumerate(same)
                ],
            )
            for mimetype, same in by_kind.items()
        ]


@dataclass(frozen=True, slots=True)
class UnreadableView:
    """Rows that are announced, and of which the descriptor does not say what they are."""

    rows: int
    reason: str
    dtype: np.dtype[Any] = FLOAT
    shape: tuple[int, ...] = ()

    @property
    def rows_per_chunk(self) -> int:
        """All of them: none can be read."""
        return max(1, self.rows)

    def read(self, start: int, stop: int) -> Array:
        """Refuse.

        Raises
        ------
        HTTPException
            415, with the reason.
        """
        raise HTTPException(415, self.reason)


def detector_view(
    data_key: str,
    description: Mapping[str, Any],
    segments: Sequence[tuple[Document, int, int]],
    roots: FileRoots,
) -> DetectorView | UnreadableView:
    """Return the rows of a data key that stream_datum documents announced.

    Parameters
    ----------
    description : mapping
        Of the data key, from the descriptor.
    segments : sequence
        Stream resource, first and last + 1 index.
    """
    found = rows_described(description)
    shape, dtype = found or ((), FLOAT)
    per_chunk = max(1, CHUNK_BYTES // max(1, dtype.itemsize * prod(shape)))
    rows = 0
    try:
        for _, start, stop in segments:
            rows = rows_announced(rows, start, stop, per_chunk)
    except ValueError as error:
        return UnreadableView(0, f"{data_key} cannot be read: {error}")
    if found is None:
        return UnreadableView(
            rows, f"{data_key} cannot be read: its descriptor gives no usable shape and dtype_numpy"
        )
    return DetectorView(data_key, tuple(segments), roots, rows, per_chunk, dtype, shape)


def rows_announced(rows: int, start: int, stop: int, per_chunk: int) -> int:
    """Return how many rows there are with `start` to `stop - 1` of a file behind `rows` others.

    Raises
    ------
    ValueError
        If these are no indices of rows, or the rows would be more than can be shown.
    """
    if not 0 <= start <= stop <= LAST_INDEX:
        raise ValueError(f"indices {start} to {stop} are none of rows in a file")
    if rows + stop - start > MOST_CHUNKS * per_chunk:
        raise ValueError(
            f"{rows + stop - start} rows are announced, at most {MOST_CHUNKS * per_chunk} of "
            "this size can be shown: write them in larger rows"
        )
    return rows + stop - start


def rows_described(
    description: Mapping[str, Any],
) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Return shape and type of a row of a data key; None where none usable is described."""
    try:
        shape = tuple(int(n) for n in description["shape"])
        dtype = np.dtype(description.get("dtype_numpy") or "<f8")
    except (ArithmeticError, KeyError, SyntaxError, TypeError, ValueError):
        return None
    return (shape, dtype) if is_row(shape) and dtype.kind in "biufc" else None


def is_row(shape: tuple[int, ...]) -> bool:
    """Return whether a row can have this shape."""
    fits = len(shape) <= MOST_AXES and min(shape, default=0) >= 0
    return fits and prod(n or 1 for n in shape) <= MOST_VALUES


def path_of(resource: Document) -> Path:
    """Return the file or directory that a stream resource names.

    Raises
    ------
    ValueError
        If it names none on this file system.
    """
    parsed = urlparse(str(resource.get("uri")))
    if parsed.scheme not in ("file", "") or parsed.netloc not in ("", "localhost"):
        raise ValueError(f"{resource.get('uri')!r} is no file on this machine's file systems")
    return Path(unquote(parsed.path))


def assets(resources: Iterable[Document], roots: FileRoots) -> list[tuple[str, bool]]:
    """Return URIs of the files under the roots, and whether each is a directory."""
    found = []
    for resource in resources:
        try:
            real = roots.real(path_of(resource))
        except (ValueError, OutsideError):
            continue
        found.append((f"file://localhost{quote(str(real))}", resource.get("mimetype") == ZARR))
    return list(dict.fromkeys(found))


def check_dataset(path: Path, name: str, roots: FileRoots) -> None:
    """Make sure that all that a dataset is read from lies under the roots.

    Raises
    ------
    OutsideError
        If some of it does not.
    """
    if roots.paths is None:
        return
    about = path.stat()
    for other in _read_from(path, name, (about.st_mtime_ns, about.st_size, about.st_ino)):
        roots.real(other)


@lru_cache(maxsize=1024)
def _read_from(path: Path, name: str, version: tuple[int, ...]) -> frozenset[Path]:
    with hdf5.lock:
        return frozenset(_files(path, name, DEPTH))


def _files(path: Path, name: str, depth: int) -> Iterator[Path]:
    """Yield the files of which a dataset is read; they need not be there."""
    if not depth:
        raise OutsideError(f"{path}: virtual datasets of virtual datasets, deeper than {DEPTH}")
    yield path
    try:
        with h5py.File(path, "r", swmr=True) as file:
            dataset = file[name]
            target = Path(dataset.file.filename)
            raw = [Path(os.fsdecode(part[0])) for part in dataset.external or ()]
            virtual = (
                {(source.file_name, source.dset_name) for source in dataset.virtual_sources()}
                if dataset.is_virtual
                else set()
            )
    except (OSError, KeyError):
        return  # the reader says what is wrong with it
    yield target
    yield from (part if part.is_absolute() else Path.cwd() / part for part in raw)
    for file_name, inner in virtual:
        source = target if file_name == "." else target.parent / file_name
        yield from _files(source, inner, depth - 1)


def _inner(resource: Document) -> str:
    parameters = resource.get("parameters") or {}
    for key in ("array_path", "dataset", "path"):
        if isinstance(parameters.get(key), str):
            return str(parameters[key]).strip("/")
    return ""
