"""What was appended to a log since the last good sync, to be written again should the next fail.

After a sync that failed the kernel may have let go of what it could not write, and would
report success when it is asked again.
"""

import errno
import os
from collections.abc import Iterable

from p06bs.bus.codec import Buffer
from p06bs.bus.framing import HEADER, LogCorruptError, frame_of, parse_header

KEPT_BYTES = 8 << 20
"""Of so much that was appended since the last good sync a copy is kept.

That is plenty for raw runs. Copies of the large arrays of derived ones, which can be computed
again, would cost more than to write them.
"""


class Unsynced:
    """Keep copies of frames that the disk may lack.

    One thread may append while another one syncs.

    Parameters
    ----------
    begin : int
        Up to here the disk has the log, bytes.
    """

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self._kept: dict[int, bytes] = {}  # by their offsets

    def appended(self, offset: int, nbytes: int, pieces: Iterable[Buffer]) -> None:
        """Keep a frame that was appended, if it is not too much."""
        if offset + nbytes - self.begin <= KEPT_BYTES:
            self._kept[offset] = b"".join(pieces)

    def taken_back(self, offset: int) -> None:
        """Forget the frame at an offset, which is not in the log any more."""
        self._kept.pop(offset, None)

    def synced(self, end: int) -> None:
        """Forget what is before `end`: the disk has it."""
        self.begin = end
        for offset in [offset for offset in list(self._kept) if offset < end]:
            del self._kept[offset]

    def write_again(self, fd: int, end: int) -> None:
        """Write everything up to `end` again, from copies, else as it can be read.

        Raises
        ------
        OSError
            If that fails, or a frame can neither be had from a copy nor from the file.
        """
        at = self.begin
        while at < end:
            frame = self._kept.get(at) or _read_back(fd, at)
            write_all(fd, frame, at)
            at += len(frame)


def _read_back(fd: int, offset: int) -> bytes:
    header = parse_header(os.pread(fd, HEADER.size, offset), 0)
    frame = os.pread(fd, 0 if header is None else header.nbytes, offset)
    try:
        frame_of(frame, offset)
    except LogCorruptError as error:
        reason = f"what was appended from offset {offset} on is lost, nothing more is written"
        raise OSError(errno.EIO, reason) from error
    return frame


def write_all(fd: int, data: Buffer, offset: int) -> None:
    """Write all of the data at an offset.

    Raises
    ------
    OSError
        If it could not be written; a part may have been.
    """
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written
