"""Open HDF5 files and datasets: regular files only, and no lock is kept on them."""

import ctypes
import os
import stat
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers the compression filters that detectors use

from p06bs.bus import locks

LINKS = 16
"""Soft and external links that are followed to a dataset; HDF5's own number."""

MEMBERS_SAID = 3
"""Of a group in the place of a dataset, as in the master files of Eiger detectors."""

READ_ATTEMPTS = 20
"""At metadata that is half written, as it may be in SWMR mode, within some milliseconds.

HDF5 makes 100, which takes it minutes where it is damaged, and no other thread runs meanwhile.
"""

# h5py has no name for it.
_set_read_attempts = ctypes.CDLL(h5py.h5p.__file__).H5Pset_metadata_read_attempts
_set_read_attempts.argtypes = [ctypes.c_int64, ctypes.c_uint]


class NoDataError(ValueError):
    """What is named is no regular file, or no dataset."""


def require_regular(path: Path) -> os.stat_result:
    """Return what is known of a file, of which HDF5 opens regular ones only.

    It opens with the interpreter's lock held: a named pipe to which nobody writes would
    stop all threads of the process for ever. What is left: HDF5 opens by name, so a file
    that is replaced by a pipe between this look and the next system call is not seen.
    A name below /proc/self/fd would be, but HDF5 would look there for the files beside it.

    Raises
    ------
    NoDataError
        If it is a pipe, a socket, a device or a directory.
    OSError
        If there is none.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise NoDataError(f"{path} is no regular file")
    return status


def open_file(path: Path) -> h5py.File:
    """Open a file without keeping a lock on it: a detector may open it again to go on.

    Raises
    ------
    NoDataError
        If it is no regular file.
    OSError
        If it cannot be opened, or somebody writes it outside SWMR mode.
    """
    _refuse_if_locked(path, require_regular(path))
    # A finished file of an older format cannot be opened for SWMR; one that this process
    # has open already must be opened with the same locking, the default if it is a writer.
    problem: Exception
    for swmr, unlocked in ((True, True), (True, False), (False, True), (False, False)):
        try:
            return h5py.File(_open(path, swmr, unlocked))
        except (OSError, RuntimeError, ValueError) as error:
            problem = error
    raise OSError(str(problem))


def _open(path: Path, swmr: bool, unlocked: bool) -> h5py.h5f.FileID:
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    oldest = h5py.h5f.LIBVER_LATEST if swmr else h5py.h5f.LIBVER_EARLIEST
    access.set_libver_bounds(oldest, h5py.h5f.LIBVER_LATEST)
    if unlocked:
        access.set_file_locking(False, False)
    flags = h5py.h5f.ACC_RDONLY
    if swmr:
        flags |= h5py.h5f.ACC_SWMR_READ
        if _set_read_attempts(access.id, READ_ATTEMPTS) < 0:
            raise RuntimeError("HDF5 takes no number of attempts to read")
    return h5py.h5f.open(os.fsencode(path), flags, fapl=access)


def open_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Open a dataset to which links may lead, through regular files only.

    Nothing that a virtual dataset is read from is opened yet: that happens when it is
    first asked for its shape.

    Raises
    ------
    KeyError
        If there is none of that name.
    NoDataError
        If something else has that name, or a link leads to what is no regular file.
    OSError
        If a link leads to a file that cannot be opened.
    """
    _check_links(file, name, LINKS)
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        problem = f"{name} in {file.filename} is no dataset"
        if isinstance(found, h5py.Group):
            members = ", ".join(islice(found, MEMBERS_SAID))
            problem += f", but a group of [{members}]: each needs a stream_resource of its own"
        raise NoDataError(problem)
    return found


def _check_links(file: h5py.File, name: str, most: int) -> None:
    """Follow a name as HDF5 will do, looking at each file before it is opened."""
    group, parts = file["/"], deque(name.split("/"))
    while parts:
        part = parts.popleft()
        if part in ("", "."):
            continue
        link = group.get(part, getlink=True)
        if isinstance(link, h5py.HardLink):
            group = group[part]
            if not isinstance(group, h5py.Group):
                return
            continue
        if not most:
            raise NoDataError(f"{name} in {file.filename}: more than {LINKS} links")
        most -= 1
        if isinstance(link, h5py.SoftLink):
            parts.extendleft(reversed(link.path.split("/")))
            group = file["/"] if link.path.startswith("/") else group
        elif isinstance(link, h5py.ExternalLink):
            _check_linked(file, link, parts, most)
            return
        else:
            raise KeyError(f"{part} of {name} is not in {file.filename}")


def _check_linked(file: h5py.File, link: h5py.ExternalLink, rest: deque[str], most: int) -> None:
    there = [path for path in candidates(link.filename, beside(file)) if path.exists()]
    for path in there:
        require_regular(path)
    if there:  # The first one is the one that HDF5 opens.
        with open_file(there[0]) as linked:
            _check_links(linked, "/".join([link.path, *rest]), most)


def candidates(name: str, directories: tuple[Path, ...]) -> Iterator[Path]:
    """Yield where HDF5 looks for a file that another one names, given the latter's directories."""
    names = (name, Path(name).name) if Path(name).is_absolute() else (name,)
    places = (*directories, Path.cwd())
    yield from dict.fromkeys(place / one for one in names for place in places)


def beside(file: h5py.File) -> tuple[Path, ...]:
    """Return the directories of a file: of its name, and of what that leads to."""
    named = Path.cwd() / os.fsdecode(file.filename)
    return tuple(dict.fromkeys((named.parent, place_of(file).parent)))


def place_of(file: h5py.File) -> Path:
    """Return where the file is that is open: its name may lead elsewhere by now."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{file.id.get_vfd_handle()}"))
    except FileNotFoundError:  # no Linux
        return Path(file.filename).resolve()


def _refuse_if_locked(path: Path, status: os.stat_result) -> None:
    """Raise OSError while a writer holds HDF5's exclusive lock, which SWMR mode gives up.

    The lock is looked up, not tried: a reader that takes one, however short, can make
    a detector's own open fail.
    """
    place = locks.place_of(status)
    try:
        written = any(lock.place == place and lock.kind == "WRITE" for lock in locks.locks())
    except OSError:
        return  # no Linux; HDF5's own flags in the file must do
    if written:
        raise OSError(f"{path} is being written, and not in SWMR mode")
