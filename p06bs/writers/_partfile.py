"""A file that appears complete or not at all, never replaces another, and outlives a full disk."""

import errno
import os
import uuid
from pathlib import Path
from typing import Any


class PartFile:
    """A hidden file beside its final name, until `publish` links it there.

    It is also the file object that HDF5 writes to (h5py's ``fileobj`` driver).
    HDF5 (seen with 2.0) crashes the process some time after a write that failed (a chunk
    that cannot be flushed is freed twice), so it is not told of a failure: the
    first one is kept, and `check` raises it.

    Raises
    ------
    FileExistsError
        If the final name is taken; asked at the start, because a scan takes hours.
    OSError
        If the directory cannot be made or used.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final.with_name(f".{final.name}.{uuid.uuid4().hex[:12]}.part")
        self._error: OSError | None = None
        if final.exists():
            raise _taken(final)
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("x+b", buffering=0)
        except FileExistsError:
            said = f"cannot write {final}: {final.parent} is no directory"
            raise NotADirectoryError(errno.ENOTDIR, said) from None
        except OSError as error:
            raise self._named(error) from error

    def _named(self, error: OSError) -> OSError:
        said = f"cannot write {self.final}: {error.strerror or error}"
        return OSError(error.errno or errno.EIO, said)

    def check(self) -> None:
        """Raise the first failure of the disk, if there was one."""
        if self._error is not None:
            raise self._named(self._error) from self._error

    def publish(self) -> None:
        """Give the file its final name: on the disk first, then linked in one step.

        Raises
        ------
        FileExistsError
            If another writer took the name meanwhile; this one's part file is removed.
        OSError
            If the disk failed, now or before, or the file system has no hard links.
        """
        try:
            self.check()
            os.fsync(self._file.fileno())
            os.link(self.path, self.final)
            directory = os.open(self.final.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except FileExistsError:
            raise _taken(self.final) from None
        except OSError as error:
            if self._error is not None:
                raise
            raise self._named(error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Close and remove the part file, if it is there."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    # What HDF5 calls.

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the offset."""
        return self._file.tell()

    def read(self, size: int = -1) -> bytes | None:
        """Read; h5py takes an object for a file if it has this."""
        return self._file.read(size)

    def readinto(self, buffer: Any) -> int | None:
        """Read into a buffer."""
        return self._file.readinto(buffer)

    def write(self, data: Any) -> int:
        """Write all of `data`, or keep the failure for `check`."""
        left = memoryview(data)
        size = len(left)
        try:
            while left and self._error is None:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int) -> int:
        """Set the length of the file, or keep the failure for `check`."""
        try:
            self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
        return size

    def flush(self) -> None:
        """Do nothing: there is no buffer."""


def _taken(final: Path) -> FileExistsError:
    said = f"{final} exists; p06bs never overwrites a file: move it away or choose another prefix"
    return FileExistsError(errno.EEXIST, said)
