"""Messages: bluesky's framing, ``prefix name payload`` in one 0MQ part.

The payload is the envelope of a small document. Of a larger one it is a *notice*,
MessagePack ``[run uid, writer epoch, index, name, path, offset, bytes]``, which says
where its frame lies in the log: reading a log is cheaper than passing pages from
process to process, and a slow subscriber's queue stays small.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ormsgpack

from p06bs.bus.codec import Buffer, unpack
from p06bs.bus.envelope import Envelope, checked, is_name, is_run_uid
from p06bs.bus.errors import WireError
from p06bs.bus.framing import HEADER, SUFFIX, LogCorruptError, read_frame
from p06bs.bus.run_log import Appended

INLINE = 4096
"""Documents up to so many bytes, encoded, are in the message itself."""


@dataclass(slots=True)
class Notice:
    """Where a document's frame lies: path of the log, offset and length in bytes."""

    run: str
    epoch: int
    index: int
    name: str
    path: str
    offset: int
    nbytes: int


def message(prefix: bytes, name: str, appended: Appended) -> bytes:
    """Return the message about a document that was logged."""
    return b"%b %b %b" % (prefix, name.encode(), payload_of(name, appended))


def payload_of(name: str, appended: Appended) -> bytes:
    """Return the envelope of a small document, or a notice where its frame is."""
    if appended.nbytes <= INLINE and not appended.has_buffers:
        return appended.envelope
    path = str(appended.path.absolute())
    place = [path, appended.offset, appended.nbytes]
    return bytes(ormsgpack.packb([appended.run, appended.epoch, appended.index, name, *place]))


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


def unpack_payload(payload: Buffer) -> Envelope | Notice:
    """Return the envelope or the notice that a message carries.

    Raises
    ------
    WireError
        If it is neither.
    """
    fields = unpack(payload)
    if type(fields) is not list or len(fields) != 7:
        return checked(fields)
    run, epoch, index, name, path, offset, nbytes = fields
    whole = (epoch, index, offset, nbytes)
    if not is_run_uid(run) or not is_name(name) or type(path) is not str:
        raise WireError("a notice names a run, a document type and a path")
    if any(type(n) is not int or n < 0 for n in whole) or epoch < 1 or nbytes < HEADER.size:
        raise WireError("a notice's epoch, index, offset and length are integers from 0")
    return Notice(run, epoch, index, name, path, offset, nbytes)


def deserialize(payload: Buffer) -> dict[str, Any]:
    """Return the document alone; for ``RemoteDispatcher(..., deserializer=deserialize)``.

    Larger documents are read from the log, which this host must see.

    Raises
    ------
    WireError
        If the payload is none, or the log cannot be read here.
    """
    said = unpack_payload(payload)
    if isinstance(said, Envelope):
        return said.document
    if not said.path.endswith(SUFFIX):
        raise WireError(f"{said.path!r} is no document log")
    try:
        entry = read_frame(Path(said.path), said.offset, said.nbytes)
    except (OSError, ValueError, LogCorruptError) as error:
        raise WireError(
            f"document {said.index} of run {said.run} is in {said.path}, which cannot be read "
            f"here: {error}"
        ) from error
    if (entry.run, entry.epoch, entry.index) != (said.run, said.epoch, said.index):
        raise WireError(f"{said.path} holds another document at {said.offset}")
    return entry.document
