"""Compression of responses: Tiled's, with a Blosc that takes any number of bytes."""

import copy
from typing import Any, Protocol

from tiled.media_type_registration import CompressionRegistry, default_compression_registry
from tiled.utils import APACHE_ARROW_FILE_MIME_TYPE

BLOSC = "blosc2"
WORDS = (8, 4, 2, 1)
"""Bytes of the items that Blosc may sort the bytes of."""


class Writable(Protocol):
    """What compressed bytes are written to."""

    def write(self, data: bytes, /) -> Any: ...


class BloscFile:
    """Compress what is written; each call makes a frame, as clients expect.

    Blosc2 4.14 refuses bytes whose number is no multiple of its default word of 8, which
    is what Tiled 0.2.20 leaves to it: it answered 500 to most reads of stock clients.
    """

    def __init__(self, file: Writable) -> None:
        self._file = file

    def write(self, data: bytes | memoryview) -> None:
        """Compress bytes."""
        import blosc2  # only where Tiled has it, too

        nbytes = memoryview(data).nbytes
        word = next(size for size in WORDS if nbytes % size == 0)
        self._file.write(blosc2.compress(bytes(data), typesize=word))

    def close(self) -> None:
        """Write no more: each frame is whole."""


def compression_registry() -> CompressionRegistry:
    """Return Tiled's compressions."""
    registry = copy.deepcopy(default_compression_registry)
    for media_type in ("application/octet-stream", APACHE_ARROW_FILE_MIME_TYPE):
        if BLOSC in registry.encodings(media_type):
            registry.register(media_type, BLOSC, BloscFile)
    return registry
