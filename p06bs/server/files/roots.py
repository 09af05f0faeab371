"""Where files of detectors may lie, and whether a file leads elsewhere.

It can: by a symbolic link, an HDF5 external link, a virtual dataset, raw data kept in
another file, a chunk of a Zarr array that is a link. All that a dataset is read from must
lie under the roots.
"""

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote, urlparse

import h5py

from p06bs.bus import hdf5
from p06bs.model.documents import Document

ZARR = "application/x-zarr"
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
