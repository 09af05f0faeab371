"""The codec: documents to bytes and back, for the wire and for the log alike.

MessagePack, with extension types for what documents carry beyond it:

====  =================  ==========================================================
code  Python type        payload
====  =================  ==========================================================
1     numpy.ndarray      head line (dtype and shape as literals), raw C-order bytes
2     numpy.generic      as 1, shape ()
3     ndarray of str     MessagePack ``[shape, [strings]]`` (dtype object)
4     date, time, both   ISO 8601 behind the name of the type
====  =================  ==========================================================

Nothing is ever pickled or unpickled. The *envelope* ``[run uid, writer epoch,
index, name, document]`` is what a message carries and what a frame of the log
holds, byte for byte.
"""

import ast
import datetime
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import ormsgpack
from event_model import DocumentNames

Buffer = bytes | bytearray | memoryview

_ARRAY, _SCALAR, _STRINGS, _TIME = 1, 2, 3, 4
_TIMES = {cls.__name__: cls for cls in (datetime.datetime, datetime.date, datetime.time)}
_ALIGN = 16  # raw data start at a multiple of this, so that decoded arrays are aligned
_OPTIONS = ormsgpack.OPT_PASSTHROUGH_DATETIME
_NAMES = frozenset(name.name for name in DocumentNames) - {"bulk_events", "bulk_datum"}
_RUN_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")


class WireError(ValueError):
    """Bytes that are no document, or no envelope; the message says why."""


Envelope = tuple[str, int, int, str, dict[str, Any]]
"""Run uid, writer epoch, index in the log of the run, document type, document."""


def is_run_uid(uid: object) -> bool:
    """Return whether `uid` may name a run: letters, digits, ``-`` and ``_``, at most 128."""
    return isinstance(uid, str) and _RUN_UID.fullmatch(uid) is not None


def pack(obj: Any) -> bytes:
    """Encode a document.

    Tuples, sets and other sequences become lists, complex numbers numpy
    scalars, paths strings. Object arrays that do not hold strings only, and
    masked arrays, become nested lists (None where masked).

    Raises
    ------
    TypeError
        If a value cannot travel (an integer beyond 64 bit, a key that is no
        string, an object of an unknown type); names its path in the document.
    """
    try:
        return ormsgpack.packb(obj, default=_encode, option=_OPTIONS)
    except TypeError:
        return ormsgpack.packb(_plain(obj, "document"), default=_encode, option=_OPTIONS)


def unpack(buffer: Buffer) -> Any:
    """Decode what `pack` made; arrays are read-only views. What follows it is not looked at.

    Raises
    ------
    WireError
        If the bytes are not MessagePack, or hold an extension that `pack` does not make.
    """
    try:
        return ormsgpack.unpackb(buffer, ext_hook=_decode)
    except ValueError as error:
        raise WireError(f"{len(buffer)} bytes are no document: {error}") from error


def pack_envelope(run: str, epoch: int, index: int, name: str, document: Any) -> bytes:
    """Encode a document together with its place in the log of its run.

    Raises
    ------
    TypeError
        As `pack`.
    """
    envelope = [run, epoch, index, name, document]
    try:
        return ormsgpack.packb(envelope, default=_encode, option=_OPTIONS)
    except TypeError:
        envelope[-1] = _plain(document, name)
        return ormsgpack.packb(envelope, default=_encode, option=_OPTIONS)


def unpack_envelope(buffer: Buffer) -> Envelope:
    """Decode and check an envelope.

    Raises
    ------
    WireError
        If it is none: undecodable, not five fields, or a field that no writer makes.
    """
    fields = unpack(buffer)
    if type(fields) is not list or len(fields) != 5:
        raise WireError("an envelope is a list of run uid, epoch, index, name and document")
    run, epoch, index, name, document = fields
    if not is_run_uid(run):
        raise WireError("the run uid holds other characters than letters, digits, '-' and '_'")
    if type(epoch) is not int or type(index) is not int or epoch < 1 or index < 0:
        raise WireError("epoch and index must be integers, epoch from 1, index from 0")
    if type(name) is not str or name not in _NAMES or type(document) is not dict:
        raise WireError("name must be a document type of event-model, the document a dict")
    return run, epoch, index, name, document


def deserialize(payload: Buffer) -> dict[str, Any]:
    """Return the document alone; for ``RemoteDispatcher(..., deserializer=deserialize)``.

    Raises
    ------
    WireError
        If the payload is no envelope.
    """
    return unpack_envelope(payload)[-1]


def message(prefix: bytes, name: str, envelope: bytes) -> bytes:
    """Frame an envelope as bluesky does: ``prefix name payload`` in one 0MQ part."""
    return b"%b %b %b" % (prefix, name.encode(), envelope)


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


def _encode(obj: Any) -> Any:
    """Return what MessagePack can say instead of `obj`; ormsgpack calls it for the rest."""
    if isinstance(obj, np.ndarray):
        return _encode_array(obj)
    if isinstance(obj, np.generic):
        return ormsgpack.Ext(_SCALAR, _raw(np.asarray(obj)))
    if isinstance(obj, complex):
        return np.complex128(obj)
    for name, cls in _TIMES.items():
        if type(obj) is cls:
            return ormsgpack.Ext(_TIME, f"{name} {obj.isoformat()}".encode())
    if isinstance(obj, Mapping):
        return dict(obj)
    if isinstance(obj, Sequence | AbstractSet):
        return list(obj)
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    raise TypeError(f"{type(obj).__qualname__} cannot travel")


def _encode_array(array: npt.NDArray[Any]) -> Any:
    if isinstance(array, np.ma.MaskedArray):
        return array.tolist()
    if array.dtype.kind == "T":  # numpy's variable-width strings
        array = array.astype(object)
    if not array.dtype.hasobject:
        return ormsgpack.Ext(_ARRAY, _raw(array))
    if array.dtype.kind == "O" and all(type(item) is str for item in array.flat):
        content = ormsgpack.packb([list(array.shape), array.ravel().tolist()])
        return ormsgpack.Ext(_STRINGS, content)
    return array.tolist()


def _raw(array: npt.NDArray[Any]) -> bytes:
    head = _head(array.dtype, array.shape)
    if array.nbytes == 0:
        return head
    # uint8, because buffers of datetimes and of bytes in reverse order cannot be joined
    return b"".join((head, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data))


@lru_cache(maxsize=1024)
def _head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    descr = np.lib.format.dtype_to_descr(dtype)
    line = repr((descr, shape)).encode()
    return line.ljust(-(-(len(line) + 1) // _ALIGN) * _ALIGN - 1) + b"\n"


@lru_cache(maxsize=1024)
def _layout(line: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return dtype, shape and number of bytes that a head line announces."""
    descr, shape = ast.literal_eval(line.decode().rstrip())
    dtype = np.lib.format.descr_to_dtype(descr)
    if dtype.hasobject or not all(type(n) is int and n >= 0 for n in shape):
        raise WireError("no array of objects, no negative length")
    return dtype, tuple(shape), dtype.itemsize * prod(shape)


def _decode(code: int, data: bytes) -> Any:
    """Return what an extension holds. ormsgpack turns whatever it raises into ValueError."""
    if code in (_ARRAY, _SCALAR):
        start = data.index(b"\n", 0, 1 << 16) + 1
        dtype, shape, nbytes = _layout(data[:start])
        if len(data) - start != nbytes:
            raise WireError(f"{len(data) - start} bytes for {shape} of {dtype}")
        array: npt.NDArray[Any] = np.ndarray(shape, dtype, data, start)
        return array[()] if code == _SCALAR else array
    if code == _STRINGS:
        shape, strings = ormsgpack.unpackb(data)
        if not all(type(item) is str for item in strings):
            raise WireError("an array of strings holds something else")
        array = np.array(strings, dtype=object).reshape(shape)
        array.flags.writeable = False
        return array
    if code == _TIME:
        name, text = data.decode().split(" ", 1)
        return _TIMES[name].fromisoformat(text)
    raise WireError(f"unknown extension type {code}")


def _plain(value: Any, path: str) -> Any:
    """Return a copy whose keys are plain strings; say where a value is that cannot travel."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{path} has the key {key!r}, a {type(key).__name__}; use strings")
        return {str(key): _plain(item, f"{path}[{str(key)!r}]") for key, item in value.items()}
    items = _items(value)
    if items is not None:
        return [_plain(item, f"{path}[{i}]") for i, item in enumerate(items)]
    try:
        ormsgpack.packb(value, default=_encode, option=_OPTIONS)
    except TypeError as error:
        text = repr(value)[:80]
        raise TypeError(f"{path} = {text} cannot be encoded: {error}") from None
    return value


def _items(value: Any) -> Iterable[Any] | None:
    if isinstance(value, np.ndarray):
        encoded = _encode_array(value)
        return encoded if isinstance(encoded, list) else None
    if isinstance(value, str | bytes | bytearray | memoryview):
        return None
    return value if isinstance(value, Sequence | AbstractSet) else None
