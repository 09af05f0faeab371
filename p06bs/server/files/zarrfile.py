"""Read rows of Zarr arrays whose files all lie under the roots."""

import lzma
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from p06bs.bus.frames import FramesMissingError
from p06bs.server.files.detector import Array
from p06bs.server.files.roots import FileRoots

UNDECODABLE = (EOFError, RuntimeError, ValueError, lzma.LZMAError, zlib.error)
"""What codecs raise where a chunk is damaged, or half written; others raise OSError."""


class ConfinedStore(LocalStore):
    """Read a directory; what links out of the roots is refused.

    Raises
    ------
    OutsideError
        If a chunk, or what describes the array, is a link to outside.
    """

    def __init__(self, root: Path, roots: FileRoots) -> None:
        super().__init__(root, read_only=True)
        self._roots = roots

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        self._roots.real(self.root / key)
        return await super().get(key, *args, **kwargs)

    def get_sync(self, key: str, *args: Any, **kwargs: Any) -> Any:
        self._roots.real(self.root / key)
        return super().get_sync(key, *args, **kwargs)

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[Any]) -> Any:
        ranges = list(key_ranges)
        for key, _ in ranges:
            self._roots.real(self.root / key)
        return await super().get_partial_values(prototype, ranges)


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
