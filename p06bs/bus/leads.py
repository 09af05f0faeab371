"""What else a dataset is read from: raw data in other files, sources of virtual datasets."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py

from p06bs.bus import hdf5
from p06bs.bus.h5open import (
    NoDataError,
    beside,
    candidates,
    open_dataset,
    open_file,
    place_of,
    require_regular,
)

DEPTH = 8
"""Virtual datasets of virtual datasets that are followed."""
KNOWN = 1024
"""Files that lead to others of which it is known to where."""
SETTLED_SECONDS = 2.0
"""A file that changed so lately may change again without its time of change being another."""

PATTERN = "%b"
"""In the name of a source it stands for the numbers of many."""

Allow = Callable[[Path], object]
"""Gets a path without symbolic links; raises what a dataset's reader gets that leads there."""


class UnboundedError(ValueError):
    """What a dataset is read from cannot be listed."""


@dataclass(frozen=True, slots=True)
class Leads:
    """What else a dataset is read from: the file it is in, raw data, sources in other files.

    `beside` has the directories in which HDF5 looks for sources.
    """

    place: Path
    beside: tuple[Path, ...] = ()
    raw: tuple[Path, ...] = ()
    sources: tuple[tuple[str, str], ...] = ()


class LeadsCheck:
    """Make sure that all that an open dataset is read from are regular files, and allowed.

    HDF5 opens them by itself when the dataset is asked for its shape, or read: ask before.
    The dataset's own file is the one that is open, whatever its name leads to meanwhile;
    where that leads is found out once.

    Parameters
    ----------
    allow : callable, optional
        Is asked of each file, some of which may be missing.
    """

    def __init__(self, allow: Allow = lambda path: None) -> None:
        self._allow = allow
        self._checked: tuple[h5py.Dataset, Leads] | None = None

    def __call__(self, dataset: h5py.Dataset) -> None:
        """Check.

        Raises
        ------
        NoDataError
            If some of them is no regular file.
        UnboundedError
            If they cannot be listed.
        OSError
            If that cannot be found out.
        """
        if self._checked is None or self._checked[0] is not dataset:
            self._checked = dataset, _leads(dataset)
        self._check(self._checked[1], DEPTH, {})

    def _check(self, leads: Leads, most: int, heights: dict[tuple[Path, str], int]) -> int:
        """Return how many datasets lie on each other; `heights` has what was found of others."""
        if not most:
            raise UnboundedError(f"{leads.place}: virtual datasets of virtual ones, over {DEPTH}")
        self._allow(leads.place)
        for path in leads.raw:
            self._allow(_real(path))
            if path.exists():
                require_regular(path)
        height = 0
        for place, inner in _places(leads):
            self._allow(_real(place))
            if not place.exists():
                continue
            key = (place, inner)
            if key not in heights:
                heights[key] = self._check(_leads_of(place, inner), most - 1, heights)
            elif heights[key] >= most:
                raise UnboundedError(f"{leads.place}: virtual datasets of virtual ones")
            height = max(height, heights[key])
        return height + 1


def _places(leads: Leads) -> list[tuple[Path, str]]:
    """Return where HDF5 may look for sources: always the first place, others that are there."""
    found: dict[tuple[Path, str], None] = {}
    for name, inner in leads.sources:
        if PATTERN in name or PATTERN in inner:
            raise UnboundedError(f"{leads.place}: {name}, {inner} stands for any number of sources")
        places = [leads.place] if name == "." else candidates(name, leads.beside)
        for number, path in enumerate(places):
            if not number or path.exists():
                found[path, inner] = None
    return list(found)


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError as error:
        raise NoDataError(f"{path} leads nowhere: {error}") from None


_known: dict[tuple[Path, Path, str, int, int, int, int], Leads] = {}


def _leads_of(path: Path, name: str) -> Leads:
    """Return where a dataset of a file leads; the file's owner can set all times but one."""
    real, about = _real(path), require_regular(path)
    version = (about.st_dev, about.st_ino, about.st_ctime_ns, about.st_size)
    key = (path, real, name, *version)
    with hdf5.lock:
        if key in _known:
            return _known[key]
        with open_file(path) as file:
            try:
                leads = _leads(open_dataset(file, name))
            except KeyError:
                return Leads(place_of(file))  # fill values are read in its place
        if leads.place == real and abs(time.time() - about.st_ctime) > SETTLED_SECONDS:
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
    file = dataset.file
    return Leads(place_of(file), beside(file), tuple(raw), tuple(dict.fromkeys(sources)))
