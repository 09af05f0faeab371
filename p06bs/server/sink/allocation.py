"""Memory that goes back to the system when it is freed.

glibc keeps freed blocks for later and raises its threshold for separate mappings
when large blocks are freed: after a while nothing goes back, and the process is
much larger than what it holds. Blocks of columns therefore are mappings of their
own, and the server process tells glibc to map large blocks and to trim.
"""

import ctypes
import mmap

import numpy as np
import numpy.typing as npt

CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 1 << 20
BLOCK_OVERHEAD = 512
"""What Python keeps about a block, bytes."""
FIRST_ROWS = 16
"""Rows for which a column has room at first."""
MAPPED = 1 << 15
"""Blocks from so many bytes on are mappings of their own."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def block_of(nbytes: int) -> npt.NDArray[np.uint8]:
    """Return an array of `nbytes` bytes, whatever they hold."""
    if nbytes < MAPPED:
        return np.empty(nbytes, np.uint8)
    mapping = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(mapping, np.uint8)


def return_freed_memory() -> bool:
    """Let this process give back what it frees; return whether the C library can.

    For the start of a process: glibc's thresholds become fixed, threads share
    two arenas, and Arrow, where it is there, uses the same allocator.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    for option, value in (
        (_M_MMAP_THRESHOLD, 64 << 10),
        (_M_TRIM_THRESHOLD, 256 << 10),
        (_M_ARENA_MAX, 2),
    ):
        libc.mallopt(option, value)
    try:
        import pyarrow
    except ImportError:
        return True
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    return True
