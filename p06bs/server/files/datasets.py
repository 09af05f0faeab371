"""Whether an HDF5 dataset leads out of the directories that may be read.

It can: by a symbolic link, an external link, a virtual dataset, raw data kept in another
file. All that it is read from must lie under the roots.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py

from p06bs.bus import hdf5
from p06bs.server.files.roots import FileRoots, OutsideError

DEPTH = 8
"""Virtual datasets of virtual datasets that are followed."""
KNOWN = 1024
"""Files that lead to others of which it is known to where."""
SETTLED_SECONDS = 2.0
"""A file that changed so lately may change again without its time of change being another."""

PATTERN = "%b"
"""In the name of a source it stands for the numbers of many."""


@dataclass(frozen=True, slots=True)
class Leads:
    """What else a dataset is read from: the file it is in, raw data, sources in other files."""

    place: Path
    raw: tuple[Path, ...] = ()
    sources: tuple[tuple[str, str], ...] = ()


class DatasetCheck:
    """Make sure that all that an open dataset is read from lies under the roots.

    Its own file is the one that is open, whatever its name leads to meanwhile; where that
    leads is found out once.

    Parameters
    ----------
    roots : FileRoots
    """

    def __init__(self, roots: FileRoots) -> None:
        self._roots = roots
        self._checked: tuple[h5py.Dataset, Leads] | None = None

    def __call__(self, dataset: h5py.Dataset) -> None:
        """Check.

        Raises
        ------
        OutsideError
            If some of it does not.
        OSError
            If that cannot be found out.
        """
        if self._roots.paths is None:
            return
        if self._checked is None or self._checked[0] is not dataset:
            self._checked = dataset, _leads(dataset)
        _check(self._checked[1], self._roots, DEPTH)


def _check(leads: Leads, roots: FileRoots, depth: int) -> None:
    if not depth:
        raise OutsideError(f"{leads.place}: virtual datasets of virtual datasets, over {DEPTH}")
    roots.check(leads.place)
    for path in leads.raw:
        roots.real(path)
    for name, inner in leads.sources:
        if PATTERN in name:
            raise OutsideError(f"{leads.place}: {name} stands for any number of files")
        if name == ".":
            _check(_leads_of(leads.place, inner), roots, depth - 1)
            continue
        for number, path in enumerate(_candidates(name, leads.place.parent)):
            if number and not path.exists():
                continue
            real = roots.real(path)
            if real.exists():
                _check(_leads_of(real, inner), roots, depth - 1)


def _candidates(name: str, beside: Path) -> Iterator[Path]:
    """Yield where HDF5 looks for a source, in its order."""
    yield beside / name
    if Path(name).is_absolute():
        yield beside / Path(name).name
    yield Path.cwd() / name


_known: dict[tuple[Path, str, int, int, int, int], Leads] = {}


def _leads_of(path: Path, name: str) -> Leads:
    """Return where a dataset of a file leads; the file's owner can set all times but one."""
    about = path.stat()
    version = (about.st_dev, about.st_ino, about.st_ctime_ns, about.st_size)
    key = (path, name, *version)
    with hdf5.lock:
        if key in _known:
            return _known[key]
        with hdf5.open_file(path) as file:
            try:
                leads = _leads(file[name])
            except KeyError:
                return Leads(path)  # fill values are read in its place
        if leads.place == path and abs(time.time() - about.st_ctime) > SETTLED_SECONDS:
            if len(_known) >= KNOWN:
                _known.clear()
            _known[key] = leads
    return leads


def _leads(dataset: h5py.Dataset) -> Leads:
    raw = (Path.cwd() / os.fsdecode(part[0]) for part in dataset.external or ())
    made = dataset.id.get_create_plist()
    # Not `virtual_sources`, which takes 0.1 ms for each to say which of its rows.
    sources = (
        (made.get_virtual_filename(number), made.get_virtual_dsetname(number))
        for number in range(made.get_virtual_count() if dataset.is_virtual else 0)
    )
    return Leads(_place(dataset.file), tuple(raw), tuple(dict.fromkeys(sources)))


def _place(file: h5py.File) -> Path:
    """Return where the file is that is open: its name may lead elsewhere by now."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{file.id.get_vfd_handle()}"))
    except FileNotFoundError:  # no Linux
        return Path(file.filename).resolve()
