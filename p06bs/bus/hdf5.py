"""HDF5 files open for reading, once per process and without keeping a lock on them."""

import os
import threading
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers the compression filters that detectors use


class SharedFile:
    """A file that all readers of this process share, with its datasets.

    There is one handle per dataset: refreshed while a second one is open, a dataset
    says of chunks that are there that they are not (HDF5 2.0).
    """

    def __init__(self, path: Path) -> None:
        self.users = 0
        self._file = open_file(path)
        self._datasets: dict[str, h5py.Dataset] = {}

    @property
    def is_open(self) -> bool:
        """Whether nobody closed it because it did not hold what was looked for."""
        return bool(self._file)

    def dataset(self, name: str) -> h5py.Dataset:
        """Return a dataset with what its writer has flushed so far.

        Raises
        ------
        KeyError
            If there is none of that name.
        """
        if name not in self._datasets:
            self._datasets[name] = self._file[name]
        if self._file.swmr_mode:
            self._datasets[name].refresh()
        return self._datasets[name]

    def close(self) -> None:
        """Close it for everybody; whoever still uses it opens it anew."""
        self._datasets.clear()
        self._file.close()


lock = threading.RLock()
"""Held while files are opened, read and closed; HDF5 does one thing at a time anyway."""
_files: dict[str, SharedFile] = {}


def acquire(path: Path) -> SharedFile:
    """Return a file that is open; `release` it.

    Raises
    ------
    OSError
        If it cannot be opened, or somebody writes it outside SWMR mode.
    """
    with lock:
        key = os.path.realpath(path)
        shared = _files.get(key)
        if shared is None or not shared.is_open:
            shared = _files[key] = SharedFile(path)
        shared.users += 1
        return shared


def release(path: Path, shared: SharedFile) -> None:
    """Give a file back; the last user closes it."""
    with lock:
        shared.users -= 1
        if shared.users == 0:
            shared.close()
            key = os.path.realpath(path)
            if _files.get(key) is shared:
                del _files[key]


def open_file(path: Path) -> h5py.File:
    """Open a file without keeping a lock on it: a detector may open it again to go on.

    Raises
    ------
    OSError
        If it cannot be opened, or somebody writes it outside SWMR mode.
    """
    _refuse_if_locked(path)
    # A finished file of an older format cannot be opened for SWMR; one that this process
    # has open already must be opened with the same locking, the default if it is a writer.
    ways: list[dict[str, Any]] = [
        {"libver": "latest", "swmr": True, "locking": False},
        {"libver": "latest", "swmr": True},
        {"locking": False},
        {},
    ]
    for way in ways:
        try:
            return h5py.File(path, "r", **way)
        except (OSError, ValueError) as error:
            problem = error
    raise OSError(str(problem))


def _refuse_if_locked(path: Path) -> None:
    """Raise OSError while a writer holds HDF5's exclusive lock, which SWMR mode gives up.

    The lock is looked up, not tried: a reader that takes one, however short, can make
    a detector's own open fail.
    """
    status = path.stat()
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        locks = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return  # no Linux; HDF5's own flags in the file must do
    if any(place in (fields := line.split()) and "WRITE" in fields for line in locks):
        raise OSError(f"{path} is being written, and not in SWMR mode")
