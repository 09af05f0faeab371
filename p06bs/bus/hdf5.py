"""HDF5 files open for reading, once per process and without keeping a lock on them."""

import os
import threading
from pathlib import Path

import h5py

from p06bs.bus.h5open import open_dataset, open_file


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
        """Return a dataset with what its writer has flushed so far; raises as `open_dataset`."""
        if name not in self._datasets:
            self._datasets[name] = open_dataset(self._file, name)
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
    """Return a file that is open; `release` it. Raises as `open_file`."""
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
