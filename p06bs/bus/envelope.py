"""The envelope: a document with its place in the log of its run.

MessagePack ``[run uid, writer epoch, index, name, bytes of buffers, document]``. A frame of
the log holds it, and a message about a small document, byte for byte; the buffers, in which
the document's large arrays lie, are in the log only.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ormsgpack
from event_model import DocumentNames

from p06bs.bus.codec import Buffer, Packed, unpack
from p06bs.bus.errors import WireError

_NAMES = frozenset(name.name for name in DocumentNames) - {"bulk_events", "bulk_datum"}
_RUN_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")
_LIST = b"\x96"
"""MessagePack's head of a list of six."""
_LISTS = (0x96, 0x97)


@dataclass(slots=True)
class Envelope:
    """A document, and where in which run it belongs."""

    run: str
    epoch: int
    index: int
    name: str
    nbytes: int
    """Of the buffers that the document's large arrays lie in."""
    document: dict[str, Any]


def is_run_uid(uid: object) -> bool:
    """Return whether `uid` may name a run: letters, digits, ``-`` and ``_``, at most 128."""
    return isinstance(uid, str) and _RUN_UID.fullmatch(uid) is not None


def is_name(name: object) -> bool:
    """Return whether `name` is a document type of event-model, but no bulk one."""
    return type(name) is str and name in _NAMES


def pack_envelope(run: str, epoch: int, index: int, name: str, packed: Packed) -> bytes:
    """Put an encoded document into its envelope; the document is not encoded again."""
    pack = ormsgpack.packb
    nbytes = packed.nbytes if packed.buffers else 0
    return b"".join((_head(run, epoch), pack(index), _packed(name), pack(nbytes), packed.body))


def unpack_envelope(buffer: Buffer, buffers: Buffer | None = None) -> Envelope:
    """Decode and check an envelope; see `unpack` for what `buffers` are.

    Raises
    ------
    WireError
        If it is none: undecodable, not six fields, or a field that no writer makes.
    """
    return checked(unpack(buffer, buffers))


def checked(fields: Any) -> Envelope:
    """Return what was decoded as an envelope.

    Raises
    ------
    WireError
        If it is none.
    """
    if type(fields) is not list or len(fields) != 6:
        raise WireError("an envelope is a list of run uid, epoch, index, name, bytes, document")
    run, epoch, index, name, nbytes, document = fields
    if not is_run_uid(run):
        raise WireError("the run uid holds other characters than letters, digits, '-' and '_'")
    if type(epoch) is not int or type(index) is not int or epoch < 1 or index < 0:
        raise WireError("epoch and index must be integers, epoch from 1, index from 0")
    if type(nbytes) is not int or nbytes < 0:
        raise WireError("the number of bytes of the buffers must be an integer from 0")
    if not is_name(name) or type(document) is not dict:
        raise WireError("name must be a document type of event-model, the document a dict")
    return Envelope(run, epoch, index, name, nbytes, document)


def run_of(buffer: Buffer) -> str:
    """Return the run of an envelope or a notice, decoding no more than that; "" if it is none.

    Most listeners are after a few runs of many.
    """
    head = bytes(buffer[:160])
    if len(head) < 3 or head[0] not in _LISTS:
        return ""
    start, length = (3, head[2]) if head[1] == 0xD9 else (2, head[1] - 0xA0)
    run = head[start : start + max(0, length)].decode("ascii", "replace")
    return run if is_run_uid(run) else ""


@lru_cache(maxsize=256)
def _head(run: str, epoch: int) -> bytes:
    return b"".join((_LIST, ormsgpack.packb(run), ormsgpack.packb(epoch)))


@lru_cache(maxsize=32)
def _packed(name: str) -> bytes:
    return bytes(ormsgpack.packb(name))
