"""Pages of events whose large arrays may be in the log still, and reading these."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from isal.isal_zlib import crc32

from p06bs.bus.framing import HEADER, LogCorruptError, parse_header
from p06bs.model.documents import Document, LoggedArray
from p06bs.server.sink.places import Place
from p06bs.server.sink.values import Array

PIECE_BYTES = 1 << 20
LATE_SECONDS = 0.05
PLAIN = {bool, bytes, float, int, str, type(None)}
"""Types of values that are no arrays, and hold none."""


class LoggedRows:
    """Rows of a large array in the log, read from its file when they are copied."""

    __slots__ = ("_at", "_path", "dtype", "shape")

    def __init__(self, path: Path, at: int, logged: LoggedArray) -> None:
        self._path = path
        self._at = at
        self.dtype = logged.dtype
        self.shape = logged.shape

    def __len__(self) -> int:
        return self.shape[0]

    def into(self, target: Array, start: int) -> None:
        """Copy rows from `start` on to all of `target`, which is contiguous."""
        row = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        swapped = not self.dtype.isnative
        if target.dtype != self.dtype and not swapped:
            raise TypeError(f"rows of {self.dtype} into {target.dtype}")
        _fill(self._path, target, self._at + start * row)
        if swapped:
            target.byteswap(inplace=True)

    def whole(self) -> Array:
        """Return all rows."""
        values = np.empty(self.shape, self.dtype)
        _fill(self._path, values, self._at)
        return values


def _fill(path: Path, target: Array, at: int) -> None:
    view = target.reshape(-1).view(np.uint8).data
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while view:
            got = os.preadv(fd, [view], at)
            if not got:
                raise LogCorruptError(f"{path} ends before offset {at}")
            view, at = view[got:], at + got
    finally:
        os.close(fd)


class LoggedPage:
    """A page, or an event as a page of one row, whose large arrays may be in the log still.

    Parameters
    ----------
    page : dict
    place : Place or None
        Where it lies; needed where it holds a `LoggedArray`.
    patience : float
        Seconds for which a wrong checksum means "not visible yet".
    """

    def __init__(self, page: Document, place: Place | None, patience: float = 0.0) -> None:
        self.page = page
        self.place = place
        self._patience = patience
        self._buffers: int | None = None

    def __len__(self) -> int:
        return len(self.page["seq_num"])

    def values(self, part: str, key: str) -> Any:
        """Return a column's values; `LoggedRows` for an array that is in the log.

        Raises
        ------
        KeyError
            If there are none.
        LogCorruptError
            If the arrays are not, or not yet, as their checksum says.
        OSError
            If the log cannot be read.
        """
        value = self.page[part][key] if part else self.page[key]
        return self._rows(value) if isinstance(value, LoggedArray) else self._read(value)

    def _rows(self, value: LoggedArray) -> "LoggedRows":
        if self.place is None:
            raise ValueError("an array is in a log that nobody named")
        if self._buffers is None:
            self._buffers = _checked_buffers(self.place, self._patience)
        return LoggedRows(self.place.path, self._buffers + value.place, value)

    def _read(self, value: Any) -> Any:
        """Return a value with the arrays that are in the log, as in a list of frames."""
        if isinstance(value, LoggedArray):
            return self._rows(value).whole()
        if isinstance(value, Mapping):
            return {key: self._read(item) for key, item in value.items()}
        if isinstance(value, list | tuple) and not set(map(type, value)) <= PLAIN:
            return [self._read(item) for item in value]
        return value


def _checked_buffers(place: Place, patience: float) -> int:
    """Return the offset of a frame's buffers, whose checksum is right."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return _buffers_of(place)
        except LogCorruptError:
            # A network file system may show a later block before an earlier one.
            if time.monotonic() >= deadline:
                raise
        time.sleep(LATE_SECONDS)


def _buffers_of(place: Place) -> int:
    """Return the offset of a frame's buffers, whose checksum is right."""
    fd = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = parse_header(os.pread(fd, HEADER.size, place.offset), 0)
        if header is None or header.nbytes != place.nbytes:
            raise LogCorruptError(f"{place.path}: no frame at offset {place.offset}")
        first = at = place.offset + HEADER.size + header.envelope
        checksum = 0
        while at < first + header.buffers:
            piece = os.pread(fd, min(PIECE_BYTES, first + header.buffers - at), at)
            if not piece:
                break
            checksum = crc32(piece, checksum)
            at += len(piece)
        if checksum != header.buffers_checksum:
            raise LogCorruptError(
                f"{place.path}: checksum of the arrays of the frame at {place.offset} is wrong"
            )
        return first
    finally:
        os.close(fd)


def page_of(event: Document) -> Document:
    """Return the event as a page of one row."""
    return {
        "descriptor": event["descriptor"],
        "seq_num": [event["seq_num"]],
        "time": [event["time"]],
        "uid": [event["uid"]],
        "data": {key: _one(value) for key, value in event["data"].items()},
        "timestamps": {key: [value] for key, value in timestamps_of(event).items()},
    }


def timestamps_of(document: Document) -> Mapping[str, Any]:
    """Return the timestamps of an event or a page; none where they are no mapping."""
    timestamps = document.get("timestamps")
    return timestamps if isinstance(timestamps, Mapping) else {}


def _one(value: Any) -> Any:
    """Return a value as the only row of a column."""
    return value.as_row() if hasattr(value, "as_row") else [value]
