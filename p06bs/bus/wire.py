"""Messages: bluesky's framing, ``prefix name payload`` in one 0MQ part.

The payload is the envelope. Where the document's large arrays are in the log only, the
envelope is followed by the place of its frame there, so that a stock listener gets
the whole document, too.
"""

import struct
from pathlib import Path
from typing import Any, NamedTuple

from p06bs.bus.codec import Buffer, WireError
from p06bs.bus.envelope import Envelope, unpack_envelope
from p06bs.bus.framing import SUFFIX, LogCorruptError, read_frame

_PLACE = struct.Struct("<QQIH")


class Place(NamedTuple):
    """Where a frame lies in a log: path, offset and length in bytes; and its envelope's length."""

    path: str
    offset: int
    nbytes: int
    envelope: int


def message(prefix: bytes, name: str, envelope: bytes, place: Place | None = None) -> bytes:
    """Frame an envelope as bluesky does; `place` is needed if there are buffers."""
    if place is None:
        return b"%b %b %b" % (prefix, name.encode(), envelope)
    path = place.path.encode()
    behind = path + _PLACE.pack(place.offset, place.nbytes, place.envelope, len(path))
    return b"%b %b %b%b" % (prefix, name.encode(), envelope, behind)


def split_message(data: bytes) -> tuple[bytes, bytes, memoryview]:
    """Return prefix, name and payload of a message.

    Raises
    ------
    WireError
        If there are no two spaces to split at.
    """
    first = data.find(b" ")
    second = data.find(b" ", first + 1)
    if first < 0 or second < 0:
        raise WireError("a message is prefix, name and payload with a space between them")
    return data[:first], data[first + 1 : second], memoryview(data)[second + 1 :]


def unpack_payload(payload: Buffer) -> tuple[Envelope, Place | None]:
    """Return a payload's envelope, and the place of its frame if it has buffers.

    Raises
    ------
    WireError
        If the payload is none.
    """
    envelope = unpack_envelope(payload)
    if not envelope.nbytes:
        return envelope, None
    if len(payload) < _PLACE.size:
        raise WireError("a message does not say where its arrays are")
    offset, nbytes, length, named = _PLACE.unpack_from(payload, len(payload) - _PLACE.size)
    if length + named + _PLACE.size != len(payload):
        raise WireError("a message does not say where its arrays are")
    try:
        path = bytes(payload[length : length + named]).decode()
    except UnicodeDecodeError as error:
        raise WireError("the path of a log is no text") from error
    return envelope, Place(path, offset, nbytes, length)


def deserialize(payload: Buffer) -> dict[str, Any]:
    """Return the document alone; for ``RemoteDispatcher(..., deserializer=deserialize)``.

    Large arrays are read from the log, which this host must see.

    Raises
    ------
    WireError
        If the payload is no envelope, or the log cannot be read here.
    """
    envelope, place = unpack_payload(payload)
    if place is None:
        return envelope.document
    if not place.path.endswith(SUFFIX):
        raise WireError(f"{place.path!r} is no document log")
    try:
        entry = read_frame(Path(place.path), place.offset, place.nbytes)
    except (OSError, ValueError, LogCorruptError) as error:
        raise WireError(f"the arrays of a {envelope.name} are in {place.path}: {error}") from error
    if (entry.run, entry.epoch, entry.index) != (envelope.run, envelope.epoch, envelope.index):
        raise WireError(f"{place.path} holds another document at {place.offset}")
    return entry.document
