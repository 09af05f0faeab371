"""Read rows of Zarr arrays whose files all lie under the roots."""

import asyncio
import lzma
import os
import stat
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from p06bs.bus.frames import FramesMissingError
from p06bs.server.files.detector import Array
from p06bs.server.files.roots import FileRoots

UNDECODABLE = (EOFError, RuntimeError, ValueError, lzma.LZMAError, zlib.error)
"""What codecs raise where a chunk is damaged, or half written; others raise OSError."""


class ConfinedStore(LocalStore):
    """Read a directory; what links out of the roots is refused, and all but regular files.

    Raises
    ------
    OutsideError
        If a chunk, or what describes the array, is a link to outside.
    ValueError
        If it is a pipe or a device.
    """

    def __init__(self, root: Path, roots: FileRoots) -> None:
        super().__init__(root, read_only=True)
        self._roots = roots

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        return await asyncio.to_thread(
            self.get_sync, key, prototype=prototype, byte_range=byte_range
        )

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        path = self.root / key
        self._roots.real(path)
        try:
            # Without O_NONBLOCK a named pipe to which nobody writes holds the thread for ever.
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                raise ValueError(f"{path} is no regular file")
            # What is read is what is open, whatever the name leads to meanwhile.
            opened = f"/proc/self/fd/{fd}"
            self._roots.check(Path(os.readlink(opened)))
            return super().get_sync(opened, prototype=prototype, byte_range=byte_range)
        finally:
            os.close(fd)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))


def read_rows(
    path: Path, name: str, start: int, stop: int, shape: tuple[int, ...], roots: FileRoots
) -> Array:
    """Return rows `start` to `stop - 1`, shape ``(stop - start, *shape)``.

    Parameters
    ----------
    path : Path
        Of the Zarr directory.
    name : str
        Of the array in it; "" where the directory is the array.
    shape : tuple of int
        Of one event; where it has as many axes as the array its first one says how many
        rows of the array make an event.

    Raises
    ------
    FramesMissingError
        If the array has fewer rows, or one of its chunks is not whole.
    FileNotFoundError, ValueError
        If there is no array, or its rows are of another shape.
    """
    array = zarr.open_array(ConfinedStore(path, roots), path=name, mode="r")
    if array.ndim == 0:
        raise ValueError(f"{name or path} has no rows")
    per_event = shape[0] if len(shape) == array.ndim and shape[0] else 1
    if array.shape[0] < stop * per_event:
        raise FramesMissingError(f"row {array.shape[0]} of {name} in {path} was not written")
    try:
        rows = np.asarray(array[start * per_event : stop * per_event])
    except UNDECODABLE as error:
        raise FramesMissingError(f"a chunk of {name} in {path} is not whole: {error}") from None
    return rows.reshape((stop - start, *shape))
